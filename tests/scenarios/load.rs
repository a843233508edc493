//! Much of everything. These need the machine to themselves: the suite runs them one by one.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weft_tests::server::{Behaviour, Server};
use weft_tests::{Host, Pod, PodSpec, Process, World, descriptor_limit, pattern};

use crate::client::{Conversation, Outcome, assert_answered, ping};
use crate::control_plane::{Mesh, Mode};
use crate::pair::{NAMESPACE, Pair, Setup, authorization, serve};

const CROWD: &str = env!("CARGO_BIN_EXE_weft-crowd");

/// Starts a program that keeps so many connections open, and waits until all of them are.
fn hold(pod: &Host, count: usize, addresses: &[SocketAddr]) -> Result<Process> {
    let count = count.to_string();
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let mut arguments = vec![CROWD, "hold", &count];
    arguments.extend(addresses.iter().map(String::as_str));
    pod.spawn(&arguments)
}

fn crowd_server(pod: &Pod, port: u16) -> Result<Process> {
    let mut server = pod.spawn(&[CROWD, "serve", &format!("[::]:{port}")])?;
    server.wait_for_output("serving on")?;
    Ok(server)
}

/// Waits until a holder has opened all of its connections and exchanged a byte on each once more.
fn wait_all_alive(holder: &mut Process, count: usize, patience: Duration) -> Result<()> {
    holder.wait_for_output_within(&format!("{count} open, 0 failed"), patience)?;
    holder.wait_for_output_within(&format!("round 1: {count} alive, 0 dead"), patience)?;
    println!("{}", holder.stdout());
    Ok(())
}

#[test]
fn a_pod_that_calls_everywhere_makes_its_agent_ask_for_so_much_and_no_more() -> Result<()> {
    /// Addresses that an agent remembers the answers for.
    const REMEMBERED: u64 = 16_384;
    const CALLED: u32 = 20_000;
    const CALLERS: u32 = 8;
    let mesh = Mesh::start(Mode::OnDemand)?;
    let _echo = serve(&mesh.server, 8080, Behaviour::Echo)?;
    let (internet, addresses) = mesh.world.outside("internet")?;
    internet.run(&["ip", "route", "add", "local", "198.18.0.0/15", "dev", "lo"])?.success()?;
    mesh.nodes[0].run(&["ip", "route", "add", "198.18.0.0/15", "via", &addresses[0].to_string()])?.success()?;
    let _outside = Server::start(&internet, "[::]:80".parse()?, Behaviour::HalfClose)?;
    let _other = Server::start(&internet, "[::]:81".parse()?, Behaviour::Echo)?;
    assert_answered(&mesh.client, mesh.server.at(8080))?;
    let first = Ipv4Addr::new(198, 18, 0, 1).to_bits();
    let call = |from: u32| -> Result<()> {
        for number in (from..CALLED).step_by(CALLERS as usize) {
            let to = SocketAddr::from((Ipv4Addr::from_bits(first + number), 80));
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.read_exact(&mut [0; 4]).with_context(|| format!("{to}"))?;
        }
        Ok(())
    };
    let start = Instant::now();
    let (client, call) = (&mesh.client, &call);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|from| scope.spawn(move || client.enter(|| call(from)))).collect();
        callers.into_iter().try_for_each(|caller| caller.join().expect("it does not panic"))
    })?;
    println!("{CALLED} addresses were called for the first time in {:.1} s", start.elapsed().as_secs_f32());
    let wanted = || -> Result<u64> {
        mesh.agents[0].json("status")?["discovery"]["wanted"].as_u64().context("the status says what is wanted")
    };
    // Its own pod is asked for by name.
    ensure!((REMEMBERED * 3 / 4..=REMEMBERED + 1).contains(&wanted()?), "{} addresses are asked for", wanted()?);
    // What was forgotten first is asked for again, and what is in the mesh was not among it.
    assert_answered(&mesh.client, (Ipv4Addr::from_bits(first), 81).into())?;
    mesh.agents[0].wait_for_protocol(&mesh.server, "hbone")?;
    let tap = mesh.nodes[1].tap()?;
    assert_answered(&mesh.client, mesh.server.at(8080))?;
    tap.stop()?.is_only_tls(mesh.client.ip(), mesh.server.ip(), 15008)
}

