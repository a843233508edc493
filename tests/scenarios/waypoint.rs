//! A service behind a waypoint: real clients and servers, the agents of two nodes, and the waypoint as a pod between them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{Agent, Host, Node, Pod, PodSpec, Process, ServiceSpec, World, eventually, nginx, weft_binary};

use crate::pair::NAMESPACE;

/// The namespace has the waypoint `edge`. `web` is routed to `web-v2` where a header asks for it, else to `web-v1`.
struct Mesh {
    agents: [Agent; 2],
    waypoint: Process,
    client: Pod,
    edge: Pod,
    v1: Pod,
    _v2: Pod,
    _servers: [weft_tests::Nginx; 2],
    _nodes: [Node; 2],
    url: String,
    world: World,
}

const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: weft-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules:
    - matches: [{headers: [{name: x-version, value: v2}]}]
      backendRefs: [{name: web-v2, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /old}}]
      filters:
        - type: RequestRedirect
          requestRedirect: {statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
    - backendRefs: [{name: web-v1, port: 80}]
";

impl Mesh {
    fn start() -> Result<Self> {
        let world = World::new()?;
        world.namespace(NAMESPACE, &[("istio.io/dataplane-mode", "ambient"), ("istio.io/use-waypoint", "edge")])?;
        let nodes = [world.node("a")?, world.node("b")?];
        let spec = |name: &str| PodSpec::new(name).namespace(NAMESPACE).service_account(name);
        let client = nodes[0].pod(spec("client"))?;
        let edge = spec("edge")
            .label("gateway.networking.k8s.io/gateway-name", "edge")
            .label("gateway.networking.k8s.io/gateway-class-name", "weft-waypoint");
        let edge = nodes[0].pod(edge)?;
        let [v1, v2] = [nodes[1].pod(spec("web-v1"))?, nodes[1].pod(spec("web-v2"))?];
        for name in ["web-v1", "web-v2"] {
            world.service(&ServiceSpec::new(name).namespace(NAMESPACE).http_port(80, 8080))?;
        }
        world.service(&ServiceSpec::new("edge").namespace(NAMESPACE).port(15008, 15008))?;
        let either = serde_json::json!({ "tier": "none" });
        let web = ServiceSpec::new("web").namespace(NAMESPACE).field("selector", either).http_port(80, 8080);
        let web = world.service(&web)?;
        world.config().put("routes", ROUTES)?;
        let servers = [serve(&v1, "v1")?, serve(&v2, "v2")?];
        let waypoint = start_waypoint(&world, &edge)?;
        let agents = [nodes[0].agent().start()?, nodes[1].agent().start()?];
        let url = format!("http://{}", web.first().context("the service has an address")?);
        let mesh = Self { agents, waypoint, client, edge, v1, _v2: v2, _servers: servers, _nodes: nodes, url, world };
        eventually("the service answers", || {
            ensure!(mesh.fetch(&mesh.client, &[])? == "v1", "another answer: {}", mesh.agents[0].log());
            Ok(Some(()))
        })?;
        Ok(mesh)
    }

    /// What the service answers.
    fn fetch(&self, from: &Host, arguments: &[&str]) -> Result<String> {
        let url = format!("{}/version", self.url);
        let all = [&["curl", "-sS", "-f", "--max-time", "10", &url], arguments].concat();
        from.run(&all)?.success()
    }
}

fn serve(pod: &Pod, version: &str) -> Result<weft_tests::Nginx> {
    let folder: PathBuf = pod.folder()?.join("files");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("version"), version)?;
    nginx(pod, 8080, &folder)
}

fn start_waypoint(world: &World, pod: &Pod) -> Result<Process> {
    let mut command = pod.command(weft_binary()?.to_str().context("a path in UTF-8")?)?;
    command.args(["waypoint", "--gateway", "shop/edge", "--access-log", "json", "--config"]);
    command.arg(world.config().path()).arg("--ca-dir").arg(world.ca_folder());
    let mut waypoint = Process::spawn(command)?;
    eventually("the waypoint takes tunnels", || {
        ensure!(waypoint.is_running()?, "it has ended: {}", waypoint.stderr());
        Ok(pod.listens_on(15008)?.then_some(()))
    })?;
    Ok(waypoint)
}

#[test]
fn requests_to_a_service_are_routed_by_its_waypoint() -> Result<()> {
    let mesh = Mesh::start()?;
    let second = mesh.fetch(&mesh.client, &["-H", "x-version: v2"]);
    let second = second.with_context(|| format!("{}{}", mesh.waypoint.stdout(), mesh.waypoint.stderr()))?;
    ensure!(second == "v2", "the header is not looked at: {second}");
    let old = format!("{}/old/page", mesh.url);
    let redirect = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", &old];
    let redirected = mesh.client.run(&redirect)?.success()?;
    ensure!(redirected == format!("301 {}/new/page", mesh.url), "{redirected}");
    // What is known of a request is what proves who has made it.
    let metrics = mesh.edge.run(&["curl", "-sS", "http://127.0.0.1:15020/metrics"])?.success()?;
    let counted = metrics.lines().find(|line| {
        let labels = ["reporter=\"waypoint\"", "source_principal=\"spiffe://cluster.local/ns/shop/sa/client\""];
        line.starts_with("istio_requests_total{")
            && labels.iter().all(|label| line.contains(label))
            && line.contains("destination_workload=\"web-v2\"")
            && line.contains("response_code=\"200\"")
    });
    ensure!(counted.is_some(), "the request is not counted: {metrics}");
    Ok(())
}

#[test]
fn nothing_gets_past_a_waypoint() -> Result<()> {
    let mut mesh = Mesh::start()?;
    // By the pod's own address the agent of the client goes through the waypoint as well.
    let direct = format!("http://{}/version", mesh.v1.at(8080));
    let fetched = mesh.client.run(&["curl", "-sS", "-f", "--max-time", "10", &direct])?.success()?;
    ensure!(fetched == "v1", "{fetched}");
    let log = mesh.waypoint.stdout();
    ensure!(log.contains("/version"), "the waypoint has no record of it: {log}");
    // Who has no agent is refused, with a reason that names the waypoint.
    let (outsider, _) = mesh.world.outside("stranger")?;
    let refused = outsider.run(&["curl", "-sS", "--max-time", "5", &direct])?;
    ensure!(refused.code() != 0, "a stranger got past the waypoint");
    mesh.agents[1].wait_for_log(&["must pass the waypoint shop/edge.shop.svc.cluster.local"])?;
    // Without the waypoint there is no way.
    mesh.waypoint.kill()?;
    ensure!(mesh.fetch(&mesh.client, &[]).is_err(), "it was answered without the waypoint");
    mesh.edge.set_ready(false)?;
    eventually("the refusal names the waypoint", || {
        ensure!(mesh.fetch(&mesh.client, &[]).is_err(), "it was answered without the waypoint");
        let log = mesh.agents[0].log();
        let reason = "connections must pass the waypoint shop/edge.shop.svc.cluster.local, and";
        Ok(log.contains(reason).then_some(()))
    })?;
    mesh.waypoint = start_waypoint(&mesh.world, &mesh.edge)?;
    mesh.edge.set_ready(true)?;
    eventually("it is answered again", || Ok(mesh.fetch(&mesh.client, &[]).ok().filter(|answer| answer == "v1")))?;
    Ok(())
}
