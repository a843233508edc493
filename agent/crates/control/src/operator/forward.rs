//! A way to what listens on the loopback of a pod, through the API server.

use std::future::Future;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ClusterError, asked};

/// Opens a connection to a port of a pod, as `kubectl port-forward` does: the runtime dials `localhost` in the pod's network
/// namespace, which is the node's own for a pod on the host's network. It needs the rights to get and to create
/// `pods/portforward`. With the connection comes what says why it was of no use, if the other side does say.
///
/// # Errors
/// The API server does not answer, or refuses.
pub async fn forward(
    client: &Client,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<
    (impl AsyncRead + AsyncWrite + Send + Unpin + use<>, impl Future<Output = Option<String>> + Send + use<>),
    ClusterError,
> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let what = format!("opening a way to the pod {pod}");
    let mut forwarder = asked(&what, pods.portforward(pod, &[port])).await?;
    let missing = || ClusterError { what: what.clone(), reason: "the API server did not open the port".to_owned() };
    let stream = forwarder.take_stream(port).ok_or_else(missing)?;
    let refusal = forwarder.take_error(port).ok_or_else(missing)?;
    Ok((stream, refusal))
}
