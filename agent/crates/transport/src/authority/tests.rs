//! The embedded authority: what it issues, and its root on disk.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use tempfile::TempDir;
use weft_model::Identity;
use weft_runtime::SystemClock;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::{AuthorityError, AuthorityMaterial, CertificateAuthority, workload_params};
use crate::bundle::TrustBundle;
use crate::source::{CertificateSource, Issued, SigningRequest, SourceError};
use crate::testing::{HOUR, TRUST_DOMAIN, TestRoot, identity};
use crate::tls::verify_chain;

fn open(directory: &Path) -> Result<CertificateAuthority, AuthorityError> {
    CertificateAuthority::open(directory, TRUST_DOMAIN, Arc::new(SystemClock))
}

fn request(named: &Identity, requested: &Identity) -> SigningRequest {
    let key = KeyPair::generate().unwrap();
    SigningRequest {
        identity: named.clone(),
        request: workload_params(requested).unwrap().serialize_request(&key).unwrap().der().clone(),
        lifetime: 24 * HOUR,
    }
}

async fn issue(authority: &CertificateAuthority, name: &str) -> Issued {
    let identity = identity(name);
    authority.issue(&request(&identity, &identity)).await.unwrap()
}

/// Fails unless `issued` chains to `roots`.
fn assert_trusted(issued: &Issued, roots: Vec<rustls_pki_types::CertificateDer<'static>>) {
    verify_chain(&TrustBundle::new(roots).unwrap(), &issued.chain, SystemTime::now()).unwrap();
}

#[tokio::test]
async fn a_certificate_names_one_workload_and_says_what_it_is_for() {
    let directory = TempDir::new().unwrap();
    let authority = open(directory.path()).unwrap();
    let issued = issue(&authority, "web").await;
    assert_trusted(&issued, issued.roots.clone());
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "there is no subject, so the name is critical");
    assert_eq!(names.value.general_names.len(), 1);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth);
    assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
    assert!(!leaf.is_ca());
    assert_eq!(leaf.raw_serial().len(), 20);
    assert_ne!(leaf.raw_serial(), {
        let other = issue(&authority, "web").await;
        X509Certificate::from_der(&other.chain[0]).unwrap().1.raw_serial().to_vec()
    });
    assert!(
        leaf.extensions()
            .iter()
            .any(|extension| { matches!(extension.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_)) })
    );
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let (begin, end) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    assert!((60..=180).contains(&(now - begin)), "back-dated by {} s", now - begin);
    assert!((86_300..=86_400).contains(&(end - now)), "valid for {} s", end - now);
}

#[tokio::test]
async fn only_what_was_asked_for_rightly_is_signed() {
    let directory = TempDir::new().unwrap();
    let authority = open(directory.path()).unwrap();
    let foreign = Identity::new("elsewhere.example", "shop", "web").unwrap();
    let cases = [
        (request(&foreign, &foreign), "is not of the trust domain"),
        (request(&identity("web"), &identity("db")), "is not for spiffe://"),
        (SigningRequest { request: vec![0x30, 0].into(), ..request(&identity("web"), &identity("web")) }, "not usable"),
        (
            {
                let mut tampered = request(&identity("web"), &identity("web"));
                let mut der = tampered.request.to_vec();
                *der.last_mut().unwrap() ^= 1;
                tampered.request = der.into();
                tampered
            },
            "not usable",
        ),
    ];
    for (request, words) in cases {
        match authority.issue(&request).await {
            Err(SourceError::Refused(reason)) => assert!(reason.contains(words), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_root_outlives_its_process_and_is_nobody_elses_business() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("state/ca");
    let first = open(&directory).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for entry in directory.read_dir().unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let second = open(&directory).unwrap();
    assert_eq!(first.roots(), second.roots());
    assert_trusted(&issue(&second, "web").await, first.roots().to_vec());
}

#[test]
fn agents_that_start_at_once_find_one_root() {
    const AGENTS: usize = 8;
    for _ in 0..5 {
        let directory = TempDir::new().unwrap();
        let barrier = Barrier::new(AGENTS);
        let roots: Vec<_> = std::thread::scope(|scope| {
            let agents: Vec<_> = (0..AGENTS)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        open(directory.path()).unwrap().roots().to_vec()
                    })
                })
                .collect();
            agents.into_iter().map(|agent| agent.join().unwrap()).collect()
        });
        assert!(roots.iter().all(|root| *root == roots[0]));
    }
}

#[test]
fn a_start_that_was_cut_short_is_completed() {
    let directory = TempDir::new().unwrap();
    let key = open(directory.path()).map(|_| std::fs::read(directory.path().join("ca-key.pem")).unwrap()).unwrap();
    std::fs::remove_file(directory.path().join("ca-cert.pem")).unwrap();
    std::fs::write(directory.path().join("ca-cert.pem.part"), "-----BEGIN").unwrap();
    open(directory.path()).unwrap();
    assert_eq!(std::fs::read(directory.path().join("ca-key.pem")).unwrap(), key);
}

