//! Weft on a cluster, as its users meet it: one label, and what goes on running meanwhile.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::{Cluster, Machine};
use weft_tests::tap::Recording;
use weft_tests::{Process, eventually_within};

use super::{PATIENCE, shop};

/// What clients say, so that it can be looked for on the wire.
pub(super) const MARK: &str = "said-by-a-client";

/// Takes the namespace of the shop into the mesh, or out of it.
fn label(cluster: &Cluster, is_member: bool) -> Result<()> {
    let label = if is_member { "istio.io/dataplane-mode=ambient" } else { "istio.io/dataplane-mode-" };
    cluster.kubectl(&["label", "namespace/default", label])?.success().map(drop)
}

/// The pods of the shop, with what their annotation says of capture.
fn captured(cluster: &Cluster) -> Result<Vec<(String, bool)>> {
    let path = r#"--output=jsonpath={range .items[*]}{.metadata.name}={.metadata.annotations.ambient\.istio\.io/redirection}{"\n"}{end}"#;
    let listed = cluster.kubectl(&["get", "pods", "--field-selector=status.phase=Running", path])?.success()?;
    let pods = listed.lines().filter_map(|line| line.split_once('='));
    Ok(pods.map(|(name, said)| (name.to_owned(), said == "enabled")).collect())
}

fn wait_until_captured(cluster: &Cluster, is_captured: bool) -> Result<()> {
    eventually_within(PATIENCE, "all pods of the shop are captured, or none", || {
        let pods = captured(cluster)?;
        Ok((!pods.is_empty() && pods.iter().all(|(_, is)| *is == is_captured)).then_some(()))
    })
}

/// A shop whose pods are all captured.
pub(super) fn shop_in_the_mesh() -> Result<Cluster> {
    let cluster = shop()?;
    cluster.install_weft(&["crds.install=true"])?;
    label(&cluster, true)?;
    wait_until_captured(&cluster, true)?;
    Ok(cluster)
}

/// A pod on the first node that makes requests, one connection each, one after the other without a pause, until it is stopped.
/// What came of them is read on the node: it goes on without an API server.
pub(super) struct Load<'a> {
    cluster: &'a Cluster,
    namespace: String,
    log: PathBuf,
}

/// What came of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub good: usize,
    /// What was said of those that failed, and when.
    pub failed: Vec<String>,
}

impl<'a> Load<'a> {
    fn start(cluster: &'a Cluster) -> Result<Self> {
        Self::start_in(cluster, "default", MARK)
    }

    /// The same on the `server` of another namespace, with something else to say.
    pub(super) fn start_in(cluster: &'a Cluster, namespace: &str, mark: &str) -> Result<Self> {
        cluster.apply(&LOAD.replace("NAMESPACE", namespace).replace("MARK", mark))?;
        let within = format!("--namespace={namespace}");
        let ready = ["wait", &within, "--for=condition=Ready", "pod/load", "--timeout=50s"];
        cluster.kubectl(&ready)?.success()?;
        let uid = cluster.kubectl(&["get", "pod/load", &within, "--output=jsonpath={.metadata.uid}"])?.success()?;
        let log = cluster.nodes()[0].folder().join(format!("logs/{namespace}_load_{uid}/load/0.log"));
        let load = Self { cluster, namespace: namespace.to_owned(), log };
        load.go_on(1)?;
        Ok(load)
    }

    /// How it went until now.
    pub(super) fn outcome(&self) -> Result<Outcome> {
        let text = fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        let mut outcome = Outcome::default();
        // Each line begins with the time, the stream, and whether it is whole.
        for line in text.lines() {
            match line.splitn(4, ' ').nth(3) {
                Some("good") => outcome.good += 1,
                Some(_) => outcome.failed.push(line.to_owned()),
                None => {}
            }
        }
        Ok(outcome)
    }

    /// Waits until so many more have gone well.
    pub(super) fn go_on(&self, requests: usize) -> Result<()> {
        let before = self.outcome()?.good;
        eventually_within(PATIENCE, &format!("{requests} more requests are answered"), || {
            Ok((self.outcome()?.good >= before + requests).then_some(()))
        })
    }

    pub(super) fn stop(self) -> Result<Outcome> {
        let outcome = self.outcome()?;
        self.cluster.kubectl(&["delete", "pod/load", "--namespace", &self.namespace, "--now", "--wait"])?.success()?;
        Ok(outcome)
    }
}

