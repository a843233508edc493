//! What the controllers of a cluster keep in it: one root, its bundle in every namespace, the statuses of policies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::cluster::Cluster;
use weft_tests::eventually_within;

use super::control_plane::{ControlPlane, controller_log};
use super::{PATIENCE, shop};

/// One policy that is in force, and one that layer 4 cannot judge whole.
const POLICIES: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: plain, namespace: default}
spec: {rules: [{from: [{source: {namespaces: [default]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: requests, namespace: default}
spec: {rules: [{to: [{operation: {paths: [/admin]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {mtls: {mode: STRICT}}
"#;

fn get(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let got = cluster.kubectl(&[&["get", "--output=json"], arguments].concat())?.success()?;
    serde_json::from_str(&got).context("parsing what kubectl says")
}

/// What the controllers say of a policy, once they have said it.
fn condition(cluster: &Cluster, policy: &str) -> Result<Value> {
    eventually_within(PATIENCE, &format!("{policy} has its status"), || {
        let conditions = get(cluster, &[policy])?["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.into_iter().find(|condition| condition["type"] == "WeftAccepted"))
    })
}

fn leader(cluster: &Cluster) -> Result<String> {
    let lease = get(cluster, &["lease", "weft-controller", "--namespace=weft-system"])?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn controllers_that_start_at_once_make_one_root_and_keep_the_cluster_in_order() -> Result<()> {
    let cluster = shop()?;
    let mut plane = ControlPlane::start(&cluster, 2, &[])?;

    // One root, whoever was first.
    let root = get(&cluster, &["secret", "weft-ca", "--namespace=weft-system"])?["data"]["root-cert.pem"].clone();
    ensure!(root.is_string(), "the Secret has no root");
    let logs = [plane.log(&controller_log(0)), plane.log(&controller_log(1))];
    let made = logs.iter().filter(|log| log.contains("made a new root")).count();
    ensure!(made == 1, "{made} controllers made a root:\n{}", logs.join("\n"));
    ensure!(logs.iter().all(|log| log.contains("this authority signs")), "one does not sign:\n{}", logs.join("\n"));

    // Its bundle is in every namespace, in those to come too, and comes back.
    let bundle = plane.bundle("weft-system")?;
    cluster.kubectl(&["create", "namespace", "late"])?.success()?;
    let namespaces = get(&cluster, &["namespaces"])?;
    for namespace in namespaces["items"].as_array().context("there are namespaces")? {
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
        ensure!(plane.bundle(name)? == bundle, "the bundle of {name} is another");
    }
    let map = ["configmap/weft-ca-root-cert", "--namespace=default"];
    cluster.kubectl(&[&["delete"], &map[..]].concat())?.success()?;
    ensure!(plane.bundle("default")? == bundle);
    let forged = r#"--patch={"data":{"root-cert.pem":"forged"}}"#;
    cluster.kubectl(&[&["patch"], &map[..], &[forged]].concat())?.success()?;
    eventually_within(PATIENCE, "the bundle is as it was", || Ok((plane.bundle("default")? == bundle).then_some(())))?;

    // Policies, of kinds that the cluster did not have at first, get their statuses.
    let definitions = std::fs::read_to_string(super::Kit::find()?.definitions().join("istio.yaml"))?;
    cluster.apply(&definitions)?;
    eventually_within(PATIENCE, "the policies are taken", || Ok(cluster.apply(POLICIES).is_ok().then_some(())))?;
    for (policy, status, reason) in [
        ("authorizationpolicy/plain", "True", "Accepted"),
        ("authorizationpolicy/requests", "False", "PartlyInForce"),
        ("peerauthentication/strict", "True", "Accepted"),
    ] {
        let condition = condition(&cluster, policy)?;
        ensure!(condition["status"] == status && condition["reason"] == reason, "{policy}: {condition}");
        ensure!(condition["observedGeneration"] == 1, "{policy}: {condition}");
    }
    let message = condition(&cluster, "authorizationpolicy/requests")?["message"].clone();
    ensure!(message.as_str().is_some_and(|text| text.contains("'paths' needs layer 7")), "{message}");
    // What has its status is left alone.
    let version = |policy| Ok::<_, anyhow::Error>(get(&cluster, &[policy])?["metadata"]["resourceVersion"].clone());
    let before = version("authorizationpolicy/plain")?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(version("authorizationpolicy/plain")? == before, "a status is written again and again");

    // Another leads as soon as the leader has ended in order, long before its lease would run out.
    let first = leader(&cluster)?;
    let leads = |log: &String| log.contains("this controller leads");
    let logs = [plane.log(&controller_log(0)), plane.log(&controller_log(1))];
    ensure!(logs.iter().filter(|log| leads(log)).count() == 1, "one leads:\n{}", logs.join("\n"));
    let index = logs.iter().position(leads).context("one leads")?;
    plane.controllers[index].signal(15)?;
    eventually_within(Duration::from_secs(12), "the other one leads", || {
        let now = leader(&cluster)?;
        Ok((now != first && !now.is_empty()).then_some(()))
    })?;
    cluster.kubectl(&[&["delete"], &map[..]].concat())?.success()?;
    ensure!(plane.bundle("default")? == bundle);

    // A Secret of the operator's that makes no authority: who has one signs on, who starts waits until it is right.
    let secret = ["secret", "generic", "cacerts", "--namespace=weft-system", "--from-literal=ca-cert.pem=nonsense"];
    cluster.kubectl(&[&["create"], &secret[..]].concat())?.success()?;
    let waiting = plane.one_more()?;
    for (controller, words) in [(1 - index, "the last one signs on"), (usize::from(waiting), "waiting for it")] {
        let log = controller_log(u16::try_from(controller)?);
        eventually_within(PATIENCE, &format!("{log} says what is wrong"), || {
            let text = plane.log(&log);
            Ok((text.contains(words) && text.contains("weft-system/cacerts has no ca-key.pem")).then_some(()))
        })?;
    }
    ensure!(!plane.log(&controller_log(waiting)).contains("the controller runs"), "it serves without an authority");
    cluster.kubectl(&["delete", "secret", "cacerts", "--namespace=weft-system"])?.success()?;
    plane.wait_for_controller(waiting)
}