#[tokio::test]
async fn a_root_that_was_given_is_used_and_its_intermediates_are_sent() {
    let root = TestRoot::new("given root");
    let intermediate = root.intermediate("given intermediate");
    let issuer = intermediate.intermediate("issuer");
    let directory = TempDir::new().unwrap();
    let put = |name: &str, content: String| std::fs::write(directory.path().join(name), content).unwrap();
    put("ca-cert.pem", issuer.pem());
    put("ca-key.pem", issuer.key_pem());
    put("root-cert.pem", root.pem());
    put("cert-chain.pem", issuer.pem() + &intermediate.pem() + &root.pem());
    let issued = issue(&open(directory.path()).unwrap(), "web").await;
    assert_eq!(issued.chain[1..], [issuer.der(), intermediate.der()]);
    assert_eq!(issued.roots, [root.der()]);
    assert_trusted(&issued, vec![root.der()]);
    assert!(!directory.path().join(".lock").exists(), "nothing is written where all is given");
}

#[test]
fn files_that_do_not_belong_together_are_refused_with_the_reason() {
    let (root, other) = (TestRoot::new("root"), TestRoot::new("other"));
    let intermediate = root.intermediate("intermediate");
    let leaf = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
    let (leaf, leaf_key) = (leaf.cert.pem(), leaf.signing_key.serialize_pem());
    let cases: [(&[(&str, String)], &str); 7] = [
        (&[("ca-cert.pem", root.pem())], "ca-key.pem is not"),
        (&[("ca-cert.pem", root.pem()), ("ca-key.pem", other.key_pem())], "its key is not the one in"),
        (&[("ca-cert.pem", root.pem()), ("ca-key.pem", "nonsense".into())], "it is not a private key"),
        (&[("ca-cert.pem", "nonsense".into()), ("ca-key.pem", root.key_pem())], "it holds no certificate"),
        (&[("ca-cert.pem", leaf), ("ca-key.pem", leaf_key)], "not the certificate of an authority"),
        (&[("ca-cert.pem", intermediate.pem()), ("ca-key.pem", intermediate.key_pem())], "root-cert.pem is not"),
        (
            &[("ca-cert.pem", root.pem()), ("ca-key.pem", root.key_pem()), ("root-cert.pem", other.pem())],
            "refused by its own roots",
        ),
    ];
    for (files, words) in cases {
        let directory = TempDir::new().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let error = open(directory.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn an_authority_can_be_made_and_opened_without_a_disk() {
    let material = AuthorityMaterial::generate(TRUST_DOMAIN, SystemTime::now()).unwrap();
    let of = |material: &AuthorityMaterial| {
        CertificateAuthority::from_material(material, Path::new("Secret mesh/ca"), TRUST_DOMAIN, Arc::new(SystemClock))
    };
    let issued = issue(&of(&material).unwrap(), "web").await;
    assert_eq!((issued.chain.len(), issued.roots.len()), (1, 1));
    assert_trusted(&issued, issued.roots.clone());

    // Several roots: all are told, and what is issued needs only one of them.
    let other = TestRoot::new("other");
    let roots = [material.roots.clone().unwrap(), other.pem().into_bytes()].concat();
    let material = AuthorityMaterial { roots: Some(roots), ..material };
    let both = issue(&of(&material).unwrap(), "web").await;
    assert_eq!(both.roots, [issued.roots[0].clone(), other.der()]);
    assert_trusted(&both, issued.roots.clone());

    let broken = AuthorityMaterial { key: other.key_pem().into_bytes().into(), ..material };
    let error = of(&broken).map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "Secret mesh/ca/ca-cert.pem: its key is not the one in Secret mesh/ca/ca-key.pem");
}

#[tokio::test]
async fn nothing_issued_outlives_its_authority() {
    /// Nine years and 364.5 days after the root was made.
    struct Late;
    impl weft_runtime::Clock for Late {
        fn now(&self) -> SystemTime {
            SystemTime::now() + 3650 * 24 * HOUR - 12 * HOUR
        }
    }
    let directory = TempDir::new().unwrap();
    open(directory.path()).unwrap();
    let late = CertificateAuthority::open(directory.path(), TRUST_DOMAIN, Arc::new(Late)).unwrap();
    let issued = issue(&late, "web").await;
    let end = |der| X509Certificate::from_der(der).unwrap().1.validity().not_after.timestamp();
    assert_eq!(end(&issued.chain[0]), end(&issued.roots[0]));
    struct TooLate;
    impl weft_runtime::Clock for TooLate {
        fn now(&self) -> SystemTime {
            SystemTime::now() + 3651 * 24 * HOUR + Duration::from_secs(1)
        }
    }
    let error = CertificateAuthority::open(directory.path(), TRUST_DOMAIN, Arc::new(TooLate)).map(|_| ());
    assert!(error.unwrap_err().to_string().contains("expired"));
}
