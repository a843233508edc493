//! The paths of the admin interface.

use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use super::http::{self, Handler, Reply, failure};
use super::{
    Admin, Answer, CertificateInfo, ConnectionInfo, LogLevel, OlderConnectionInfo, PolicyInfo, ServiceInfo,
    WORKERS_ANSWER, WorkloadInfo,
};
use crate::telemetry::LogFilter;

/// Answers whoever may connect.
pub(super) struct AdminRoutes(pub(super) Admin);

impl Handler for AdminRoutes {
    fn answer(&self, request: Request<Incoming>) -> Answer<'static, Reply> {
        let admin = self.0.clone();
        Box::pin(async move { admin.answer(request).await })
    }
}

/// Answers local clients, but no page that a browser on this node was tricked into treating as local: it would name
/// its own host.
pub(super) struct TcpAdminRoutes(pub(super) AdminRoutes);

impl Handler for TcpAdminRoutes {
    fn answer(&self, request: Request<Incoming>) -> Answer<'static, Reply> {
        if names_other_host(&request) {
            let refused = failure(StatusCode::FORBIDDEN, "the Host header must be a loopback address or localhost");
            return Box::pin(std::future::ready(refused));
        }
        self.0.answer(request)
    }
}

fn names_other_host<B>(request: &Request<B>) -> bool {
    let header = request.headers().get(HOST).map(|host| host.to_str().unwrap_or("?"));
    let Some(host) = header.or_else(|| request.uri().host()) else {
        return false;
    };
    let authority = host.parse::<hyper::http::uri::Authority>();
    let name = authority.as_ref().map_or("", |authority| authority.host());
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name != "localhost" && !address.is_ok_and(|address| address.is_loopback())
}

impl Admin {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::PUT, "/v1/log") => self.set_log(request).await,
            (&Method::GET | &Method::HEAD, path) => {
                let namespace = match namespace(request.uri().query()) {
                    Ok(namespace) => namespace,
                    Err(parameter) => {
                        let error = format!("{parameter:?} is not a parameter; there is only namespace=NAME");
                        return failure(StatusCode::BAD_REQUEST, &error);
                    }
                };
                self.show(path, namespace).await
            }
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "this can only be read, with GET"),
        }
    }

    async fn show(&self, path: &str, namespace: Option<&str>) -> Reply {
        let connections = match path {
            "/v1/connections" | "/config_dump" => match self.connections(namespace).await {
                Ok(connections) => connections,
                Err(failure) => return failure,
            },
            _ => Vec::new(),
        };
        let (admin, path, namespace) = (self.clone(), path.to_owned(), namespace.map(str::to_owned));
        http::aside(move || admin.describe(&path, namespace.as_deref(), connections)).await
    }

    fn describe(&self, path: &str, namespace: Option<&str>, connections: Vec<ConnectionInfo>) -> Reply {
        let snapshot = self.view.snapshot();
        match path {
            "/v1/status" => http::json(&self.status()),
            "/v1/pods" => http::json(&json!({ "pods": self.pods(namespace) })),
            "/v1/workloads" => http::json(&json!({ "workloads": WorkloadInfo::list(&snapshot, namespace) })),
            "/v1/services" => http::json(&json!({ "services": ServiceInfo::list(&snapshot, namespace) })),
            "/v1/policies" => http::json(&json!({ "policies": PolicyInfo::list(&snapshot, namespace) })),
            "/v1/certificates" => http::json(&json!({ "certificates": self.certificates(namespace) })),
            "/v1/connections" => http::json(&json!({ "connections": connections })),
            "/v1/older_connections" => http::json(&json!({ "older_connections": self.older_connections(namespace) })),
            "/v1/log" => self.log(),
            "/config_dump" => http::json(&json!({
                "status": self.status(),
                "workloads": WorkloadInfo::list(&snapshot, namespace),
                "services": ServiceInfo::list(&snapshot, namespace),
                "policies": PolicyInfo::list(&snapshot, namespace),
                "certificates": self.certificates(namespace),
                "connections": connections,
                "older_connections": self.older_connections(namespace),
            })),
            _ => failure(
                StatusCode::NOT_FOUND,
                "there are /v1/status, /v1/pods, /v1/workloads, /v1/services, /v1/policies, /v1/certificates, \
                 /v1/connections, /v1/older_connections, /v1/log and /config_dump",
            ),
        }
    }

    fn certificates(&self, namespace: Option<&str>) -> Vec<CertificateInfo> {
        let mut certificates = self.view.certificates();
        certificates.retain(|certificate| namespace.is_none_or(|namespace| is_of_namespace(certificate, namespace)));
        certificates.sort_by(|a, b| a.identity.cmp(&b.identity));
        certificates
    }

    fn older_connections(&self, namespace: Option<&str>) -> Vec<OlderConnectionInfo> {
        let mut connections = self.view.older_connections();
        connections.retain(|connection| namespace.is_none_or(|namespace| connection.is_of_namespace(namespace)));
        connections.sort_by_key(|connection| (connection.source.address, connection.destination.address));
        connections
    }

    async fn connections(&self, namespace: Option<&str>) -> Result<Vec<ConnectionInfo>, Reply> {
        let Ok(mut connections) = timeout(WORKERS_ANSWER, self.view.connections()).await else {
            let error = "a worker does not answer: it is held up, or the process is short of CPU time";
            return Err(failure(StatusCode::GATEWAY_TIMEOUT, error));
        };
        connections.retain(|connection| namespace.is_none_or(|namespace| connection.is_of_namespace(namespace)));
        // The oldest first; addresses make the order of those that are equally old a stable one.
        connections.sort_by(|a, b| {
            let order = |connection: &ConnectionInfo| (connection.source.address, connection.destination.address);
            b.age_milliseconds.cmp(&a.age_milliseconds).then_with(|| order(a).cmp(&order(b)))
        });
        Ok(connections)
    }

    fn log(&self) -> Reply {
        match self.log.as_ref().map(|log| log.filter()) {
            Some(Ok(filter)) => http::json(&LogLevel { filter }),
            _ => failure(StatusCode::NOT_IMPLEMENTED, "this process does not keep its log by itself"),
        }
    }

    async fn set_log(&self, request: Request<Incoming>) -> Reply {
        let body = match http::body(request).await {
            Ok(body) => body,
            Err(failure) => return failure,
        };
        let level: LogLevel = match serde_json::from_slice(&body) {
            Ok(level) => level,
            Err(error) => {
                let error = format!("the body must be {{\"filter\": \"info\"}}: {error}");
                return failure(StatusCode::BAD_REQUEST, &error);
            }
        };
        let filter: LogFilter = match level.filter.parse() {
            Ok(filter) => filter,
            Err(error) => return failure(StatusCode::BAD_REQUEST, &format!("{error}")),
        };
        if self.log.as_ref().is_some_and(|log| log.set_filter(&filter).is_ok()) {
            tracing::info!(%filter, "the log level was changed");
        }
        self.log()
    }
}

