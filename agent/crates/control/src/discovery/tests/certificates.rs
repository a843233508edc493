//! Certificates over the wire.

use rcgen::{CertificateParams, KeyPair, SanType};
use weft_model::Identity;
use weft_transport::{CertificateSource, Issued, RemoteAuthority, SigningRequest, SourceError};

use super::plane::{Plane, workload};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "a", account).expect("valid parts")
}

/// A request for `wanted` whose own words name `named`.
fn request(wanted: &Identity, named: &Identity, lifetime: Duration) -> SigningRequest {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(named.uri().to_string().try_into().expect("ASCII"))];
    let key = KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).expect("a request").der().clone();
    SigningRequest { identity: wanted.clone(), request, lifetime }
}

async fn ask(plane: &Plane, request: &SigningRequest) -> Result<Issued, SourceError> {
    RemoteAuthority::new(plane.control_plane(), "c").expect("a cluster").issue(request).await
}

fn names(issued: &Issued) -> Vec<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(&issued.chain[0]).expect("a certificate");
    let alternative = certificate.subject_alternative_name().expect("an extension").expect("names");
    alternative.value.general_names.iter().map(|name| name.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_certificates_for_its_own_pods_only() {
    let plane = Plane::start().await;
    let mine = identity("sa-1");
    let Err(SourceError::Refused(reason)) = ask(&plane, &request(&mine, &mine, HOUR)).await else {
        panic!("nothing is known yet")
    };
    assert!(reason.contains("not known yet"), "{reason}");
    let Change::PutWorkload(mut elsewhere) = workload(2, &[]) else { unreachable!("it is one") };
    elsewhere.node = "n2".into();
    plane.say(vec![workload(1, &[]), Change::PutWorkload(elsewhere)]).await;
    let issued = ask(&plane, &request(&mine, &mine, HOUR)).await.expect("it runs here");
    assert_eq!(issued.roots, plane.authority.roots());
    assert_eq!(names(&issued), ["URI(spiffe://cluster.local/ns/a/sa/sa-1)"]);
    for (wanted, part) in [("sa-2", "runs on the node n1"), ("sa-9", "runs on the node n1")] {
        let wanted = identity(wanted);
        let Err(SourceError::Refused(reason)) = ask(&plane, &request(&wanted, &wanted, HOUR)).await else {
            panic!("{wanted} does not run here")
        };
        assert!(reason.contains(part), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_request_gives_the_key_and_never_the_name() {
    let plane = Plane::start().await;
    plane.say(vec![workload(1, &[])]).await;
    let (mine, other) = (identity("sa-1"), identity("sa-2"));
    let issued = ask(&plane, &request(&mine, &other, HOUR)).await.expect("it runs here");
    assert_eq!(names(&issued), ["URI(spiffe://cluster.local/ns/a/sa/sa-1)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_never_valid_for_longer_than_the_authority_allows() {
    let plane = Plane::start().await;
    plane.say(vec![workload(1, &[])]).await;
    let mine = identity("sa-1");
    let issued = ask(&plane, &request(&mine, &mine, 1000 * HOUR)).await.expect("it runs here");
    let (_, certificate) = x509_parser::parse_x509_certificate(&issued.chain[0]).expect("a certificate");
    let left = certificate.validity().time_to_expiration().expect("it is valid");
    assert!(left <= HOUR, "{left}");
}
