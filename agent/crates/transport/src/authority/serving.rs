//! Certificates of the control plane's own servers.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{BACK_DATED, CertificateAuthority, random_serial};
use crate::source::SourceError;

/// A certificate that says which names a server answers to, with its key. It carries no identity of the mesh.
pub struct ServingCertificate {
    /// The certificate, then its intermediates, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// When it ends.
    pub not_after: SystemTime,
}

impl CertificateAuthority {
    /// Makes a key and a certificate for a server that is dialled by `names`, DNS names or addresses, valid for at most
    /// `lifetime`.
    ///
    /// # Errors
    /// When a name is none, or the authority's own certificate has expired.
    pub fn serving_certificate(&self, names: &[String], lifetime: Duration) -> Result<ServingCertificate, SourceError> {
        let (now, not_after) = self.validity(lifetime)?;
        let failed = |error: rcgen::Error| SourceError::Failed(format!("certifying {}: {error}", names.join(", ")));
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.not_before = (now - BACK_DATED).into();
        params.not_after = not_after.into();
        params.serial_number = Some(random_serial()?);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend_from_slice(&self.intermediates);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(ServingCertificate { chain, key, not_after })
    }
}
