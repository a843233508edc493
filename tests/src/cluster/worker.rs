//! A node: containerd, kubelet and kube-proxy, and the CNI configuration of its pods.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::kit::Kit;
use super::machine::{Machine, Service};
use super::plan::{DOMAIN, POD_RANGES, Plan, fabric_addresses, pod_ranges};
use crate::process::Process;
use crate::wait::eventually_within;

/// The image that holds a pod's namespaces.
const PAUSE: &str = "localhost/weft-test/pause:1";

const SOCKET: &str = "/run/containerd/containerd.sock";

/// Where distributions put the CNI plug-ins.
const PLUG_INS: &str = "/usr/lib/cni";

/// Starts a machine that will be a node.
pub(super) fn start(machine: &Machine, number: usize, plan: &Plan, kit: &Kit) -> Result<()> {
    machine.make_folder()?;
    let folder = machine.folder();
    let put = |name: &str, text: String| -> Result<()> {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    };
    let (v4, v6) = fabric_addresses(number);
    put("kubelet.yaml", format!("{:#}\n", kubelet(number, plan, folder)))?;
    put("kube-proxy.yaml", format!("{:#}\n", proxy(machine.name(), plan)))?;
    put("containerd.toml", containerd(folder))?;
    // Nothing outside the cluster can be reached, so there is no server to name. Without any an application asks its own
    // host, where nobody listens: an answer at once.
    put("resolv.conf", "options timeout:1 attempts:1\n".into())?;
    copy_plug_ins(&folder.join("cni-bin"))?;
    fs::create_dir(folder.join("cni-conf"))?;
    put("cni-conf/10-pods.conflist", format!("{:#}\n", network(number)))?;

    let kubernetes = kit.kubernetes();
    // A process is called as what was executed, and what looks for the kubelet looks for that name.
    let kubelet_program = folder.join("bin/kubelet");
    fs::create_dir(folder.join("bin"))?;
    symlink(&kubernetes, &kubelet_program)?;
    let file = |name: &str| folder.join(name).display().to_string();
    let ready = plan.api_server_mark();
    let services = vec![
        Service::new("containerd", Path::new("containerd"), [format!("--config={}", file("containerd.toml"))]),
        Service::new("kube-proxy", &kubernetes, ["kube-proxy".into(), format!("--config={}", file("kube-proxy.yaml"))])
            .after(&ready),
        Service::new(
            "kubelet",
            &kubelet_program,
            [
                "kubelet".into(),
                format!("--config={}", file("kubelet.yaml")),
                format!("--kubeconfig={}", plan.kubeconfig(machine.name()).display()),
                format!("--hostname-override={}", machine.name()),
                format!("--node-ip={v4},{v6}"),
                format!("--node-labels=topology.kubernetes.io/region=here,topology.kubernetes.io/zone=zone{number}"),
                "--cert-dir=/var/lib/kubelet/pki".into(),
            ],
        )
        .after(&ready)
        .after(SOCKET),
    ];
    let binds = [
        ("containerd", "/var/lib/containerd"),
        ("kubelet", "/var/lib/kubelet"),
        ("logs", "/var/log/pods"),
        ("cni-bin", "/opt/cni/bin"),
        ("cni-conf", "/etc/cni/net.d"),
        ("cni-state", "/var/lib/cni"),
    ];
    let binds = binds.into_iter().map(|(own, seen)| (folder.join(own), seen.into())).collect();
    machine.start(kit, binds, services)
}

/// Loads an image into a node's containerd, which is waited for.
pub(super) fn load_image(machine: &Machine, archive: &Path) -> Result<()> {
    let socket = Path::new("/proc").join(machine.pid()?.to_string()).join("root").join(SOCKET.trim_start_matches('/'));
    eventually_within(Duration::from_secs(60), &format!("containerd of {} listens", machine.name()), || {
        Ok(socket.exists().then_some(()))
    })?;
    let mut command = machine.command("ctr")?;
    command.args(["--address", SOCKET, "--namespace", "k8s.io", "images", "import"]).arg(archive);
    let finished = Process::spawn(command)?.finish_within(Duration::from_secs(120))?;
    finished.success().map(drop).with_context(|| format!("loading {} on {}", archive.display(), machine.name()))
}

fn kubelet(number: usize, plan: &Plan, folder: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": fabric_addresses(number).0,
        // The network between the machines is nobody else's, so nobody else can ask.
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": "cgroupfs",
        // Version 1 goes on being tested on: nodes with it are in use.
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDomain": DOMAIN,
        "clusterDNS": [plan.dns()],
        "resolvConf": folder.join("resolv.conf"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "maxPods": 250,
        "registryPullQPS": 0,
        // A host with a full disk is no reason to evict pods or to delete images, which nobody could pull again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
    })
}

fn proxy(node: &str, plan: &Plan) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node,
        "clusterCIDR": POD_RANGES,
        "clientConnection": {"kubeconfig": plan.kubeconfig("proxy")},
        // These settings are of the whole kernel, and stay as the host has them.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}

fn containerd(folder: &Path) -> String {
    // The folder of images and layers cannot be the one below /var/lib that is an overlay itself.
    format!(
        "version = 2
root = {root:?}
state = \"/run/containerd\"

[grpc]
  address = {SOCKET:?}

[plugins.\"io.containerd.grpc.v1.cri\"]
  sandbox_image = {PAUSE:?}
  # In a container of a build service the capability to lower it is often missing, and no container would start.
  restrict_oom_score_adj = true

  [plugins.\"io.containerd.grpc.v1.cri\".cni]
    bin_dir = \"/opt/cni/bin\"
    conf_dir = \"/etc/cni/net.d\"
",
        root = folder.join("containerd"),
    )
}

/// A link of its own for each pod, not a bridge: over a bridge two pods of one node would reach each other without the
/// address translation of services, unless the kernel has `br_netfilter`.
fn network(number: usize) -> Value {
    let [v4, v6] = pod_ranges(number);
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": v4}], [{"subnet": v6}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// Copies, since others put theirs beside them.
fn copy_plug_ins(to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(PLUG_INS).with_context(|| format!("listing {PLUG_INS}"))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
