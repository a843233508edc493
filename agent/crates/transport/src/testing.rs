//! A root and the certificates that it signs, good and bad, for tests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_model::Identity;

use crate::bundle::TrustBundle;
use crate::tls::TlsIdentity;

/// The trust domain of the tests.
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// `spiffe://cluster.local/ns/shop/sa/<name>`.
pub(crate) fn identity(name: &str) -> Identity {
    Identity::new(TRUST_DOMAIN, "shop", name).expect("a valid name")
}

/// A certificate authority of a test.
pub(crate) struct TestRoot {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key.
pub(crate) struct TestLeaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl TestRoot {
    pub(crate) fn new(name: &str) -> Self {
        Self { issuer: CertifiedIssuer::self_signed(Self::params(name), KeyPair::generate().unwrap()).unwrap() }
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::signed_by(Self::params(name), key, &self.issuer).unwrap() }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate of exactly these URIs, valid from and to these times from now.
    pub(crate) fn leaf(&self, uris: &[&str], not_before: SystemTime, not_after: SystemTime) -> TestLeaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from_slice(&[uris.len() as u8 + 1, 2, 3]));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        TestLeaf {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    /// A good certificate of `identity`.
    pub(crate) fn leaf_of(&self, identity: &Identity) -> TestLeaf {
        let now = SystemTime::now();
        self.leaf(&[identity.uri()], now - HOUR, now + HOUR)
    }

    /// A list that revokes the certificates of [`TestRoot::leaf`] that have one URI.
    pub(crate) fn revoking_list(&self) -> String {
        let now = SystemTime::now();
        CertificateRevocationListParams {
            this_update: (now - HOUR).into(),
            next_update: (now + HOUR).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from_slice(&[2, 2, 3]),
                revocation_time: (now - HOUR).into(),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .unwrap()
        .pem()
        .unwrap()
    }

    /// A bundle of this root alone.
    pub(crate) fn bundle(&self) -> Arc<TrustBundle> {
        TrustBundle::new(vec![self.der()]).unwrap()
    }

    /// A good [`TlsIdentity`] of `name`, which trusts this root alone.
    pub(crate) fn tls(&self, name: &str) -> Arc<TlsIdentity> {
        let identity = identity(name);
        self.leaf_of(&identity).tls(&identity, self.bundle())
    }
}

impl TestLeaf {
    /// A [`TlsIdentity`] of it that trusts `bundle`.
    pub(crate) fn tls(self, identity: &Identity, bundle: Arc<TrustBundle>) -> Arc<TlsIdentity> {
        let trust_domains = Arc::new([TRUST_DOMAIN.to_owned()]);
        TlsIdentity::new(identity, self.chain, &self.key, bundle, trust_domains).unwrap()
    }
}