#[test]
fn two_thousand_connections_at_once() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let memory = [pair.agent_a.memory()?, pair.agent_b.memory()?];
    let mut open = Vec::new();
    for n in 0..2_000 {
        open.push(Conversation::open(&pair.client, pair.server.at(8080)).with_context(|| format!("connection {n}"))?);
    }
    for conversation in &mut open {
        conversation.exchange()?;
    }
    for (agent, before) in [&pair.agent_a, &pair.agent_b].into_iter().zip(memory) {
        let grown = agent.memory()?.saturating_sub(before);
        println!("2,000 idle connections take {} KB in an agent", grown / 1024);
        ensure!(grown < 20 << 20, "2,000 idle connections take {grown} bytes in an agent");
    }
    open.into_iter().try_for_each(Conversation::finish)
}

#[test]
fn forty_thousand_connections_at_once() -> Result<()> {
    const TOTAL: usize = 40_000;
    // An agent needs a descriptor for each connection. Where the hard limit is too low for all of them in one agent,
    // several nodes share them.
    let room = usize::try_from(descriptor_limit())?.saturating_sub(1_000);
    let pairs = TOTAL.div_ceil(room).clamp(1, 4);
    let each = TOTAL / pairs;
    println!("{pairs} pairs of nodes with {each} connections each");
    let world = World::new()?;
    world.enrol(NAMESPACE)?;
    let mut running = Vec::new();
    for n in 0..pairs {
        let (a, b) = (world.node(&format!("a{n}"))?, world.node(&format!("b{n}"))?);
        let client = a.pod(PodSpec::new(&format!("client{n}")).namespace(NAMESPACE))?;
        let server = b.pod(PodSpec::new(&format!("server{n}")).namespace(NAMESPACE))?;
        let (agent_a, agent_b) = (a.agent().start()?, b.agent().start()?);
        client.netns().sysctl("ipv4/ip_local_port_range", "1024 65535")?;
        running.push((agent_a, agent_b, client, server, a, b));
    }
    let mut held = Vec::new();
    for (agent_a, agent_b, client, server, ..) in &running {
        agent_a.wait_enrolled(client)?;
        agent_b.wait_enrolled(server)?;
        agent_a.wait_for_protocol(server, "hbone")?;
        let crowd = crowd_server(server, 8080)?;
        held.push((hold(client, each, &[server.at(8080)])?, crowd));
    }
    for (holder, _) in &mut held {
        wait_all_alive(holder, each, Duration::from_secs(180))?;
    }
    for (agent_a, agent_b, ..) in &running {
        println!("{} MB and {} MB of memory", agent_a.memory()? >> 20, agent_b.memory()? >> 20);
    }
    Ok(())
}

#[test]
fn a_pod_can_have_as_many_connections_as_without_the_mesh() -> Result<()> {
    let pair = Pair::start()?;
    // Two thousand ports allow two thousand connections to each of three destinations.
    for pod in [&pair.client, &pair.server] {
        pod.netns().sysctl("ipv4/ip_local_port_range", "30000 31999")?;
    }
    let _crowds = [8080, 8081, 8082].map(|port| crowd_server(&pair.server, port));
    let addresses = [8080, 8081, 8082].map(|port| pair.server.at(port));
    let mut holder = hold(&pair.client, 5_000, &addresses)?;
    wait_all_alive(&mut holder, 5_000, Duration::from_secs(60))
}

#[test]
fn the_same_over_ipv6() -> Result<()> {
    let pair = Pair::start()?;
    for pod in [&pair.client, &pair.server] {
        pod.netns().sysctl("ipv4/ip_local_port_range", "30000 31999")?;
    }
    let _crowds = [8080, 8081, 8082].map(|port| crowd_server(&pair.server, port));
    let addresses = [8080, 8081, 8082].map(|port| pair.server.at6(port));
    let mut holder = hold(&pair.client, 1_900, &addresses)?;
    wait_all_alive(&mut holder, 1_900, Duration::from_secs(60))
}

