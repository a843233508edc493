//! Single objects, read once.

use kube::Client;
use kube::core::Request;
use thiserror::Error;

/// Why an object could not be read.
#[derive(Debug, Error)]
#[error("asking the API server for {what} failed: {error}")]
pub struct LookupError {
    what: String,
    error: Box<kube::Error>,
}

/// A Pod, as the API server has it, in JSON; `None` when there is none of this name.
///
/// # Errors
/// The API server is away, or refuses the answer.
pub async fn pod(client: &Client, namespace: &str, name: &str) -> Result<Option<String>, LookupError> {
    get(client, &format!("/api/v1/namespaces/{namespace}/pods"), name, format!("the pod {namespace}/{name}")).await
}

/// A Namespace, as the API server has it, in JSON; `None` when there is none of this name.
///
/// # Errors
/// The API server is away, or refuses the answer.
pub async fn namespace(client: &Client, name: &str) -> Result<Option<String>, LookupError> {
    get(client, "/api/v1/namespaces", name, format!("the namespace {name}")).await
}

async fn get(client: &Client, collection: &str, name: &str, what: String) -> Result<Option<String>, LookupError> {
    let failed = |error| LookupError { what: what.clone(), error: Box::new(error) };
    let request = Request::new(collection)
        .get(name, &kube::api::GetParams::default())
        .map_err(|error| failed(kube::Error::BuildRequest(error)))?;
    match client.request_text(request).await {
        Ok(text) => Ok(Some(text)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(failed(error)),
    }
}
