//! Every way to reach a pod that Kubernetes has, with the pod in the mesh.

use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::{Finished, Process, eventually_within};

use super::PATIENCE;
use super::operator::weft;
use super::standing::{Place, curl, in_the_mesh};

/// A client on the first node, and on the second one two servers that mean different ports by the same names.
const SERVED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: NAMESPACE}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: straight, namespace: NAMESPACE, labels: {app: named}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers:
    - name: server
      image: localhost/weft-test/server:1
      ports: [{name: web, containerPort: 8080}, {name: other, containerPort: 8081}]
---
apiVersion: v1
kind: Pod
metadata: {name: crossed, namespace: NAMESPACE, labels: {app: named}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers:
    - name: server
      image: localhost/weft-test/server:1
      ports: [{name: web, containerPort: 8081}, {name: other, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: named, namespace: NAMESPACE}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: named}
  ports: [{name: http, port: 80, targetPort: web}, {name: more, port: 81, targetPort: other}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: NAMESPACE}
spec:
  serviceName: db
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - topologyKey: kubernetes.io/hostname
          maxSkew: 1
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {matchLabels: {app: db}}
      containers: [{name: server, image: "localhost/weft-test/server:1"}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: NAMESPACE}
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  selector: {app: db}
  ports: [{name: http, port: 8080}]
"#;

#[test]
fn services_with_named_ports_pods_of_a_stateful_set_and_names_are_found_over_both_families() -> Result<()> {
    in_the_mesh("services", SERVED, |place| {
        for (family, mark) in [("4", "10.244."), ("6", "fd00:244:")] {
            for port in ["80", "81"] {
                let curl = curl(&format!("http://named:{port}"));
                let line = format!("for i in 1 2 3 4 5 6; do {curl} -{family} || true; done");
                eventually_within(PATIENCE, &format!("both pods answer on port {port} over IPv{family}"), || {
                    let said = place.run_in("client", &line)?.success()?;
                    for line in said.lines() {
                        // Each pod means another port by the same name.
                        let is_other = line.starts_with("straight") == (port == "81");
                        ensure!(line.contains(mark) && line.ends_with(" on 8081") == is_other, "port {port}: {said}");
                    }
                    let answers = |pod: &str| said.lines().any(|line| line.starts_with(pod));
                    Ok((answers("straight") && answers("crossed")).then_some(()))
                })?;
            }
        }
        for pod in ["db-0", "db-1"] {
            for name in [format!("{pod}.db"), format!("{pod}.db.services.svc.cluster.local")] {
                let answer = place.ask(&format!("http://{name}:8080"))?;
                ensure!(answer.starts_with(&format!("{pod} ")), "{name} is {answer}");
            }
        }
        names_are_resolved(place)
    })
}

/// DNS stays what it is: over UDP, over TCP, of services and of pods, and what does not exist does not.
fn names_are_resolved(place: &Place<'_>) -> Result<()> {
    let cluster_ip = place.field("service/named", ".spec.clusterIP")?;
    for transport in ["", "RES_OPTIONS=use-vc "] {
        let said = place.run_in("client", &format!("{transport}getent ahostsv4 named"))?.success()?;
        ensure!(said.contains(&cluster_ip), "{transport}named is {said}");
        let said =
            place.run_in("client", &format!("{transport}getent ahostsv4 db | sort -u | grep -c STREAM"))?.success()?;
        ensure!(said.trim() == "2", "{transport}db has so many addresses: {said}");
    }
    let said = place.run_in("client", "getent hosts nobody.services.svc.cluster.local")?;
    ensure!(!said.status.success(), "nobody is {}", said.stdout);
    Ok(())
}

/// A pod behind ports of the nodes, another one on the host's network, and a client there.
const OUTSIDE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: NAMESPACE}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: NAMESPACE, labels: {app: web}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers: [{name: server, image: "localhost/weft-test/server:1"}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NAMESPACE}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: web-local, namespace: NAMESPACE}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{name: http, port: 8080, nodePort: 30081}]
---
apiVersion: v1
kind: Pod
metadata: {name: host-client, namespace: NAMESPACE}
spec:
  nodeName: node1
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: host-server, namespace: NAMESPACE, labels: {app: host-server}}
spec:
  nodeName: node2
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{name: server, image: "localhost/weft-test/server:1"}]
---
apiVersion: v1
kind: Service
metadata: {name: host-server, namespace: NAMESPACE}
spec:
  selector: {app: host-server}
  ports: [{name: http, port: 8080}]
