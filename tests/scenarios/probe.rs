//! The kubelet's probes under STRICT.

use anyhow::{Result, ensure};
use weft_tests::{Cgroup, Host, Process};

use crate::pair::{NAMESPACE, Pair, Setup, peer_authentication, serve};
use weft_tests::server::Behaviour;

/// A pair whose agents take this cgroup for the kubelet's.
fn pair_with_kubelet() -> Result<(Pair, Cgroup)> {
    // The name of the cgroup must be there before the agents are: it is one of their arguments.
    let cgroup = Cgroup::create(&format!("weft-{}-kubelet-{:?}", std::process::id(), std::thread::current().id()))?;
    let path = cgroup.path().to_string_lossy().into_owned();
    Ok((Pair::with(Setup::arguments(&["--probe-cgroup", &path]))?, cgroup))
}

fn curl(from: &Host, cgroup: &Cgroup, url: &str) -> Result<i32> {
    let mut command = from.command_in(cgroup, "curl")?;
    command.args(["-sS", "--http0.9", "--max-time", "5", "-o", "/dev/null", url]);
    Ok(Process::spawn(command)?.finish_within(std::time::Duration::from_secs(20))?.code())
}

#[test]
fn a_probe_reaches_its_pod_directly_under_strict_and_nobody_else_of_the_node_does() -> Result<()> {
    let (pair, kubelet) = pair_with_kubelet()?;
    let server = serve(&pair.server, 8080, Behaviour::Greet)?;
    pair.world.config().put("strict", &peer_authentication(NAMESPACE, "default", "  mtls:\n    mode: STRICT"))?;
    let url = format!("http://{}", pair.server.at(8080));
    weft_tests::eventually("STRICT is in force", || Ok((curl(&pair.b, pair.b.cgroup(), &url)? != 0).then_some(())))?;
    let before = server.count();
    for url in [url, format!("http://{}", pair.server.at6(8080))] {
        let code = curl(&pair.b, &kubelet, &url)?;
        ensure!(code == 0, "curl ended with {code} in the kubelet's cgroup at {url}");
    }
    let seen = server.seen();
    ensure!(seen.len() == before + 2, "the server saw {seen:?}");
    ensure!(
        seen.iter().skip(before).all(|seen| !pair.server.addresses().contains(&seen.peer.ip().to_canonical())),
        "a probe does not come from the pod itself: {seen:?}"
    );
    Ok(())
}

#[test]
fn a_process_below_the_kubelets_cgroup_is_not_the_kubelet() -> Result<()> {
    let (pair, kubelet) = pair_with_kubelet()?;
    // One that reads the request: an answer before it may end in a reset, which would pass for STRICT.
    let folder = pair.world.folder().join("www");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("index.html"), "here")?;
    let _server = weft_tests::nginx(&pair.server, 8080, &folder)?;
    pair.world.config().put("strict", &peer_authentication(NAMESPACE, "default", "  mtls:\n    mode: STRICT"))?;
    let url = format!("http://{}/index.html", pair.server.at(8080));
    weft_tests::eventually("STRICT is in force", || Ok((curl(&pair.b, pair.b.cgroup(), &url)? != 0).then_some(())))?;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let relative = kubelet.path().strip_prefix(root.join("unified")).or_else(|_| kubelet.path().strip_prefix(root))?;
    let below = Cgroup::create(&relative.join("pods").to_string_lossy())?;
    ensure!(curl(&pair.b, &below, &url)? != 0, "a pod below the kubelet's cgroup passed for the kubelet");
    Ok(())
}