const LOAD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: load, namespace: NAMESPACE}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers:
    - name: load
      image: localhost/weft-test/client:1
      args: ["while true; do curl -sS --max-time 5 -o /dev/null -H 'mark: MARK' http://server:8080 && echo good; done"]
"#;

/// Checks that nothing of what clients say has passed between the nodes in clear, and that something has passed at all.
pub(super) fn is_never_in_clear(recording: &Recording) -> Result<()> {
    ensure!(recording.lost == 0, "{} packets were not recorded, so nothing can be said about them", recording.lost);
    let in_clear = recording.streams.iter().find(|stream| stream.contains(MARK.as_bytes()));
    ensure!(in_clear.is_none(), "in clear: {:?}", in_clear.map(|stream| (stream.from, stream.to)));
    let tunnelled: u64 = recording.on_port(15008).map(|stream| stream.len()).sum();
    ensure!(tunnelled > 0, "nothing passed through a tunnel, so nothing was shown");
    Ok(())
}

#[test]
fn a_namespace_joins_works_and_leaves_under_load_without_a_failed_request() -> Result<()> {
    let cluster = shop()?;
    cluster.install_weft(&["crds.install=true"])?;
    let load = Load::start(&cluster)?;
    let tap = cluster.record_fabric()?;
    load.go_on(20)?;
    ensure!(tap.stop()?.contains(MARK.as_bytes()), "outside the mesh requests are not seen, so nothing could be shown");

    label(&cluster, true)?;
    wait_until_captured(&cluster, true)?;
    // The last connection from before may still be open.
    load.go_on(20)?;
    let tap = cluster.record_fabric()?;
    load.go_on(50)?;
    cluster.kubectl(&["scale", "deployment/server", "--replicas=4"])?.success()?;
    cluster.kubectl(&["rollout", "status", "deployment/server", "--timeout=55s"])?.success()?;
    load.go_on(50)?;
    // From here on the mesh takes nothing else.
    cluster.apply(STRICT)?;
    load.go_on(50)?;
    probes_go_on(&cluster)?;
    load.go_on(20)?;
    is_never_in_clear(&tap.stop()?)?;
    let outcome = load.stop()?;
    ensure!(outcome.failed.is_empty(), "{outcome:#?}");

    cluster.kubectl(&["delete", "peerauthentication/default"])?.success()?;
    let load = Load::start(&cluster)?;
    label(&cluster, false)?;
    wait_until_captured(&cluster, false)?;
    load.go_on(50)?;
    let outcome = load.stop()?;
    ensure!(outcome.failed.is_empty(), "{outcome:#?}");
    Ok(())
}

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
";

/// Under STRICT the kubelet reaches its pods, and others who speak in clear do not.
fn probes_go_on(cluster: &Cluster) -> Result<()> {
    cluster.apply(PROBED)?;
    let ready = ["wait", "--for=condition=Ready", "pod/probed", "--timeout=50s"];
    cluster.kubectl(&ready)?.success()?;
    let address = cluster.kubectl(&["get", "pod/probed", "--output=jsonpath={.status.podIP}"])?.success()?;
    let mut curl = cluster.nodes()[0].command("curl")?;
    curl.args(["-sS", "--max-time", "5", &format!("http://{address}:8080")]).process_group(0);
    let refused = Process::spawn(curl)?.finish_within(PATIENCE)?;
    ensure!(!refused.status.success(), "a process of the node that is no kubelet reached the pod in clear");
    // Each of its probes runs every second, and one failure is enough.
    sleep(Duration::from_secs(5));
    let path = "--output=jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
    let stands = cluster.kubectl(&["get", "pod/probed", path])?.success()?;
    ensure!(stands == "0 true", "restarts and readiness of the probed pod: {stands}");
    Ok(())
}

/// A pod with probes by HTTP, by TCP and by a command.
const PROBED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: server
      image: localhost/weft-test/server:1
      readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 1}
      livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 1}
      startupProbe: {exec: {command: [bash, -c, "exit 0"]}, periodSeconds: 1}
"#;

