//! Against the running kernel, in the network namespace of the tests. To end a connection takes CAP_NET_ADMIN.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use netlink_packet_sock_diag::constants::{SOCK_DIAG_BY_FAMILY, TCP_ESTABLISHED, TCP_TIME_WAIT};
use socket2::{Domain, SockRef, Type};

use super::*;

/// A connection that was accepted: the client's end, the server's, and the client's as the kernel names it.
fn connected(listener: &TcpListener) -> (TcpStream, TcpStream, TcpSocket) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let socket = only(client.local_addr().unwrap(), client.peer_addr().unwrap());
    (client, server, socket)
}

fn loopback() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// The one socket with these ends. Other tests may use the same port at the same time, to other destinations.
fn only(local: SocketAddr, remote: SocketAddr) -> TcpSocket {
    let mut diag = InetDiag::open_here().unwrap();
    let mut found = diag.list(usize::MAX, |socket| socket.local() == local && socket.remote() == remote).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn sockets_are_listed_and_found_until_they_end() {
    let listener = loopback();
    let (client, server, socket) = connected(&listener);
    assert_eq!(socket.remote(), listener.local_addr().unwrap());
    assert!(socket.lives() && socket.inode != 0 && socket.cookie() != 0);
    let mut diag = InetDiag::open_here().unwrap();
    let listening = diag.list(usize::MAX, |socket| socket.listens()).unwrap();
    assert!(listening.iter().any(|socket| socket.local() == listener.local_addr().unwrap()));
    assert_eq!(diag.list(1, |_| true).unwrap().len(), 1, "no more than asked for");

    assert_eq!(diag.find(&socket).unwrap(), Some(socket.clone()));
    drop(client);
    let closing = diag.find(&socket).unwrap().expect("the server's end is open");
    assert!(closing.lives() && closing.is_closing());
    drop(server);
    assert!(!diag.find(&socket).unwrap().is_some_and(|socket| socket.lives()), "TIME_WAIT is the end");
}

#[test]
fn a_later_socket_of_the_same_addresses_and_ports_is_another_one() {
    let listener = loopback();
    let remote = listener.local_addr().unwrap();
    // From an address that no other test uses.
    let client = |port: u16| {
        let client = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_reuse_address(true).unwrap();
        client.bind(&SocketAddr::from(([127, 73, 0, 1], port)).into()).unwrap();
        client.connect(&remote.into()).unwrap();
        TcpStream::from(client)
    };
    let (first, server) = (client(0), listener.accept().unwrap().0);
    let before = only(first.local_addr().unwrap(), remote);
    for end in [&first, &server] {
        // With a reset, so that neither end goes into TIME_WAIT.
        SockRef::from(end).set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop((first, server));
    let _again = client(before.local().port());
    let after = only(before.local(), before.remote());
    assert_eq!((after.local(), after.remote()), (before.local(), before.remote()));
    let mut diag = InetDiag::open_here().unwrap();
    assert_eq!(diag.find(&before).unwrap(), None);
    assert!(!diag.destroy(&before).unwrap());
    assert!(diag.find(&after).unwrap().is_some_and(|socket| socket.lives()), "it was left alone");
}

#[test]
fn a_connection_that_nobody_has_accepted_has_no_inode_and_keeps_its_cookie() {
    let listener = loopback();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let waiting = only(client.peer_addr().unwrap(), client.local_addr().unwrap());
    assert_eq!(waiting.inode, 0);
    let _server = listener.accept().unwrap();
    let mut diag = InetDiag::open_here().unwrap();
    let accepted = diag.find(&waiting).unwrap().expect("it lives");
    assert_ne!(accepted.inode, 0);
    assert_eq!(accepted.cookie(), waiting.cookie());
}

#[test]
fn an_ipv4_connection_of_an_ipv6_socket_has_ipv4_addresses_and_is_found() {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port())).unwrap();
    let (server, mapped) = listener.accept().unwrap();
    assert!(mapped.is_ipv6(), "{mapped}");
    let socket = only(client.peer_addr().unwrap(), client.local_addr().unwrap());
    assert_eq!(socket.family, AF_INET6);
    assert_eq!(InetDiag::open_here().unwrap().find(&socket).unwrap(), Some(socket));
    drop((client, server));
}

#[test]
fn a_connection_that_is_ended_fails_at_both_ends() {
    let listener = loopback();
    let (mut client, mut server, socket) = connected(&listener);
    let mut diag = InetDiag::open_here().unwrap();
    assert!(diag.destroy(&socket).expect("as root, on a kernel with CONFIG_INET_DIAG_DESTROY"));
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(!diag.destroy(&socket).unwrap(), "there is nothing left to be ended");
    assert_eq!(diag.find(&socket).unwrap(), None);
}

