//! Who is believed to be whom: certificates good and bad, shown by a peer that is not Weft.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use http::{Request, StatusCode};
use serde_json::Value;
use time::OffsetDateTime;
use weft_tests::{Pod, PodSpec, eventually};

use crate::client::assert_answered;
use crate::pair::{NAMESPACE, Pair, authorization};
use crate::stranger::{Credentials, Stranger, connect_request};

const FRIEND: &str = "spiffe://cluster.local/ns/shop/sa/friend";

/// A pair, and a pod outside the mesh from which a peer can dial 15008 itself.
fn with_stranger() -> Result<(Pair, Pod)> {
    let pair = Pair::start()?;
    pair.world.namespace("other", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("other"))?;
    Ok((pair, stranger))
}

#[test]
fn a_foreign_hbone_client_is_served_under_the_dialled_pods_identity() -> Result<()> {
    let (pair, stranger) = with_stranger()?;
    let server = pair.echo(8080)?;
    let credentials = Credentials::issued(&pair.world.ca_folder(), &[FRIEND])?;
    let mut peer = Stranger::connect(&stranger, pair.server.at(15008), Some(&credentials))?;
    assert_eq!(peer.server_identities, [pair.server.identity()]);
    let mut channel = peer.open(connect_request(&pair.server.at(8080).to_string())?)?;
    let baggage = channel.answer.headers().get("baggage").context("the answer has no baggage")?.to_str()?.to_owned();
    ensure!(baggage.contains(&format!("k8s.namespace.name={NAMESPACE}")), "{baggage}");
    assert_eq!(&peer.exchange(&mut channel, b"hello")?[..], b"hello");
    assert_eq!(peer.finish(channel)?, b"");
    assert_eq!(server.seen()[0].peer.ip().to_canonical(), stranger.ip());
    Ok(())
}

#[test]
fn certificates_that_prove_nothing_are_refused_and_the_log_says_why() -> Result<()> {
    let (pair, stranger) = with_stranger()?;
    let server = pair.echo(8080)?;
    let ca = pair.world.ca_folder();
    let now = OffsetDateTime::now_utc();
    let hour = time::Duration::hours(1);
    let other_root = Pair::start()?;
    let cases = [
        ("expired", Some(Credentials::issued_for(&ca, &[FRIEND], now - 3 * hour, now - hour)?), "expired"),
        ("not yet valid", Some(Credentials::issued_for(&ca, &[FRIEND], now + hour, now + 3 * hour)?), "valid"),
        ("self-signed", Some(Credentials::self_signed(&[FRIEND])?), "issue"),
        ("of another root", Some(Credentials::issued(&other_root.world.ca_folder(), &[FRIEND])?), "issue"),
        (
            "of another trust domain",
            Some(Credentials::issued(&ca, &["spiffe://elsewhere/ns/shop/sa/friend"])?),
            "trust domain",
        ),
        ("with two URIs", Some(Credentials::issued(&ca, &[FRIEND, "spiffe://cluster.local/ns/shop/sa/x"])?), "URI"),
        ("without any URI", Some(Credentials::issued(&ca, &[])?), "URI"),
        (
            "with a URI that is no SPIFFE identity",
            Some(Credentials::issued(&ca, &["https://cluster.local/"])?),
            "spiffe://",
        ),
        ("absent", None, "certificate"),
    ];
    for (what, credentials, reason) in cases {
        let mark = pair.agent_b.log_length();
        let taken = Stranger::connect(&stranger, pair.server.at(15008), credentials.as_ref());
        ensure!(taken.is_err(), "a certificate that is {what} was taken");
        pair.agent_b
            .wait_for_log_since(mark, &[reason, &stranger.ip().to_string()])
            .with_context(|| format!("a certificate that is {what}"))?;
    }
    ensure!(server.count() == 0, "a connection reached the application");
    pair.agent_b.wait_for_metric(
        "istio_tcp_connections_failed_total",
        &[("reporter", "destination"), ("response_flags", "TLS_FAILURE")],
        1.0,
    )?;
    // A good one is still taken.
    let good = Credentials::issued(&ca, &[FRIEND])?;
    let mut peer = Stranger::connect(&stranger, pair.server.at(15008), Some(&good))?;
    assert_eq!(peer.connect_status(&pair.server.at(8080).to_string())?, StatusCode::OK);
    Ok(())
}

