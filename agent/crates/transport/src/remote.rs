//! A certificate authority elsewhere, by Istio's protocol: istiod, another that speaks it, or Weft's controller.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};
use weft_proto::certificate::istio_certificate_service_client::IstioCertificateServiceClient;
use weft_proto::certificate::{IstioCertificateRequest, IstioCertificateResponse};
use weft_runtime::Backoff;

use crate::control_plane::{Connection, ControlPlane};
use crate::source::{CertificateSource, Issued, Issuing, SigningRequest, SourceError};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// First and longest pause between attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// A chain and its roots are a few kilobytes.
const MAX_ANSWER: usize = 1 << 20;

/// An authority that is reached over the network. It shares one connection among all requests.
pub struct RemoteAuthority {
    control_plane: ControlPlane,
    cluster: Option<MetadataValue<Ascii>>,
    state: Mutex<State>,
    /// One request connects; the others wait for what it gets.
    connecting: Semaphore,
}

struct State {
    connection: Option<Connection>,
    backoff: Backoff,
    /// After a failure: when to try again, and what it was.
    failure: Option<(Instant, String)>,
}

impl RemoteAuthority {
    /// An authority at `control_plane`. `cluster` is the name by which it knows this cluster.
    ///
    /// # Errors
    /// When the name of the cluster cannot be sent.
    pub fn new(control_plane: ControlPlane, cluster: &str) -> Result<Self, SourceError> {
        let cluster = match cluster {
            "" => None,
            _ => Some(
                cluster
                    .parse()
                    .map_err(|_| SourceError::Failed(format!("the cluster's name '{cluster}' cannot be sent")))?,
            ),
        };
        let state = State { connection: None, backoff: Backoff::new(PAUSES.0, PAUSES.1), failure: None };
        Ok(Self { control_plane, cluster, state: Mutex::new(state), connecting: Semaphore::new(1) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self) -> Option<Connection> {
        self.state().connection.clone().filter(|connection| !connection.is_closed())
    }

    async fn connection(&self) -> Result<Connection, SourceError> {
        if let Some(connection) = self.connected() {
            return Ok(connection);
        }
        let _turn = self.connecting.acquire().await.map_err(|error| SourceError::Failed(error.to_string()))?;
        if let Some(connection) = self.connected() {
            return Ok(connection);
        }
        // Many identities fail together; they must not each try anew.
        if let Some((again_at, reason)) = &self.state().failure
            && *again_at > Instant::now()
        {
            return Err(SourceError::Failed(reason.clone()));
        }
        let result = self.control_plane.connect().await;
        let mut state = self.state();
        match result {
            Ok(connection) => {
                state.backoff.reset();
                state.failure = None;
                state.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let pause = state.backoff.pause();
                state.failure = Some((Instant::now() + pause, error.to_string()));
                Err(SourceError::Failed(error.to_string()))
            }
        }
    }

    async fn ask(&self, request: &SigningRequest) -> Result<Issued, SourceError> {
        let connection = self.connection().await?;
        let impersonated = Value { kind: Some(Kind::StringValue(request.identity.uri().to_string())) };
        let metadata = Struct { fields: BTreeMap::from([("ImpersonatedIdentity".to_owned(), impersonated)]) };
        let mut message = Request::new(IstioCertificateRequest {
            csr: textual("CERTIFICATE REQUEST", &request.request),
            validity_duration: i64::try_from(request.lifetime.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(metadata),
        });
        message.set_timeout(ANSWER_WITHIN);
        if let Some(cluster) = &self.cluster {
            message.metadata_mut().insert("clusterid", cluster.clone());
        }
        let mut client = IstioCertificateServiceClient::new(connection).max_decoding_message_size(MAX_ANSWER);
        match tokio::time::timeout(ANSWER_WITHIN, client.create_certificate(message)).await {
            Ok(Ok(response)) => read(response.get_ref()),
            Ok(Err(status)) => {
                if status.code() == Code::Unauthenticated {
                    // The token is read when connecting: the next attempt may have a better one.
                    self.state().connection = None;
                }
                Err(refusal(&status))
            }
            Err(_) => {
                self.state().connection = None;
                Err(SourceError::Failed(format!("no answer within {} s", ANSWER_WITHIN.as_secs())))
            }
        }
    }
}

impl CertificateSource for RemoteAuthority {
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> Issuing<'a> {
        Box::pin(self.ask(request))
    }

    fn describe(&self) -> String {
        format!("authority at {}", self.control_plane)
    }
}

fn refusal(status: &Status) -> SourceError {
    let text = format!("{}: {}", status.code(), status.message());
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => SourceError::Refused(text),
        _ => SourceError::Failed(text),
    }
}

/// The certificates, leaf first; the last part holds the roots.
fn read(response: &IstioCertificateResponse) -> Result<Issued, SourceError> {
    let certificates = |part: &String| {
        CertificateDer::pem_slice_iter(part.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| SourceError::Failed(format!("a certificate in the answer cannot be read: {error}")))
    };
    let Some((last, parts)) = response.cert_chain.split_last() else {
        return Err(SourceError::Failed("the answer holds no certificate".to_owned()));
    };
    let (chain, roots) = if parts.is_empty() { (&response.cert_chain[..], None) } else { (parts, Some(last)) };
    let chain = chain.iter().map(certificates).collect::<Result<Vec<_>, _>>()?.concat();
    if chain.is_empty() {
        return Err(SourceError::Failed("the answer holds no certificate".to_owned()));
    }
    Ok(Issued { chain, roots: roots.map(certificates).transpose()?.unwrap_or_default() })
}

/// PEM, the textual encoding (RFC 7468).
fn textual(label: &str, der: &[u8]) -> String {
    pem::encode_config(&pem::Pem::new(label, der), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRoot, identity};

    fn answer(cert_chain: Vec<String>) -> Result<Issued, SourceError> {
        read(&IstioCertificateResponse { cert_chain })
    }

    #[test]
    fn the_last_part_of_an_answer_holds_the_roots_whatever_their_number() {
        let (old, new) = (TestRoot::new("old"), TestRoot::new("new"));
        let leaf = old.leaf_of(&identity("cart")).chain.remove(0);
        let chain = textual("CERTIFICATE", &leaf);
        let issued = answer(vec![chain.clone(), old.pem() + &new.pem()]).expect("a whole answer");
        assert_eq!((issued.chain, issued.roots), (vec![leaf.clone()], vec![old.der(), new.der()]));
        let issued = answer(vec![chain]).expect("an answer without roots");
        assert_eq!((issued.chain, issued.roots), (vec![leaf], vec![]));
    }

    #[test]
    fn an_answer_without_a_certificate_is_refused() {
        for parts in [vec![], vec![String::new()], vec!["x".to_owned(), "y".to_owned()]] {
            let error = answer(parts).expect_err("nothing was issued");
            assert!(error.to_string().contains("holds no certificate"), "{error}");
        }
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned();
        assert!(answer(vec![broken]).is_err());
    }
}
