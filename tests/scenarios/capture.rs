//! What an application's own sockets tell it in the mesh, over every kind of connection, and what is left alone.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weft_tests::server::Behaviour;
use weft_tests::{Families, PodSpec};

use crate::client::{Greeting, Outcome, assert_answered, greet, greeting, ping};
use crate::pair::{NAMESPACE, Pair, Setup, serve};

#[test]
fn both_applications_see_each_others_real_addresses() -> Result<()> {
    let pair = Pair::start()?;
    let _server = serve(&pair.server, 8080, Behaviour::Greet)?;
    let tap = pair.b.tap()?;
    for to in [pair.server.at(8080), pair.server.at6(8080)] {
        let connection = pair.client.connect(to)?;
        assert_eq!(connection.peer_addr()?, to, "getpeername of the client");
        let own = connection.local_addr()?;
        let source = if to.is_ipv6() { pair.client.ip6() } else { pair.client.ip() };
        assert_eq!(own.ip(), source, "getsockname of the client");
        let seen = greeting(connection)?;
        assert_eq!(seen.peer.ip(), source, "the client as the server's accept shows it");
        assert_eq!(seen.peer.port(), own.port(), "the client's port as the server's accept shows it");
        assert_eq!(seen.local, to, "getsockname of the server");
    }
    let recording = tap.stop()?;
    recording.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)?;
    recording.is_only_tls(pair.client.ip6(), pair.server.ip6(), 15008)
}

#[test]
fn an_ipv6_socket_that_dials_a_mapped_ipv4_address_is_captured() -> Result<()> {
    let pair = Pair::start()?;
    let _server = serve(&pair.server, 8080, Behaviour::Greet)?;
    let IpAddr::V4(v4) = pair.server.ip() else { unreachable!("the first address is IPv4") };
    let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), 8080);
    let tap = pair.b.tap()?;
    let connection = pair.client.enter(|| -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
        socket.connect(&SockAddr::from(mapped))?;
        Ok(socket.into())
    })?;
    assert_eq!(connection.peer_addr()?, mapped);
    assert_eq!(connection.local_addr()?.ip().to_canonical(), pair.client.ip());
    assert_eq!(greeting(connection)?.peer.ip(), pair.client.ip());
    tap.stop()?.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)
}

#[test]
fn an_ipv6_only_server_socket_and_an_ipv4_only_one_are_reached() -> Result<()> {
    let pair = Pair::start()?;
    let v4 = weft_tests::server::Server::start(&pair.server, "0.0.0.0:8080".parse()?, Behaviour::Greet)?;
    assert_eq!(greet(&pair.client, pair.server.at(8080))?.peer.ip(), pair.client.ip());
    drop(v4);
    let on = SocketAddr::new(pair.server.ip6(), 8080);
    let _v6 = weft_tests::server::Server::start(&pair.server, on, Behaviour::Greet)?;
    assert_eq!(greet(&pair.client, on)?.peer.ip(), pair.client.ip6());
    Ok(())
}

#[test]
fn pods_with_ipv6_alone_are_in_the_mesh() -> Result<()> {
    let pair = Pair::with(Setup {
        client: PodSpec::new("client").namespace(NAMESPACE).families(Families::V6),
        server: PodSpec::new("server").namespace(NAMESPACE).families(Families::V6),
        ..Setup::default()
    })?;
    let _server = serve(&pair.server, 8080, Behaviour::Greet)?;
    let tap = pair.b.tap()?;
    let Greeting { peer, local } = greet(&pair.client, pair.server.at6(8080))?;
    assert_eq!((peer.ip(), local), (pair.client.ip6(), pair.server.at6(8080)));
    tap.stop()?.is_only_tls(pair.client.ip6(), pair.server.ip6(), 15008)
}

#[test]
fn fast_open_is_captured_with_its_data() -> Result<()> {
    let pair = Pair::start()?;
    pair.client.netns().sysctl("ipv4/tcp_fastopen", "3")?;
    pair.server.netns().sysctl("ipv4/tcp_fastopen", "3")?;
    let _server = pair.echo(8080)?;
    let tap = pair.b.tap()?;
    // The first connection fetches the cookie, the second sends its data in the SYN.
    for round in 0..3 {
        let mut stream: TcpStream = pair.client.enter(|| -> Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            let sent = socket.send_to_with_flags(b"early data", &pair.server.at(8080).into(), libc::MSG_FASTOPEN)?;
            ensure!(sent == 10, "sendto took {sent} bytes");
            Ok(socket.into())
        })?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).with_context(|| format!("round {round}"))?;
        assert_eq!(&answer, b"early data");
        assert_eq!(stream.peer_addr()?, pair.server.at(8080));
    }
    let recording = tap.stop()?;
    assert!(!recording.contains(b"early data"));
    recording.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)
}

