//! What an authority is made of, as texts, wherever they are kept.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::{Zeroize, Zeroizing};

use super::root::AuthorityError;
use super::{BACK_DATED, random_serial};

/// How long a root that is made here is valid: ten years, since replacing it takes an operator.
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// An operator hears of a root that ends within this time.
const ENDS_SOON: Duration = Duration::from_secs(60 * 24 * 3600);

/// The certificates and the key of an authority in PEM, under the names that they have in Istio's `cacerts` secret.
pub struct AuthorityMaterial {
    /// [`AuthorityMaterial::CERTIFICATE`]: the certificate that it signs with.
    pub certificate: Vec<u8>,
    /// [`AuthorityMaterial::KEY`]: the key of that. Wiped when this is dropped.
    pub key: Zeroizing<Vec<u8>>,
    /// [`AuthorityMaterial::ROOTS`]: all roots to trust. `None`: the certificate is the root.
    pub roots: Option<Vec<u8>>,
    /// [`AuthorityMaterial::CHAIN`]: what leads from the certificate to its root. `None`: nothing is in between.
    pub chain: Option<Vec<u8>>,
}

/// What an authority signs with, and what its certificates chain to.
pub(super) struct Root {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) not_after: SystemTime,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) roots: Vec<CertificateDer<'static>>,
}

impl AuthorityMaterial {
    /// Name of the certificate that signs.
    pub const CERTIFICATE: &str = "ca-cert.pem";
    /// Name of its private key.
    pub const KEY: &str = "ca-key.pem";
    /// Name of the roots.
    pub const ROOTS: &str = "root-cert.pem";
    /// Name of the chain.
    pub const CHAIN: &str = "cert-chain.pem";

    /// Makes a new root for `trust_domain`, valid for ten years.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate(trust_domain: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let mut key = new_key()?;
        let certificate = self_signed(&key, trust_domain, now)?.into_bytes();
        let pem = Zeroizing::new(key.serialize_pem().into_bytes());
        key.zeroize();
        let roots = Some(certificate.clone());
        Ok(Self { chain: roots.clone(), roots, certificate, key: pem })
    }

    /// Reads it, and checks what can be checked of each part. `place` is where the parts are kept under their names.
    pub(super) fn read(&self, place: &Path, now: SystemTime) -> Result<Root, AuthorityError> {
        let path = place.join(Self::CERTIFICATE);
        let key = read_key(&self.key, &place.join(Self::KEY))?;
        let certificate = certificates(&self.certificate, &path)?.swap_remove(0);
        let unusable = |reason: String| AuthorityError::Unusable { path: path.clone(), reason };
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| unusable(error.to_string()))?;
        // Go's and OpenSSL's verifiers refuse what an issuer without this usage has signed.
        let may_sign = parsed
            .key_usage()
            .map_err(|error| unusable(error.to_string()))?
            .is_none_or(|usage| usage.value.key_cert_sign());
        if !parsed.is_ca() || !may_sign {
            return Err(unusable("it is not the certificate of an authority".into()));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(unusable(format!("its key is not the one in {}", place.join(Self::KEY).display())));
        }
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
        match not_after.duration_since(now) {
            Ok(left) if left > ENDS_SOON => {}
            Ok(left) => tracing::warn!(
                certificate = %path.display(),
                days = left.as_secs() / 86_400,
                "the certificate authority's certificate ends soon: replace it"
            ),
            Err(_) => return Err(unusable("it has expired: replace it and its key".into())),
        }
        let issuer_is_root = parsed.subject().as_raw() == parsed.issuer().as_raw();
        let roots_path = place.join(Self::ROOTS);
        let roots = match &self.roots {
            Some(pem) => certificates(pem, &roots_path)?,
            None if issuer_is_root => vec![certificate.clone()],
            None => return Err(AuthorityError::Incomplete { present: path, missing: roots_path }),
        };
        let intermediates = match &self.chain {
            Some(pem) => {
                // The chain begins with the issuer; roots, which peers must have already, are left out.
                let mut chain = certificates(pem, &place.join(Self::CHAIN))?;
                if !chain.contains(&certificate) {
                    chain.insert(0, certificate.clone());
                }
                chain.retain(|certificate| !roots.contains(certificate));
                chain
            }
            None if roots.contains(&certificate) => Vec::new(),
            None => vec![certificate.clone()],
        };
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| unusable(error.to_string()))?;
        Ok(Root { issuer, not_after, intermediates, roots })
    }
}

pub(super) fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate().map_err(|error| AuthorityError::Make(error.to_string()))
}

/// The certificate of a new root, in PEM.
pub(super) fn self_signed(key: &KeyPair, trust_domain: &str, now: SystemTime) -> Result<String, AuthorityError> {
    let mut params = CertificateParams::default();
    let serial = random_serial().map_err(|error| AuthorityError::Make(error.to_string()))?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    // Part of the serial in the name tells the roots of a rotation apart: a name is what issuers are found by.
    let suffix: String = serial.to_bytes()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("Weft root {suffix}"));
    params.serial_number = Some(serial);
    params.not_before = (now - BACK_DATED).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(key).map_err(|error| AuthorityError::Make(error.to_string()))?;
    Ok(certificate.pem())
}

/// Reads a private key. `path` is for errors.
pub(super) fn read_key(pem: &[u8], path: &Path) -> Result<KeyPair, AuthorityError> {
    let unusable = |reason: String| AuthorityError::Unusable {
        path: path.to_owned(),
        reason: format!("it is not a private key: {reason}"),
    };
    let pem = std::str::from_utf8(pem).map_err(|error| unusable(error.to_string()))?;
    let mut key = KeyPair::from_pem(pem).map_err(|error| unusable(error.to_string()))?;
    // What is wiped is the copy for export; the key goes on signing.
    key.zeroize();
    Ok(key)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let unusable = |reason| AuthorityError::Unusable { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("it holds no certificate in PEM".into()));
    }
    Ok(certificates)
}
