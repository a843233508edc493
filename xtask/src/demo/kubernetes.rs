//! `cargo xtask demo --kubernetes`: the same story on a real Kubernetes, by kubectl and Helm.

use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::{Cluster, ClusterOptions, clusters, remove_cluster};
use weft_tests::tap::Recording;
use weft_tests::{Finished, Process, eventually_within};

use super::stage::Stage;
use crate::cluster::kit;
use crate::image;

/// The cluster's name, under which `cargo xtask cluster --name demo` finds it.
const NAME: &str = "demo";

/// Long enough for pods to start on a small machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the client says, and is looked for on the wire.
const SECRET: &str = "purchase price";

/// A server on each node with a service in front, and a client on the first node.
const SHOP: &str = include_str!("../../../tests/cluster/shop.yaml");

const STRICT: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
";

const NOBODY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: default}
spec: {}
";

/// A step: its title, and what happens in it.
type Step = (&'static str, fn(&mut Scene, &mut Stage) -> Result<()>);

const STEPS: &[Step] = &[
    ("A real Kubernetes with a shop in it", introduce),
    ("Before the mesh: everything is in clear", in_clear),
    ("One installation by Helm", install),
    ("One label, and the next connection is in a tunnel", enroll),
    ("New pods are in the mesh before they start", scale),
    ("Strict: the kubelet reaches its pods, and others in clear do not", strict),
    ("A policy: nobody may call", policy),
    ("An agent is killed: refused, not in clear, and then it is back", kill),
    ("What an operator sees", operate),
    ("Uninstalled: the nodes are as they were", uninstall),
];

/// What the story happens in.
struct Scene {
    cluster: Cluster,
    agent: PathBuf,
    /// The server on the node that the client is not on.
    server: IpAddr,
}

/// Plays the story. With `keep` the cluster is left as it is before Weft would be uninstalled.
pub(super) fn run(agent: &Path, keep: bool) -> Result<()> {
    ensure!(
        !clusters().iter().any(|known| known == NAME),
        "the cluster of an earlier demo is there: `cargo xtask demo --remove` takes it down"
    );
    let kit = kit()?;
    image::write(agent, image::TAG, &image::default_output()?)?;
    let steps = if keep { &STEPS[..STEPS.len() - 1] } else { STEPS };
    let mut stage = Stage::new(steps.len());
    let cluster = Cluster::start(&kit, &ClusterOptions { name: NAME.to_owned(), ..ClusterOptions::default() })?;
    let mut scene = Scene { cluster, agent: agent.to_owned(), server: IpAddr::from([0; 4]) };
    for (title, step) in steps {
        stage.step(title);
        step(&mut scene, &mut stage)?;
    }
    stage.end();
    if keep {
        scene.cluster.keep()?;
        let weft = agent.display();
        stage.list(
            "The cluster goes on running. To look around:",
            &[
                ("everything in it", "cargo xtask cluster --name demo kubectl get pods --all-namespaces --output wide"),
                (
                    "call the service",
                    "cargo xtask cluster --name demo kubectl exec client -- curl -s http://server:8080",
                ),
                (
                    "ask an agent",
                    "cargo xtask cluster --name demo kubectl exec -n weft-system daemonset/weft-agent -- /weft status",
                ),
                (
                    "take the namespace out of the mesh",
                    "cargo xtask cluster --name demo kubectl label ns default istio.io/dataplane-mode-",
                ),
                ("the operator's commands", &format!("{weft} --help")),
                ("remove it all", "cargo xtask demo --remove"),
            ],
        );
    }
    Ok(())
}

/// Removes what a run with `keep` left. Returns whether there was anything.
pub(super) fn remove() -> bool {
    let is_there = clusters().iter().any(|known| known == NAME);
    if is_there {
        remove_cluster(NAME);
    }
    is_there
}

impl Scene {
    /// Runs kubectl, shows what it was told and what it said, and expects it to work.
    fn kubectl(&self, stage: &Stage, arguments: &[&str]) -> Result<String> {
        let finished = self.cluster.kubectl(arguments)?;
        stage.show("you", &format!("kubectl {}", arguments.join(" ")), &finished);
        finished.success()
    }

    /// The client calls an address, and what it says is shown.
    fn call(&self, stage: &Stage, host: &str) -> Result<Finished> {
        let line = format!("curl -sS --max-time 5 -H 'note: {SECRET}' http://{host}:8080");
        let finished = self.cluster.kubectl(&["exec", "client", "--", "bash", "-c", &line])?;
        stage.show("client", &line, &finished);
        Ok(finished)
    }

    /// The same while the network between the nodes is listened to.
    fn call_and_listen(&self, stage: &Stage) -> Result<Recording> {
        let tap = self.cluster.record_fabric()?;
        self.call(stage, &self.server.to_string())?.success()?;
        tap.stop()
    }

    fn wait_until_captured(&self, count: usize) -> Result<()> {
        eventually_within(PATIENCE, &format!("{count} pods are captured"), || {
            let path = r"--output=jsonpath={.items[*].metadata.annotations.ambient\.istio\.io/redirection}";
            let captured = self.cluster.kubectl(&["get", "pods", path])?.success()?;
            Ok((captured.split_whitespace().count() == count).then_some(()))
        })
    }

    /// The agent's own program, as an operator's tool with the administrator's kubeconfig.
    fn weft(&self, stage: &Stage, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.cluster.command(&self.agent.to_string_lossy())?;
        command.args(arguments).arg("--kubeconfig").arg(self.cluster.kubeconfig()).process_group(0);
        let finished = Process::spawn(command)?.finish_within(PATIENCE)?;
        stage.show("you", &format!("weft {}", arguments.join(" ")), &finished);
        Ok(finished)
    }
}

fn introduce(scene: &mut Scene, stage: &mut Stage) -> Result<()> {
    stage.say(
        "An API server, two nodes with kubelets, containerd, kube-proxy and CNI plug-ins, and CoreDNS, all of them what \
         clusters run, in namespaces of this machine. In it a server on each node with a service in front, and a client.",
    );
    scene.cluster.apply(SHOP)?;
    let ready = ["wait", "--for=condition=Ready", "pod", "--all", "--timeout=55s"];
    scene.cluster.kubectl(&ready)?.success()?;
    scene.kubectl(stage, &["get", "pods", "--output=wide"])?;
    let path = "--output=jsonpath={.items[?(@.spec.nodeName==\"node2\")].status.podIP}";
    let address = scene.cluster.kubectl(&["get", "pods", "--selector=app=server", path])?.success()?;
    scene.server = address.trim().parse().with_context(|| format!("the server's address {address:?}"))?;
    stage.check("all pods of the shop are ready", Ok(true))
}

fn in_clear(scene: &mut Scene, stage: &mut Stage) -> Result<()> {
    stage.say("The client calls the server on the other node, while we listen on the network between them.");
    let recording = scene.call_and_listen(stage)?;
    stage.check("what the client says passed in clear", Ok(recording.contains(SECRET.as_bytes())))
}

fn install(scene: &mut Scene, stage: &mut Stage) -> Result<()> {
    stage.say("A controller, twice, and an agent on each node. No pod is touched by it.");
    println!("    you $ helm install weft deploy/chart --namespace weft-system --set crds.install=true --wait");
    scene.cluster.install_weft(&["crds.install=true"])?;
    scene.kubectl(stage, &["get", "pods", "--namespace=weft-system", "--output=wide"])?;
    let path = "--output=jsonpath={.status.numberReady}";
    let ready = eventually_within(PATIENCE, "both agents are ready", || {
        let ready = ["get", "daemonset/weft-agent", "--namespace=weft-system", path];
        Ok((scene.cluster.kubectl(&ready)?.success()? == "2").then_some(true))
    });
    stage.check("an agent is ready on each node", ready)
}

fn enroll(scene: &mut Scene, stage: &mut Stage) -> Result<()> {
    stage.say(
        "The pods that run there are captured where they are. None is restarted; the server goes on seeing the client's \
         own address.",
    );
    let before =
        scene.cluster.kubectl(&["get", "pod/client", "--output=jsonpath={.status.podIPs[*].ip}"])?.success()?;
    scene.kubectl(stage, &["label", "namespace/default", "istio.io/dataplane-mode=ambient"])?;
    stage.check("the pods are captured", scene.wait_until_captured(3).map(|()| true))?;
    let recording = eventually_within(PATIENCE, "the next connection is in a tunnel", || {
        let recording = scene.call_and_listen(stage)?;
        let is_tunnelled = recording.on_port(15008).next().is_some();
        Ok(is_tunnelled.then_some(recording))
    })?;
    stage.check("what the client says passed in no stream in clear", Ok(!recording.contains(SECRET.as_bytes())))?;
    let said = scene.call(stage, &scene.server.to_string())?.success()?;
    let seen = said.split_whitespace().last().unwrap_or_default();
    stage.check("the server sees the client's own address", Ok(before.split_whitespace().any(|own| own == seen)))
}

fn scale(scene: &mut Scene, stage: &mut Stage) -> Result<()> {
    stage.say("The CNI plug-in asks the node's agent of each new pod, and the pod's first process starts when it is captured.");
    scene.kubectl(stage, &["scale", "deployment/server", "--replicas=4"])?;
    scene.kubectl(stage, &["rollout", "status", "deployment/server", "--timeout=55s"])?;
    stage.check("all five pods are captured", scene.wait_until_captured(5).map(|()| true))
}

fn strict(scene: &mut Scene, stage: &mut Stage) -> Result<()> {
    stage.say("From now on these pods take nothing but mutual TLS. The probes of their kubelets go on.");
    scene.cluster.apply(STRICT)?;
    stage.quote(&STRICT.lines().collect::<Vec<_>>());
    let refused = eventually_within(PATIENCE, "a process of the node is refused", || {
        let mut curl = scene.cluster.nodes()[1].command("curl")?;
        curl.args(["-sS", "--max-time", "3", &format!("http://{}:8080", scene.server)]).process_group(0);
        let finished = Process::spawn(curl)?.finish_within(PATIENCE)?;
        Ok((!finished.status.success()).then_some(finished))
    })?;
    stage.show("node2", &format!("curl http://{}:8080", scene.server), &refused);
    stage.check("a process of the node, in clear, is refused", Ok(true))?;
    std::thread::sleep(Duration::from_secs(4));
    let ready = scene.kubectl(stage, &["get", "deployment/server"])?;
    stage.check("the probes go on: all servers are ready", Ok(ready.contains("4/4")))?;
    let answer = scene.call(stage, "server")?;
    stage.check("the client is answered", Ok(answer.status.success()))
}

fn policy(scene: &mut Scene, stage: &mut Stage) -> Result<()> {
    stage.say("An ALLOW policy without rules allows nobody. Policies say in their status whether they are in force.");
    scene.cluster.apply(NOBODY)?;
    stage.quote(&NOBODY.lines().collect::<Vec<_>>());
    let refused = eventually_within(PATIENCE, "the client is refused", || {
        let answer = scene.cluster.kubectl(&["exec", "client", "--", "curl", "-sS", "http://server:8080"])?;
        Ok((!answer.status.success()).then_some(true))
    });
    stage.check("the client is refused", refused)?;
    scene.call(stage, "server")?;
    let path = "--output=jsonpath={.status.conditions[0].type} {.status.conditions[0].status}: {.status.conditions[0].message}";
    let stands = eventually_within(PATIENCE, "the policy's status says so", || {
        let status = scene.cluster.kubectl(&["get", "authorizationpolicy/nobody", path])?.success()?;
        Ok(status.contains("True").then_some(status))
    })?;
    stage.quote(&[&stands]);
    scene.kubectl(stage, &["delete", "authorizationpolicy/nobody"])?;
    let answered = eventually_within(PATIENCE, "the client is answered again", || {
        let answer = scene.cluster.kubectl(&["exec", "client", "--", "curl", "-sS", "http://server:8080"])?;
        Ok(answer.status.success().then_some(true))
    });
    stage.check("without it the client is answered", answered)
}

fn kill(scene: &mut Scene, stage: &mut Stage) -> Result<()> {
    stage.say("The agent of the client's node is deleted at once. What captures is in the kernel, and nobody listens.");
    let tap = scene.cluster.record_fabric()?;
    let path = "--output=jsonpath={.items[?(@.spec.nodeName==\"node1\")].metadata.name}";
    let agents = ["get", "pods", "--namespace=weft-system", "--selector=app.kubernetes.io/name=weft-agent", path];
    let agent = scene.cluster.kubectl(&agents)?.success()?;
    scene.kubectl(stage, &["delete", "pod", agent.trim(), "--namespace=weft-system", "--now", "--wait=false"])?;
    let back = eventually_within(PATIENCE, "the client is answered again", || {
        let answer =
            scene.cluster.kubectl(&["exec", "client", "--", "curl", "-sS", "--max-time", "2", "http://server:8080"])?;
        let successor = scene.cluster.kubectl(&agents)?.success()?;
        Ok((answer.status.success() && successor.trim() != agent.trim()).then_some(true))
    });
    stage.check("its successor is there, and the client is answered", back)?;
    let recording = tap.stop()?;
    let in_clear = recording.streams.iter().any(|stream| stream.contains(b"GET / HTTP"));
    stage.check("meanwhile nothing passed in clear", Ok(!in_clear && recording.lost == 0))
}

fn operate(scene: &mut Scene, stage: &mut Stage) -> Result<()> {
    stage.say("The same program asks all agents at once, from wherever there is a kubeconfig.");
    let status = eventually_within(PATIENCE, "all agents answer", || {
        let mut command = scene.cluster.command(&scene.agent.to_string_lossy())?;
        command.args(["status", "--kubernetes", "--kubeconfig"]).arg(scene.cluster.kubeconfig()).process_group(0);
        Ok(Process::spawn(command)?.finish_within(PATIENCE)?.status.success().then_some(true))
    });
    scene.weft(stage, &["status", "--kubernetes"])?;
    stage.check("all is well on all nodes", status)?;
    let certificates = scene.weft(stage, &["certificates", "--kubernetes"])?;
    stage.check("each node has a certificate for what runs on it", Ok(certificates.stdout.contains("spiffe://")))
}

fn uninstall(scene: &mut Scene, stage: &mut Stage) -> Result<()> {
    stage.say("Before Helm deletes anything every agent lets go of its pods and clears its node.");
    println!("    you $ helm uninstall weft --namespace weft-system --wait");
    scene.cluster.uninstall_weft()?;
    let recording = scene.call_and_listen(stage)?;
    stage.check("the pods go on, in clear as before", Ok(recording.contains(SECRET.as_bytes())))?;
    let mut find = scene.cluster.nodes()[0].command("find")?;
    find.args(["/sys/fs/bpf/weft", "/opt/cni/bin/weft-cni", "/var/lib/weft", "-mindepth", "1"]).process_group(0);
    let left = Process::spawn(find)?.finish_within(PATIENCE)?.stdout;
    stage.check("no program, plug-in or file is left on the node", Ok(left.trim().is_empty()))
}
