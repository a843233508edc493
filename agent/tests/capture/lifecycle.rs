//! Capture outlives its agents, and goes when told to.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft::capture::{Capture, CaptureError, CapturedPod, uninstall};
use weft::in_pod;
use weft::netns::Netns;

use crate::world::{Agent, App, Node, PATIENCE, ask, bpf_dir, dial, is_refused, peer};

/// Names node, pod and addresses to the process that plays the agent to be killed.
const ROLE: &str = "WEFT_CAPTURE_TEST_AGENT";

#[test]
#[ignore = "the process that another test starts and kills"]
fn an_agent_in_a_process_of_its_own() {
    let role = std::env::var(ROLE).expect("only run by another test");
    let [node, pod] = role.split(' ').collect::<Vec<_>>()[..] else { panic!("{ROLE} holds a node and a pod") };
    let options = weft::capture::CaptureOptions {
        bpf_dir: bpf_dir(),
        node: node.to_owned(),
        cgroup_root: None,
        probe_cgroup: None,
        loopback_congestion_control: None,
        log: weft::capture::LogLevel::Off,
    };
    let capture = Capture::start(options).expect("capture starts");
    let netns = Netns::open(format!("/run/netns/{pod}").as_ref()).expect("the pod is there");
    let addresses = ["10.77.0.2", "fd77::2"].map(|address| address.parse().expect("an address"));
    let listeners = in_pod::listeners(&netns, 1, &addresses, true).expect("listeners are made");
    capture.enrol(&CapturedPod { netns: &netns, addresses: &addresses, listeners: &listeners }).expect("enrolled");
    println!("\nready");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_agent_leaves_its_pods_refused_until_the_next_takes_over() {
    let node = Node::new();
    let pod = node.pod(2);
    let _app = App::start(&pod.netns, "[::]:8080");
    let _outside = App::start(&node.netns, "[::]:9000");
    let mut agent = Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", "lifecycle::an_agent_in_a_process_of_its_own", "--ignored", "--nocapture"])
        .env(ROLE, format!("{} {}", node.name, pod.name))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test runs itself");
    let output = BufReader::new(agent.stdout.take().expect("it is piped"));
    let is_ready = output.lines().map_while(Result::ok).any(|line| line == "ready");
    // Accepted by nobody: the handshake is the kernel's.
    let before = dial(&pod.netns, "10.77.0.254:9000");
    agent.kill().expect("it is killed");
    agent.wait().expect("it ends");
    assert!(is_ready);
    let before = before.expect("captured by the process");
    assert!(is_refused(&dial(&pod.netns, "10.77.0.254:9000")), "outbound");
    assert!(is_refused(&dial(&node.netns, "10.77.0.2:8080")), "inbound");
    drop(before);

    let capture = node.capture();
    assert_eq!(capture.enrolled().expect("listed"), [pod.netns.cookie()]);
    assert!(is_refused(&dial(&pod.netns, "10.77.0.254:9000")), "nobody listens yet");
    let _agent = Agent::enrol(&capture, &pod, 1);
    assert!(ask(&pod.netns, "10.77.0.254:9000").starts_with("outbound "));
    assert!(ask(&node.netns, "10.77.0.2:8080").starts_with("inbound "));
}

/// Connects again and again; says how many answers began with which of the words, and what else there was.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<([usize; 2], Vec<String>)>,
}

impl Load {
    fn start(from: Arc<Netns>, to: &'static str, words: [&'static str; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut counts, mut others) = ([0, 0], Vec::new());
            while !stopped.load(Ordering::SeqCst) {
                let answer = ask(&from, to);
                match words.iter().position(|word| answer.starts_with(word)) {
                    Some(index) => counts[index] += 1,
                    None => others.push(answer),
                }
            }
            (counts, others)
        });
        Self { stop, thread }
    }

    fn end(self) -> [usize; 2] {
        self.stop.store(true, Ordering::SeqCst);
        let (counts, others) = self.thread.join().expect("the load ends");
        assert!(others.is_empty(), "{} of {counts:?} failed: {:?}", others.len(), others.first());
        counts
    }
}

#[test]
fn taking_over_under_load_loses_no_connection() {
    let node = Node::new();
    let pod = node.pod(2);
    let mut agent = Agent::enrol(&node.capture(), &pod, 2);
    let ipv4 = Load::start(pod.netns.clone(), "10.9.9.9:80", ["outbound ", "-"]);
    let ipv6 = Load::start(pod.netns.clone(), "[fd99::1]:80", ["outbound ", "-"]);
    for workers in [1, 3, 2, 1, 2] {
        let next = Agent::enrol(&node.capture(), &pod, workers);
        std::thread::sleep(Duration::from_millis(50));
        agent = next;
    }
    assert!(ipv4.end()[0] > 0 && ipv6.end()[0] > 0);
    drop(agent);
}

