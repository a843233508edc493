//! Which congestion control connections have that never leave their pod, and which the others keep.

use std::net::IpAddr;

use socket2::{Domain, Socket, Type};
use weft::capture::{Capture, CongestionControl};

use crate::world::{Agent, App, Node, Pod, address, dial, line, run};

/// A node whose pod has another congestion control than the one that capture sets, and the other's name.
fn pod_with_another(node: &Node) -> (Pod, String) {
    let pod = node.pod(2);
    let available = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").expect("readable");
    let other = available.split_ascii_whitespace().find(|name| *name != CongestionControl::RENO.name());
    let other = other.expect("this test needs a kernel with a congestion control beside reno").to_owned();
    run(&format!("ip netns exec {} sysctl -qw net.ipv4.tcp_congestion_control={other}", pod.name));
    (pod, other)
}

fn control(socket: &Socket) -> String {
    let name = socket.tcp_congestion().expect("a TCP socket has one");
    String::from_utf8(name).expect("names are ASCII").trim_end_matches('\0').to_owned()
}

#[test]
fn connections_inside_the_pod_have_the_one_that_was_asked_for_and_others_keep_theirs() {
    let node = Node::new();
    let (pod, other) = pod_with_another(&node);
    let capture = node.capture();
    let agent = Agent::enrol(&capture, &pod, 1);
    let _outside = App::start(&node.netns, "[::]:9000");
    for to in ["10.9.9.9:80", "[fd99::1]:80", "[::ffff:10.9.9.9]:80"] {
        let captured = dial(&pod.netns, to).expect("captured");
        assert!(line(&captured).starts_with("outbound "));
        assert_eq!(control(&captured), "reno", "{to}");
    }
    for (listen, to, client) in
        [("0.0.0.0:8080", "10.77.0.2:8080", "10.1.2.3:4567"), ("[::]:8081", "[fd77::2]:8081", "[fd01::3]:4567")]
    {
        let listener = pod.netns.enter(|| {
            let socket = Socket::new(Domain::for_address(address(listen)), Type::STREAM, None)?;
            socket.bind(&address(listen).into())?;
            socket.listen(1)?;
            Ok(socket)
        });
        let listener = listener.expect("the application listens");
        let dialled = agent.dial(to, Some(client)).expect("the application is there");
        let (accepted, _) = listener.accept().expect("the agent has connected");
        assert_eq!([control(&dialled), control(&accepted)], ["reno", "reno"], "{to}");
    }
    let outside: IpAddr = address("10.77.0.254:0").ip();
    capture.put_outside(outside).expect("it is remembered");
    let direct = dial(&pod.netns, "10.77.0.254:9000").expect("there is a server");
    assert_eq!(control(&direct), other, "what leaves the pod keeps what the pod has");
    let outward = agent.dial("10.77.0.254:9000", None).expect("there is a server");
    assert_eq!(control(&outward), other, "the agent's own connections to other nodes as well");
}

#[test]
fn all_connections_keep_their_pods_when_none_was_asked_for() {
    let node = Node::new();
    let (pod, other) = pod_with_another(&node);
    let mut options = node.options();
    options.loopback_congestion_control = None;
    let capture = Capture::start(options).expect("capture starts").into();
    let _agent = Agent::enrol(&capture, &pod, 1);
    let captured = dial(&pod.netns, "10.9.9.9:80").expect("captured");
    assert!(line(&captured).starts_with("outbound "));
    assert_eq!(control(&captured), other);
}
