//! Certificates for the pods of the caller's node, by Istio's protocol.
//!
//! The signing request gives the key, never the name. The name is the identity that the caller asks for, and is granted
//! only if [`Grants`] says so. Every grant and every refusal is a record of the tracing target `audit`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost_types::value::Kind;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use tonic::{Request, Response, Status};
use weft_model::Identity;
use weft_proto::certificate::istio_certificate_service_server::IstioCertificateService;
use weft_proto::certificate::{IstioCertificateRequest, IstioCertificateResponse};
use weft_transport::{Issued, SourceError};

use super::authenticate::Caller;
use super::residents::Grants;
use super::signing::{Signing, pem_of};
use super::stream::Counts;

/// Where the identity that is asked for stands in a request's metadata.
const IMPERSONATED: &str = "ImpersonatedIdentity";
/// Longest request for a certificate; they are of about 500 bytes.
const MAX_REQUEST: usize = 16 * 1024;

/// Issues certificates to those who may have them.
#[derive(Clone)]
pub struct Certifier {
    signing: Signing,
    grants: Arc<dyn Grants>,
    longest: Duration,
    counts: Arc<Counts>,
}

impl Certifier {
    /// Certificates of the authority that signs, valid for at most `longest`, and for that long if the request does not say.
    #[must_use]
    pub fn new(signing: Signing, grants: Arc<dyn Grants>, longest: Duration) -> Self {
        Self { signing, grants, longest, counts: Arc::default() }
    }

    /// The same, counted there.
    pub(super) fn counted(self, counts: &Arc<Counts>) -> Self {
        Self { counts: Arc::clone(counts), ..self }
    }

    fn certify(&self, caller: &Caller, request: &IstioCertificateRequest) -> Result<(Identity, Issued), Status> {
        let asked = request.metadata.as_ref().and_then(|metadata| metadata.fields.get(IMPERSONATED));
        let Some(Kind::StringValue(asked)) = asked.and_then(|value| value.kind.as_ref()) else {
            return Err(Status::invalid_argument(format!("the metadata have no {IMPERSONATED}: whose is it to be?")));
        };
        let identity: Identity =
            asked.parse().map_err(|error: weft_model::IdentityError| Status::invalid_argument(error.to_string()))?;
        self.grants.may_have(caller, &identity).map_err(Status::permission_denied)?;
        if request.csr.len() > MAX_REQUEST {
            return Err(Status::invalid_argument(format!("the signing request is longer than {MAX_REQUEST} bytes")));
        }
        let csr = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes())
            .map_err(|error| Status::invalid_argument(format!("the signing request cannot be read: {error}")))?;
        let wished = u64::try_from(request.validity_duration).ok().filter(|seconds| *seconds != 0);
        let lifetime = wished.map_or(self.longest, |seconds| Duration::from_secs(seconds).min(self.longest));
        let authority = self.signing.current().map_err(Status::unavailable)?;
        match authority.certify(&identity, &csr, lifetime) {
            Ok(issued) => Ok((identity, issued)),
            Err(SourceError::Refused(reason)) => Err(Status::invalid_argument(reason)),
            Err(SourceError::Failed(reason)) => Err(Status::unavailable(reason)),
        }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Certifier {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return Err(Status::unauthenticated("who calls is not known"));
        };
        match self.certify(&caller, request.get_ref()) {
            Ok((identity, issued)) => {
                self.counts.certificates.fetch_add(1, Ordering::Relaxed);
                tracing::info!(target: "audit", %caller, %identity, "certificate granted");
                Ok(Response::new(answer(&issued)))
            }
            Err(status) => {
                self.counts.certificate_refusals.fetch_add(1, Ordering::Relaxed);
                let asked = request.get_ref().metadata.as_ref().and_then(|metadata| metadata.fields.get(IMPERSONATED));
                tracing::warn!(target: "audit", %caller, ?asked, reason = status.message(), "certificate refused");
                Err(status)
            }
        }
    }
}

/// The chain, leaf first; all roots in the last part.
fn answer(issued: &Issued) -> IstioCertificateResponse {
    let mut cert_chain: Vec<String> = issued.chain.iter().map(|certificate| pem_of([certificate])).collect();
    cert_chain.push(pem_of(&issued.roots));
    IstioCertificateResponse { cert_chain }
}