#[test]
fn a_hundred_thousand_connections_in_a_row() -> Result<()> {
    let pair = Pair::start()?;
    for (to, count) in [(pair.server.at(8080), 90_000), (pair.server.at6(8080), 10_000)] {
        let server = serve(&pair.server, 8080, Behaviour::Greet)?;
        let client = pair.client.spawn(&[CROWD, "churn", &count.to_string(), "8", &to.to_string()])?;
        let finished = client.finish_within(Duration::from_secs(240))?;
        let output = finished.success()?;
        println!("{to}: {output}");
        ensure!(output.contains(&format!("{count} done, 0 failed")), "{output}");
        assert_eq!(server.count(), count);
    }
    Ok(())
}

#[test]
fn a_gigabyte_each_way_arrives_unchanged() -> Result<()> {
    const TOTAL: u64 = 1 << 30;
    let pair = Pair::start()?;
    let verify = serve(&pair.server, 8080, Behaviour::Verify)?;
    let _send = serve(&pair.server, 8081, Behaviour::Send(TOTAL))?;
    let start = Instant::now();
    let mut up = pair.client.connect(pair.server.at(8080))?;
    let mut buffer = vec![0; 256 << 10];
    let mut sent = 0;
    while sent < TOTAL {
        pattern::fill(sent, &mut buffer);
        up.write_all(&buffer)?;
        sent += buffer.len() as u64;
    }
    up.shutdown(Shutdown::Write)?;
    let mut verdict = String::new();
    up.read_to_string(&mut verdict)?;
    assert_eq!(verdict, format!("{TOTAL} ok\n"), "after {} bytes", verify.received());
    println!("up in {:?}", start.elapsed());
    let start = Instant::now();
    let mut down = pair.client.connect(pair.server.at(8081))?;
    let mut received = 0;
    loop {
        let length = down.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        ensure!(pattern::is_at(received, &buffer[..length]), "wrong bytes after {received}");
        received += length as u64;
    }
    assert_eq!(received, TOTAL);
    println!("down in {:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_file_of_a_gigabyte_has_the_same_hash_on_both_ends() -> Result<()> {
    let pair = Pair::start()?;
    let folder = pair.server.folder()?;
    let file = folder.join("large");
    let mut bytes = vec![0; 1 << 20];
    let mut writer = std::fs::File::create(&file)?;
    for n in 0..1024_u64 {
        pattern::fill(n << 20, &mut bytes);
        writer.write_all(&bytes)?;
    }
    drop(writer);
    let _nginx = weft_tests::nginx(&pair.server, 8080, &folder)?;
    let url = format!("http://{}/large", pair.server.at(8080));
    let down =
        pair.client.run_within(&["sh", "-c", &format!("curl -sS {url} | sha256sum")], Duration::from_secs(120))?;
    let local =
        pair.server.run_within(&["sh", "-c", &format!("sha256sum < {}", file.display())], Duration::from_secs(60))?;
    assert_eq!(down.success()?, local.clone().success()?);
    // And up again, into another file.
    let upload = format!("curl -sS -T {} http://{}/back", file.display(), pair.server.at(8080));
    pair.client.run_within(&["sh", "-c", &upload], Duration::from_secs(120))?.success()?;
    let back = pair.server.run_within(
        &["sh", "-c", &format!("sha256sum < {}", folder.join("back").display())],
        Duration::from_secs(60),
    )?;
    assert_eq!(back.success()?, local.success()?);
    Ok(())
}

/// Clients that connect one after another until they are stopped.
struct Stream<'a> {
    stop: &'a AtomicBool,
    answered: AtomicUsize,
    refused: AtomicUsize,
    other: std::sync::Mutex<Vec<String>>,
}

impl<'a> Stream<'a> {
    fn new(stop: &'a AtomicBool) -> Self {
        Self { stop, answered: AtomicUsize::new(0), refused: AtomicUsize::new(0), other: Default::default() }
    }

