//! A control plane as the source of configuration: Weft's controller, or any that speaks Istio's workload protocol.
//!
//! What comes is the same as from files: [`Update`]s whose changes are applied as one batch each. The first one comes
//! when policies and addresses have both been heard of, so that nothing is reached for want of a policy. On demand, what
//! nobody wants is not known; [`Discovery::want`] asks, and a [`Wanted`] comes back right behind everything that there is
//! about it. While the control plane is away everything stays as it was last heard of.

mod session;
mod wants;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weft_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use weft_runtime::{Backoff, Shutdown, Tasks};
use weft_transport::{ControlPlane, ControlPlaneError};

use self::session::Session;
pub use self::wants::Wanted;
use self::wants::Wants;
use crate::istio::{ADDRESS, AUTHORIZATION, ROUTE};
use crate::last_state::LastState;
use crate::serve::TAKES_PARTS;
use crate::source::Update;

/// First and longest pause before another attempt to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(15));
/// Longest message: a control plane of another kind sends all it has in one.
const MAX_MESSAGE: usize = 256 << 20;
/// Requests that wait to be sent.
const REQUESTS: usize = 64;
/// How long a request may wait to be sent before the stream is given up.
const SEND_WITHIN: Duration = Duration::from_secs(30);
/// News that wait to be taken.
const NEWS: usize = 8;

/// Who asks, as Istio's control plane wants to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDescription {
    /// The agent's own address.
    pub address: IpAddr,
    /// Name of the agent's pod, or of the host.
    pub pod: String,
    /// Namespace of the agent's pod.
    pub namespace: String,
    /// Name of the node.
    pub node: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Network of the node's pods.
    pub network: String,
}

/// How to follow a control plane.
#[derive(Clone, Debug)]
pub struct DiscoveryOptions {
    /// The control plane.
    pub control_plane: ControlPlane,
    /// Who asks.
    pub node: NodeDescription,
    /// Only what is wanted is asked for, so that memory follows what the node talks to. Otherwise everything is.
    pub on_demand: bool,
    /// Routes are asked for as well, of Weft's controller: it tells them to waypoints alone.
    pub with_routes: bool,
}

/// How a source stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryStatus {
    /// A stream is open, and has brought something.
    pub is_connected: bool,
    /// Policies, routes where they are asked for and, unless they are asked for on demand, addresses have been heard of, now
    /// or before.
    pub is_synced: bool,
    /// Why the last attempt or stream failed, if one did since the last success.
    pub last_error: Option<String>,
    /// Streams that were opened.
    pub streams: u64,
    /// Messages that were refused, in part, because something in them could not be converted.
    pub refusals: u64,
    /// When that was written down which it goes by, for as long as nobody has said anything since the start.
    pub remembered: Option<SystemTime>,
}

/// A source that follows a control plane, in a task of its own.
#[derive(Clone, Debug)]
pub struct Discovery {
    wants: Arc<Wants>,
    status: Arc<ArcSwap<DiscoveryStatus>>,
    remember: mpsc::Sender<LastState>,
    connected: watch::Sender<u64>,
}

/// What a source gives.
#[derive(Debug)]
pub struct Discovered {
    /// To be taken in order.
    pub news: mpsc::Receiver<News>,
}

/// Something that a source gives.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "updates are what there is most of, and a queue holds a few")]
pub enum News {
    /// To be applied as one batch.
    Update(Update),
    /// What was wanted and has been answered. Whatever there is about it is in the updates that came before, and none that
    /// comes later belongs to the answer: at this very point, what is not there is not in the mesh.
    Answers(Vec<Wanted>),
    /// These addresses were wanted, and answered, when the last state was written down that follows: they are to be wanted.
    Remembered(Vec<IpAddr>),
}

