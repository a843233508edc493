//! What the CNI plug-in asks: see [`Sandboxes`]. Only on the Unix socket, which is for root alone, as is what the next agent
//! asks.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc;

use super::Answer;
use super::http::{self, Handler, Reply, failure};
use super::routes::AdminRoutes;
use crate::cni::{Going, Known, MAX_QUESTION};
use crate::hand_over;
use crate::sandbox::{Sandbox, Sandboxes};

/// The paths begin with this.
const PREFIX: &str = "/v1/cni/";

/// Answers the plug-in, and everybody else as the admin interface does.
pub(super) struct UnixRoutes {
    pub(super) admin: AdminRoutes,
    pub(super) sandboxes: Option<Arc<dyn Sandboxes>>,
    pub(super) successors: Option<mpsc::Sender<OnUpgrade>>,
}

impl Handler for UnixRoutes {
    fn answer(&self, request: Request<Incoming>) -> Answer<'static, Reply> {
        if request.uri().path() == hand_over::PATH {
            let reply = super::hand_over::answer(request, self.successors.as_ref());
            return Box::pin(std::future::ready(reply));
        }
        if !request.uri().path().starts_with(PREFIX) {
            return self.admin.answer(request);
        }
        let sandboxes = self.sandboxes.clone();
        Box::pin(async move {
            match sandboxes {
                _ if request.method() != Method::POST => {
                    failure(StatusCode::METHOD_NOT_ALLOWED, "sandboxes are told of with POST")
                }
                Some(sandboxes) => answer(&*sandboxes, request).await.unwrap_or_else(|failure| failure),
                None => {
                    let error = "this agent does not look after the pods of a Kubernetes node: it was started without \
                                 --kubernetes";
                    failure(StatusCode::NOT_IMPLEMENTED, error)
                }
            }
        })
    }
}

/// # Errors
/// The answer that says so.
async fn answer(sandboxes: &dyn Sandboxes, request: Request<Incoming>) -> Result<Reply, Reply> {
    let done = || http::json(&json!({}));
    let path = request.uri().path().to_owned();
    match &path[PREFIX.len()..] {
        "add" => {
            let sandbox: Sandbox = question(request).await?;
            let pod = format!("{}/{}", sandbox.namespace, sandbox.name);
            match sandboxes.add(sandbox).await {
                Ok(verdict) => Ok(http::json(&json!({ "verdict": verdict }))),
                Err(reason) => {
                    tracing::warn!(pod, reason, "a new pod does not start");
                    Err(failure(StatusCode::SERVICE_UNAVAILABLE, &reason))
                }
            }
        }
        "check" => {
            let sandbox: Sandbox = question(request).await?;
            let verdict = sandboxes.check(sandbox).await;
            let verdict = verdict.map_err(|reason| failure(StatusCode::SERVICE_UNAVAILABLE, &reason))?;
            Ok(http::json(&json!({ "verdict": verdict })))
        }
        "remove" => {
            let Going { uid, container } = question(request).await?;
            sandboxes.remove(&uid, &container).await;
            Ok(done())
        }
        "retain" => {
            let Known { containers } = question(request).await?;
            sandboxes.retain(containers).await;
            Ok(done())
        }
        _ => Err(failure(StatusCode::NOT_FOUND, "of sandboxes there are add, check, remove and retain")),
    }
}

async fn question<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Reply> {
    let body = http::body_up_to(request, MAX_QUESTION).await?;
    serde_json::from_slice(&body)
        .map_err(|error| failure(StatusCode::BAD_REQUEST, &format!("the request's body is not understood: {error}")))
}

#[cfg(test)]
mod tests;
