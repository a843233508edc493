//! What becomes of the connections that a captured pod makes.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::world::{
    Agent, App, MPTCP, Node, PATIENCE, address, ask, dial, dial_with, is_refused, line, local, peer, run, set_option,
};

#[test]
fn a_captured_connection_keeps_the_names_that_the_application_knows() {
    let node = Node::new();
    let pod = node.pod(2);
    let _agent = Agent::enrol(&node.capture(), &pod, 2);
    for (to, own, heard) in [
        ("10.9.9.9:80", "10.77.0.2:", "10.9.9.9:80"),
        ("[fd99::1]:80", "[fd77::2]:", "[fd99::1]:80"),
        ("[::ffff:10.9.9.9]:80", "[::ffff:10.77.0.2]:", "10.9.9.9:80"),
    ] {
        for protocol in [libc::IPPROTO_TCP, MPTCP] {
            let socket = dial_with(&pod.netns, to, protocol, |_| Ok(())).expect("the connection is captured");
            let answer = line(&socket);
            assert_eq!(peer(&socket), to, "getpeername, protocol {protocol}");
            assert!(local(&socket).starts_with(own), "getsockname: {}", local(&socket));
            assert!(answer.starts_with("outbound ") && answer.ends_with(&format!(" to={heard}")), "{answer}");
        }
    }
}

#[test]
fn fast_open_carries_the_destination_with_its_first_packet() {
    let node = Node::new();
    let pod = node.pod(2);
    // Client and server, with data in the SYN and without cookies, on all listeners.
    run(&format!("ip netns exec {} sysctl -qw net.ipv4.tcp_fastopen=1543", pod.name));
    let _agent = Agent::enrol(&node.capture(), &pod, 1);
    for (to, heard) in
        [("10.9.9.9:80", "10.9.9.9:80"), ("[fd99::1]:80", "[fd99::1]:80"), ("[::ffff:10.9.9.9]:80", "10.9.9.9:80")]
    {
        for _ in 0..2 {
            let socket = dial_with(&pod.netns, to, libc::IPPROTO_TCP, |socket| {
                set_option(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)
            });
            let socket = socket.expect("the connection is captured");
            (&socket).write_all(b"hello").expect("the first bytes are sent");
            assert!(line(&socket).ends_with(&format!(" to={heard}")), "{to}");
        }
    }
}

#[test]
fn loopback_and_the_pods_own_addresses_are_left_alone() {
    let node = Node::new();
    let pod = node.pod(2);
    let _agent = Agent::enrol(&node.capture(), &pod, 1);
    let _app = App::start(&pod.netns, "[::]:8080");
    for (to, from) in [
        ("127.0.0.1:8080", "[::ffff:127.0.0.1]"),
        ("0.0.0.0:8080", "[::ffff:127.0.0.1]"),
        ("10.77.0.2:8080", "[::ffff:10.77.0.2]"),
        ("[::1]:8080", "[::1]"),
        ("[::]:8080", "[::1]"),
        ("[fd77::2]:8080", "[fd77::2]"),
        ("[::ffff:127.0.0.1]:8080", "[::ffff:127.0.0.1]"),
        ("[::ffff:10.77.0.2]:8080", "[::ffff:10.77.0.2]"),
    ] {
        let answer = ask(&pod.netns, to);
        assert!(answer.starts_with(&format!("app accept={from}:")), "{to}: {answer}");
    }
}

#[test]
fn what_is_outside_the_mesh_stays_in_the_kernel() {
    let node = Node::new();
    let pod = node.pod(2);
    let capture = node.capture();
    let _agent = Agent::enrol(&capture, &pod, 1);
    let _app = App::start(&node.netns, "[::]:9000");
    let ranges =
        |ranges: &[&str]| -> Vec<ipnet::IpNet> { ranges.iter().map(|range| range.parse().expect("a range")).collect() };
    let is_captured = |to: &str| ask(&pod.netns, to).starts_with("outbound ");
    assert!(is_captured("10.77.0.254:9000") && is_captured("[fd77::fe]:9000"), "everything, until told otherwise");
    capture.set_ranges(&ranges(&["10.77.0.0/25", "fd77::/64"])).expect("ranges are set");
    assert!(!is_captured("10.77.0.254:9000") && !is_captured("[::ffff:10.77.0.254]:9000"), "outside the ranges");
    assert!(is_captured("10.77.0.3:80") && is_captured("[::ffff:10.77.0.3]:80") && is_captured("[fd77::fe]:9000"));
    let known = address("[fd77::fe]:0").ip();
    capture.put_outside(known).expect("it is remembered");
    assert!(!is_captured("[fd77::fe]:9000"), "known to be outside");
    capture.remove_outside(known).expect("it is forgotten");
    assert!(is_captured("[fd77::fe]:9000"));
    capture.set_ranges(&[]).expect("ranges are set");
    assert!(!is_captured("10.77.0.254:9000") && !is_captured("[fd77::fe]:9000"), "nothing is in the mesh");
}

