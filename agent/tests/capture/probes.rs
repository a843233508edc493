//! Connections from the cgroup of the kubelet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use weft::capture::Capture;
use weft::netns::Netns;

use crate::world::{Agent, App, Node};

/// A cgroup that is removed with all below it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let mount = mountinfo.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup v2 is mounted");
        let path = Path::new(mount.split(' ').nth(4).expect("a mount has a path")).join(name);
        fs::create_dir(&path).expect("cgroups may be made");
        Self(path)
    }

    fn below(&self, name: &str) -> Self {
        let path = self.0.join(name);
        fs::create_dir(&path).expect("cgroups may be made");
        Self(path)
    }

    /// What a process of this cgroup hears from a pod.
    fn ask(&self, netns: &Netns, host: &str, port: u16) -> String {
        let script =
            format!("echo $$ > {}/cgroup.procs; exec 3<>/dev/tcp/{host}/{port} && head -n1 <&3", self.0.display());
        let output = netns.enter(|| Command::new("bash").args(["-c", &script]).output()).expect("bash runs");
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_probe_reaches_the_application_and_nobody_else_does() {
    let node = Node::new();
    let pod = node.pod(2);
    let kubelet = Cgroup::new(&format!("{}-kubelet", node.name));
    let other = Cgroup::new(&format!("{}-other", node.name));
    let inner = kubelet.below("inner");
    let mut options = node.options();
    options.probe_cgroup = Some(kubelet.0.clone());
    let capture = Arc::new(Capture::start(options).expect("capture starts"));
    let _agent = Agent::enrol(&capture, &pod, 1);
    let _app = App::start(&pod.netns, "[::]:8080");
    for (host, shown) in [("10.77.0.2", "[::ffff:10.77.0.254]"), ("fd77::2", "[fd77::fe]")] {
        let answer = kubelet.ask(&node.netns, host, 8080);
        assert!(answer.starts_with(&format!("app accept={shown}:")), "{host}: {answer}");
        for cgroup in [&other, &inner] {
            let answer = cgroup.ask(&node.netns, host, 8080);
            assert!(answer.starts_with("inbound "), "{host}: {answer}");
        }
    }
    assert!(kubelet.ask(&node.netns, "10.77.0.2", 9).contains("refused"), "a closed port is closed");

    // Its service is restarted: another cgroup of the same name.
    drop(inner);
    let path = kubelet.0.clone();
    drop(kubelet);
    assert!(capture.refresh_probe_cgroup().is_err(), "that there is none is said");
    fs::create_dir(&path).expect("cgroups may be made");
    let kubelet = Cgroup(path);
    assert!(kubelet.ask(&node.netns, "10.77.0.2", 8080).starts_with("inbound "));
    capture.refresh_probe_cgroup().expect("it is found");
    assert!(kubelet.ask(&node.netns, "10.77.0.2", 8080).starts_with("app "));
}
