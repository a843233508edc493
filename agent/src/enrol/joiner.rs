//! How one pod comes into the mesh: its certificate, its listeners, and only then capture.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use weft_control::LocalPod;
use weft_model::Identity;
use weft_transport::{CertificateError, Certificates};

use super::older::{Older, Past};
use super::{Adopted, Enrolled, OlderConnections, beside, inode, lock};
use crate::capture::{Capture, CapturedPod};
use crate::in_pod::{self, PodSockets};
use crate::netns::Netns;
use crate::proxy::pod::Pod;
use crate::proxy::{PodListeners, Proxy};

/// How long a pod's first certificate is waited for. Without one it is captured all the same, and its connections
/// are refused: never in clear.
const CERTIFICATE_WAIT: Duration = Duration::from_secs(5);
/// How long a second attempt to get it is waited for when the first has failed.
const SECOND_ATTEMPT: Duration = Duration::from_secs(1);
/// How long older connections may be ended before a pod counts as enrolled. What is left then is ended with the checks.
const ENDING_TIME: Duration = Duration::from_secs(1);

/// Why a pod is not captured whose network namespace nobody knows.
const NO_NETNS: &str = "its network namespace is not known: none of its processes was found on this host";

/// What it takes to enrol one pod.
#[derive(Clone)]
pub(super) struct Joiner {
    pub(super) capture: Arc<Capture>,
    pub(super) proxy: Arc<Proxy>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) workers: usize,
    pub(super) older_connections: OlderConnections,
    pub(super) adopted: Arc<Adopted>,
}

impl Joiner {
    pub(super) async fn enrol(self, local: LocalPod) -> (LocalPod, io::Result<Enrolled>) {
        self.certificates.want(&local.identity);
        match tokio::time::timeout(CERTIFICATE_WAIT, self.certificate(&local.identity)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(pod = %local.uid, %error, "no certificate: its connections will be refused")
            }
            Err(_) => tracing::warn!(pod = %local.uid, "no certificate yet: its connections are refused meanwhile"),
        }
        let certificates = self.certificates.clone();
        // Loading a program takes milliseconds of the kernel's verifier.
        let pod = local.clone();
        let result = beside(move || self.capture_pod(&pod)).await;
        if result.is_err() {
            certificates.release(&local.identity);
        }
        (local, result)
    }

    /// Waits for a certificate, and once more after a refusal: the authority may hear of a new pod a moment later than its
    /// node.
    async fn certificate(&self, identity: &Identity) -> Result<(), CertificateError> {
        let mut changes = self.certificates.changes();
        if self.certificates.ready(identity).await.is_ok() {
            return Ok(());
        }
        changes.borrow_and_update();
        let _ = tokio::time::timeout(SECOND_ATTEMPT, changes.changed()).await;
        self.certificates.ready(identity).await.map(drop)
    }

    fn capture_pod(&self, local: &LocalPod) -> io::Result<Enrolled> {
        let Some(path) = local.netns.clone() else {
            return Err(io::Error::new(io::ErrorKind::NotFound, NO_NETNS));
        };
        let unopened = |error: io::Error| {
            io::Error::new(error.kind(), format!("opening its network namespace {}: {error}", path.display()))
        };
        let netns = Arc::new(Netns::open(&path).map_err(unopened)?);
        let (cookie, inode) = (netns.cookie(), inode(&path)?);
        if path.starts_with("/proc") && !has_any(&netns.devices()?, &local.addresses) {
            // The process that it was found by is another one by now.
            return Err(io::Error::new(io::ErrorKind::NotFound, NO_NETNS));
        }
        let is_captured = self.capture.enrolled().map_err(io::Error::other)?.contains(&cookie);
        let listeners = in_pod::listeners(&netns, self.workers, &local.addresses, is_captured)?;
        let pod = Arc::new(Pod {
            uid: local.uid.clone(),
            instance: local.instance.clone(),
            identity: local.identity.clone(),
            addresses: local.addresses.clone(),
            workload: local.workload.clone(),
            sockets: PodSockets::new(netns.clone())?,
            is_leaving: AtomicBool::new(false),
        });
        self.capture
            .enrol(&CapturedPod { netns: &netns, addresses: &local.addresses, listeners: &listeners })
            .map_err(io::Error::other)?;
        // Before the workers serve the pod: what it has now is not theirs.
        let past = match &mut *lock(&self.adopted) {
            Some(adopted) => adopted.remove(&cookie).unwrap_or(Past::New),
            None => Past::Forgotten,
        };
        let mut older = Older::list(&local.uid, &netns, &local.addresses, &past);
        let per_worker = listeners.per_worker.into_iter().map(|worker| PodListeners {
            outbound: worker.outbound,
            inbound: worker.inbound,
            hbone: worker.hbone,
        });
        self.proxy.listen(&pod, per_worker);
        match (self.older_connections, older.shown().len()) {
            (_, 0) => {}
            (OlderConnections::Keep, connections) => {
                tracing::info!(pod = %local.uid, connections, "connections from before stay as they are");
            }
            (choice @ OlderConnections::End, all) => older.look_after(choice, all, Instant::now() + ENDING_TIME),
        }
        Ok(Enrolled {
            local: local.clone(),
            netns: path,
            pod,
            cookie,
            inode,
            is_there: true,
            departure: None,
            is_displaced: false,
            older,
        })
    }
}

/// Whether any of these addresses is on a device.
fn has_any(devices: &[(IpAddr, u32)], addresses: &[IpAddr]) -> bool {
    addresses.iter().any(|address| devices.iter().any(|(known, _)| known.to_canonical() == address.to_canonical()))
}
