//! One HTTP connection of a client.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::forward;
use crate::group::Group;
use crate::guard::{Guard, Guarded};
use crate::record::Client;
use crate::scope::Destination;
use crate::stream::TunnelStream;
use crate::tunnel::Never;
use crate::worker::Worker;

/// What follows on a connection that has been upgraded.
pub(crate) type Upgraded = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A client's connection.
pub(crate) struct Flow {
    pub(crate) worker: Arc<Worker>,
    pub(crate) client: Arc<Client>,
    pub(crate) destination: Destination,
    upgraded: Mutex<Option<Upgraded>>,
}

impl Flow {
    pub(crate) fn new(worker: Arc<Worker>, client: Arc<Client>, destination: Destination) -> Self {
        Self { worker, client, destination, upgraded: Mutex::default() }
    }

    /// What is to be done with the connection once its last answer, which agrees to another protocol, is out.
    pub(crate) fn upgrade(&self, upgraded: Upgraded) {
        *self.upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgraded);
    }

    fn take_upgraded(&self) -> Option<Upgraded> {
        self.upgraded.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves a connection until it ends. When the waypoint is to end, requests under way are the last.
pub(crate) async fn serve(flow: Arc<Flow>, stream: TunnelStream, is_http2: bool) {
    match is_http2 {
        true => serve_http2(flow, stream).await,
        false => serve_http1(flow, stream).await,
    }
}

async fn serve_http1(flow: Arc<Flow>, stream: TunnelStream) {
    let limits = &flow.worker.shared.options.limits;
    let guard = Arc::<Guard>::default();
    let service = {
        let (flow, guard) = (Arc::clone(&flow), Arc::clone(&guard));
        service_fn(move |request| {
            let busy = Arc::new(guard.begin());
            let flow = Arc::clone(&flow);
            async move { Ok::<_, Never>(forward::answer(flow, request, Some(busy)).await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_headers(limits.headers)
        .max_header_size(limits.head_bytes)
        .half_close(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(Guarded::new(stream, guard, limits.head)), service)
        .with_upgrades();
    let mut ending = flow.worker.ending();
    let mut is_ending = false;
    let mut connection = pin!(connection);
    let served = loop {
        tokio::select! {
            biased;
            () = ending.draining(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            served = &mut connection => break served,
        }
    };
    if let Err(error) = served {
        tracing::debug!(client = %flow.client.address, %error, "a client's connection ended early");
    }
    if let Some(upgraded) = flow.take_upgraded() {
        upgraded.await;
    }
}

async fn serve_http2(flow: Arc<Flow>, stream: TunnelStream) {
    let limits = &flow.worker.shared.options.limits;
    let service = {
        let flow = Arc::clone(&flow);
        service_fn(move |request| {
            let flow = Arc::clone(&flow);
            async move { Ok::<_, Never>(forward::answer(flow, request, None).await) }
        })
    };
    // Requests end with their connection.
    let connection = http2::Builder::new(Group::default())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.requests)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(limits.window)
        .initial_connection_window_size(limits.window.saturating_mul(limits.requests).min(i32::MAX as u32))
        .max_send_buf_size(limits.window as usize)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut ending = flow.worker.ending();
    let mut is_ending = false;
    let mut connection = pin!(connection);
    let served = loop {
        tokio::select! {
            biased;
            () = ending.draining(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            served = &mut connection => break served,
        }
    };
    if let Err(error) = served {
        tracing::debug!(client = %flow.client.address, %error, "a client's connection ended early");
    }
}