#[test]
fn a_socket_that_is_used_again_shows_what_it_is_connected_to_now() {
    let node = Node::new();
    let pod = node.pod(2);
    let _agent = Agent::enrol(&node.capture(), &pod, 1);
    let _app = App::start(&pod.netns, "0.0.0.0:8080");
    let socket = dial(&pod.netns, "10.9.9.9:80").expect("captured");
    for (to, answers) in [("127.0.0.1:8080", "app "), ("10.9.9.8:81", "outbound ")] {
        line(&socket);
        // SAFETY: an all-zero address is of the family AF_UNSPEC, which dissolves the association.
        let result = unsafe {
            let none: libc::sockaddr = std::mem::zeroed();
            libc::connect(socket.as_raw_fd(), &raw const none, size_of::<libc::sockaddr>() as u32)
        };
        assert_eq!(result, 0);
        socket.connect(&address(to).into()).expect("connects again");
        assert!(line(&socket).starts_with(answers));
        assert_eq!(peer(&socket), to);
    }
}

#[test]
fn a_socket_bound_by_its_application_is_captured() {
    let node = Node::new();
    let pod = node.pod(2);
    let _agent = Agent::enrol(&node.capture(), &pod, 1);
    let bound = |own: &'static str, to: &str| {
        line(
            &dial_with(&pod.netns, to, libc::IPPROTO_TCP, |socket| socket.bind(&address(own).into()))
                .expect("captured"),
        )
    };
    assert!(bound("10.77.0.2:40404", "10.9.9.9:80").contains(" from=10.77.0.2:40404 to="));
    assert!(bound("0.0.0.0:40405", "10.9.9.9:80").contains(":40405 to=10.9.9.9:80"));
}

#[test]
fn a_socket_bound_to_a_device_is_captured_whoever_its_process_is() {
    let node = Node::new();
    let pod = node.pod(2);
    let _agent = Agent::enrol(&node.capture(), &pod, 1);
    for to in ["10.9.9.9:80", "[fd99::1]:80"] {
        for is_root in [true, false] {
            let to = address(to);
            let socket = pod.netns.enter(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.bind_device(Some(b"eth0"))?;
                Ok(socket)
            });
            let socket = socket.expect("any process may bind to a device once");
            // In a thread of its own, which never gets its privileges back.
            let answer = std::thread::scope(|scope| {
                let connecting = scope.spawn(|| {
                    if !is_root {
                        leave_privileges();
                    }
                    socket.connect_timeout(&to.into(), PATIENCE).map(|()| line(&socket))
                });
                connecting.join().expect("the thread ends")
            });
            let answer = answer.expect("the connection is captured");
            assert!(answer.ends_with(&format!(" to={to}")), "root: {is_root}: {answer}");
            assert_eq!(peer(&socket), to.to_string());
        }
    }
}

/// Makes the calling thread, and no other, an ordinary user's.
fn leave_privileges() {
    // SAFETY: the call takes three numbers.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
    assert_eq!(result, 0, "root may become anybody");
}

#[test]
fn nothing_that_a_pod_can_do_makes_a_socket_the_agents() {
    let node = Node::new();
    let pod = node.pod(2);
    let agent = Agent::enrol(&node.capture(), &pod, 1);
    let _outside = App::start(&node.netns, "[::]:9000");
    let _inside = App::start(&pod.netns, "[::]:8080");
    let marked = dial_with(&pod.netns, "10.77.0.254:9000", libc::IPPROTO_TCP, |socket| {
        set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, 1337)?;
        socket.bind(&SockAddr::from(address("10.77.0.2:15006")))
    });
    assert!(line(&marked.expect("captured")).starts_with("outbound "));
    let disguised = dial_with(&pod.netns, "127.0.0.1:8080", libc::IPPROTO_TCP, |socket| {
        socket.bind(&SockAddr::from(address("127.15.6.9:0")))
    });
    assert!(is_refused(&disguised), "from a source of the agent's");
    for to in [
        "127.0.0.1:15001",
        "127.0.0.1:15006",
        "127.15.1.7:15001",
        "[::1]:15001",
        "[::1]:15006",
        "[::1]:15104",
        "[::1]:15119",
    ] {
        assert!(is_refused(&dial(&pod.netns, to)), "{to}");
    }
    for to in ["10.77.0.254:9000", "[fd77::fe]:9000"] {
        let own = agent.dial(to, None).expect("the agent connects");
        assert!(line(&own).starts_with("app "), "the agent's own socket is not captured");
    }
}

#[test]
fn connections_are_divided_between_the_workers_in_turn() {
    let node = Node::new();
    let pod = node.pod(2);
    let agent = Agent::enrol(&node.capture(), &pod, 2);
    for _ in 0..20 {
        assert!(ask(&pod.netns, "10.9.9.9:80").starts_with("outbound "));
    }
    let counts = [0, 1].map(|worker| agent.per_worker[worker].load(Ordering::SeqCst));
    assert_eq!(counts, [10, 10]);
}