fn is_of_namespace(certificate: &CertificateInfo, namespace: &str) -> bool {
    let identity = certificate.identity.parse::<weft_model::Identity>();
    identity.is_ok_and(|identity| identity.namespace() == namespace)
}

/// The namespace that a query asks for.
///
/// # Errors
/// The parameter that there is not.
fn namespace(query: Option<&str>) -> Result<Option<&str>, &str> {
    let Some(query) = query.filter(|query| !query.is_empty()) else {
        return Ok(None);
    };
    // The name of a namespace has no character that would be escaped.
    match query.strip_prefix("namespace=") {
        Some(namespace) if !namespace.contains('&') => Ok(Some(namespace).filter(|namespace| !namespace.is_empty())),
        _ => Err(query),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_names_are_local() {
        let request = |host: &str| Request::builder().uri("/v1/status").header(HOST, host).body(()).unwrap();
        for host in ["localhost", "localhost:15000", "127.0.0.1:15000", "127.0.0.1", "[::1]:15000"] {
            assert!(!names_other_host(&request(host)), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:15000", "", "a b"] {
            assert!(names_other_host(&request(host)), "{host}");
        }
        let without = Request::builder().uri("/v1/status").body(()).unwrap();
        assert!(!names_other_host(&without), "HTTP/1.0 has no Host, and no browser speaks it");
    }

    #[test]
    fn the_only_parameter_is_the_namespace() {
        assert_eq!(namespace(None), Ok(None));
        assert_eq!(namespace(Some("")), Ok(None));
        assert_eq!(namespace(Some("namespace=")), Ok(None));
        assert_eq!(namespace(Some("namespace=shop")), Ok(Some("shop")));
        assert_eq!(namespace(Some("namepsace=shop")), Err("namepsace=shop"));
    }
}
