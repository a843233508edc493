//! Judging the peer's certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{CertRevocationList, EndEntityCert, KeyUsage, RevocationOptionsBuilder, UnknownStatusPolicy};
use weft_model::Identity;

use super::error::CertificateFault;
use super::leaf::{Leaf, validity};
use super::provider::signature_algorithms;
use crate::bundle::{ChainKey, Purpose, TrustBundle};

/// What a server demands of its clients: any workload of the mesh.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) bundle: Arc<TrustBundle>,
    /// The mesh's trust domain, then its aliases.
    pub(super) trust_domains: Arc<[String]>,
}

/// What a client demands of its server: to be the workload that was dialled, or another name of its service
/// (secure naming).
#[derive(Debug)]
pub(super) struct Server {
    pub(super) bundle: Arc<TrustBundle>,
    pub(super) expected: Arc<[Identity]>,
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A workload has one certificate; hints would not help it to choose, and they would tell the roots to anyone.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let presented = verify(&self.bundle, end_entity, intermediates, now, Purpose::Client).map_err(refuse)?;
        if !self.trust_domains.iter().any(|domain| domain == presented.trust_domain()) {
            return Err(refuse(CertificateFault::OtherTrustDomain {
                presented,
                accepted: Arc::clone(&self.trust_domains),
            }));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &signature_algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &signature_algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_algorithms().supported_schemes()
    }
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = verify(&self.bundle, end_entity, intermediates, now, Purpose::Server).map_err(refuse)?;
        if !self.expected.contains(&presented) {
            return Err(refuse(CertificateFault::WrongIdentity { presented, expected: Arc::clone(&self.expected) }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &signature_algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &signature_algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_algorithms().supported_schemes()
    }
}

/// Verifies a workload's chain, leaf first, as its peers will.
pub(crate) fn verify_chain(
    bundle: &TrustBundle,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), CertificateFault> {
    let (leaf, intermediates) =
        chain.split_first().ok_or_else(|| CertificateFault::Malformed("the chain is empty".into()))?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    verify(bundle, leaf, intermediates, now, Purpose::Server)?;
    verify(bundle, leaf, intermediates, now, Purpose::Client)?;
    Ok(())
}

/// Verifies the chain up to a root of the bundle, validity, purpose and revocation, and reads the identity.
fn verify(
    bundle: &TrustBundle,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    purpose: Purpose,
) -> Result<Identity, CertificateFault> {
    let trusted = bundle.load();
    let key = ChainKey::new(purpose, end_entity, intermediates);
    if let Some(identity) = trusted.verified.find(&key, system_time(now)) {
        return Ok(identity);
    }
    let certificate = EndEntityCert::try_from(end_entity).map_err(fault)?;
    let lists: Vec<&CertRevocationList<'_>> = trusted.revocation_lists.iter().collect();
    // Without any list there is nothing to check; an issuer without a list revokes nothing.
    let revocation = RevocationOptionsBuilder::new(&lists)
        .ok()
        .map(|options| options.with_status_policy(UnknownStatusPolicy::Allow).build());
    let usage = match purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
    };
    certificate
        .verify_for_usage(signature_algorithms().all, &trusted.anchors, intermediates, now, usage, revocation, None)
        .map_err(fault)?;
    let leaf = Leaf::read(end_entity)?;
    // Two parsers have read the certificate, one for its signature and one for its name: they must have read the same.
    if certificate.valid_uri_names().ne([&**leaf.identity.uri()]) {
        return Err(CertificateFault::Malformed("its names are ambiguous".into()));
    }
    if let Some((not_before, not_after)) = common_validity(&leaf, intermediates) {
        trusted.verified.remember(key, leaf.identity.clone(), not_before, not_after);
    }
    Ok(leaf.identity)
}

/// The dates between which all certificates of a chain are valid. An intermediate that cannot be read was not needed,
/// but then there are none.
fn common_validity(leaf: &Leaf, intermediates: &[CertificateDer<'_>]) -> Option<(SystemTime, SystemTime)> {
    let own = (leaf.not_before, leaf.not_after);
    intermediates.iter().try_fold(own, |(not_before, not_after), certificate| {
        let (from, to) = validity(certificate).ok()?;
        Some((not_before.max(from), not_after.min(to)))
    })
}

fn refuse(fault: CertificateFault) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(fault))).into()
}

fn fault(error: webpki::Error) -> CertificateFault {
    match error {
        webpki::Error::CertExpired { not_after, .. } => CertificateFault::Expired { not_after: system_time(not_after) },
        webpki::Error::CertNotValidYet { not_before, .. } => {
            CertificateFault::NotYetValid { not_before: system_time(not_before) }
        }
        webpki::Error::CertRevoked => CertificateFault::Revoked,
        webpki::Error::BadDer
        | webpki::Error::BadDerTime
        | webpki::Error::TrailingData(_)
        | webpki::Error::UnsupportedCertVersion => CertificateFault::Malformed(error.to_string()),
        webpki::Error::UnknownIssuer => CertificateFault::Chain("its issuer is unknown".into()),
        webpki::Error::InvalidSignatureForPublicKey => {
            CertificateFault::Chain("it was signed by another key than that of the root with its issuer's name".into())
        }
        webpki::Error::CaUsedAsEndEntity => CertificateFault::Chain("it is an authority's, not a workload's".into()),
        other => CertificateFault::Chain(other.to_string()),
    }
}

fn system_time(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.as_secs())
}
