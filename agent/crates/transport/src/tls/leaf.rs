//! Reading a workload's certificate.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use weft_model::Identity;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::error::CertificateFault;

/// Tag of a URI among the general names (RFC 5280, 4.2.1.6).
const URI_TAG: u32 = 6;

/// What a workload's certificate says.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) identity: Identity,
    /// In lower-case hexadecimal.
    pub(crate) serial: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Leaf {
    /// Reads a certificate, which must carry exactly one URI (SPIFFE X.509-SVID, 2) and that a workload's identity.
    /// Nothing is verified.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, CertificateFault> {
        let certificate = parse(der)?;
        let uri = only_uri(&certificate)?;
        let identity = uri
            .parse()
            .map_err(|error: weft_model::IdentityError| CertificateFault::NotAnIdentity(error.to_string()))?;
        let mut serial = String::new();
        for byte in certificate.raw_serial() {
            write!(serial, "{byte:02x}").expect("a string takes all that is written");
        }
        Ok(Self {
            identity,
            serial,
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
        })
    }
}

/// Begin and end of a certificate's validity.
pub(super) fn validity(der: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), CertificateFault> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Ok((system_time(validity.not_before), system_time(validity.not_after)))
}

fn parse<'d>(der: &'d CertificateDer<'_>) -> Result<X509Certificate<'d>, CertificateFault> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| CertificateFault::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CertificateFault::Malformed("bytes follow it".into()));
    }
    Ok(certificate)
}

/// The URI among the subject alternative names, if there is no other.
///
/// Names that are no text are counted as well: a reader that skips them would see one name where another reader sees
/// two, and two parties would then judge two identities.
fn only_uri<'c>(certificate: &'c X509Certificate<'_>) -> Result<&'c str, CertificateFault> {
    let extension =
        certificate.subject_alternative_name().map_err(|error| CertificateFault::Malformed(error.to_string()))?;
    let names = extension.map_or(&[][..], |extension| &extension.value.general_names);
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(Some(*uri)),
            GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => uris.push(None),
            _ => {}
        }
    }
    match uris[..] {
        [Some(uri)] => Ok(uri),
        _ => Err(CertificateFault::UriNames {
            count: uris.len(),
            names: uris.iter().take(4).map(|uri| uri.unwrap_or("not text")).collect::<Vec<_>>().join(", "),
        }),
    }
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}
