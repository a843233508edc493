//! Tunnels to workloads, each for many connections.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::header::FORWARDED;
use http::{Method, Request, StatusCode, Uri};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{interval, sleep};
use weft_model::{Identity, Upstream};

use super::{ConnectError, TUNNEL_PORT};
use crate::group::Group;
use crate::stream::{Counted, TunnelStream};
use crate::tunnel::{remaining, silent, tune};
use crate::worker::Shared;

/// Connections in one tunnel; the next go into another.
const STREAMS: usize = 100;

/// Whose tunnel it is. An address that another pod has taken over does not find the old one's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uid: Arc<str>,
    instance: Arc<str>,
    address: IpAddr,
    /// Who may be there: the workload, or another name of the service that it was chosen for.
    expected: Vec<Identity>,
}

impl Key {
    fn of(upstream: &Upstream) -> Self {
        let workload = &upstream.workload;
        let others = upstream.service.iter().flat_map(|service| &service.subject_alt_names);
        Self {
            uid: Arc::clone(&workload.uid),
            instance: Arc::clone(&workload.instance),
            address: upstream.address.ip(),
            expected: std::iter::once(&workload.identity).chain(others).cloned().collect(),
        }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.address, TUNNEL_PORT)
    }
}

struct Tunnel {
    sender: SendRequest<Bytes>,
    streams: Arc<AtomicUsize>,
}

/// The tunnels to one workload.
struct Place {
    tunnels: Vec<Arc<Tunnel>>,
    /// Whose turn it is to make another one.
    turn: Arc<Semaphore>,
}

impl Default for Place {
    fn default() -> Self {
        Self { tunnels: Vec::new(), turn: Arc::new(Semaphore::new(1)) }
    }
}

type Places = Arc<Mutex<HashMap<Key, Place>>>;

/// All tunnels of a worker.
pub(super) struct Tunnels {
    shared: Arc<Shared>,
    group: Group,
    places: Places,
}

impl Tunnels {
    pub(super) fn new(shared: Arc<Shared>, group: Group) -> Self {
        Self { shared, group, places: Places::default() }
    }

