//! The CNI plug-in in a chain of real ones, called as libcni calls them, and its place in a node's configuration.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use weft_tests::{Agent, Netns, Node, World, eventually, weft};

/// Where distributions put the plug-ins.
const PLUG_INS: &str = "/usr/lib/cni";

/// A node with a network for pods, and an agent that keeps its plug-in in it. It is not one of Kubernetes, so that the
/// agent takes no pods over: to the plug-in that is an agent that is away.
struct Networked {
    agent: Agent,
    node: Node,
    conf: PathBuf,
    bin: PathBuf,
    world: World,
}

impl Networked {
    fn start(files: &[(&str, String)]) -> Result<Self> {
        let world = World::new()?;
        let node = world.node("a")?;
        let (conf, bin) = (world.folder().join("net.d"), world.folder().join("cni-bin"));
        fs::create_dir(&conf)?;
        fs::create_dir(&bin)?;
        for plug_in in ["bridge", "host-local"] {
            fs::copy(Path::new(PLUG_INS).join(plug_in), bin.join(plug_in))
                .with_context(|| format!("{PLUG_INS}/{plug_in}: apt-get install containernetworking-plugins"))?;
        }
        for (name, text) in files {
            fs::write(conf.join(name), text)?;
        }
        let agent = node.agent().with(&["--cni-conf-dir", path(&conf)?, "--cni-bin-dir", path(&bin)?]);
        // Should this test itself run in a pod, the plug-in must not be shown that cluster.
        let agent = agent.variable("KUBERNETES_SERVICE_HOST", "").start()?;
        Ok(Self { agent, node, conf, bin, world })
    }

    fn wait_installed(&self, file: &str) -> Result<()> {
        eventually(&format!("weft-cni is in {file}"), || {
            let list: Value =
                serde_json::from_str(&fs::read_to_string(self.conf.join(file)).unwrap_or_default()).unwrap_or_default();
            let last = list["plugins"].as_array().and_then(|plugins| plugins.last()).cloned().unwrap_or_default();
            Ok((last["type"] == "weft-cni").then_some(()))
        })
    }

    fn uninstall(&self) -> Result<()> {
        let state = self.agent.state_folder();
        let mut arguments = vec!["uninstall", "--node", self.node.name(), "--state-dir", path(&state)?];
        arguments.extend(["--cni-conf-dir", path(&self.conf)?, "--cni-bin-dir", path(&self.bin)?]);
        weft(&self.node, &arguments)?.success()?;
        Ok(())
    }

    /// The files of the network's configuration, in order.
    fn files(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.conf)? {
            let entry = entry?;
            found.push((entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path())?));
        }
        found.sort();
        Ok(found)
    }

    fn sandbox(&self, number: usize, namespace: &str) -> Result<Sandbox<'_>> {
        let netns = Netns::create(&format!("{}-cni{number}", self.world.name()))?;
        Ok(Sandbox { of: self, netns, id: format!("c{number}"), namespace: namespace.to_owned() })
    }

    /// Calls one plug-in with `input`.
    fn call(&self, plug_in: &str, variables: &[(&str, &str)], input: &Value) -> Result<Called> {
        let mut command: Command = self.node.command(path(&self.bin.join(plug_in))?)?;
        command
            .env_clear()
            .envs(variables.iter().copied())
            .env("CNI_PATH", &self.bin)
            .env("PATH", "/usr/sbin:/usr/bin");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("standard input is piped")?.write_all(input.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        let said = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
        Ok(Called { is_success: output.status.success(), code: output.status.code(), said })
    }
}

/// What became of a call.
#[derive(Debug)]
struct Called {
    is_success: bool,
    code: Option<i32>,
    said: Value,
}

/// A sandbox that is connected as a container runtime does it: plug-in by plug-in, each with the last one's result.
struct Sandbox<'a> {
    of: &'a Networked,
    netns: Netns,
    id: String,
    namespace: String,
}

