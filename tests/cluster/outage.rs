//! Minutes without controllers, and changes under load, compared with the same outside the mesh.

use std::env;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::Cluster;
use weft_tests::cluster::chart::NAMESPACE;
use weft_tests::eventually_within;

use super::PATIENCE;
use super::mesh::{Load, MARK, Outcome};
use super::standing::{Place, in_the_mesh};

/// How long controllers stay away. `WEFT_OUTAGE_SECONDS=300` makes it the five minutes that a cluster has to bear.
fn how_long() -> Result<Duration> {
    match env::var("WEFT_OUTAGE_SECONDS") {
        Ok(seconds) => Ok(Duration::from_secs(seconds.parse().context("WEFT_OUTAGE_SECONDS is a number")?)),
        Err(_) => Ok(Duration::from_secs(20)),
    }
}

/// A client, and pods with probes on both nodes.
const PROBED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: NAMESPACE}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NAMESPACE}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - topologyKey: kubernetes.io/hostname
          maxSkew: 1
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {matchLabels: {app: web}}
      containers:
        - name: server
          image: localhost/weft-test/server:1
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 1}
          livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NAMESPACE}
spec:
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: NAMESPACE}
spec: {mtls: {mode: STRICT}}
"#;

/// Controllers that are away until this is dropped.
struct Away<'a>(&'a Cluster);

impl<'a> Away<'a> {
    fn send(cluster: &'a Cluster) -> Result<Self> {
        let away = Self(cluster);
        away.scale("0")?;
        eventually_within(PATIENCE, "no controller is left", || {
            let selector = "--selector=app.kubernetes.io/name=weft-controller";
            let listed = ["get", "pods", "--namespace", NAMESPACE, selector, "--output=name"];
            Ok(cluster.kubectl(&listed)?.success()?.is_empty().then_some(()))
        })?;
        Ok(away)
    }

    fn scale(&self, replicas: &str) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        let scaled = self.0.kubectl(&["scale", "deployment/weft-controller", "--namespace", NAMESPACE, &replicas])?;
        scaled.success().map(drop)
    }

    fn bring_back(self) -> Result<()> {
        let cluster = self.0;
        drop(self);
        let status = ["rollout", "status", "deployment/weft-controller", "--namespace", NAMESPACE, "--timeout=55s"];
        cluster.kubectl(&status)?.success().map(drop)
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.scale("2") {
            println!("the controllers do not come back: {error:#}");
        }
    }
}

#[test]
fn without_controllers_everything_known_goes_on_and_what_is_new_is_there_when_they_are_back() -> Result<()> {
    in_the_mesh("outage", PROBED, |place| {
        let answered = || -> Result<usize> {
            let line =
                format!("for i in 1 2 3 4 5 6 7 8; do {} || true; done", super::standing::curl("http://web:8080"));
            Ok(place.run_in("client", &line)?.success()?.matches(" answers ").count())
        };
        eventually_within(PATIENCE, "both pods answer", || Ok((answered()? == 8).then_some(())))?;
        let before = place.load.outcome()?;
        let away = Away::send(place.cluster)?;
        let began = Instant::now();

        // A pod is made again, with what its node knows: the certificate of its account. Nobody tells its clients, who go on
        // dialling the one that went: what counts is that the service goes on.
        let pod_of =
            |node: &str, path: &str| place.field("pods", &format!(".items[?(@.spec.nodeName=={node:?})]{path}"));
        let victim = pod_of("node2", ".metadata.name")?;
        place.kubectl(&["delete", "pod", &victim, "--wait"])?.success()?;
        let at_once = answered()?;
        sleep(how_long()?.saturating_sub(began.elapsed()));
        let at_the_end = answered()?;
        eventually_within(PATIENCE, "the pod that was made again is ready", || {
            let is_another = pod_of("node2", ".metadata.name")? != victim;
            let is_ready = pod_of("node2", ".status.containerStatuses[0].ready")? == "true";
            Ok((is_another && is_ready).then_some(()))
        })?;
        let restarts = place.field("pods", ".items[*].status.containerStatuses[0].restartCount")?;
        let now = place.load.outcome()?;
        println!(
            "without controllers for {:.0} s: {} requests answered and {} failed; of 8 to a service with two pods, of which one \
             was replaced, {at_once} were answered at once and {at_the_end} at the end",
            began.elapsed().as_secs_f32(),
            now.good - before.good,
            now.failed.len() - before.failed.len(),
        );
        ensure!(at_once > 0 && at_the_end > 0, "a service of which one pod is left does not answer");
        ensure!(restarts == "0 0 0", "the probes of pods did not go on, so they were started again: {restarts}");
        away.bring_back()?;
        place.wait_until_ready()?;
        eventually_within(PATIENCE, "both pods answer again", || Ok((answered()? == 8).then_some(())))?;
        println!("all is as before {:.0} s after the controllers went", began.elapsed().as_secs_f32());
        Ok(())
    })
}