#[test]
fn a_tunnel_takes_no_new_streams_once_the_peers_certificate_has_ended() -> Result<()> {
    let (pair, stranger) = with_stranger()?;
    let _server = pair.echo(8080)?;
    let now = OffsetDateTime::now_utc();
    let (from, to) = (now - time::Duration::hours(1), now + time::Duration::seconds(4));
    let credentials = Credentials::issued_for(&pair.world.ca_folder(), &[FRIEND], from, to)?;
    let mut peer = Stranger::connect(&stranger, pair.server.at(15008), Some(&credentials))?;
    let authority = pair.server.at(8080).to_string();
    let mut channel = peer.open(connect_request(&authority)?)?;
    eventually("new streams are refused", || {
        ensure!(peer.exchange(&mut channel, b"hello")? == "hello", "the stream that was open goes on");
        Ok(peer.connect_status(&authority).is_err().then_some(()))
    })?;
    assert_eq!(&peer.exchange(&mut channel, b"again")?[..], b"again");
    assert_eq!(peer.finish(channel)?, b"");
    peer.wait_until_closed()
}

#[test]
fn a_server_with_another_identity_than_the_workload_has_is_refused_and_the_log_says_so() -> Result<()> {
    let pair = Pair::start()?;
    let server = pair.echo(8080)?;
    // The client's agent is told another service account for the server's pod than the server's own agent was.
    let lie = pair.world.folder().join("lie");
    std::fs::create_dir_all(&lie)?;
    for entry in std::fs::read_dir(pair.world.config().path())? {
        let entry = entry?;
        let text = std::fs::read_to_string(entry.path())?;
        let told = text.replace("serviceAccountName: server", "serviceAccountName: impostor");
        std::fs::write(lie.join(entry.file_name()), told)?;
    }
    let Pair { agent_a, a, client, server: pod, .. } = &pair;
    let third = pair.world.node("c")?;
    let client_of_third = third.pod(PodSpec::new("third").namespace(NAMESPACE))?;
    let manifest = "pod-shop-third.yaml";
    std::fs::copy(pair.world.config().path().join(manifest), lie.join(manifest))?;
    let liar = third.agent().config(&lie).start()?;
    liar.wait_enrolled(&client_of_third)?;
    crate::client::assert_refused(&client_of_third, pod.at(8080))?;
    liar.wait_for_log(&["impostor", "sa/server"]).context("both identities are named")?;
    liar.wait_for_metric("istio_tcp_connections_failed_total", &[("response_flags", "TLS_FAILURE")], 1.0)?;
    ensure!(server.count() == 0, "a connection reached the application");
    // Whoever was told the truth still gets through.
    let _ = (agent_a, a);
    assert_answered(client, pod.at(8080))
}

#[test]
fn what_a_tunnel_may_not_ask_for_is_refused() -> Result<()> {
    let (pair, stranger) = with_stranger()?;
    let _server = pair.echo(8080)?;
    let ip = pair.server.ip();
    let credentials = Credentials::issued(&pair.world.ca_folder(), &[FRIEND])?;
    let mut peer = Stranger::connect(&stranger, pair.server.at(15008), Some(&credentials))?;
    for port in [15001, 15006, 15008] {
        let answer = peer.connect_status(&format!("{ip}:{port}"));
        ensure!(!matches!(answer, Ok(StatusCode::OK)), "CONNECT to the agent's own port {port} was answered 200");
    }
    let elsewhere = [
        (format!("{}:8080", pair.client.ip()), "another pod's address"),
        (
            format!("{}:8080", pair.server.ip6()).replace("fd00", "[fd00").replace(":8080", "]:8080"),
            "an address that was not dialled",
        ),
        ("127.0.0.1:8080".into(), "loopback"),
        ("example.com:80".into(), "a name"),
    ];
    for (authority, what) in elsewhere {
        let answer = peer.connect_status(&authority);
        ensure!(matches!(answer, Ok(StatusCode::BAD_REQUEST)), "{what}, {authority}: {answer:?}");
    }
    let get = Request::builder().method("GET").uri(format!("http://{ip}:8080/")).body(())?;
    assert_eq!(peer.status(get)?, StatusCode::BAD_REQUEST);
    assert_eq!(peer.connect_status(&format!("{ip}:9"))?, StatusCode::SERVICE_UNAVAILABLE, "nobody listens there");
    assert_eq!(peer.connect_status(&format!("{ip}:8080"))?, StatusCode::OK, "the tunnel is none the worse");
    Ok(())
}