impl Sandbox<'_> {
    fn run(&self, command: &str, file: &str) -> Result<Called> {
        let list: Value = serde_json::from_str(&fs::read_to_string(self.of.conf.join(file))?)?;
        let mut plug_ins = list["plugins"].as_array().context("there are no plug-ins")?.clone();
        if command == "DEL" {
            plug_ins.reverse();
        }
        let id = &self.id;
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={id};K8S_POD_UID=u-{id}", self.namespace);
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &*self.id),
            ("CNI_NETNS", path(self.netns.path())?),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &*arguments),
        ];
        let mut last: Option<Called> = None;
        for mut plug_in in plug_ins {
            plug_in["name"] = list["name"].clone();
            plug_in["cniVersion"] = list["cniVersion"].clone();
            if let Some(last) = last.filter(|_| command == "ADD") {
                plug_in["prevResult"] = last.said;
            }
            let called = self.of.call(plug_in["type"].as_str().context("no type")?, &variables, &plug_in)?;
            if !called.is_success {
                return Ok(called);
            }
            if plug_in["type"] == "weft-cni" && command == "ADD" {
                ensure!(called.said == plug_in["prevResult"], "{} became {}", plug_in["prevResult"], called.said);
            }
            last = Some(called);
        }
        last.context("there are no plug-ins")
    }

    fn add(&self, file: &str) -> Result<Called> {
        self.run("ADD", file)
    }

    /// Its address, as `ip` in the sandbox shows it.
    fn has_address(&self) -> Result<bool> {
        let output = self.netns.enter(|| Command::new("ip").args(["-brief", "address", "show", "eth0"]).output())?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("10.99.0."))
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the path is text")
}

/// A network as one finds them, of a version, with its leases in `folder`.
fn network(version: &str, folder: &Path) -> String {
    let ipam = json!({ "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": folder.join("leases") });
    format!(
        "{{\n  \"name\": \"pods\",\n  \"cniVersion\": \"{version}\",\n  \"plugins\": [\n    {{ \"type\": \"bridge\", \
         \"bridge\": \"cni9\", \"ipam\": {ipam} }}\n  ]\n}}\n"
    )
}

fn single(folder: &Path) -> String {
    let ipam = json!({ "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": folder.join("leases") });
    format!(
        "{{\"cniVersion\": \"0.3.1\", \"name\":\"pods\", \"type\":\"bridge\", \"bridge\":\"cni9\", \"ipam\":{ipam}}}\n"
    )
}

/// An API server of two namespaces, of which one is in the mesh, and of any pod.
fn serve_api(listener: TcpListener) {
    thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut piece = [0; 1024];
                while !head.ends_with(b"\r\n\r\n") {
                    match connection.read(&mut piece) {
                        Ok(count @ 1..) => head.extend_from_slice(&piece[..count]),
                        _ => return,
                    }
                }
                let head = String::from_utf8_lossy(&head);
                let asked = head.split(' ').nth(1).unwrap_or_default().trim_end_matches('?');
                let object = match asked {
                    "/api/v1/namespaces/shop" => {
                        json!({"metadata": {"labels": {"istio.io/dataplane-mode": "ambient"}}})
                    }
                    "/api/v1/namespaces/bank" => json!({"metadata": {"name": "bank"}}),
                    pod => match pod.rsplit_once("/pods/") {
                        Some((_, name)) => json!({"metadata": {"name": name, "uid": format!("u-{name}")}}),
                        None => Value::Null,
                    },
                };
                let status = if object.is_null() { "404 Not Found" } else { "200 OK" };
                let body = object.to_string();
                let _ = write!(
                    connection,
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
            });
        }
    });
}

fn kubeconfig(server: SocketAddr) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    })
    .to_string()
}

#[test]
fn without_an_agent_a_pod_outside_the_mesh_starts_and_one_of_the_mesh_does_not() -> Result<()> {
    let leases = World::new()?;
    let mut node = Networked::start(&[("10-pods.conflist", network("1.0.0", leases.folder()))])?;
    let file = "10-pods.conflist";
    node.wait_installed(file)?;
    node.agent.kill()?;

    // Nobody can be asked, and nothing is known: only the cluster's own pods start.
    let unknown = node.sandbox(1, "bank")?.add(file)?;
    ensure!(!unknown.is_success && unknown.said["code"] == 11, "{unknown:?}");
    let system = node.sandbox(2, "kube-system")?;
    ensure!(system.add(file)?.is_success && system.has_address()?, "a pod of the cluster does not start");

    // The API server answers.
    let listener = node.node.listen("127.0.0.1:6443".parse()?)?;
    serve_api(listener);
    let kubeconfig_file = node.agent.state_folder().join("cni-kubeconfig");
    fs::write(&kubeconfig_file, kubeconfig("127.0.0.1:6443".parse()?))?;
    let outside = node.sandbox(3, "bank")?;
    let added = outside.add(file)?;
    ensure!(added.is_success && outside.has_address()?, "{added:?}");
    let member = node.sandbox(4, "shop")?;
    let refused = member.add(file)?;
    ensure!(!refused.is_success && refused.code == Some(1), "{refused:?}");
    assert_eq!((&refused.said["code"], &refused.said["cniVersion"]), (&json!(11), &json!("1.0.0")));
    let message = refused.said["msg"].as_str().unwrap_or_default();
    ensure!(message.contains("agent of this node is not running: pod shop/c4 belongs to the mesh"), "{message}");

    // It is away again: what it said is remembered.
    fs::remove_file(&kubeconfig_file)?;
    ensure!(node.sandbox(5, "bank")?.add(file)?.is_success, "a pod outside does not start by what is remembered");
    let refused = node.sandbox(6, "shop")?.add(file)?;
    assert_eq!(refused.said["code"], 11, "{refused:?}");

    // Whatever started, and whatever did not, can be checked and removed.
    for sandbox in [&outside, &member, &system] {
        ensure!(sandbox.run("DEL", file)?.is_success, "{} cannot be removed", sandbox.namespace);
    }
    ensure!(!outside.has_address()?, "the chain before weft-cni did its part");
    Ok(())
}