/// What is rolled out, on both nodes. A pod that ends goes on for as long as it takes until nobody sends it anything.
const ROLLED: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, namespace: NAMESPACE}
spec:
  replicas: 2
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
        - name: server
          image: localhost/weft-test/server:1
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
          lifecycle: {preStop: {sleep: {seconds: 4}}}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: NAMESPACE}
spec:
  selector: {app: server}
  ports: [{name: http, port: 8080}]
"#;

#[test]
fn rolling_out_and_scaling_fails_no_more_requests_than_without_the_mesh() -> Result<()> {
    let outside = "rolled-outside";
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {outside}}}\n---\n");
    let manifests = ROLLED.to_owned() + "---\n" + &namespace + &ROLLED.replace("NAMESPACE", outside);
    in_the_mesh("rolled", &manifests, |place| {
        let loads = [
            Load::start_in(place.cluster, place.namespace, MARK)?,
            // What is outside the mesh speaks in clear, and says nothing that is looked for.
            Load::start_in(place.cluster, outside, "said-outside")?,
        ];
        let mut before = [Outcome::default(), Outcome::default()];
        let mut lasted = |what: &str| -> Result<()> {
            let now = [loads[0].outcome()?, loads[1].outcome()?];
            let of = |i: usize| (now[i].good - before[i].good, now[i].failed.len() - before[i].failed.len());
            let ((good, failed), (good_outside, failed_outside)) = (of(0), of(1));
            println!(
                "{what}: in the mesh {good} requests answered and {failed} failed, outside {good_outside} and {failed_outside}"
            );
            before = now;
            Ok(())
        };
        in_both(place, outside, &["rollout", "restart", "deployment/server"])?;
        in_both(place, outside, &["rollout", "status", "deployment/server", "--timeout=55s"])?;
        lasted("while a Deployment was rolled out")?;
        for replicas in ["--replicas=4", "--replicas=1"] {
            in_both(place, outside, &["scale", "deployment/server", replicas])?;
            in_both(place, outside, &["rollout", "status", "deployment/server", "--timeout=55s"])?;
            eventually_within(PATIENCE, "as many pods as were asked for are there", || {
                let count = |namespace: &str| -> Result<bool> {
                    let listed = ["get", "pods", "--selector=app=server", "--namespace", namespace, "--output=name"];
                    let listed = place.cluster.kubectl(&listed)?.success()?;
                    Ok(replicas.ends_with(&listed.lines().count().to_string()))
                };
                Ok((count(place.namespace)? && count(outside)?).then_some(()))
            })?;
            lasted(&format!("while it was scaled, {replicas}"))?;
        }
        for load in &loads {
            load.go_on(10)?;
        }
        let [inside, plain] = loads.map(Load::stop);
        let (inside, plain) = (inside?, plain?);
        place.cluster.kubectl(&["delete", "namespace", outside, "--wait=false"])?.success()?;
        ensure!(inside.failed.len() <= plain.failed.len(), "in the mesh {inside:#?}, outside {plain:#?}");
        Ok(())
    })
}

fn in_both(place: &Place<'_>, outside: &str, arguments: &[&str]) -> Result<()> {
    place.kubectl(arguments)?.success()?;
    place.cluster.kubectl(&[&["--namespace", outside], arguments].concat())?.success().map(drop)
}
