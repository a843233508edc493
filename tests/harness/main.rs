//! The world itself: pods reach each other, a tap sees it, processes are where they should be, nothing is left behind.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weft_tests::server::{Behaviour, End, Seen, Server};
use weft_tests::{Families, PodSpec, ServiceSpec, World, eventually, pattern};

#[test]
fn pods_on_two_nodes_reach_each_other_over_both_families() -> Result<()> {
    let world = World::new()?;
    let (a, b) = (world.node("a")?, world.node("b")?);
    let client = a.pod(PodSpec::new("client"))?;
    let server = b.pod(PodSpec::new("server"))?;
    for (family, address, source) in
        [("[::]:80", server.at(80), client.ip()), ("[::]:81", server.at6(81), client.ip6())]
    {
        let greeter = Server::start(&server, family.parse()?, Behaviour::Greet)?;
        let mut text = String::new();
        client.connect(address)?.read_to_string(&mut text)?;
        let Seen { peer, local, .. } = greeter.seen()[0];
        assert_eq!(text, format!("{peer} {local}\n"));
        assert_eq!(peer.ip().to_canonical(), source);
        assert_eq!(local.ip().to_canonical(), address.ip());
    }
    Ok(())
}

#[test]
fn pods_of_one_node_and_hosts_outside_reach_each_other() -> Result<()> {
    let world = World::new()?;
    let a = world.node("a")?;
    let (outside, addresses) = world.outside("internet")?;
    let (one, two) = (a.pod(PodSpec::new("one"))?, a.pod(PodSpec::new("two").families(Families::V4))?);
    let on_pod = Server::start(&two, "0.0.0.0:80".parse()?, Behaviour::Greet)?;
    one.connect(two.at(80))?;
    let on_outside = Server::start(&outside, "[::]:80".parse()?, Behaviour::Greet)?;
    for address in addresses {
        one.connect(SocketAddr::new(address, 80))?;
    }
    outside.connect(two.at(80))?;
    a.connect(two.at(80))?;
    eventually("all connections are accepted", || Ok((on_pod.count() == 3 && on_outside.count() == 2).then_some(())))
}

#[test]
fn a_tap_sees_what_passes_in_clear_and_that_it_is_not_tls() -> Result<()> {
    let world = World::new()?;
    let (a, b) = (world.node("a")?, world.node("b")?);
    let (client, server) = (a.pod(PodSpec::new("client"))?, b.pod(PodSpec::new("server"))?);
    let _echo = Server::start(&server, "[::]:80".parse()?, Behaviour::Echo)?;
    let tap = b.tap()?;
    let mut connection = client.connect(server.at(80))?;
    connection.write_all(b"the secret of the shop")?;
    connection.shutdown(Shutdown::Write)?;
    let mut echoed = Vec::new();
    connection.read_to_end(&mut echoed)?;
    let recording = tap.stop()?;
    assert_eq!(recording.lost, 0);
    assert!(recording.contains(b"secret of"));
    assert_eq!(recording.on_port(80).count(), 2);
    let error = recording.is_only_tls(client.ip(), server.ip(), 80).unwrap_err();
    assert!(format!("{error:#}").contains("no TLS record at byte 0"), "{error:#}");
    Ok(())
}

#[test]
fn a_program_runs_in_the_pods_cgroup_and_network_namespace() -> Result<()> {
    let world = World::new()?;
    let pod = world.node("a")?.pod(PodSpec::new("client"))?;
    let program = pod.spawn(&["sleep", "100"])?;
    assert_eq!(pod.cgroup().processes()?, [program.pid()]);
    let of_program = fs::metadata(format!("/proc/{}/ns/net", program.pid()))?;
    let of_pod = fs::metadata(pod.netns().path())?;
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(of_program.ino(), of_pod.ino());
    let interfaces = pod.run(&["ip", "-brief", "link"])?.success()?;
    assert!(interfaces.contains("eth0") && !interfaces.contains("uplink"), "{interfaces}");
    Ok(())
}

#[test]
fn a_program_that_does_not_end_is_killed_with_its_children() -> Result<()> {
    let world = World::new()?;
    let pod = world.node("a")?.pod(PodSpec::new("client"))?;
    let program = pod.spawn(&["sh", "-c", "sleep 100 & sleep 100"])?;
    let error = program.finish_within(Duration::from_millis(100)).unwrap_err();
    assert!(format!("{error:#}").contains("in vain"), "{error:#}");
    eventually("the cgroup is empty", || Ok(pod.cgroup().processes()?.is_empty().then_some(())))
}

