//! Who is refused, and what is said about it.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use weft_model::Identity;

use super::{Outcome, TlsError, shake};
use crate::testing::{HOUR, TRUST_DOMAIN, TestLeaf, TestRoot, identity};
use crate::tls::leaf::Leaf;
use crate::tls::{Alert, CertificateFault, OwnCertificateError, TlsIdentity};

/// A TLS identity that sends `leaf`, whatever it is: what `TlsIdentity::new` would not make, or not use.
fn impostor(claimed: &Identity, leaf: TestLeaf, root: &TestRoot) -> Arc<TlsIdentity> {
    let now = SystemTime::now();
    let pretended =
        Leaf { identity: claimed.clone(), serial: String::new(), not_before: now - HOUR, not_after: now + HOUR };
    let certified = CertifiedKey::new(leaf.chain, any_supported_type(&leaf.key).unwrap());
    TlsIdentity::assemble(pretended, certified, root.bundle(), Arc::new([TRUST_DOMAIN.into()])).unwrap()
}

/// `web` calls `server`, which it expects to be `db`.
fn call(root: &TestRoot, server: &TlsIdentity) -> Outcome {
    let client = root.tls("web").connect(vec![identity("db")]).unwrap();
    shake(client, server.accept().unwrap(), usize::MAX)
}

/// `client` calls `db`.
fn called_by(root: &TestRoot, client: &TlsIdentity) -> Outcome {
    let client = client.connect(vec![identity("db")]).unwrap();
    shake(client, root.tls("db").accept().unwrap(), usize::MAX)
}