#[test]
fn multipath_sockets_are_captured() -> Result<()> {
    let pair = Pair::start()?;
    let _server = serve(&pair.server, 8080, Behaviour::Greet)?;
    let tap = pair.b.tap()?;
    let connection: TcpStream = pair.client.enter(|| -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))?;
        socket.connect(&pair.server.at(8080).into())?;
        Ok(socket.into())
    })?;
    assert_eq!(greeting(connection)?.peer.ip(), pair.client.ip());
    tap.stop()?.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)
}

#[test]
fn binding_to_a_device_or_an_address_does_not_bypass_capture() -> Result<()> {
    let pair = Pair::start()?;
    let _server = serve(&pair.server, 8080, Behaviour::Greet)?;
    let tap = pair.b.tap()?;
    let to_device = pair.client.enter(|| -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind_device(Some(b"eth0"))?;
        socket.connect(&pair.server.at(8080).into())?;
        Ok(socket.into())
    })?;
    assert_eq!(greeting(to_device)?.peer.ip(), pair.client.ip());
    let own = SocketAddr::new(pair.client.ip(), 23456);
    let to_address = pair.client.enter(|| -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&own.into())?;
        socket.connect(&pair.server.at(8080).into())?;
        Ok(socket.into())
    })?;
    assert_eq!(to_address.local_addr()?, own);
    assert_eq!(greeting(to_address)?.peer, own, "a port that the application chose is kept");
    tap.stop()?.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)
}

#[test]
fn no_mark_or_option_of_a_pod_makes_it_pass_for_the_agent() -> Result<()> {
    let pair = Pair::start()?;
    let _server = serve(&pair.server, 8080, Behaviour::Greet)?;
    let tap = pair.b.tap()?;
    // The marks that node proxies are known to use, and those that all-ones or one bit would match.
    for mark in [0x539, 0x111, 0x539 << 16, 1, u32::MAX] {
        let connection = pair.client.enter(|| -> Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_mark(mark)?;
            socket.set_ip_transparent_v4(true)?;
            socket.set_freebind_v4(true)?;
            socket.connect(&pair.server.at(8080).into())?;
            Ok(socket.into())
        })?;
        greeting(connection).with_context(|| format!("with the mark {mark:#x}"))?;
    }
    tap.stop()?.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)
}

#[test]
fn a_pod_that_dials_the_peers_tunnel_port_itself_gets_nowhere_in_clear() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.echo(8080)?;
    let outcome = ping(&pair.client, pair.server.at(15008))?;
    ensure!(!matches!(outcome, Outcome::Answered(ref text) if text == "ping"), "{outcome:?}");
    // The agent's own ports in the pod are of no use to the application either.
    for port in [15001, 15006] {
        let outcome = ping(&pair.client, pair.server.at(port))?;
        ensure!(outcome.is_refusal(), "port {port} of the other pod: {outcome:?}");
    }
    Ok(())
}

#[test]
fn a_pod_talks_to_itself_and_to_loopback_without_the_agent() -> Result<()> {
    let pair = Pair::start()?;
    let server = serve(&pair.client, 8080, Behaviour::Greet)?;
    let own = &pair.client;
    let loopback6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 8080);
    for to in [own.at(8080), own.at6(8080), "127.0.0.1:8080".parse()?, "127.0.0.2:8080".parse()?, loopback6] {
        let seen = greet(own, to)?;
        assert_eq!(seen.local, to);
    }
    for wildcard in ["0.0.0.0:8080", "[::]:8080"] {
        greet(own, wildcard.parse()?)?;
    }
    assert_eq!(server.count(), 7);
    assert_eq!(pair.agent_a.metrics()?.sum("istio_tcp_connections_opened_total", &[]), 0.0);
    Ok(())
}

#[test]
fn a_destination_outside_the_mesh_is_reached_untouched() -> Result<()> {
    let pair = Pair::start()?;
    let (outside, addresses) = pair.world.outside("internet")?;
    let _server = weft_tests::server::Server::start(&outside, "[::]:80".parse()?, Behaviour::Greet)?;
    let tap = pair.a.tap()?;
    for ip in addresses {
        let connection = pair.client.connect(SocketAddr::new(ip, 80))?;
        let own = connection.local_addr()?;
        assert_eq!(greeting(connection)?.peer, own, "the very same address and port");
    }
    let recording = tap.stop()?;
    assert_eq!(recording.on_port(80).filter(|stream| !stream.is_empty()).count(), 2, "two answers in clear");
    Ok(())
}