/// A message with this header and payload.
fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = 16 + payload.len() as u32;
    let mut bytes = [length.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &[0; 2], &[0; 8], payload].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct inet_diag_msg`, with an attribute behind it.
fn answer(family: u8, state: u8, source: [u8; 16], destination: [u8; 16]) -> Vec<u8> {
    let ports = [41668_u16.to_be_bytes(), 8080_u16.to_be_bytes()].concat();
    let tail = [[0; 4], [0; 4], [0; 4], [0; 4], 4242_u32.to_ne_bytes()].concat();
    let shutdown = [5, 0, 8, 0, 0, 0, 0, 0];
    let parts: [&[u8]; 8] =
        [&[family, state, 0, 0], &ports, &source, &destination, &[0; 4], &7_u64.to_ne_bytes(), &tail, &shutdown];
    message(SOCK_DIAG_BY_FAMILY, &parts.concat())
}

/// A socket that is made up.
pub(in crate::enrol::older) fn socket(local: &str, remote: &str, state: u8, inode: u32) -> TcpSocket {
    let end = |text: &str| text.parse::<SocketAddr>().unwrap();
    let (local, remote) = (end(local), end(remote));
    let id = SocketId {
        source_port: local.port(),
        destination_port: remote.port(),
        source_address: local.ip(),
        destination_address: remote.ip(),
        interface_id: 0,
        cookie: [1; 8],
    };
    TcpSocket { family: if local.is_ipv4() { AF_INET } else { AF_INET6 }, id, state, inode }
}

fn ipv4(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address);
    bytes
}

fn datagram() -> Vec<u8> {
    let mapped = |address: [u8; 4]| Ipv4Addr::from(address).to_ipv6_mapped().octets();
    [
        answer(AF_INET, TCP_ESTABLISHED, ipv4([10, 9, 0, 1]), ipv4([10, 9, 0, 4])),
        answer(AF_INET6, TCP_TIME_WAIT, mapped([10, 9, 0, 1]), mapped([10, 9, 0, 4])),
        message(3, &(-libc::ENOENT).to_ne_bytes()),
    ]
    .concat()
}

#[test]
fn the_messages_of_a_datagram_are_read_one_after_the_other() {
    let read: Vec<_> = messages(&datagram()).map(|message| message.unwrap().payload).collect();
    let [
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(four)),
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(six)),
        NetlinkPayload::Done(done),
    ] = read.as_slice()
    else {
        panic!("{read:?}");
    };
    assert_eq!(errno(done.code).raw_os_error(), Some(libc::ENOENT));
    let (four, six) = (TcpSocket::from((**four).clone()), TcpSocket::from((**six).clone()));
    for socket in [&four, &six] {
        assert_eq!(socket.local(), "10.9.0.1:41668".parse().unwrap());
        assert_eq!(socket.remote(), "10.9.0.4:8080".parse().unwrap());
        assert_eq!((socket.cookie(), socket.inode), (7, 4242));
    }
    assert!(four.lives());
    assert!(!six.lives() && !six.listens() && !six.is_closing());
}

#[test]
fn what_is_cut_off_or_lies_about_its_length_is_an_error() {
    let whole = datagram();
    assert_eq!(messages(&[]).count(), 0);
    let ends: Vec<usize> = [0, 1].iter().map(|n| (n + 1) * answer(AF_INET, 1, [0; 16], [0; 16]).len()).collect();
    for length in 1..whole.len() {
        let last = messages(&whole[..length]).last().expect("there is something");
        assert_eq!(last.is_ok(), ends.contains(&length), "{length}: {last:?}");
    }
    for lie in [0, 1, 15, 17, whole.len() as u32 + 1, u32::MAX] {
        let mut bytes = whole.clone();
        bytes[..4].copy_from_slice(&lie.to_ne_bytes());
        assert!(messages(&bytes).next().expect("there is something").is_err(), "{lie}");
        assert!(messages(&bytes).count() <= whole.len(), "it ends");
    }
}

#[test]
fn a_state_that_there_is_not_is_no_life() {
    for state in [0, 13, 31, 32, 255] {
        let bytes = answer(AF_INET, state, [0; 16], [0; 16]);
        let Some(Ok(message)) = messages(&bytes).next() else { panic!("{state}") };
        let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) = message.payload else {
            panic!("{state}");
        };
        assert!(!TcpSocket::from(*response).lives(), "{state}");
    }
}