fn fault_of<T: std::fmt::Debug>(result: Result<T, TlsError>) -> CertificateFault {
    match result {
        Err(TlsError::Certificate(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

/// The alert with which the other side was told.
fn told(result: Result<super::Session, TlsError>, bytes: &mut [u8]) -> Alert {
    match result {
        Err(TlsError::PeerAlert(alert)) => alert,
        Ok(mut session) => match super::read_all(&mut session, bytes) {
            Err(TlsError::PeerAlert(alert)) => alert,
            other => panic!("{other:?}"),
        },
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_server_of_another_identity_is_refused_and_both_are_named() {
    let root = TestRoot::new("root");
    let outcome = call(&root, &root.tls("cache"));
    let error = outcome.client.unwrap_err();
    assert!(error.is_peers_fault());
    assert_eq!(
        error.to_string(),
        "the peer's certificate is refused: it proves spiffe://cluster.local/ns/shop/sa/cache, \
         but spiffe://cluster.local/ns/shop/sa/db was expected"
    );
    assert_eq!(told(outcome.server, &mut []).to_string(), "certificate_unknown");
}

#[test]
fn any_of_the_expected_identities_is_accepted() {
    let root = TestRoot::new("root");
    let client = root.tls("web").connect(vec![identity("db"), identity("cache")]).unwrap();
    let outcome = shake(client, root.tls("cache").accept().unwrap(), usize::MAX);
    assert_eq!(outcome.client.unwrap().peer, identity("cache"));
    assert!(matches!(root.tls("web").connect(Vec::new()), Err(TlsError::NothingExpected)));
}

#[test]
fn certificates_that_are_not_valid_at_this_time_are_refused_both_ways() {
    let root = TestRoot::new("root");
    let now = SystemTime::now();
    for (not_before, not_after, words) in [
        (now - 3 * HOUR, now - HOUR, "it expired 60 minutes ago"),
        (now + HOUR, now + 2 * HOUR, "it is not valid yet: do the clocks of the nodes agree?"),
    ] {
        let leaf = |name| {
            let identity = identity(name);
            let leaf = root.leaf(&[identity.uri()], not_before, not_after);
            impostor(&identity, leaf, &root)
        };
        let outcome = call(&root, &leaf("db"));
        assert_eq!(fault_of(outcome.client).to_string(), words);
        assert_eq!(told(outcome.server, &mut []).to_string(), "certificate_unknown");
        let mut outcome = called_by(&root, &leaf("web"));
        assert_eq!(fault_of(outcome.server).to_string(), words);
        assert_eq!(told(outcome.client, &mut outcome.to_client).to_string(), "certificate_unknown");
    }
}

#[test]
fn ones_own_expired_certificate_is_not_used() {
    let root = TestRoot::new("root");
    let now = SystemTime::now();
    let expired = root.leaf(&[identity("web").uri()], now - 2 * HOUR, now - HOUR).tls(&identity("web"), root.bundle());
    assert!(matches!(expired.connect(vec![identity("db")]), Err(TlsError::OwnCertificateExpired(_))));
    assert!(matches!(expired.accept(), Err(TlsError::OwnCertificateExpired(_))));
}

#[test]
fn certificates_of_unknown_authorities_are_refused_both_ways() {
    let root = TestRoot::new("root");
    // One with another name, and one that only has the name of the root.
    for (name, words) in [
        ("other root", "its issuer is unknown"),
        ("root", "it was signed by another key than that of the root with its issuer's name"),
    ] {
        let other = TestRoot::new(name);
        let impostor = |name| other.leaf_of(&identity(name)).tls(&identity(name), root.bundle());
        let outcome = call(&root, &impostor("db"));
        assert_eq!(fault_of(outcome.client), CertificateFault::Chain(words.into()));
        let outcome = called_by(&root, &impostor("web"));
        assert_eq!(fault_of(outcome.server), CertificateFault::Chain(words.into()));
    }
}

#[test]
fn self_signed_certificates_are_refused_both_ways() {
    let root = TestRoot::new("root");
    let self_signed = |name| {
        let identity = identity(name);
        let mut params = crate::authority::workload_params(&identity).unwrap();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = TestLeaf {
            chain: vec![params.self_signed(&key).unwrap().der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        };
        leaf.tls(&identity, root.bundle())
    };
    let outcome = call(&root, &self_signed("db"));
    assert!(matches!(fault_of(outcome.client), CertificateFault::Chain(_)));
    let outcome = called_by(&root, &self_signed("web"));
    assert!(matches!(fault_of(outcome.server), CertificateFault::Chain(_)));
}

#[test]
fn a_client_of_another_trust_domain_is_refused_unless_it_is_an_alias() {
    let root = TestRoot::new("root");
    let foreign = Identity::new("elsewhere.example", "shop", "web").unwrap();
    let client = root.leaf_of(&foreign).tls(&foreign, root.bundle());
    let outcome = called_by(&root, &client);
    assert_eq!(
        fault_of(outcome.server).to_string(),
        "spiffe://elsewhere.example/ns/shop/sa/web is of another trust domain than cluster.local"
    );
    let leaf = root.leaf_of(&identity("db"));
    let domains: Arc<[String]> = Arc::new(["cluster.local".into(), "elsewhere.example".into()]);
    let db = TlsIdentity::new(&identity("db"), leaf.chain, &leaf.key, root.bundle(), domains).unwrap();
    let outcome = shake(client.connect(vec![identity("db")]).unwrap(), db.accept().unwrap(), usize::MAX);
    assert_eq!(outcome.server.unwrap().peer, foreign);
}

#[test]
fn a_certificate_must_carry_exactly_one_uri_and_that_an_identity() {
    let root = TestRoot::new("root");
    let now = SystemTime::now();
    let (web, db) = (identity("web"), identity("db"));
    let cases: [(&[&str], &str); 4] = [
        (
            &[db.uri(), web.uri()],
            "it carries 2 URI names (spiffe://cluster.local/ns/shop/sa/db, spiffe://cluster.local/ns/shop/sa/web) \
             where exactly one is required",
        ),
        (&[db.uri(), db.uri()], "it carries 2 URI names"),
        (&[], "it carries 0 URI names"),
        (&["spiffe://cluster.local/other"], "is not an identity of the form"),
    ];
    for (uris, words) in cases {
        let impostor = |identity| impostor(identity, root.leaf(uris, now - HOUR, now + HOUR), &root);
        let fault = fault_of(call(&root, &impostor(&db)).client).to_string();
        assert!(fault.contains(words), "{fault}");
        let fault = fault_of(called_by(&root, &impostor(&web)).server).to_string();
        assert!(fault.contains(words), "{fault}");
    }
}

#[test]
fn an_authoritys_certificate_is_not_a_workloads() {
    let root = TestRoot::new("root");
    let authority = TestLeaf {
        chain: vec![root.der()],
        key: rustls_pki_types::pem::PemObject::from_pem_slice(root.key_pem().as_bytes()).unwrap(),
    };
    let outcome = call(&root, &impostor(&identity("db"), authority, &root));
    assert!(matches!(fault_of(outcome.client), CertificateFault::Chain(_)));
}

#[test]
fn a_revoked_certificate_is_refused() {
    let root = TestRoot::new("root");
    let web = root.tls("web");
    let bundle = root.bundle();
    bundle.set_revocation_lists(root.revoking_list().as_bytes(), "revoked.pem".into()).unwrap();
    let db = root.leaf_of(&identity("db")).tls(&identity("db"), bundle);
    let outcome = shake(web.connect(vec![identity("db")]).unwrap(), db.accept().unwrap(), usize::MAX);
    assert_eq!(fault_of(outcome.server), CertificateFault::Revoked);
}

#[test]
fn what_is_issued_must_be_for_the_identity_and_the_key() {
    let root = TestRoot::new("root");
    let (web, db) = (root.leaf_of(&identity("web")), root.leaf_of(&identity("db")));
    let domains: Arc<[String]> = Arc::new([]);
    let error =
        TlsIdentity::new(&identity("db"), web.chain.clone(), &web.key, root.bundle(), domains.clone()).unwrap_err();
    assert!(matches!(error, OwnCertificateError::Certificate { .. }), "{error}");
    let error = TlsIdentity::new(&identity("web"), web.chain, &db.key, root.bundle(), domains).unwrap_err();
    assert!(matches!(error, OwnCertificateError::Key { .. }), "{error}");
}
