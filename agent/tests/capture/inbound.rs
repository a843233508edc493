//! What becomes of the connections that reach a captured pod.

use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};

use crate::world::{Agent, App, MPTCP, Node, PATIENCE, address, ask, dial, is_refused, line};

#[test]
fn new_connections_are_handed_to_the_agent_with_both_addresses() {
    let node = Node::new();
    let (pod, other) = (node.pod(2), node.pod(3));
    let _agent = Agent::enrol(&node.capture(), &pod, 2);
    let _app = App::start(&pod.netns, "[::]:8080");
    for (from, to, answers) in [
        (&node.netns, "10.77.0.2:8080", "inbound local=10.77.0.2:8080 from=10.77.0.254:"),
        (&node.netns, "[fd77::2]:8080", "inbound local=[fd77::2]:8080 from=[fd77::fe]:"),
        (&*other.netns, "10.77.0.2:8080", "inbound local=10.77.0.2:8080 from=10.77.0.3:"),
        (&*other.netns, "10.77.0.2:9", "inbound local=10.77.0.2:9 from="),
        (&*other.netns, "10.77.0.2:15008", "hbone local=10.77.0.2:15008 from=10.77.0.3:"),
        (&*other.netns, "[fd77::2]:15008", "hbone local=[fd77::2]:15008 from=[fd77::3]:"),
        (&*other.netns, "10.77.0.2:15001", "inbound local=10.77.0.2:15001 from="),
        (&*other.netns, "[fd77::2]:15104", "inbound local=[fd77::2]:15104 from="),
    ] {
        let answer = ask(from, to);
        assert!(answer.starts_with(answers), "{to}: {answer}");
    }
}

#[test]
fn the_application_sees_the_client_that_the_agent_speaks_for() {
    let node = Node::new();
    let pod = node.pod(2);
    let agent = Agent::enrol(&node.capture(), &pod, 1);
    let _ipv4 = App::start(&pod.netns, "0.0.0.0:8081");
    let _both = App::start(&pod.netns, "[::]:8080");
    let _mptcp = App::with_protocol(&pod.netns, "[::]:8082", MPTCP);
    for (to, client, shown) in [
        ("10.77.0.2:8081", "10.1.2.3:4567", "10.1.2.3:4567"),
        ("10.77.0.2:8080", "10.1.2.3:4567", "[::ffff:10.1.2.3]:4567"),
        ("[fd77::2]:8080", "[fd88::9]:99", "[fd88::9]:99"),
        ("10.77.0.2:8080", "[fd88::9]:99", "[fd88::9]:99"),
        ("[fd77::2]:8080", "10.1.2.3:4567", "[::ffff:10.1.2.3]:4567"),
        ("10.77.0.2:8082", "10.1.2.3:4567", "[::ffff:10.1.2.3]:4567"),
    ] {
        // The source alternates: each kind comes by.
        for _ in 0..3 {
            let answer = line(&agent.dial(to, Some(client)).expect("the application answers"));
            assert_eq!(answer, format!("app accept={shown} getpeername={shown}"), "{to}");
        }
    }
    // Without capture, and the agent still draining.
    agent.capture.unenrol(pod.netns.cookie()).expect("un-enrolled");
    let answer = line(&agent.dial("10.77.0.2:8081", Some("10.1.2.3:4567")).expect("the application answers"));
    assert_eq!(answer, "app accept=10.1.2.3:4567 getpeername=10.1.2.3:4567");
}

#[test]
fn a_program_of_the_pod_cannot_take_a_share_of_the_agents_connections() {
    let node = Node::new();
    let pod = node.pod(2);
    let _agent = Agent::enrol(&node.capture(), &pod, 1);
    let intruder = pod.netns.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address("127.0.0.1:15006").into())?;
        socket.listen(64)?;
        Ok(socket)
    });
    let _intruder = intruder.expect("root may join the agent's group");
    for _ in 0..20 {
        assert!(ask(&node.netns, "10.77.0.2:8080").starts_with("inbound "));
    }
}

#[test]
fn without_an_agent_both_directions_are_refused_at_once() {
    let node = Node::new();
    let (pod, other) = (node.pod(2), node.pod(3));
    drop(Agent::enrol(&node.capture(), &pod, 1));
    let _app = App::start(&pod.netns, "[::]:8080");
    let started = Instant::now();
    for to in ["10.77.0.2:8080", "[fd77::2]:8080", "10.77.0.2:15008", "[fd77::2]:15008"] {
        assert!(is_refused(&dial(&other.netns, to)), "inbound, {to}");
    }
    for to in ["10.77.0.3:80", "[fd77::3]:80", "[::ffff:10.77.0.3]:80"] {
        assert!(is_refused(&dial(&pod.netns, to)), "outbound, {to}");
    }
    assert!(started.elapsed() < PATIENCE);
    assert!(ask(&pod.netns, "127.0.0.1:8080").starts_with("app "), "the pod itself works");
}
