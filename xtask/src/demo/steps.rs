//! The story, step by step.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use weft_tests::tap::{Recording, Stream};
use weft_tests::{Finished, Pod, eventually};

use super::shop::{NAMESPACE, Shop};
use super::stage::Stage;

/// A step: its title, and what happens in it.
type Step = (&'static str, fn(&mut Shop, &mut Stage) -> Result<()>);

/// All steps, in order.
pub(super) const STEPS: &[Step] = &[
    ("A shop on two nodes", introduce),
    ("Before the mesh: everything is in clear", in_clear),
    ("One label, and the next connection is in a tunnel", enrol),
    ("The shop's service address leads to a ready pod", service),
    ("Strict: who is outside the mesh is refused", strict),
    ("A policy: only the frontend may ask for prices", policy),
    ("The agent is killed: refused, not in clear", kill),
    ("The agent is back", restart),
    ("What an operator sees", operate),
];

const SECRET: &[u8] = b"purchase price";

fn introduce(shop: &mut Shop, stage: &mut Stage) -> Result<()> {
    stage.say(
        "Nodes and pods are network namespaces on this machine, joined by bridges; each node runs the agent that is \
         shipped, configured by a folder of Kubernetes manifests. The catalogue is nginx, the others call it with curl. \
         Nobody is in the mesh yet.",
    );
    let lines = [
        format!(
            "node a: frontend {}, visitor {}, outsider {}",
            shop.frontend.ip(),
            shop.visitor.ip(),
            shop.outsider.ip()
        ),
        format!("node b: catalogue-1 {}, catalogue-2 {}", shop.catalogue[0].ip(), shop.catalogue[1].ip()),
        format!("service catalogue: {}", shop.service),
        format!("manifests: {}", shop.world.config().path().display()),
    ];
    stage.quote(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let is_ready = shop.agent_a.is_ready() && shop.agent_b.is_ready();
    stage.check("both agents are ready", Ok(is_ready))
}

fn in_clear(shop: &mut Shop, stage: &mut Stage) -> Result<()> {
    stage.say("The frontend asks the catalogue for its prices, while we listen on the network between the nodes.");
    let recording = ask_and_listen(shop, stage, 0)?;
    stage.say("The network has seen:");
    let clear: Vec<String> = recording.on_port(80).flat_map(lines_of).filter(|line| !line.is_empty()).collect();
    stage.quote(&clear.iter().map(String::as_str).take(6).collect::<Vec<_>>());
    stage.check("the shop's secrets passed in clear", Ok(recording.contains(SECRET)))
}

fn enrol(shop: &mut Shop, stage: &mut Stage) -> Result<()> {
    stage.say(
        "The namespace gets the label istio.io/dataplane-mode: ambient. No pod is restarted, nothing in them changes; \
         the kernel hands their next connections to the agent, which carries them under mutual TLS, with an identity for \
         each pod.",
    );
    shop.world.enrol(NAMESPACE)?;
    stage.check("both agents have captured the pods", shop.wait_in_mesh().map(|()| true))?;
    let recording = ask_and_listen(shop, stage, 0)?;
    let (client, server) = (shop.frontend.ip(), shop.catalogue[0].ip());
    let tunnel: Vec<&Stream> = recording.between(client, server).collect();
    stage.say("The network has seen:");
    let bytes: Vec<String> = tunnel.iter().map(|stream| describe(stream)).collect();
    stage.quote(&bytes.iter().map(String::as_str).collect::<Vec<_>>());
    stage.check(
        "nothing but TLS passed between the two, on port 15008",
        recording.is_only_tls(client, server, 15008).map(|()| true),
    )?;
    stage.check("the secret is not in it", Ok(!recording.contains(SECRET)))
}

fn service(shop: &mut Shop, stage: &mut Stage) -> Result<()> {
    stage.say("Through the service's address the agent chooses a ready pod, each in turn.");
    let mut answered = BTreeSet::new();
    for _ in 0..6 {
        let text = shop.ask(&shop.frontend, shop.service)?.success()?;
        answered.extend(text.lines().filter(|line| line.starts_with("served by")).map(str::to_owned));
    }
    println!("    frontend $ {} (six times)", Shop::curl(shop.service));
    stage.quote(&answered.iter().map(String::as_str).collect::<Vec<_>>());
    stage.check("both pods of the catalogue have answered", Ok(answered.len() == 2))?;
    stage.say("A pod that is not ready gets no connections.");
    shop.catalogue[1].set_ready(false)?;
    shop.agent_a.wait_for_endpoints("catalogue", &["ready", "not_ready"])?;
    let only_first = (0..6).all(|_| {
        let answer = shop.ask(&shop.frontend, shop.service).and_then(Finished::success);
        answer.is_ok_and(|text| text.contains("served by catalogue-1"))
    });
    stage.check("only catalogue-1 answers", Ok(only_first))?;
    shop.catalogue[1].set_ready(true)?;
    shop.agent_a.wait_for_endpoints("catalogue", &["ready", "ready"])
}

fn policy(shop: &mut Shop, stage: &mut Stage) -> Result<()> {
    stage.say("So far the visitor, a pod of the same namespace, may ask as well.");
    let answer = shop.ask(&shop.visitor, shop.service)?;
    stage.check("the visitor gets an answer", Ok(answer.status.success()))?;
    let manifest = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: only-the-frontend
  namespace: shop
spec:
  selector:
    matchLabels:
      app: catalogue
  action: ALLOW
  rules:
    - from:
        - source:
            principals: [\"cluster.local/ns/shop/sa/frontend\"]
";
    stage.say("This file is added to the manifests:");
    stage.quote(&manifest.lines().collect::<Vec<_>>());
    let mark = shop.agent_b.log_length();
    shop.world.config().put("only-the-frontend", manifest)?;
    shop.agent_b.wait_for_policy("shop/only-the-frontend")?;
    let at = shop.service;
    let denied = shop.ask(&shop.visitor, at)?;
    stage.show("visitor", &Shop::curl(at), &denied);
    stage.check("the visitor is refused", Ok(!denied.status.success()))?;
    let allowed = shop.ask(&shop.frontend, at)?;
    stage.show("frontend", &Shop::curl(at), &allowed);
    stage.check("the frontend is not", Ok(allowed.status.success()))?;
    let line = shop.agent_b.wait_for_log_since(mark, &["sa/visitor", "error"]);
    if let Ok(line) = &line {
        stage.say("The log of node b says:");
        stage.quote_log(line);
    }
    stage.check("the log says who was denied and why", line.map(|_| true))
}

fn strict(shop: &mut Shop, stage: &mut Stage) -> Result<()> {
    stage.say(
        "A pod of another namespace, outside the mesh, can still ask in clear: a mesh that grows must not break it.",
    );
    let at = SocketAddr::new(shop.catalogue[0].ip(), 80);
    let answer = shop.ask(&shop.outsider, at)?;
    stage.check("the outsider gets an answer", Ok(answer.status.success()))?;
    let manifest = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: shop
spec:
  mtls:
    mode: STRICT
";
    stage.say("Until this file is added to the manifests:");
    stage.quote(&manifest.lines().collect::<Vec<_>>());
    let mark = shop.agent_b.log_length();
    shop.world.config().put("strict", manifest)?;
    let refused = eventually("STRICT is in force", || {
        let answer = shop.ask(&shop.outsider, at)?;
        Ok((!answer.status.success()).then_some(answer))
    });
    if let Ok(refused) = &refused {
        stage.show("outsider", &Shop::curl(at), refused);
    }
    stage.check("the outsider is refused", refused.map(|_| true))?;
    let line = shop.agent_b.wait_for_log_since(mark, &[&shop.outsider.ip().to_string(), "connection failed"]);
    if let Ok(line) = &line {
        stage.say("The log of node b says:");
        stage.quote_log(line);
    }
    stage.check("the log says why", line.map(|_| true))?;
    let allowed = shop.ask(&shop.frontend, shop.service)?;
    stage.check("the frontend is served as before", Ok(allowed.status.success()))
}

fn kill(shop: &mut Shop, stage: &mut Stage) -> Result<()> {
    stage.say("SIGKILL to the agent of the frontend's node. Its programs stay in the kernel, and with them capture.");
    shop.agent_a.kill()?;
    let tap = shop.a.tap()?;
    let at = SocketAddr::new(shop.catalogue[0].ip(), 80);
    let refused = shop.ask(&shop.frontend, at)?;
    stage.show("frontend", &Shop::curl(at), &refused);
    stage.check("the connection is refused", Ok(!refused.status.success()))?;
    let recording = tap.stop()?;
    let bytes: u64 = recording.between(shop.frontend.ip(), at.ip()).map(Stream::len).sum();
    stage.check(&format!("{bytes} bytes of it went out"), Ok(bytes == 0))
}

fn restart(shop: &mut Shop, stage: &mut Stage) -> Result<()> {
    stage.say("A new agent takes over what the old one left in the kernel. The pods notice nothing.");
    shop.agent_a.restart()?;
    shop.wait_in_mesh()?;
    let answer = shop.ask(&shop.frontend, shop.service)?;
    stage.show("frontend", &Shop::curl(shop.service), &answer);
    stage.check("the frontend is served again", Ok(answer.status.success()))
}

fn operate(shop: &mut Shop, stage: &mut Stage) -> Result<()> {
    stage.say("Each agent answers its operator on its own node.");
    for command in [&["status"][..], &["workloads"], &["services"], &["policies"], &["certificates"]] {
        let finished = shop.agent_b.cli(command)?;
        stage.show("node b", &format!("weft {}", command.join(" ")), &finished);
        stage.check(&format!("weft {} answers", command.join(" ")), Ok(finished.status.success()))?;
    }
    let metrics = shop.agent_b.metrics()?;
    let opened = [("source_workload", "frontend"), ("connection_security_policy", "mutual_tls")];
    let count = metrics.sum("istio_tcp_connections_opened_total", &opened);
    stage.check(
        &format!("the metrics of node b count {count} connections of the frontend under mutual TLS"),
        Ok(count >= 1.0),
    )
}

/// Asks for the prices at a pod of the catalogue, and checks answer and addresses.
fn ask_and_listen(shop: &mut Shop, stage: &mut Stage, pod: usize) -> Result<Recording> {
    let at = SocketAddr::new(shop.catalogue[pod].ip(), 80);
    let before = shop.servers[pod].log().lines().count();
    let tap = shop.b.tap()?;
    let answer = shop.ask(&shop.frontend, at)?;
    stage.show("frontend", &Shop::curl(at), &answer);
    let recording = tap.stop()?;
    stage.check("the catalogue answers", Ok(answer.status.success()))?;
    let line = eventually("nginx has logged the request", || {
        Ok(shop.servers[pod].log().lines().nth(before).map(str::to_owned))
    })?;
    stage.say("nginx has logged:");
    stage.quote(&[line.as_str()]);
    stage.check("nginx sees the frontend's own address", is_from(&line, &shop.frontend))?;
    Ok(recording)
}

fn is_from(line: &str, pod: &Pod) -> Result<bool> {
    let expected = format!("{}:", pod.ip());
    ensure!(line.starts_with(&expected), "{line:?} does not begin with {expected}");
    Ok(true)
}

fn lines_of(stream: &Stream) -> Vec<String> {
    String::from_utf8_lossy(&stream.bytes()).lines().map(str::to_owned).collect()
}

fn describe(stream: &Stream) -> String {
    let start: Vec<String> = stream.bytes().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("{} -> {}: {} bytes, beginning {} ...", stream.from, stream.to, stream.len(), start.join(" "))
}