    /// A connection in a tunnel. Without a time-out of its own.
    pub(super) async fn open(
        &self,
        upstream: &Upstream,
        client: Option<SocketAddr>,
    ) -> Result<TunnelStream, ConnectError> {
        let key = Key::of(upstream);
        let address = key.address();
        let failed = |error| ConnectError::Http2(address, error);
        // A tunnel may end between being found and being asked; so does not the next, which is new.
        let mut is_second = false;
        loop {
            let (tunnel, counted) = self.tunnel(&key).await?;
            let mut sender = match tunnel.sender.clone().ready().await {
                Ok(sender) => sender,
                Err(_) if !is_second => {
                    self.forget(&key, &tunnel);
                    is_second = true;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            let (response, send) = sender.send_request(connect(upstream.address, client), false).map_err(failed)?;
            let response = response.await.map_err(failed)?;
            return match response.status() {
                StatusCode::OK => Ok(TunnelStream::new(send, response.into_body(), Some(counted))),
                status => Err(ConnectError::Refused(upstream.address, status)),
            };
        }
    }

    /// A tunnel with room for one more connection, which is counted.
    async fn tunnel(&self, key: &Key) -> Result<(Arc<Tunnel>, Counted), ConnectError> {
        if let Some(found) = self.find(key) {
            return Ok(found);
        }
        let turn = Arc::clone(&places(&self.places).entry(key.clone()).or_default().turn);
        // It is never closed.
        let _turn = turn.acquire().await;
        if let Some(found) = self.find(key) {
            return Ok(found);
        }
        let tunnel = self.dial(key).await?;
        let counted = Counted::new(&tunnel.streams);
        Ok((tunnel, counted))
    }

    fn find(&self, key: &Key) -> Option<(Arc<Tunnel>, Counted)> {
        let places = places(&self.places);
        let tunnels = &places.get(key)?.tunnels;
        let tunnel = tunnels.iter().find(|tunnel| tunnel.streams.load(Ordering::Relaxed) < STREAMS)?;
        Some((Arc::clone(tunnel), Counted::new(&tunnel.streams)))
    }

    fn forget(&self, key: &Key, tunnel: &Arc<Tunnel>) {
        forget(&self.places, key, tunnel);
    }

    async fn dial(&self, key: &Key) -> Result<Arc<Tunnel>, ConnectError> {
        let address = key.address();
        let options = &self.shared.options;
        let tls = self.shared.parts.certificates.current(&options.identity).ok_or(ConnectError::NoCertificate)?;
        let socket = TcpStream::connect(address).await.map_err(|error| ConnectError::Tcp(address, error))?;
        tune(&socket);
        let secured = tls.connect_stream(socket, key.expected.clone()).await;
        let secured = secured.map_err(|error| ConnectError::Tls(address, error))?;
        let window = options.limits.window;
        let http2 = Builder::new()
            .enable_push(false)
            .initial_window_size(window)
            .initial_connection_window_size(window.saturating_mul(STREAMS as u32).min(i32::MAX as u32))
            .max_frame_size(64 << 10)
            .max_send_buffer_size(window as usize)
            .handshake::<_, Bytes>(secured.stream)
            .await;
        let (sender, mut http2) = http2.map_err(|error| ConnectError::Http2(address, error))?;
        let tunnel = Arc::new(Tunnel { sender, streams: Arc::default() });
        places(&self.places).entry(key.clone()).or_default().tunnels.push(Arc::clone(&tunnel));

        let (known, key, driven) = (Arc::clone(&self.places), key.clone(), Arc::clone(&tunnel));
        let usable = remaining(secured.peer_not_after.min(tls.not_after()));
        let idle = options.limits.tunnel_idle;
        self.group.spawn(async move {
            let silent = silent(http2.ping_pong());
            let retire = async {
                let mut looks = interval(idle / 4);
                let mut used = Instant::now();
                let aged = sleep(usable);
                tokio::pin!(aged);
                loop {
                    tokio::select! {
                        () = &mut aged => return,
                        _ = looks.tick() => {}
                    }
                    if driven.streams.load(Ordering::Relaxed) > 0 {
                        used = Instant::now();
                    } else if used.elapsed() >= idle {
                        return;
                    }
                }
            };
            let is_retired = tokio::select! {
                result = &mut http2 => {
                    if let Err(error) = result {
                        tracing::debug!(%address, %error, "a tunnel to an endpoint failed");
                    }
                    false
                }
                () = silent => {
                    tracing::debug!(%address, "an endpoint's end of a tunnel does not answer any more");
                    false
                }
                () = retire => true,
            };
            forget(&known, &key, &driven);
            drop(driven);
            if is_retired {
                // It ends with the last of its connections: nobody can open another.
                let _ = http2.await;
            }
        });
        Ok(tunnel)
    }
}

fn places(places: &Places) -> MutexGuard<'_, HashMap<Key, Place>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forget(known: &Places, key: &Key, tunnel: &Arc<Tunnel>) {
    let mut places = places(known);
    let Some(place) = places.get_mut(key) else { return };
    place.tunnels.retain(|known| !Arc::ptr_eq(known, tunnel));
    // Whoever waits for a turn holds the other handle.
    if place.tunnels.is_empty() && Arc::strong_count(&place.turn) == 1 {
        places.remove(key);
    }
}

fn connect(address: SocketAddr, client: Option<SocketAddr>) -> Request<()> {
    let authority = address.to_string();
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::builder().authority(authority).build().expect("an address with a port is an authority");
    if let Some(client) = client {
        let forwarded =
            format!("for=\"{client}\"").parse().expect("an address has no character that a header could not");
        request.headers_mut().insert(FORWARDED, forwarded);
    }
    request
}
