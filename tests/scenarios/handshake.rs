//! What an agent offers in its TLS handshake, read off the wire.

use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{PodSpec, eventually};

use crate::client::assert_answered;
use crate::pair::{NAMESPACE, Pair, Setup, serve};

/// What is in the clear of a `ClientHello` (RFC 8446, section 4.1.2).
#[derive(Debug, Default)]
struct ClientHello {
    suites: Vec<u16>,
    extensions: Vec<(u16, Vec<u8>)>,
}

const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const ALPN: u16 = 16;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

const X25519MLKEM768: u16 = 0x11ec;
const TLS_AES_128_GCM_SHA256: u16 = 0x1301;
const TLS_AES_256_GCM_SHA384: u16 = 0x1302;

impl ClientHello {
    fn parse(stream: &[u8]) -> Option<Self> {
        // The hybrid key share makes the hello larger than one packet, but it is one record.
        let record = stream.get(5..5 + usize::from(u16::from_be_bytes([*stream.get(3)?, *stream.get(4)?])))?;
        (record.first() == Some(&1)).then_some(())?;
        let mut rest = record.get(4 + 2 + 32..)?;
        let _session = take(&mut rest, 1)?;
        let suites = words(take(&mut rest, 2)?);
        let _compression = take(&mut rest, 1)?;
        let mut list = take(&mut rest, 2)?;
        let mut extensions = Vec::new();
        while !list.is_empty() {
            let kind = u16::from_be_bytes([*list.first()?, *list.get(1)?]);
            list = list.get(2..)?;
            extensions.push((kind, take(&mut list, 2)?.to_vec()));
        }
        Some(Self { suites, extensions })
    }

    fn extension(&self, wanted: u16) -> Option<&[u8]> {
        self.extensions.iter().find(|(kind, _)| *kind == wanted).map(|(_, body)| &body[..])
    }
}

/// Takes a vector with a length of so many bytes in front.
fn take<'a>(from: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let length = from.get(..length_bytes)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let vector = from.get(length_bytes..length_bytes + length)?;
    *from = &from[length_bytes + length..];
    Some(vector)
}

fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

#[test]
fn the_hybrid_group_is_offered_first_with_h2_and_without_a_server_name() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let tap = pair.b.tap()?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    let recording = tap.stop()?;
    let stream = recording.on_port(15008).find(|stream| stream.to.port() == 15008).context("no tunnel was opened")?;
    let hello = ClientHello::parse(&stream.bytes()).context("the tunnel does not begin with a ClientHello")?;

    let mut suites = hello.suites.clone();
    suites.sort_unstable();
    assert_eq!(suites, [TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384]);
    assert_eq!(hello.extension(SUPPORTED_VERSIONS), Some(&[2, 3, 4][..]), "TLS 1.3 alone");
    assert_eq!(hello.extension(ALPN), Some(&b"\0\x03\x02h2"[..]), "h2 alone");
    let groups = words(hello.extension(SUPPORTED_GROUPS).context("no groups")?.get(2..).context("no groups")?);
    assert_eq!(groups.first(), Some(&X25519MLKEM768), "{groups:x?}");
    let share = hello.extension(KEY_SHARE).context("no key share")?;
    assert_eq!(words(share).get(1), Some(&X25519MLKEM768), "the key share that is sent at once");
    for (kind, what) in [(SERVER_NAME, "a server name"), (PRE_SHARED_KEY, "a resumption"), (EARLY_DATA, "early data")] {
        ensure!(hello.extension(kind).is_none(), "the ClientHello has {what}");
    }
    Ok(())
}

#[test]
fn the_server_takes_the_hybrid_group() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let tap = pair.b.tap()?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    let recording = tap.stop()?;
    let stream = recording.on_port(15008).find(|stream| stream.from.port() == 15008).context("no tunnel was opened")?;
    let bytes = stream.bytes();
    ensure!(bytes.first() == Some(&22) && bytes.get(5) == Some(&2), "the answer does not begin with a ServerHello");
    // The server's half of the hybrid share is an ML-KEM-768 ciphertext and an X25519 key: 1088 and 32 bytes.
    let share = [&X25519MLKEM768.to_be_bytes()[..], &1120_u16.to_be_bytes()].concat();
    ensure!(bytes.windows(4).take(300).any(|window| window == share), "the ServerHello has no hybrid key share");
    Ok(())
}

#[test]
fn strangers_who_open_and_say_nothing_at_one_pod_do_not_shut_out_the_peers_of_another() -> Result<()> {
    let pair = Pair::with(Setup::arguments(&["--workers", "1"]))?;
    let other = pair.b.pod(PodSpec::new("other").namespace(NAMESPACE))?;
    pair.agent_b.wait_enrolled(&other)?;
    pair.agent_a.wait_for_protocol(&other, "hbone")?;
    let _echo = serve(&other, 8080, weft_tests::server::Behaviour::Echo)?;
    pair.world.namespace("strangers", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("strangers"))?;
    let descriptors = pair.agent_b.descriptors()?;
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..1200 {
        silent.push(stranger.connect(pair.server.at(15008))?);
    }
    eventually("the agent holds as many as it will of one pod", || {
        Ok((pair.agent_b.descriptors()? >= descriptors + 200).then_some(()))
    })?;
    assert_answered(&pair.client, other.at(8080)).context("while they are open")?;
    let held = pair.agent_b.descriptors()? - descriptors;
    ensure!(held < 600, "the agent holds {held} descriptors for them");
    drop(silent);
    eventually("the pod itself is reached again", || {
        Ok((crate::client::ping(&pair.client, pair.server.at(9))?.is_refusal()).then_some(()))
    })
}