    fn run(&self, from: &Pod, to: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            match ping(from, to) {
                Ok(Outcome::Answered(_)) => _ = self.answered.fetch_add(1, Ordering::Relaxed),
                Ok(outcome) if outcome.is_refusal() => _ = self.refused.fetch_add(1, Ordering::Relaxed),
                outcome => self.other.lock().expect("nobody panics with it").push(format!("{outcome:?}")),
            }
        }
    }

    fn check(&self, may_be_refused: bool) -> Result<()> {
        let other = self.other.lock().expect("nobody panics with it");
        let (answered, refused) = (self.answered.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed));
        println!("{answered} answered, {refused} refused");
        ensure!(other.is_empty(), "{} connections went otherwise, the first: {}", other.len(), other[0]);
        ensure!(may_be_refused || refused == 0, "{refused} of {} connections were refused", answered + refused);
        ensure!(answered > 0, "no connection was made");
        Ok(())
    }
}

#[test]
fn enrolling_and_leaving_under_load_fails_no_connection() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    // Outside the mesh each connection takes one of the pod's 28,000 ports for a minute after its end.
    pair.client.netns().sysctl("ipv4/tcp_tw_reuse", "1")?;
    let stop = AtomicBool::new(false);
    let stream = Stream::new(&stop);
    let mut long = Conversation::open(&pair.client, pair.server.at(8080))?;
    let toggled = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| stream.run(&pair.client, pair.server.at(8080)));
        }
        let mut toggle = || -> Result<()> {
            for _ in 0..3 {
                pair.world.unenrol(NAMESPACE)?;
                pair.agent_a.wait_unenrolled(&pair.client)?;
                pair.agent_b.wait_unenrolled(&pair.server)?;
                long.exchange()?;
                pair.enrol()?;
                long.exchange()?;
                std::thread::sleep(Duration::from_millis(300));
            }
            Ok(())
        };
        let toggled = toggle();
        stop.store(true, Ordering::Relaxed);
        toggled
    });
    toggled?;
    stream.check(false)
}

#[test]
fn connections_that_come_and_go_in_a_pod_do_not_hold_up_its_agent() -> Result<()> {
    let pair = Pair::with(Setup { is_enrolled: false, ..Setup::default() })?;
    let _echo = pair.echo(8080)?;
    let _greeter = serve(&pair.server, 8081, Behaviour::Greet)?;
    let mut older = Conversation::open(&pair.client, pair.server.at(8080))?;
    let to = pair.server.at(8081).to_string();
    let mut churn = pair.client.spawn(&[CROWD, "churn", "100000000", "8", &to])?;
    let is_client = |pod: &serde_json::Value| pod["name"] == "client";
    let start = Instant::now();
    for round in 0..3 {
        pair.enrol()?;
        // Of all that the pod had then, one lives on; what comes and goes is not taken for it.
        pair.agent_a.wait_for("pods", "the one connection from before", |pod| {
            is_client(pod) && pod["older_connections"] == 1
        })?;
        older.exchange()?;
        let brief = pair.a.pod(PodSpec::new(&format!("brief-{round}")).namespace(NAMESPACE))?;
        pair.agent_a.wait_enrolled(&brief)?;
        assert_answered(&brief, pair.server.at(8080))?;
        if round < 2 {
            pair.world.unenrol(NAMESPACE)?;
            pair.agent_a.wait_unenrolled(&pair.client)?;
            pair.agent_b.wait_unenrolled(&pair.server)?;
        }
    }
    println!("three times in and out took {:?}", start.elapsed());
    older.finish()?;
    pair.agent_a
        .wait_for("pods", "no connection from before", |pod| is_client(pod) && pod["older_connections"].is_null())?;
    ensure!(churn.is_running()?, "the connections ended early: {}", churn.stdout());
    Ok(())
}

