//! Answers of the waypoint's own.

use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode, Version};

use super::place::Failure;
use crate::body::{Account, ResponseBody};

/// An answer in place of an endpoint's.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// Istio's flag for telemetry.
    pub(crate) flags: &'static str,
    /// For the log; none where nothing is wrong. Clients are not told: it names what they need not know.
    pub(crate) reason: Option<String>,
    pub(crate) headers: Box<HeaderMap>,
    /// The connection ends with it: what follows on it cannot be trusted to be a request.
    pub(crate) closes: bool,
}

impl Reply {
    pub(crate) fn new(status: StatusCode, flags: &'static str, reason: String) -> Self {
        Self { status, flags, reason: Some(reason), headers: Box::default(), closes: false }
    }

    pub(crate) fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    pub(super) fn into_response(
        self,
        version: Version,
        is_grpc: bool,
        account: &mut Account,
    ) -> Response<ResponseBody> {
        let text = match self.status {
            status if status.is_client_error() || status.is_server_error() => {
                format!("{}\n", status.canonical_reason().unwrap_or("error"))
            }
            _ => String::new(),
        };
        if let Some(reason) = self.reason {
            account.fail(self.flags, reason);
        }
        // A gRPC client reads its own status, and takes any other of HTTP than 200 for one that it has to guess.
        let mut response = if is_grpc && (self.status.is_client_error() || self.status.is_server_error()) {
            let code = grpc(self.status);
            let mut response = Response::new(ResponseBody::whole(""));
            response.headers_mut().extend(*self.headers);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response.headers_mut().insert("grpc-status", HeaderValue::from(code));
            if let Ok(message) = HeaderValue::from_str(text.trim_end()) {
                response.headers_mut().insert("grpc-message", message);
            }
            account.record.grpc_status = Some(code);
            response
        } else {
            let has_text = !text.is_empty();
            let mut response = Response::new(ResponseBody::whole(text));
            *response.status_mut() = self.status;
            response.headers_mut().extend(*self.headers);
            if has_text {
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            response
        };
        if self.closes && version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        account.answered(response.status());
        response
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        match &failure {
            Failure::Denied(..) => Self::new(StatusCode::FORBIDDEN, "UAEX", failure.to_string()),
            Failure::NoEndpoint(_) | Failure::Gone(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "UH", failure.to_string())
            }
        }
    }
}

/// The gRPC status that stands for one of HTTP (gRPC's own mapping, and `DEADLINE_EXCEEDED` for a time-out).
fn grpc(status: StatusCode) -> u32 {
    match status {
        StatusCode::BAD_REQUEST => 13,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND => 12,
        StatusCode::GATEWAY_TIMEOUT => 4,
        _ => 14,
    }
}
