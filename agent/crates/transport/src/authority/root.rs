//! The authority's root on disk.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::{Zeroize, Zeroizing};

use super::{BACK_DATED, random_serial};

/// How long a root that is made here is valid: ten years, since replacing it takes an operator.
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// An operator hears of a root that ends within this time.
const ENDS_SOON: Duration = Duration::from_secs(60 * 24 * 3600);

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const ROOTS: &str = "root-cert.pem";
const CHAIN: &str = "cert-chain.pem";
const LOCK: &str = ".lock";

/// What an authority signs with, and what its certificates chain to.
pub(super) struct Root {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) not_after: SystemTime,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// Why an authority could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The disk refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file is there without the one that belongs to it.
    #[error("{present} is there but {missing} is not: put it there, or remove the former to have a new root made")]
    Incomplete {
        /// The file that is there.
        present: PathBuf,
        /// The file that is missing.
        missing: PathBuf,
    },
    /// A file cannot be used.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A root could not be made.
    #[error("making a root certificate: {0}")]
    Make(String),
}

/// Opens the root in `directory`, or makes one.
pub(super) fn open(directory: &Path, trust_domain: &str, now: SystemTime) -> Result<Root, AuthorityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("creating the directory", directory))?;
    let (certificate, key) = (directory.join(CERTIFICATE), directory.join(KEY));
    // Complete: nothing will be written, so that a read-only directory (a mounted secret) serves.
    if !(exists(&certificate)? && exists(&key)?) {
        let _held = lock(&directory.join(LOCK))?;
        match (exists(&certificate)?, exists(&key)?) {
            (true, true) => {}
            (true, false) => {
                return Err(AuthorityError::Incomplete { present: certificate, missing: key });
            }
            (false, has_key) => make(directory, has_key, trust_domain, now)?,
        }
    }
    load(directory, now)
}

/// Makes a root. The certificate is written last: whoever finds one finds its key. A key without certificate is what a
/// process leaves that died in between, and is used.
fn make(directory: &Path, has_key: bool, trust_domain: &str, now: SystemTime) -> Result<(), AuthorityError> {
    let impossible = |error: rcgen::Error| AuthorityError::Make(error.to_string());
    let key_path = directory.join(KEY);
    let key = if has_key {
        read_key(&key_path)?
    } else {
        let mut key = KeyPair::generate().map_err(impossible)?;
        let pem = Zeroizing::new(key.serialize_pem());
        key.zeroize();
        write_whole(&key_path, pem.as_bytes())?;
        key
    };
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
    let certificate = params.self_signed(&key).map_err(impossible)?;
    write_whole(&directory.join(CERTIFICATE), certificate.pem().as_bytes())?;
    tracing::info!(directory = %directory.display(), "made a new root for the embedded certificate authority");
    Ok(())
}

fn load(directory: &Path, now: SystemTime) -> Result<Root, AuthorityError> {
    let path = directory.join(CERTIFICATE);
    let key_path = directory.join(KEY);
    let key = read_key(&key_path)?;
    let certificate = certificates(&path)?.swap_remove(0);
    let unusable = |reason: String| AuthorityError::Unusable { path: path.clone(), reason };
    let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| unusable(error.to_string()))?;
    if !parsed.is_ca() {
        return Err(unusable("it is not the certificate of an authority".into()));
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(unusable(format!("its key is not the one in {}", key_path.display())));
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
    let roots_path = directory.join(ROOTS);
    let roots = if exists(&roots_path)? {
        certificates(&roots_path)?
    } else if issuer_is_root {
        vec![certificate.clone()]
    } else {
        return Err(AuthorityError::Incomplete { present: path, missing: roots_path });
    };
    let chain_path = directory.join(CHAIN);
    let intermediates = if exists(&chain_path)? {
        // The chain begins with the issuer; roots, which peers must have already, are left out.
        let mut chain = certificates(&chain_path)?;
        if !chain.contains(&certificate) {
            chain.insert(0, certificate.clone());
        }
        chain.retain(|certificate| !roots.contains(certificate));
        chain
    } else if roots.contains(&certificate) {
        Vec::new()
    } else {
        vec![certificate.clone()]
    };
    let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| unusable(error.to_string()))?;
    Ok(Root { issuer, not_after, intermediates, roots })
}

fn read_key(path: &Path) -> Result<KeyPair, AuthorityError> {
    let pem = std::fs::read_to_string(path).map(Zeroizing::new).map_err(failed("reading", path))?;
    let mode = std::fs::metadata(path).map_err(failed("reading", path))?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            key = %path.display(),
            mode = format!("{:o}", mode & 0o777),
            "others can read the certificate authority's key: chmod 600 it"
        );
    }
    let mut key = KeyPair::from_pem(&pem).map_err(|error| AuthorityError::Unusable {
        path: path.to_owned(),
        reason: format!("it is not a private key: {error}"),
    })?;
    // What is wiped is the copy for export; the key goes on signing.
    key.zeroize();
    Ok(key)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let unusable = |reason| AuthorityError::Unusable { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(failed("reading", path))?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("it holds no certificate in PEM".into()));
    }
    Ok(certificates)
}

/// Holds the lock until the file is closed; the kernel releases it if the process dies.
fn lock(path: &Path) -> Result<File, AuthorityError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("opening", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            tracing::info!(lock = %path.display(), "waiting for another agent that makes the root");
            file.lock().map_err(failed("locking", path))?;
            Ok(file)
        }
        Err(TryLockError::Error(error)) => Err(failed("locking", path)(error)),
    }
}

/// Writes a file of mode 0600 so that nobody ever sees a part of it, and that it survives a loss of power.
fn write_whole(path: &Path, content: &[u8]) -> Result<(), AuthorityError> {
    let partial = path.with_extension("pem.part");
    // One of a process that died; the lock is ours.
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", &partial)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&partial)
        .map_err(failed("creating", &partial))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("writing", &partial))?;
    std::fs::rename(&partial, path).map_err(failed("renaming", &partial))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("writing", directory))
}

fn exists(path: &Path) -> Result<bool, AuthorityError> {
    path.try_exists().map_err(failed("looking for", path))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::Io { doing, path, source }
}