#[test]
fn policies_that_change_under_load_refuse_only_whom_they_name() -> Result<()> {
    let pair = Pair::start()?;
    let other = pair.a.pod(PodSpec::new("other").namespace(NAMESPACE).service_account("other"))?;
    pair.agent_a.wait_enrolled(&other)?;
    pair.agent_b.wait_for_protocol(&other, "hbone")?;
    let _echo = pair.echo(8080)?;
    let stop = AtomicBool::new(false);
    let (named, unnamed) = (Stream::new(&stop), Stream::new(&stop));
    let mut long = Conversation::open(&other, pair.server.at(8080))?;
    let changed = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| named.run(&pair.client, pair.server.at(8080)));
            scope.spawn(|| unnamed.run(&other, pair.server.at(8080)));
        }
        let mut change = || -> Result<()> {
            for round in 0..20 {
                let name = format!("deny-{round}");
                let spec = "  action: DENY\n  rules:\n    - from:\n        - source:\n            principals: [\"cluster.local/ns/shop/sa/client\"]";
                pair.apply_policy(&name, &authorization(&name, spec))?;
                let outcome = ping(&pair.client, pair.server.at(8080))?;
                ensure!(outcome.is_refusal(), "round {round}: {outcome:?} under a policy that denies");
                pair.world.config().remove("policy")?;
                crate::client::eventually_answered(&pair.client, pair.server.at(8080))?;
                long.exchange()?;
            }
            Ok(())
        };
        let changed = change();
        stop.store(true, Ordering::Relaxed);
        changed
    });
    changed?;
    named.check(true)?;
    unnamed.check(false)
}

#[test]
fn ten_thousand_clients_that_send_random_bytes_do_no_harm() -> Result<()> {
    let pair = Pair::start()?;
    let server = pair.echo(8080)?;
    pair.world.namespace("other", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("other"))?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    let (memory, descriptors) = (pair.agent_b.memory()?, pair.agent_b.descriptors()?);
    let mut long = Conversation::open(&pair.client, pair.server.at(8080))?;
    let to = pair.server.at(15008);
    let next = AtomicUsize::new(0);
    stranger.enter(|| {
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= 10_000 {
                            return;
                        }
                        let _ = babble(to, n);
                    }
                });
            }
        });
    });
    long.exchange().context("a tunnel that was there all along")?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    ensure!(server.count() == 3, "something reached the application: {} connections", server.count());
    weft_tests::eventually("the agent has let go of all of them", || {
        Ok((pair.agent_b.descriptors()? <= descriptors + 8).then_some(()))
    })?;
    let grown = pair.agent_b.memory()?.saturating_sub(memory);
    println!("the agent grew by {} KB", grown / 1024);
    ensure!(grown < 16 << 20, "the agent grew by {grown} bytes");
    Ok(())
}

/// Sends the `n`th lot of random bytes: some of them begin like TLS, some are cut off, some half close, some reset.
fn babble(to: SocketAddr, n: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut bytes = vec![0; n * 37 % 3000];
    pattern::fill((n as u64) << 20, &mut bytes);
    if n.is_multiple_of(3) {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
        stream.write_all(&[22, 3, 1, length[0], length[1]])?;
    }
    stream.write_all(&bytes)?;
    if n.is_multiple_of(2) {
        stream.shutdown(Shutdown::Write)?;
    }
    let mut answer = [0; 256];
    while !n.is_multiple_of(5) && stream.read(&mut answer)? > 0 {}
    Ok(())
}

#[test]
fn many_pods_talk_to_many_through_a_service() -> Result<()> {
    let pair = Pair::start()?;
    let _first = serve(&pair.server, 8080, Behaviour::Greet)?;
    let replicas: Vec<(Pod, Server)> = crate::resolution::replicas(&pair, 5)?;
    let clients = (0..5)
        .map(|n| pair.a.pod(PodSpec::new(&format!("client-{n}")).namespace(NAMESPACE)))
        .collect::<Result<Vec<_>>>()?;
    let spec = weft_tests::ServiceSpec::new("server").namespace(NAMESPACE).port(80, 8080);
    let service = SocketAddr::new(pair.world.service(&spec)?[0], 80);
    pair.agent_a.wait_for_endpoints("server", &["ready"; 6])?;
    for client in &clients {
        pair.agent_a.wait_enrolled(client)?;
    }
    let results: Vec<Result<usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|client| scope.spawn(move || Ok(crate::resolution::spread(client, service, 300)?.len())))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no client panics")).collect()
    });
    for answered in results {
        ensure!(answered? == replicas.len() + 1, "not every pod was reached");
    }
    Ok(())
}