#[test]
fn the_plug_in_speaks_the_versions_that_it_says_it_does() -> Result<()> {
    let leases = World::new()?;
    let node = Networked::start(&[("10-pods.conflist", network("0.3.1", leases.folder()))])?;
    node.wait_installed("10-pods.conflist")?;
    let versions = node.call("weft-cni", &[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": "1.1.0"}))?;
    let spoken: Vec<&str> =
        versions.said["supportedVersions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(spoken, ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    let added = node.sandbox(1, "kube-system")?.add("10-pods.conflist")?;
    assert_eq!((added.is_success, &added.said["cniVersion"]), (true, &json!("0.3.1")), "{added:?}");
    // The agent is there and looks after no pods: the node is ready all the same, and what is gone is let go.
    let config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "weft-cni",
        "adminSocket": node.agent.state_folder().join("admin.sock"), "cni.dev/valid-attachments": []});
    for command in ["STATUS", "GC"] {
        let called = node.call("weft-cni", &[("CNI_COMMAND", command)], &config)?;
        ensure!(called.is_success && called.said.is_null(), "{command}: {called:?}");
    }
    Ok(())
}

#[test]
fn the_plug_in_is_put_back_and_uninstalled_without_a_trace() -> Result<()> {
    let leases = World::new()?;
    let mut node = Networked::start(&[("10-pods.conflist", network("1.0.0", leases.folder()))])?;
    node.wait_installed("10-pods.conflist")?;
    // The network's own installer writes its file, whole, as it always has.
    let rewritten = network("0.4.0", leases.folder());
    fs::write(node.conf.join("10-pods.conflist"), &rewritten)?;
    node.wait_installed("10-pods.conflist")?;
    // Another network takes over, in the older form.
    fs::write(node.conf.join("05-new.conf"), single(leases.folder()))?;
    node.wait_installed("05-new.conflist")?;
    eventually("the older form is put aside", || Ok((!node.conf.join("05-new.conf").exists()).then_some(())))?;
    let sandbox = node.sandbox(1, "kube-system")?;
    let added = sandbox.add("05-new.conflist")?;
    ensure!(added.is_success && sandbox.has_address()?, "{added:?}");
    drop(sandbox);

    node.agent.terminate(Duration::from_secs(20))?;
    node.wait_installed("05-new.conflist").context("SIGTERM took the plug-in out")?;
    node.uninstall()?;
    let expected = [("05-new.conf".to_owned(), single(leases.folder())), ("10-pods.conflist".to_owned(), rewritten)];
    ensure!(node.files()? == expected, "the configuration is not what it was: {:?}", node.files()?);
    ensure!(!node.bin.join("weft-cni").exists(), "the plug-in is still there");
    node.uninstall()
}

#[test]
fn an_agent_waits_for_a_network_that_comes_later() -> Result<()> {
    let leases = World::new()?;
    let node = Networked::start(&[])?;
    node.agent.wait_for_log(&["waiting for the node's network"])?;
    ensure!(node.bin.join("weft-cni").exists(), "the plug-in is not there before it is needed");
    fs::write(node.conf.join("10-pods.conflist"), network("1.0.0", leases.folder()))?;
    node.wait_installed("10-pods.conflist")?;
    if node.agent.log().matches("waiting for the node's network").count() != 1 {
        bail!("it was said more than once: {}", node.agent.log());
    }
    Ok(())
}