"#;

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: NAMESPACE}
spec: {mtls: {mode: STRICT}}
";

#[test]
fn hosts_and_what_is_outside_the_cluster_reach_a_pod_until_it_is_to_be_reached_through_tunnels_alone() -> Result<()> {
    in_the_mesh("outside", OUTSIDE, |place| {
        let host = |url: &str| place.run_in("host-client", &format!("curl -sS --max-time 3 '{url}'"));
        let pod = place.field("pod/web", ".status.podIP")?;
        let addresses = |node: &str| -> Result<Vec<String>> {
            let path = r#".status.addresses[?(@.type=="InternalIP")].address"#;
            Ok(place.field(&format!("node/{node}"), path)?.split_whitespace().map(str::to_owned).collect())
        };
        let mut from_outside = Vec::new();
        for address in [addresses("node1")?, addresses("node2")?].concat() {
            let address = if address.contains(':') { format!("[{address}]") } else { address };
            from_outside.push(format!("http://{address}:30080"));
        }
        ensure!(from_outside.len() == 4, "both nodes have addresses of both families: {from_outside:?}");
        let local = format!("http://{}:30081", addresses("node2")?[0]);
        for url in from_outside.iter().chain([&local]) {
            let answer = eventually_within(PATIENCE, &format!("{url} answers"), || {
                let asked = outside(place, url)?;
                Ok(asked.status.success().then_some(asked.stdout))
            })?;
            ensure!(answer.starts_with("web "), "{url} is {answer}");
        }
        // Where the nodes do not hide it, the pod sees who asks.
        let answer = outside(place, &local)?.success()?;
        ensure!(answer.contains("answers 10.100.0.1\n"), "a client outside the cluster is seen as another: {answer}");
        for url in [format!("http://{pod}:8080"), "http://web:8080".to_owned()] {
            let answer = host(&url)?.success()?;
            ensure!(answer.starts_with("web "), "{url} is {answer}");
        }
        // The host's network is outside: what goes there is in clear, and says nothing that is looked for.
        let answer = place.run_in("client", "curl -sS --max-time 5 http://host-server:8080")?.success()?;
        ensure!(answer.starts_with("node2 "), "the server on the host's network is {answer}");

        place.apply(STRICT)?;
        for url in from_outside.iter().chain([&local]) {
            eventually_within(PATIENCE, &format!("{url} is refused"), || {
                Ok((!outside(place, url)?.status.success()).then_some(()))
            })?;
        }
        for url in [format!("http://{pod}:8080"), "http://web:8080".to_owned()] {
            let asked = host(&url)?;
            ensure!(!asked.status.success(), "a host reached {url} in clear: {}", asked.stdout);
        }
        let answer = place.ask("http://web:8080")?;
        ensure!(answer.starts_with("web "), "for a client in the mesh it is {answer}");
        let answer = place.run_in("client", "curl -sS --max-time 5 http://host-server:8080")?.success()?;
        ensure!(answer.starts_with("node2 "), "the server on the host's network is {answer}");
        Ok(())
    })
}

/// What an address answers to a client that is on no node.
fn outside(place: &Place<'_>, url: &str) -> Result<Finished> {
    let mut curl = place.cluster.command("curl")?;
    curl.args(["-sS", "--noproxy", "*", "--max-time", "3", url]).process_group(0);
    Process::spawn(curl)?.finish_within(PATIENCE)
}

