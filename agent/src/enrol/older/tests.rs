//! Against the running kernel, in the network namespace of the tests. To end a connection takes CAP_NET_ADMIN.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use netlink_packet_sock_diag::constants::{
    TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT2, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT, TCP_TIME_WAIT,
};

use super::inet_diag::tests::socket;
use super::*;

/// As for a pod: only that the namespace is the tests' own.
fn diag() -> InetDiag {
    InetDiag::open(&Netns::open(Path::new("/proc/thread-self/ns/net")).unwrap()).unwrap()
}

/// Older connections that are those of clients in this process, and the ends that they have.
struct Clients {
    older: Older,
    ends: Vec<(TcpStream, TcpStream)>,
}

impl Clients {
    fn new(count: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let ends: Vec<_> =
            (0..count).map(|_| (TcpStream::connect(to).unwrap(), listener.accept().unwrap().0)).collect();
        let mut diag = diag();
        let sockets = diag.list(MOST, |socket| socket.remote() == to).unwrap();
        assert_eq!(sockets.len(), count);
        let connections = sockets.into_iter().map(|socket| (socket, Direction::Outbound)).collect();
        Self { older: Older { diag: Some(diag), connections, is_certain: true, ..Older::default() }, ends }
    }

    fn look_after(&mut self, choice: OlderConnections, most: usize) -> usize {
        self.older.look_after(choice, most, Instant::now() + Duration::from_secs(60));
        self.older.shown().len()
    }
}

#[test]
fn those_that_have_ended_are_forgotten_though_not_all_at_once() {
    let mut clients = Clients::new(5);
    assert_eq!(clients.look_after(OlderConnections::Keep, 5), 5);
    let before = clients.older.shown();
    assert!(Arc::ptr_eq(&before, &clients.older.shown()), "nothing has changed");
    clients.ends.truncate(1);
    let mut left = Vec::new();
    for _ in 0..3 {
        left.push(clients.look_after(OlderConnections::Keep, 2));
    }
    assert_eq!(left[2], 1, "each is looked at in turn: {left:?}");
    assert!(left[0] >= 3, "no more than two at a time: {left:?}");
    let shown = clients.older.shown();
    assert_eq!(shown[0].local, clients.ends[0].0.local_addr().unwrap());
    clients.ends.clear();
    assert_eq!(clients.look_after(OlderConnections::Keep, 2), 0);
    assert!(!clients.older.needs_care());
    assert!(clients.older.diag.is_none(), "the namespace is let go");
}

#[test]
fn the_time_for_looking_after_them_is_bounded() {
    let mut clients = Clients::new(2);
    clients.ends.clear();
    clients.older.look_after(OlderConnections::End, 2, Instant::now());
    assert_eq!(clients.older.shown().len(), 2, "there was no time");
}

#[test]
fn those_that_are_ended_fail_at_both_ends() {
    let mut clients = Clients::new(3);
    assert_eq!(clients.look_after(OlderConnections::End, 2), 1);
    assert_eq!(clients.look_after(OlderConnections::End, 2), 0);
    for (client, server) in &mut clients.ends {
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(clients.older.problem(), None);
}

#[test]
fn what_may_have_been_made_under_capture_is_not_ended() {
    let mut clients = Clients::new(1);
    clients.older.is_certain = false;
    assert_eq!(clients.look_after(OlderConnections::End, 1), 1);
    assert!(clients.older.problem().is_some_and(|problem| problem.contains("nothing is on record")));
    clients.ends.clear();
    assert_eq!(clients.look_after(OlderConnections::End, 1), 0);
    assert_eq!(clients.older.problem(), None, "there is nothing left to be said");
}

#[test]
fn a_kernel_that_cannot_end_them_is_not_asked_again() {
    let mut clients = Clients::new(2);
    clients.older.cannot_end = true;
    complain("pod", &mut clients.older.not_ended, "connections from before cannot be ended: no".to_owned());
    assert_eq!(clients.look_after(OlderConnections::End, 2), 2);
    assert_eq!(clients.older.problem(), Some("connections from before cannot be ended: no"));
    clients.ends.clear();
    assert_eq!(clients.look_after(OlderConnections::End, 2), 0, "their end is noticed all the same");
}

#[test]
fn the_agents_own_are_known_when_they_are_accepted() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let here = listener.local_addr().unwrap();
    let _clients = [0, 1].map(|_| TcpStream::connect(here).unwrap());
    let mut diag = diag();
    let unaccepted: VecDeque<_> = diag.list(MOST, |socket| socket.local() == here && !socket.listens()).unwrap().into();
    assert_eq!(unaccepted.len(), 2);
    let mut older = Older { diag: Some(diag), unaccepted, is_certain: true, ..Older::default() };
    let mut look_after = || {
        older.look_after(OlderConnections::End, 10, Instant::now() + Duration::from_secs(60));
        (older.unaccepted.len(), older.connections.len())
    };
    assert_eq!(look_after(), (2, 0), "whose they are does not show yet");
    let _accepted = listener.accept().unwrap();
    assert_eq!(look_after(), (1, 0), "this process is the agent");
    drop(listener);
    assert_eq!(look_after(), (0, 0), "nobody will accept it any more");
}