/// Why a stream ended.
#[derive(Debug, Error)]
enum StreamError {
    #[error(transparent)]
    Connect(#[from] ControlPlaneError),
    #[error("the control plane ended the stream: {}: {}", .0.code(), .0.message())]
    Ended(#[from] Box<Status>),
    #[error("the control plane does not take requests")]
    Stuck,
}

/// How a stream ended without an error.
enum End {
    /// Told to end, or there is nobody to tell.
    Done,
    /// The control plane wants to see its clients again from time to time.
    Again,
}

impl Discovery {
    /// Starts to follow a control plane, in a task owned by `tasks`. Must be called from within a tokio runtime.
    #[must_use]
    pub fn start(options: DiscoveryOptions, tasks: &Tasks) -> (Self, Discovered) {
        let (news, receiver) = mpsc::channel(NEWS);
        let wants = Arc::new(Wants::new(&options.node.network));
        let status = Arc::new(ArcSwap::default());
        let (remember, remembered) = mpsc::channel(1);
        let connected = watch::Sender::new(0);
        let follower = Follower {
            connected: connected.clone(),
            session: Session::new(&options.node.network, options.on_demand, options.with_routes),
            wants: Arc::clone(&wants),
            status: Arc::clone(&status),
            shutdown: tasks.shutdown(),
            options,
            news,
        };
        tasks.spawn("discovery", follower.run(remembered));
        (Self { wants, status, remember, connected }, Discovered { news: receiver })
    }

    /// Asks for whatever has an address, and keeps it up to date until it is released. Does not wait. Where everything
    /// is asked for, the answer comes as soon as everything is there. `false`: too much is wanted already.
    pub fn want(&self, address: IpAddr) -> bool {
        self.wants.want(Wanted::Address(address.to_canonical()))
    }

    /// Asks for a workload by its uid, or for a service by `<namespace>/<hostname>`.
    pub fn want_named(&self, name: &str) -> bool {
        self.wants.want(Wanted::Name(name.into()))
    }

    /// What was wanted is wanted no more: what nothing else leads to is removed. On demand only.
    pub fn release(&self, wanted: &Wanted) {
        self.wants.release(wanted);
    }

    /// Goes by this until the control plane speaks, unless it has.
    pub async fn remember(&self, last: LastState) {
        // A source that has ended needs no telling.
        let _ = self.remember.send(last).await;
    }

    /// Moves on each time that the control plane speaks after it was silent.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<u64> {
        self.connected.subscribe()
    }

    /// How much is wanted.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wants.len()
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> DiscoveryStatus {
        DiscoveryStatus::clone(&self.status.load())
    }
}

/// What the task owns.
struct Follower {
    options: DiscoveryOptions,
    session: Session,
    wants: Arc<Wants>,
    status: Arc<ArcSwap<DiscoveryStatus>>,
    news: mpsc::Sender<News>,
    shutdown: Shutdown,
    connected: watch::Sender<u64>,
}

impl Follower {
    async fn run(mut self, mut remembered: mpsc::Receiver<LastState>) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let (mut shutdown, news) = (self.shutdown.clone(), self.news.clone());
        loop {
            let result = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = news.closed() => return,
                Some(last) = remembered.recv() => {
                    if !self.remember(last).await {
                        return;
                    }
                    continue;
                }
                result = self.stream(&mut backoff) => result,
            };
            let error = match result {
                Ok(End::Done) => return,
                Ok(End::Again) => None,
                Err(error) => Some(error.to_string()),
            };
            let pause = backoff.pause();
            if let Some(error) = &error {
                tracing::warn!(error, again_in = ?pause, "configuration stays as it was last heard of");
            }
            self.note(|status| (status.is_connected, status.last_error) = (false, error));
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                Some(last) = remembered.recv() => {
                    if !self.remember(last).await {
                        return;
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Hands over what was known before. `false`: there is nobody to tell.
    async fn remember(&mut self, last: LastState) -> bool {
        if self.session.has_told() {
            return true;
        }
        let LastState { written, answered, addresses, policies } = last;
        let resources = addresses.len() + policies.len();
        self.session.remember(addresses, policies);
        self.note(|status| status.remembered = Some(written));
        tracing::warn!(resources, "the control plane has not spoken: serving by what was known before");
        let answers = answered.iter().copied().map(Wanted::Address).collect();
        self.news.send(News::Remembered(answered)).await.is_ok()
            && self.hand_over().await
            && self.news.send(News::Answers(answers)).await.is_ok()
    }

    fn note(&self, change: impl FnOnce(&mut DiscoveryStatus)) {
        let mut status = DiscoveryStatus::clone(&self.status.load());
        change(&mut status);
        self.status.store(Arc::new(status));
    }

    /// One stream, from connecting to its end. May be dropped at any of its waits: what was taken in was handed over.
    async fn stream(&mut self, backoff: &mut Backoff) -> Result<End, StreamError> {
        let connection = self.options.control_plane.connect().await?;
        let (requests, receiver) = mpsc::channel(REQUESTS);
        // Both stand in the queue before the stream is opened, which some servers answer only after the first.
        send(&requests, self.first_request(AUTHORIZATION)).await?;
        if self.options.with_routes {
            send(&requests, self.first_request(ROUTE)).await?;
        }
        send(&requests, self.first_request(ADDRESS)).await?;
        let mut client = AggregatedDiscoveryServiceClient::new(connection).max_decoding_message_size(MAX_MESSAGE);
        let response = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.map_err(Box::new)?;
        self.note(|status| status.streams += 1);
        let mut responses = response.into_inner();
        let wants = Arc::clone(&self.wants);
        loop {
            tokio::select! {
                biased;
                response = responses.message() => {
                    let Some(response) = response.map_err(Box::new)? else { return Ok(End::Again) };
                    backoff.reset();
                    let Some(answer) = self.take(response).await else { return Ok(End::Done) };
                    send(&requests, answer).await?;
                }
                () = wants.changed() => {
                    let (new, gone) = self.wants.take_changes();
                    let (gone, new) = (self.session.release(&gone), self.session.want(new));
                    if !self.hand_over().await {
                        return Ok(End::Done);
                    }
                    // One after the other: a name may be in both, and is to be answered anew.
                    let requests_for = [
                        DeltaDiscoveryRequest { resource_names_unsubscribe: gone, ..Default::default() },
                        DeltaDiscoveryRequest { resource_names_subscribe: new, ..Default::default() },
                    ];
                    for request in requests_for {
                        if !(request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty())
                        {
                            send(&requests, DeltaDiscoveryRequest { type_url: ADDRESS.to_owned(), ..request }).await?;
                        }
                    }
                }
            }
        }
    }

    /// What opens a stream for one type: what is wanted, and what is there already.
    fn first_request(&mut self, type_url: &str) -> DeltaDiscoveryRequest {
        if type_url == ADDRESS && self.options.on_demand {
            // Before it is said what is there: what is forgotten now must be sent again if it is wanted again.
            let (_, gone) = self.wants.take_changes();
            self.session.release(&gone);
        }
        let mut request = DeltaDiscoveryRequest {
            node: Some(self.node()),
            type_url: type_url.to_owned(),
            initial_resource_versions: self.session.versions(type_url),
            ..Default::default()
        };
        if type_url == ADDRESS && self.options.on_demand {
            // Asking for everything and not for everything: for nothing, as long as there is no name.
            let all = "*".to_owned();
            request.resource_names_subscribe = self.session.begin(self.wants.all());
            request.resource_names_subscribe.push(all.clone());
            request.resource_names_unsubscribe = vec![all];
        }
        request
    }

    fn node(&self) -> Node {
        let NodeDescription { address, pod, namespace, node, cluster, network } = &self.options.node;
        let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
        let fields: BTreeMap<String, Value> = [
            ("NAME".to_owned(), text(pod)),
            ("NAMESPACE".to_owned(), text(namespace)),
            ("INSTANCE_IPS".to_owned(), text(&address.to_string())),
            ("NODE_NAME".to_owned(), text(node)),
            ("CLUSTER_ID".to_owned(), text(cluster)),
            ("NETWORK".to_owned(), text(network)),
            (TAKES_PARTS.to_owned(), Value { kind: Some(Kind::BoolValue(true)) }),
        ]
        .into();
        Node {
            id: format!("ztunnel~{address}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            cluster: String::new(),
            metadata: Some(Struct { fields }),
        }
    }

    /// Takes a response in, hands over what it says, and returns what to answer. `None`: there is nobody to tell.
    async fn take(&mut self, response: DeltaDiscoveryResponse) -> Option<DeltaDiscoveryRequest> {
        let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
        let refusal = self.session.take(response);
        if let Some(refusal) = &refusal {
            tracing::error!(
                reason = refusal.message,
                "the control plane sent what cannot be used; what was known of it stays"
            );
        }
        if !self.hand_over().await {
            return None;
        }
        let is_synced = self.session.is_synced();
        if !self.status.load().is_connected {
            self.connected.send_modify(|times| *times += 1);
        }
        self.note(|status| {
            (status.is_connected, status.is_synced, status.last_error) = (true, is_synced, None);
            status.refusals += u64::from(refusal.is_some());
            status.remembered = status.remembered.filter(|_| !is_synced);
        });
        Some(DeltaDiscoveryRequest { type_url, response_nonce: nonce, error_detail: refusal, ..Default::default() })
    }

    /// Sends what the session has ready. `false`: there is nobody to send it to.
    async fn hand_over(&mut self) -> bool {
        if let Some(update) = self.session.update()
            && self.news.send(News::Update(update)).await.is_err()
        {
            return false;
        }
        let answered = self.session.answered();
        answered.is_empty() || self.news.send(News::Answers(answered)).await.is_ok()
    }
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), StreamError> {
    requests.send_timeout(request, SEND_WITHIN).await.map_err(|_| StreamError::Stuck)
}

#[cfg(test)]
mod tests;
