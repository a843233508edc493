//! A cluster that many tests share, one after the other: to start one takes longer than most of them.
//!
//! In `default` it has the shop, in the mesh, with a client that makes requests for as long as a test runs, and the fabric is
//! recorded meanwhile. What a test needs of its own it makes in a namespace of its own.

use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::Cluster;
use weft_tests::{Finished, eventually_within, remove_worlds_of_this_process};

use super::PATIENCE;
use super::mesh::{Load, MARK, is_never_in_clear, shop_in_the_mesh};

static STANDING: Mutex<Option<Cluster>> = Mutex::new(None);

/// A namespace on the cluster that tests share.
pub(super) struct Place<'a> {
    pub cluster: &'a Cluster,
    /// Its name.
    pub namespace: &'a str,
    /// The requests that go on in the shop.
    pub load: &'a Load<'a>,
}

/// Runs a test in a namespace of this name, which is in the mesh and has what `manifests` say: NAMESPACE there is its name, MARK
/// what clients are to say. None of the requests that go on in the shop may fail meanwhile, and nothing of what clients in
/// the mesh say may be seen in clear.
pub(super) fn in_the_mesh(namespace: &str, manifests: &str, test: impl FnOnce(&Place<'_>) -> Result<()>) -> Result<()> {
    let mut standing = STANDING.lock().unwrap_or_else(PoisonError::into_inner);
    let began = Instant::now();
    let cluster = match &mut *standing {
        Some(cluster) => cluster,
        none => none.insert(start()?),
    };
    let started = began.elapsed();
    cluster.apply(
        &format!("{}---\n{manifests}", enrolled(namespace)).replace("NAMESPACE", namespace).replace("MARK", MARK),
    )?;
    let load = Load::start_in(cluster, "default", MARK)?;
    // Where a test has failed its requests go on.
    let before = load.outcome()?;
    let tap = cluster.record_fabric()?;
    let place = Place { cluster, namespace, load: &load };
    let ready = place.wait_until_ready();
    let prepared = began.elapsed();
    ready.and_then(|()| test(&place)).with_context(|| place.describe())?;
    let tested = began.elapsed();
    load.go_on(10)?;
    let outcome = load.outcome()?;
    let failed = &outcome.failed[before.failed.len()..];
    ensure!(failed.is_empty(), "in the shop meanwhile: {failed:#?}");
    is_never_in_clear(&tap.stop()?)?;
    // The next test need not wait for anything to be gone.
    cluster.kubectl(&["delete", "pod/load", "--grace-period=0", "--force", "--wait=false"])?.success()?;
    cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"])?.success()?;
    let seconds = |time: Duration| time.as_secs_f32();
    println!(
        "{namespace}: {:.1} s: cluster and Weft {:.1}, pods {:.1}, test {:.1}, end {:.1}; {} requests answered in the shop",
        seconds(began.elapsed()),
        seconds(started),
        seconds(prepared - started),
        seconds(tested - prepared),
        seconds(began.elapsed() - tested),
        outcome.good - before.good,
    );
    Ok(())
}

/// A namespace that belongs to the mesh.
pub(super) fn enrolled(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{istio.io/dataplane-mode: ambient}}}}\n"
    )
}

fn start() -> Result<Cluster> {
    static AT_THE_END: Once = Once::new();
    extern "C" fn remove() {
        remove_worlds_of_this_process();
    }
    // What a static holds is never dropped.
    AT_THE_END.call_once(|| {
        // SAFETY: the function takes nothing, returns nothing, and does not unwind.
        let registered = unsafe { libc::atexit(remove) };
        assert_eq!(registered, 0, "nobody would remove the cluster");
    });
    shop_in_the_mesh()
}

impl Place<'_> {
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.cluster.apply(&manifests.replace("NAMESPACE", self.namespace).replace("MARK", MARK))
    }

    /// Runs kubectl in the namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Finished> {
        self.cluster.kubectl(&[&["--namespace", self.namespace], arguments].concat())
    }

    /// What is asked of an object.
    pub fn field(&self, object: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", object, &format!("--output=jsonpath={{{path}}}")])?.success()
    }

    /// Runs a command line in a pod.
    pub fn run_in(&self, pod: &str, line: &str) -> Result<Finished> {
        self.kubectl(&["exec", pod, "--", "bash", "-c", line])
    }

    /// What an address answers to the pod `client`, or why it does not.
    pub fn ask(&self, url: &str) -> Result<String> {
        self.run_in("client", &curl(url))?.success()
    }

    /// Waits until all pods of the namespace that are to stay are ready.
    pub fn wait_until_ready(&self) -> Result<()> {
        eventually_within(PATIENCE, "all pods are ready", || {
            let path = r#"--output=jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}"#;
            let ready = self.kubectl(&["get", "pods", path])?.success()?;
            let wanted = r#"--output=jsonpath={range .items[*]}{.spec.replicas}/{.status.readyReplicas} {end}"#;
            let wanted = self.kubectl(&["get", "deployments,statefulsets", wanted])?.success()?;
            let is_complete = |text: &str| text.split_once('/').is_some_and(|(wanted, ready)| wanted == ready);
            let are_complete = wanted.split_whitespace().all(is_complete);
            Ok((are_complete && ready.split_whitespace().all(|status| status == "True")).then_some(()))
        })
    }

    /// What a person needs first when a test has failed: the cluster will be gone.
    fn describe(&self) -> String {
        let questions: [&[&str]; 3] = [
            &["get", "pods", "--output=wide"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "daemonset/weft-agent", "--namespace=weft-system", "--all-pods", "--prefix", "--tail=300"],
        ];
        let answers = questions.map(|question| {
            let asked = self.kubectl(question);
            asked.map(|finished| finished.stdout + &finished.stderr).unwrap_or_else(|error| format!("{error:#}\n"))
        });
        // One line for each of the requests in the shop would bury the others.
        let lines = answers.iter().flat_map(|answer| answer.lines());
        lines.filter(|line| !line.contains("\taccess\t")).map(|line| format!("{line}\n")).collect()
    }
}

/// A request of a pod of the mesh.
pub(super) fn curl(url: &str) -> String {
    format!("curl -sS --max-time 5 -H 'mark: {MARK}' '{}'", url.replace('\'', ""))
}