/// A server with a probe by gRPC of each kind, that is reached through tunnels alone.
const STRICTLY: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: NAMESPACE}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: NAMESPACE}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers:
    - name: server
      image: localhost/weft-test/server:1
      startupProbe: {grpc: {port: 9000}, periodSeconds: 1, failureThreshold: 30}
      readinessProbe: {grpc: {port: 9000}, periodSeconds: 1, failureThreshold: 1}
      livenessProbe: {grpc: {port: 9000}, periodSeconds: 1, failureThreshold: 1}
"#;

#[test]
fn probes_by_grpc_and_kubectl_reach_a_pod_that_others_reach_through_tunnels_alone() -> Result<()> {
    in_the_mesh("strictly", STRICTLY, |place| {
        let pod = place.field("pod/web", ".status.podIP")?;
        let mut curl = place.cluster.nodes()[0].command("curl")?;
        curl.args(["-sS", "--max-time", "3", &format!("http://{pod}:8080")]).process_group(0);
        let refused = Process::spawn(curl)?.finish_within(PATIENCE)?;
        ensure!(!refused.status.success(), "a process of the node that is no kubelet reached the pod in clear");

        let mut forward = place.cluster.command("kubectl")?;
        forward.args(["port-forward", "--namespace", place.namespace, "pod/web", ":8080"]).process_group(0);
        let mut forward = Process::spawn(forward)?;
        forward.wait_for_output_within("Forwarding from 127.0.0.1:", PATIENCE)?;
        let said = forward.stdout();
        let port = said.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
        let port = port.with_context(|| format!("port-forward said {said}"))?;
        for _ in 0..3 {
            let answer = outside(place, &format!("http://127.0.0.1:{port}/forwarded"))?.success()?;
            ensure!(answer.starts_with("web "), "the forwarded port is {answer}");
        }
        forward.kill()?;

        let said = place.run_in("web", "echo $((6 * 7))")?.success()?;
        ensure!(said.trim() == "42", "kubectl exec says {said}");
        let logs = place.kubectl(&["logs", "web"])?.success()?;
        ensure!(logs.contains("GET /forwarded"), "kubectl logs says {logs}");

        // Each of its probes runs every second, and one failure is enough.
        std::thread::sleep(Duration::from_secs(4));
        let stands = place.field("pod/web", ".status.containerStatuses[0]['restartCount','ready']")?;
        ensure!(stands == "0 true", "restarts and readiness of the probed pod: {stands}");
        Ok(())
    })
}

/// Work that ends, on both nodes, in four pods of which two run at a time.
const WORK: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: work, namespace: NAMESPACE}
spec:
  completions: 4
  parallelism: 2
  backoffLimit: 0
  template:
    metadata: {labels: {app: work}}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - topologyKey: kubernetes.io/hostname
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: {matchLabels: {app: work}}
      containers:
        - name: client
          image: localhost/weft-test/client:1
          args: ["for i in 1 2 3; do curl -sS --max-time 10 -H 'mark: MARK' http://server.default:8080 || exit 1; done"]
"#;

#[test]
fn jobs_of_the_mesh_end_with_their_work_and_nothing_is_left_of_their_pods() -> Result<()> {
    in_the_mesh("jobs", "", |place| {
        place.apply(WORK)?;
        place.kubectl(&["wait", "--for=condition=Complete", "job/work", "--timeout=55s"])?.success()?;
        let logs = place.kubectl(&["logs", "--selector=app=work", "--tail=-1"])?.success()?;
        ensure!(logs.matches(" answers ").count() == 12, "four pods that asked three times heard: {logs}");
        eventually_within(PATIENCE, "no agent has a pod of the job any more", || {
            let listed = weft(place.cluster, &["pods", "--kubernetes", "--namespace", place.namespace])?;
            Ok((listed.code() == 0 && !listed.stdout.contains("work-")).then_some(()))
        })
    })
}