#[test]
fn a_socket_of_this_process_is_its_own() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut diag = diag();
    let listed = diag.list(MOST, |socket| socket.local() == listener.local_addr().unwrap()).unwrap();
    assert!(own_sockets().unwrap().contains(&listed[0].inode));
}

#[test]
fn what_stays_in_the_pod_is_not_listed() {
    let addresses: Vec<IpAddr> = ["10.0.0.1", "10.0.0.2", "fd00::1"].iter().map(|text| text.parse().unwrap()).collect();
    for (local, remote, state, expected) in [
        ("10.0.0.1:40000", "10.0.0.9:80", TCP_ESTABLISHED, true),
        ("[fd00::1]:40000", "[fd00::9]:80", TCP_ESTABLISHED, true),
        ("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.9]:40000", TCP_ESTABLISHED, true),
        ("10.0.0.1:40000", "10.0.0.9:80", TCP_SYN_SENT, true),
        ("10.0.0.1:80", "10.0.0.9:40000", TCP_SYN_RECV, true),
        ("10.0.0.1:80", "10.0.0.9:40000", TCP_CLOSE_WAIT, true),
        // Captured: to the agent, and the agent's to the application.
        ("10.0.0.1:40000", "127.3.4.5:15001", TCP_ESTABLISHED, false),
        ("[fd00::1]:40000", "[::1]:15001", TCP_ESTABLISHED, false),
        ("[::ffff:10.0.0.1]:80", "[::ffff:127.0.0.6]:40000", TCP_ESTABLISHED, false),
        ("127.3.4.5:15001", "10.0.0.1:40000", TCP_ESTABLISHED, false),
        // With itself.
        ("[fd00::1]:40000", "[fd00::1]:80", TCP_ESTABLISHED, false),
        ("10.0.0.1:40000", "10.0.0.2:80", TCP_ESTABLISHED, false),
        ("[::ffff:10.0.0.1]:40000", "[::ffff:10.0.0.2]:80", TCP_ESTABLISHED, false),
        // Over, or never begun.
        ("10.0.0.1:40000", "10.0.0.9:80", TCP_TIME_WAIT, false),
        ("0.0.0.0:80", "0.0.0.0:0", TCP_LISTEN, false),
    ] {
        let listed = is_over_the_network(&socket(local, remote, state, 1), &addresses);
        assert_eq!(listed, expected, "{local} {remote} {state}");
    }
}

#[test]
fn whose_a_socket_is_shows_by_its_inode() {
    for (local, state, inode, expected) in [
        ("10.0.0.1:80", TCP_ESTABLISHED, 7, Claim::Application),
        ("10.0.0.1:80", TCP_FIN_WAIT2, 7, Claim::Application),
        ("10.0.0.1:80", TCP_FIN_WAIT2, 0, Claim::Nobody),
        ("10.0.0.1:80", TCP_SYN_RECV, 0, Claim::Open),
        ("10.0.0.1:80", TCP_ESTABLISHED, 0, Claim::Open),
        ("10.0.0.1:80", TCP_CLOSE_WAIT, 0, Claim::Open),
        ("10.0.0.1:15008", TCP_ESTABLISHED, 0, Claim::Nobody),
    ] {
        assert_eq!(claim(&socket(local, "10.0.0.9:40000", state, inode)), expected, "{local} {state} {inode}");
    }
}

#[test]
fn what_was_made_under_an_earlier_agents_capture_is_not_older() {
    let known = socket("10.0.0.1:40000", "10.0.0.9:80", TCP_ESTABLISHED, 1);
    let other = socket("10.0.0.1:40001", "10.0.0.9:80", TCP_ESTABLISHED, 2);
    let past = Past::Known(HashSet::from([(known.local(), known.remote(), known.cookie())]));
    let mut older = Older::default();
    older.connections.extend([(known.clone(), Direction::Outbound), (other, Direction::Outbound)]);
    older.restrict_to(&past);
    assert_eq!(older.shown().iter().map(|connection| connection.local).collect::<Vec<_>>(), [known.local()]);
}