#[test]
fn pods_that_speak_in_their_first_millisecond_are_neither_refused_nor_heard() -> Result<()> {
    let cluster = shop_in_the_mesh()?;
    cluster.apply(STRICT)?;
    let tap = cluster.record_fabric()?;
    let began = Instant::now();
    // The address of the service: the very first thing that a pod does is to connect.
    let server = cluster.kubectl(&["get", "service/server", "--output=jsonpath={.spec.clusterIP}"])?.success()?;
    cluster.apply(&WAVES.replace("SERVER", &server).replace("MARK", MARK))?;
    let done = eventually_within(Duration::from_secs(400), "all pods have ended", || {
        let path = "--output=jsonpath={.status.succeeded} {.status.failed}";
        let ended = cluster.kubectl(&["get", "job/waves", path])?.success()?;
        let (succeeded, failed) = ended.split_once(' ').unwrap_or((&ended, ""));
        let count = |text: &str| text.parse::<usize>().unwrap_or(0);
        Ok((count(succeeded) + count(failed) >= 200).then_some((count(succeeded), count(failed))))
    })?;
    println!("200 pods in waves of 50: after {:.0} s", began.elapsed().as_secs_f32());
    ensure!(done == (200, 0), "of 200 pods that connect at once (succeeded, failed): {done:?}");
    is_never_in_clear(&tap.stop()?)
}

const WAVES: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: waves}
spec:
  parallelism: 50
  completions: 200
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers:
        - name: client
          image: localhost/weft-test/client:1
          args: ["curl -sS --max-time 10 -o /dev/null -H 'mark: MARK' http://SERVER:8080"]
"#;

#[test]
fn what_fails_fails_closed_and_comes_back() -> Result<()> {
    let cluster = shop_in_the_mesh()?;
    let tap = cluster.record_fabric()?;
    let load = Load::start(&cluster)?;
    let mut before = load.outcome()?;
    let mut lasted = |what: &str| -> Result<usize> {
        let now = load.outcome()?;
        let failed = now.failed.len() - before.failed.len();
        println!("{what}: {} requests answered, {failed} lines of failures", now.good - before.good);
        before = now;
        Ok(failed)
    };

    // The controllers go: everything known goes on.
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        cluster.kubectl(&["scale", "deployment/weft-controller", "--namespace=weft-system", &replicas])?.success()
    };
    scale("0")?;
    load.go_on(100)?;
    ensure!(lasted("without controllers")? == 0, "{:#?}", load.outcome()?);
    scale("2")?;

    // The API server goes too.
    let control = cluster.control_plane();
    control.stop_service("kube-apiserver")?;
    load.go_on(50)?;
    control.start_service("kube-apiserver")?;
    eventually_within(PATIENCE, "the API server answers again", || {
        Ok(cluster.kubectl(&["get", "nodes", "--request-timeout=2s"])?.status.success().then_some(()))
    })?;
    ensure!(lasted("without the API server")? == 0, "{:#?}", load.outcome()?);

    // Every agent is replaced by a new one, which takes over from it.
    let agents = ["rollout", "restart", "daemonset/weft-agent", "--namespace=weft-system"];
    cluster.kubectl(&agents)?.success()?;
    // One node after the other, and on each the old agent drains.
    let status = ["rollout", "status", "daemonset/weft-agent", "--namespace=weft-system", "--timeout=20s"];
    eventually_within(Duration::from_secs(150), "every agent is replaced", || {
        Ok(cluster.kubectl(&status)?.status.success().then_some(()))
    })?;
    load.go_on(50)?;
    ensure!(lasted("while all agents were replaced")? == 0, "{:#?}", load.outcome()?);

    // A node loses its power, and comes back.
    let node = &cluster.nodes()[1];
    node.reboot()?;
    all_ready(&cluster, node)?;
    load.go_on(50)?;
    lasted("while a node was started again")?;
    load.stop()?;
    is_never_in_clear(&tap.stop()?)
}

/// Waits until all pods of a node are ready, those of the shop in the mesh.
fn all_ready(cluster: &Cluster, node: &Machine) -> Result<()> {
    let selector = format!("--field-selector=spec.nodeName={}", node.name());
    let ready = r#"--output=jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}"#;
    let started = eventually_within(PATIENCE, "the node's pods are ready again", || {
        let path = "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let restarts = cluster.kubectl(&["get", "pods", &selector, path])?.success()?;
        let ready = cluster.kubectl(&["get", "pods", "--all-namespaces", &selector, ready])?.success()?;
        let all = |text: &str, is: &dyn Fn(&str) -> bool| !text.is_empty() && text.split_whitespace().all(is);
        Ok((all(&restarts, &|count| count != "0") && all(&ready, &|ready| ready == "True")).then_some(()))
    });
    started.with_context(|| node.name().to_owned())?;
    wait_until_captured(cluster, true)
}