#[test]
fn a_policy_judges_the_certificates_identity_and_the_clients_own_address() -> Result<()> {
    let (pair, stranger) = with_stranger()?;
    let _server = pair.echo(8080)?;
    let villain = "spiffe://cluster.local/ns/shop/sa/villain";
    let policy = "  action: DENY\n  rules:\n    - from:\n        - source:\n            principals: [\"cluster.local/ns/shop/sa/villain\"]";
    pair.apply_policy("no-villain", &authorization("no-villain", policy))?;
    let authority = pair.server.at(8080).to_string();
    for (uri, expected) in [(FRIEND, StatusCode::OK), (villain, StatusCode::UNAUTHORIZED)] {
        let credentials = Credentials::issued(&pair.world.ca_folder(), &[uri])?;
        let mut peer = Stranger::connect(&stranger, pair.server.at(15008), Some(&credentials))?;
        // What a stranger claims about the client in headers changes nothing.
        let request = Request::builder()
            .method("CONNECT")
            .uri(&authority)
            .header("forwarded", format!("for=\"{}:1234\"", pair.client.ip()))
            .header("baggage", "k8s.namespace.name=shop,service.name=friend")
            .body(())?;
        assert_eq!(peer.status(request)?, expected, "as {uri}");
    }
    let by_address = format!(
        "  action: DENY\n  rules:\n    - from:\n        - source:\n            ipBlocks: [\"{}\"]",
        stranger.ip()
    );
    pair.apply_policy("no-stranger", &authorization("no-stranger", &by_address))?;
    let credentials = Credentials::issued(&pair.world.ca_folder(), &[FRIEND])?;
    let mut peer = Stranger::connect(&stranger, pair.server.at(15008), Some(&credentials))?;
    let request = Request::builder()
        .method("CONNECT")
        .uri(&authority)
        .header("forwarded", format!("for=\"{}:1234\"", pair.client.ip()))
        .body(())?;
    assert_eq!(peer.status(request)?, StatusCode::UNAUTHORIZED, "the address is the TCP peer's, not the claimed one");
    Ok(())
}

#[test]
fn the_root_is_kept_and_shared_and_its_key_is_for_its_owner_alone() -> Result<()> {
    let mut pair = Pair::start()?;
    let _server = pair.echo(8080)?;
    let ca = pair.world.ca_folder();
    let key = std::fs::metadata(ca.join("ca-key.pem")).context("the root's key")?;
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let root = std::fs::read(ca.join("ca-cert.pem"))?;
    pair.agent_a.terminate(std::time::Duration::from_secs(20))?;
    pair.agent_a.restart()?;
    pair.agent_a.wait_enrolled(&pair.client)?;
    assert_eq!(std::fs::read(ca.join("ca-cert.pem"))?, root, "the root outlives the agent");
    crate::client::eventually_answered(&pair.client, pair.server.at(8080))
}

#[test]
fn a_pods_certificate_is_valid_for_a_day_and_renewed_at_half_of_it() -> Result<()> {
    let pair = Pair::start()?;
    let identity = pair.server.identity();
    let certificate = pair.agent_b.wait_for("certificates", "a valid one of the server", |item| {
        item["identity"] == *identity && item["state"] == "valid"
    })?;
    let seconds = |field: &str| -> Result<i64> {
        let text = certificate[field].as_str().with_context(|| format!("no {field} in {certificate}"))?;
        let parsed = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
            .with_context(|| format!("{field} is {text:?}"))?;
        Ok(parsed.unix_timestamp())
    };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let (not_after, renewal) = (seconds("not_after")?, seconds("renewal")?);
    ensure!((86_000..=86_400 + 60).contains(&(not_after - now)), "valid for {} s more", not_after - now);
    // Spread by a tenth, so that what was issued together is not renewed together.
    ensure!((38_000..=48_500).contains(&(renewal - now)), "renewed in {} s", renewal - now);
    ensure!(certificate["serial"].as_str().is_some_and(|serial| !serial.is_empty()), "{certificate}");
    let text: Value = pair.agent_b.json("certificates")?;
    ensure!(!text.to_string().contains("PRIVATE"), "a private key is shown");
    Ok(())
}

#[test]
fn another_trust_domain_is_used_when_one_is_given() -> Result<()> {
    let pair = Pair::with(crate::pair::Setup::arguments(&["--trust-domain", "weft.example"]))?;
    let _server = pair.echo(8080)?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    pair.agent_b.wait_for("certificates", "one of the trust domain", |item| {
        item["identity"] == "spiffe://weft.example/ns/shop/sa/server"
    })?;
    Ok(())
}