#[test]
fn a_pod_outside_the_mesh_keeps_its_connections_to_itself() -> Result<()> {
    let pair = Pair::start()?;
    pair.world.namespace("other", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("other"))?;
    let other = pair.b.pod(PodSpec::new("other").namespace("other"))?;
    let _server = serve(&other, 8080, Behaviour::Greet)?;
    let connection = stranger.connect(other.at(8080))?;
    let own = connection.local_addr()?;
    assert_eq!(greeting(connection)?.peer, own);
    for port in [15001, 15006, 15008] {
        assert!(!stranger.listens_on(port)?, "port {port} is open in a pod outside the mesh");
    }
    // Enrolled to not enrolled and back are plain, with real addresses: the mesh is permissive unless told otherwise.
    assert_eq!(greet(&pair.client, other.at(8080))?.peer.ip(), pair.client.ip());
    let _mesh_server = serve(&pair.server, 8080, Behaviour::Greet)?;
    let connection = stranger.connect(pair.server.at(8080))?;
    let own = connection.local_addr()?;
    assert_eq!(greeting(connection)?.peer, own, "a plain client's address and port are shown to the server");
    Ok(())
}

#[test]
fn two_pods_of_one_node_talk_through_a_tunnel_as_well() -> Result<()> {
    let pair = Pair::start()?;
    let neighbour = pair.b.pod(PodSpec::new("neighbour").namespace(NAMESPACE))?;
    pair.agent_b.wait_enrolled(&neighbour)?;
    pair.agent_b.wait_for_protocol(&neighbour, "hbone")?;
    let _server = serve(&pair.server, 8080, Behaviour::Greet)?;
    let tap = pair.server.tap()?;
    assert_eq!(greet(&neighbour, pair.server.at(8080))?.peer.ip(), neighbour.ip());
    tap.stop()?.is_only_tls(neighbour.ip(), pair.server.ip(), 15008)
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() -> Result<()> {
    let pair = Pair::start()?;
    let spec = weft_tests::ServiceSpec::new("server").namespace(NAMESPACE).port(80, 8080);
    let addresses = pair.world.service(&spec)?;
    pair.agent_b.wait_for_endpoints("server", &["ready"])?;
    let _server = pair.echo(8080)?;
    assert_answered(&pair.server, SocketAddr::new(addresses[0], 80))
}

#[test]
fn udp_is_not_touched() -> Result<()> {
    let pair = Pair::start()?;
    let server = pair.server.bind_udp(SocketAddr::new(pair.server.ip(), 5353))?;
    let client = pair.client.bind_udp(SocketAddr::new(pair.client.ip(), 0))?;
    client.send_to(b"question", server.local_addr()?)?;
    let mut buffer = [0; 64];
    let (length, from) = server.recv_from(&mut buffer)?;
    assert_eq!((&buffer[..length], from), (&b"question"[..], client.local_addr()?));
    Ok(())
}

#[test]
fn a_nonblocking_client_sees_its_connection_come_up() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.echo(8080)?;
    let mut stream: TcpStream = pair.client.enter(|| -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&pair.server.at(8080).into()) {
            Ok(()) => {}
            Err(error) => ensure!(error.raw_os_error() == Some(libc::EINPROGRESS), "connect said {error}"),
        }
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one pollfd is given, and it outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 5000) };
        ensure!(ready == 1, "the socket did not become writable");
        ensure!(socket.take_error()?.is_none(), "SO_ERROR is set");
        socket.set_nonblocking(false)?;
        Ok(socket.into())
    })?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

#[test]
fn a_socket_that_is_bound_to_a_port_alone_speaks_for_its_pod() -> Result<()> {
    let pair = Pair::start()?;
    let _server = serve(&pair.server, 8080, Behaviour::Greet)?;
    for (own, to) in [
        ("0.0.0.0:23456", pair.server.at(8080)),
        ("[::]:23457", pair.server.at6(8080)),
        ("[::]:23458", SocketAddr::new(mapped(pair.server.ip())?, 8080)),
    ] {
        let connection = pair.client.enter(|| -> Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&own.parse::<SocketAddr>()?.into())?;
            socket.connect(&to.into())?;
            Ok(socket.into())
        })?;
        let port = connection.local_addr()?.port();
        let seen = greeting(connection).with_context(|| format!("bound to {own}"))?;
        let source = if to.ip().to_canonical().is_ipv6() { pair.client.ip6() } else { pair.client.ip() };
        assert_eq!(seen.peer, SocketAddr::new(source, port), "bound to {own}");
    }
    Ok(())
}

fn mapped(address: IpAddr) -> Result<IpAddr> {
    let IpAddr::V4(v4) = address else { anyhow::bail!("{address} is not IPv4") };
    Ok(v4.to_ipv6_mapped().into())
}
