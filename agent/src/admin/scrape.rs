//! Metrics and readiness.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::ACCEPT;
use hyper::{Method, Request, StatusCode};

use super::http::{self, Handler, Reply, reply};
use super::{Admin, Answer};
use crate::telemetry::Exposition;

const TEXT: &str = "text/plain; charset=utf-8";

/// What monitoring asks of a process.
pub(crate) trait Scraped: Send + Sync + 'static {
    /// All metrics as text.
    fn metrics(&self, exposition: Exposition) -> String;

    /// Whether it does its work.
    ///
    /// # Errors
    /// What it still waits for, or what fails, in words.
    fn readiness(&self) -> Result<(), Vec<String>>;
}

impl Scraped for Admin {
    fn metrics(&self, exposition: Exposition) -> String {
        self.metrics.agent.observe(self.observation());
        self.metrics.render(exposition)
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        self.view.readiness()
    }
}

/// `/metrics` and `/stats/prometheus`, which annotations in the ecosystem point to.
pub(super) struct MetricsRoutes(pub(super) Arc<dyn Scraped>);

impl Handler for MetricsRoutes {
    fn answer(&self, request: Request<Incoming>) -> Answer<'static, Reply> {
        let scraped = Arc::clone(&self.0);
        Box::pin(http::aside(move || metrics(&*scraped, &request)))
    }
}

/// `/healthz/ready`.
pub(super) struct ReadinessRoutes(pub(super) Arc<dyn Scraped>);

impl Handler for ReadinessRoutes {
    fn answer(&self, request: Request<Incoming>) -> Answer<'static, Reply> {
        Box::pin(std::future::ready(readiness(&*self.0, &request)))
    }
}

fn metrics(scraped: &dyn Scraped, request: &Request<Incoming>) -> Reply {
    if !matches!(request.uri().path(), "/metrics" | "/stats/prometheus") {
        return reply(StatusCode::NOT_FOUND, TEXT, "there are /metrics and /stats/prometheus\n");
    }
    if !is_read(request) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "");
    }
    let accept = request.headers().get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let exposition = Exposition::for_accept(&accept.collect::<Vec<_>>().join(","));
    reply(StatusCode::OK, exposition.content_type(), scraped.metrics(exposition))
}

fn readiness(scraped: &dyn Scraped, request: &Request<Incoming>) -> Reply {
    if request.uri().path() != "/healthz/ready" {
        return reply(StatusCode::NOT_FOUND, TEXT, "there is /healthz/ready\n");
    }
    if !is_read(request) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "");
    }
    match scraped.readiness() {
        Ok(()) => reply(StatusCode::OK, TEXT, "ready\n"),
        Err(reasons) => {
            let reasons: String = reasons.iter().map(|reason| format!("{reason}\n")).collect();
            reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons)
        }
    }
}

fn is_read<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}
