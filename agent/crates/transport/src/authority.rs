//! The embedded certificate authority: that of a host without any other, and of a cluster's controllers.

mod material;
mod root;
mod serving;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use weft_model::Identity;
use weft_runtime::Clock;

pub use self::material::AuthorityMaterial;
use self::material::Root;
pub use self::root::AuthorityError;
pub use self::serving::ServingCertificate;
use crate::bundle::TrustBundle;
use crate::source::{CertificateSource, Issued, Issuing, SigningRequest, SourceError};
use crate::tls;

/// How far a certificate's validity begins before it is issued, for peers whose clocks are late.
const BACK_DATED: Duration = Duration::from_secs(120);

/// A certificate authority whose root lies in a directory of this host, or is given.
///
/// All nodes that use one directory have one root. An operator may put a root there instead, in the files that Istio's
/// `cacerts` secret has: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`.
pub struct CertificateAuthority {
    /// Where its root is kept, for people.
    place: PathBuf,
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    /// When the issuing certificate ends, and with it whatever it issues.
    not_after: SystemTime,
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    clock: Arc<dyn Clock>,
}

impl CertificateAuthority {
    /// Opens the authority in `directory`, making directory (0700) and root (0600) when there is none yet. Other
    /// processes may do the same at the same time: all find one root. Blocks on the disk.
    ///
    /// # Errors
    /// When the files cannot be read or written, or do not belong together.
    pub fn open(directory: &Path, trust_domain: &str, clock: Arc<dyn Clock>) -> Result<Self, AuthorityError> {
        Self::of(root::open(directory, trust_domain, clock.now())?, directory, trust_domain, clock)
    }

    /// The authority that `material` makes. `place` says where that is kept, for errors and logs: a directory, or what
    /// reads like one.
    ///
    /// # Errors
    /// When a part cannot be read, or the parts do not belong together.
    pub fn from_material(
        material: &AuthorityMaterial,
        place: &Path,
        trust_domain: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthorityError> {
        Self::of(material.read(place, clock.now())?, place, trust_domain, clock)
    }

    fn of(root: Root, place: &Path, trust_domain: &str, clock: Arc<dyn Clock>) -> Result<Self, AuthorityError> {
        let Root { issuer, not_after, intermediates, roots } = root;
        let authority = Self {
            place: place.to_owned(),
            trust_domain: trust_domain.to_owned(),
            issuer,
            not_after,
            intermediates,
            roots,
            clock,
        };
        authority.check().map_err(|reason| AuthorityError::Unusable { path: place.to_owned(), reason })?;
        Ok(authority)
    }

    /// Issues a certificate and verifies it as a peer would: files that do not belong together show now, not in
    /// every handshake later.
    fn check(&self) -> Result<(), String> {
        let identity = Identity::new(&self.trust_domain, "weft", "check").map_err(|error| error.to_string())?;
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let request = workload_params(&identity)
            .map_err(|error| error.to_string())?
            .serialize_request(&key)
            .map_err(|error| error.to_string())?;
        let issued = self
            .sign(&SigningRequest { identity, request: request.der().clone(), lifetime: BACK_DATED })
            .map_err(|error| error.to_string())?;
        let bundle = TrustBundle::new(issued.roots).map_err(|error| error.to_string())?;
        tls::verify_chain(&bundle, &issued.chain, self.clock.now())
            .map_err(|fault| format!("a certificate that this authority issues is refused by its own roots: {fault}"))
    }

    /// The roots that its certificates chain to.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    fn sign(&self, request: &SigningRequest) -> Result<Issued, SourceError> {
        let identity = &request.identity;
        let asked = read_request(&request.request)?;
        if asked.params.subject_alt_names != [uri(identity)?] {
            return Err(SourceError::Refused(format!("the signing request is not for {identity} alone")));
        }
        self.issue_to(identity, &asked, request.lifetime)
    }

    /// Issues a certificate of `identity` to the key in `request`, valid for at most `lifetime`. Whatever else the
    /// request asks for is not looked at: the caller has decided who it is that asks.
    ///
    /// # Errors
    /// When the request is not signed with its own key, or the identity is of another trust domain.
    pub fn certify(
        &self,
        identity: &Identity,
        request: &CertificateSigningRequestDer<'_>,
        lifetime: Duration,
    ) -> Result<Issued, SourceError> {
        self.issue_to(identity, &read_request(request)?, lifetime)
    }

    fn issue_to(
        &self,
        identity: &Identity,
        asked: &CertificateSigningRequestParams,
        lifetime: Duration,
    ) -> Result<Issued, SourceError> {
        if identity.trust_domain() != self.trust_domain {
            return Err(SourceError::Refused(format!(
                "{identity} is not of the trust domain {}, which this authority certifies",
                self.trust_domain
            )));
        }
        let (now, not_after) = self.validity(lifetime)?;
        // Of the request only the key is taken: what a certificate may say is decided here.
        let mut params = workload_params(identity)?;
        params.not_before = (now - BACK_DATED).into();
        params.not_after = not_after.into();
        params.serial_number = Some(random_serial()?);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .signed_by(&asked.public_key, &self.issuer)
            .map_err(|error| SourceError::Failed(format!("signing for {identity}: {error}")))?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend_from_slice(&self.intermediates);
        Ok(Issued { chain, roots: self.roots.clone() })
    }

    /// Now, and when what is issued now may end at the latest.
    fn validity(&self, lifetime: Duration) -> Result<(SystemTime, SystemTime), SourceError> {
        let now = self.clock.now();
        let not_after = (now + lifetime).min(self.not_after);
        if not_after <= now {
            return Err(SourceError::Failed(format!(
                "the authority's own certificate in {} has expired: replace it",
                self.place.display()
            )));
        }
        Ok((now, not_after))
    }
}

impl CertificateSource for CertificateAuthority {
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> Issuing<'a> {
        // Tens of microseconds of arithmetic: nothing to wait for.
        Box::pin(std::future::ready(self.sign(request)))
    }

    fn describe(&self) -> String {
        format!("embedded authority in {}", self.place.display())
    }
}

/// A certificate or request that names `identity` and nothing else. Without a subject the name becomes a critical
/// extension (RFC 5280, 4.2.1.6).
pub(crate) fn workload_params(identity: &Identity) -> Result<CertificateParams, SourceError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(identity)?];
    Ok(params)
}

/// Reading it verifies the signature: whoever asks has the private key (RFC 2986, 3).
fn read_request(request: &CertificateSigningRequestDer<'_>) -> Result<CertificateSigningRequestParams, SourceError> {
    CertificateSigningRequestParams::from_der(request)
        .map_err(|error| SourceError::Refused(format!("the signing request is not usable: {error}")))
}

fn uri(identity: &Identity) -> Result<SanType, SourceError> {
    identity
        .uri()
        .to_string()
        .try_into()
        .map(SanType::URI)
        .map_err(|error| SourceError::Refused(format!("{identity} cannot be put in a certificate: {error}")))
}

/// A serial number of 158 random bits: unpredictable, positive, and of at most 20 bytes (RFC 5280, 4.1.2.2).
fn random_serial() -> Result<SerialNumber, SourceError> {
    let mut bytes = [0; 20];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| SourceError::Failed("the system's random numbers are not available".into()))?;
    // The first bit is the sign; the second one set keeps the length, and the encoding unique.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
