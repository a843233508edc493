//! What an operator does to a cluster and asks of it, with rights of their own, from anywhere.

mod agents;
mod checks;
mod enrolment;
mod forward;

use std::future::Future;
use std::time::Duration;

pub use agents::{Agent, Agents};
pub use checks::{Check, Weight};
pub use enrolment::{Enrolment, Unfinished};
pub use forward::forward;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
use thiserror::Error;

use crate::object::Kind;
use crate::source::kubernetes::resource_of;

/// How long one question to the API server may take.
const ANSWER: Duration = Duration::from_secs(15);
/// Objects that are asked for at once.
const PAGE: u32 = 500;

/// The API server did not do what was asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}: {reason}")]
pub struct ClusterError {
    what: String,
    reason: String,
}

impl ClusterError {
    fn new(what: &str, error: &kube::Error) -> Self {
        let reason = match error {
            kube::Error::Api(status) if status.code == 403 => {
                format!("your rights do not suffice: {}", status.message)
            }
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        };
        Self { what: what.to_owned(), reason }
    }
}

/// What the API server answers, within bounds. `what` is done by asking, in words.
async fn asked<T>(what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, ClusterError> {
    match tokio::time::timeout(ANSWER, request).await {
        Ok(answer) => answer.map_err(|error| ClusterError::new(what, &error)),
        Err(_) => {
            let reason = format!("the API server has not answered within {} seconds", ANSWER.as_secs());
            Err(ClusterError { what: what.to_owned(), reason })
        }
    }
}

/// All objects of a kind, of one namespace or of all. `None`: the cluster does not have the kind.
pub(crate) async fn list(
    client: &Client,
    kind: Kind,
    namespace: Option<&str>,
) -> Result<Option<Vec<DynamicObject>>, ClusterError> {
    for version in kind.api_versions() {
        if let Some(objects) = list_version(client, kind, version, namespace).await? {
            return Ok(Some(objects));
        }
    }
    Ok(None)
}

async fn list_version(
    client: &Client,
    kind: Kind,
    version: &str,
    namespace: Option<&str>,
) -> Result<Option<Vec<DynamicObject>>, ClusterError> {
    let what = format!("listing {}", kind.plural());
    let resource = resource_of(kind, version);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let mut objects = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = asked(&what, async {
            match api.list(&page).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                listed => listed.map(Some),
            }
        });
        let Some(listed) = listed.await? else { return Ok(None) };
        objects.extend(listed.items);
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(Some(objects)),
        }
    }
}