#[test]
fn a_dropped_world_leaves_nothing_behind() -> Result<()> {
    let world = World::new()?;
    let name = world.name().to_owned();
    let (a, b) = (world.node("a")?, world.node("b")?);
    let pod = b.pod(PodSpec::new("client"))?;
    let _program = a.spawn(&["sleep", "100"])?;
    let _another = pod.spawn(&["sleep", "100"])?;
    assert!(!traces(&name)?.is_empty());
    drop(world);
    let left = traces(&name)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
fn a_world_is_removed_while_a_test_panics() {
    let panicked = std::panic::catch_unwind(|| {
        let world = World::new().unwrap();
        let _pod = world.node("a").unwrap().pod(PodSpec::new("client")).unwrap();
        std::panic::panic_any(world.name().to_owned());
    });
    let name = *panicked.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(traces(&name).unwrap(), [""; 0]);
}

#[test]
fn an_address_is_reused_by_the_next_pod_at_once() -> Result<()> {
    let world = World::new()?;
    let (a, b) = (world.node("a")?, world.node("b")?);
    let client = a.pod(PodSpec::new("client"))?;
    for round in 0..3 {
        let pod = b.pod(PodSpec::new("server").number(77))?;
        let server = Server::start(&pod, "[::]:80".parse()?, Behaviour::Greet)?;
        let start = Instant::now();
        client.connect(pod.at(80))?;
        client.connect(pod.at6(80))?;
        // A first packet that a link just made has lost is sent again after a second; neighbours that talk to the old
        // pod's hardware address would do so for five.
        ensure!(start.elapsed() < Duration::from_secs(4), "round {round} took {:?}", start.elapsed());
        assert!(world.config().path().join("pod-default-server.yaml").exists());
        drop(server);
        drop(pod);
        assert!(!world.config().path().join("pod-default-server.yaml").exists());
    }
    Ok(())
}

#[test]
fn servers_tell_a_fin_from_a_reset_and_check_streams() -> Result<()> {
    let world = World::new()?;
    let pod = world.node("a")?.pod(PodSpec::new("pod"))?;
    let server = Server::start(&pod, "[::]:80".parse()?, Behaviour::Verify)?;
    for (bytes, verdict) in [(100_000_u64, "ok"), (1, "ok")] {
        let mut stream = vec![0; bytes as usize];
        pattern::fill(0, &mut stream);
        let mut connection = pod.connect(pod.at(80))?;
        connection.write_all(&stream)?;
        connection.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        assert_eq!(answer, format!("{bytes} {verdict}\n"));
    }
    let connection = socket2::Socket::from(pod.connect(pod.at(80))?);
    connection.set_linger(Some(Duration::ZERO))?;
    drop(connection);
    assert_eq!(server.wait_for_end(0)?, End::Fin);
    assert_eq!(server.wait_for_end(2)?, End::Error(std::io::ErrorKind::ConnectionReset));
    Ok(())
}

#[test]
fn manifests_are_written_as_kubernetes_writes_them() -> Result<()> {
    let world = World::new()?;
    world.enrol("shop")?;
    let node = world.node("a")?;
    let _pod = node.pod(PodSpec::new("cart").namespace("shop").service_account("cart").port("http", 8080))?;
    let addresses = world.service(&ServiceSpec::new("cart").namespace("shop").named_port(80, "http"))?;
    let read = |file: &str| fs::read_to_string(world.config().path().join(file));
    assert!(read("namespace-shop.yaml")?.contains("istio.io/dataplane-mode: ambient"));
    let pod = read("pod-shop-cart.yaml")?;
    for line in [
        &format!("weft.dev/netns: /run/netns/{}-shop-cart", world.name()),
        &format!("nodeName: {}", node.name()),
        "serviceAccountName: cart",
        "ip: \"10.244.1.2\"",
        "ip: \"fd00:244:0:1::2\"",
    ] {
        assert!(pod.contains(line), "{line:?} in:\n{pod}");
    }
    assert!(read("service-shop-cart.yaml")?.contains(&format!("clusterIP: \"{}\"", addresses[0])));
    Ok(())
}

#[test]
fn a_world_of_two_nodes_and_two_pods_is_made_quickly() -> Result<()> {
    let start = Instant::now();
    let world = World::new()?;
    let (a, b) = (world.node("a")?, world.node("b")?);
    let _pods = (a.pod(PodSpec::new("client"))?, b.pod(PodSpec::new("server"))?);
    let made = start.elapsed();
    println!("made in {made:?}");
    // A hundred times as long as it takes would still be quick enough for a suite, on a machine that does much else.
    ensure!(made < Duration::from_secs(5), "making the world took {made:?}");
    Ok(())
}

/// Everything on this machine that carries the world's name.
fn traces(world: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let tmp = std::env::temp_dir();
    for folder in ["/run/netns", "/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/bpf/weft"]
        .map(Path::new)
        .into_iter()
        .chain([&*tmp])
    {
        let Ok(listed) = fs::read_dir(folder) else { continue };
        for entry in listed {
            let path = entry?.path();
            if path.to_string_lossy().contains(&format!("{world}-")) || path.ends_with(world) {
                found.push(path.display().to_string());
            }
        }
    }
    Ok(found)
}