#[test]
fn enrolling_and_unenrolling_under_load_loses_no_connection() {
    let node = Node::new();
    let pod = node.pod(2);
    let capture = node.capture();
    let _app = App::start(&pod.netns, "[::]:8080");
    let _outside = App::start(&node.netns, "[::]:9000");
    let outside = Arc::new(Netns::open(format!("/run/netns/{}", node.name).as_ref()).expect("it is there"));
    let outbound = Load::start(pod.netns.clone(), "10.77.0.254:9000", ["outbound ", "app "]);
    let inbound = Load::start(outside, "[fd77::2]:8080", ["inbound ", "app "]);
    let mut draining = None;
    for _ in 0..4 {
        let agent = Agent::enrol(&capture, &pod, 2);
        std::thread::sleep(Duration::from_millis(40));
        let socket = dial(&pod.netns, "10.9.9.9:80").expect("captured");
        capture.unenrol(pod.netns.cookie()).expect("un-enrolled");
        assert_eq!(peer(&socket), "10.9.9.9:80", "a connection keeps its name");
        std::thread::sleep(Duration::from_millis(40));
        draining = Some(agent);
    }
    for counts in [outbound.end(), inbound.end()] {
        assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    }
    drop(draining);
    assert_eq!(capture.enrolled().expect("listed"), []);
}

#[test]
fn a_pod_whose_namespace_is_gone_is_forgotten() {
    let node = Node::new();
    let pod = node.pod(2);
    drop(Agent::enrol(&node.capture(), &pod, 1));
    drop(pod);
    let started = Instant::now();
    // The kernel takes a namespace apart when it finds the time.
    while !node.capture().enrolled().expect("listed").is_empty() {
        assert!(started.elapsed() < PATIENCE, "it is still enrolled");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn maps_of_another_layout_are_replaced_without_a_gap() {
    let node = Node::new();
    let pod = node.pod(2);
    let old = Agent::enrol(&node.capture(), &pod, 1);
    let socket = dial(&pod.netns, "10.9.9.9:80").expect("captured");
    let load = Load::start(pod.netns.clone(), "10.9.9.9:80", ["outbound ", "-"]);
    let layout = node.pins().join(format!("v{}", weft_common::LAYOUT));
    std::fs::rename(&layout, node.pins().join("v0")).expect("pins can be renamed");

    let capture = node.capture();
    assert_eq!(capture.status().expect("asked").older_layouts, 1);
    assert_eq!(capture.enrolled().expect("listed"), [pod.netns.cookie()]);
    std::thread::sleep(Duration::from_millis(50));
    let new = Agent::enrol(&capture, &pod, 2);
    std::thread::sleep(Duration::from_millis(50));
    drop(old);
    std::thread::sleep(Duration::from_millis(50));
    assert!(load.end()[0] > 0);
    assert_eq!(peer(&socket), "10.9.9.9:80", "a connection keeps its name");
    drop(new);
    assert_eq!(node.capture().status().expect("asked").older_layouts, 0, "removed at the next start");
    assert!(!node.pins().join("v0").exists());
}

#[test]
fn nodes_on_one_kernel_do_not_know_of_each_other() {
    let (one, two) = (Node::new(), Node::new());
    let (pod_one, pod_two) = (one.pod(2), two.pod(2));
    let agent_one = Agent::enrol(&one.capture(), &pod_one, 1);
    let agent_two = Agent::enrol(&two.capture(), &pod_two, 1);
    assert_eq!(agent_one.capture.enrolled().expect("listed"), [pod_one.netns.cookie()]);
    assert_eq!(agent_one.capture.status().expect("asked").foreign, []);
    let _outside = App::start(&two.netns, "[::]:9000");
    let own = agent_two.dial("10.77.0.254:9000", None).expect("the second agent connects");
    assert!(crate::world::line(&own).starts_with("app "), "the first leaves the second's sockets alone");
    drop(agent_one);
    assert!(ask(&pod_two.netns, "10.9.9.9:80").starts_with("outbound "));
    assert!(is_refused(&dial(&pod_one.netns, "10.9.9.9:80")));
}

#[test]
fn uninstalling_leaves_no_trace() {
    let node = Node::new();
    let pod = node.pod(2);
    let _agent = Agent::enrol(&node.capture(), &pod, 1);
    let _outside = App::start(&node.netns, "[::]:9000");
    let removed = uninstall(&bpf_dir(), &node.name).expect("removed");
    assert_eq!(removed.pods, 1);
    assert!(!node.pins().exists());
    assert!(ask(&pod.netns, "10.77.0.254:9000").starts_with("app "));
    assert_eq!(uninstall(&bpf_dir(), &node.name).expect("nothing to do").pins, 0);
}

#[test]
fn the_agents_own_namespace_is_never_captured() {
    let node = Node::new();
    let own = Netns::open("/proc/thread-self/ns/net".as_ref()).expect("it is there");
    let listeners = in_pod::InPodListeners { per_worker: Vec::new() };
    let result = node.capture().enrol(&CapturedPod { netns: &own, addresses: &[], listeners: &listeners });
    assert!(matches!(result, Err(CaptureError::HostNetwork)), "{result:?}");
}
