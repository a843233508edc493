//! Metrics and readiness.

use hyper::body::Incoming;
use hyper::header::ACCEPT;
use hyper::{Method, Request, StatusCode};

use super::http::{self, Handler, Reply, reply};
use super::{Admin, Answer};
use crate::telemetry::Exposition;

const TEXT: &str = "text/plain; charset=utf-8";

/// `/metrics` and `/stats/prometheus`, which annotations in the ecosystem point to.
pub(super) struct MetricsRoutes(pub(super) Admin);

impl Handler for MetricsRoutes {
    fn answer(&self, request: Request<Incoming>) -> Answer<'static, Reply> {
        let admin = self.0.clone();
        Box::pin(http::aside(move || admin.metrics(&request)))
    }
}

/// `/healthz/ready`.
pub(super) struct ReadinessRoutes(pub(super) Admin);

impl Handler for ReadinessRoutes {
    fn answer(&self, request: Request<Incoming>) -> Answer<'static, Reply> {
        Box::pin(std::future::ready(self.0.readiness(&request)))
    }
}

impl Admin {
    fn metrics(&self, request: &Request<Incoming>) -> Reply {
        if !matches!(request.uri().path(), "/metrics" | "/stats/prometheus") {
            return reply(StatusCode::NOT_FOUND, TEXT, "there are /metrics and /stats/prometheus\n");
        }
        if !is_read(request) {
            return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "");
        }
        let accept = request.headers().get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
        let exposition = Exposition::for_accept(&accept.collect::<Vec<_>>().join(","));
        self.metrics.agent.observe(self.observation());
        reply(StatusCode::OK, exposition.content_type(), self.metrics.render(exposition))
    }

    fn readiness(&self, request: &Request<Incoming>) -> Reply {
        if request.uri().path() != "/healthz/ready" {
            return reply(StatusCode::NOT_FOUND, TEXT, "there is /healthz/ready\n");
        }
        if !is_read(request) {
            return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "");
        }
        match self.view.readiness() {
            Ok(()) => reply(StatusCode::OK, TEXT, "ready\n"),
            Err(reasons) => {
                let reasons: String = reasons.iter().map(|reason| format!("{reason}\n")).collect();
                reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons)
            }
        }
    }
}

fn is_read<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}
