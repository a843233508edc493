//! A controller that watches a real API server, and an agent that follows it.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_tests::eventually_within;

use super::control_plane::{ControlPlane, announce, controller_log};
use super::{PATIENCE, shop};

const DENY: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-all, namespace: default}
spec: {}
"#;

#[test]
fn an_agent_learns_of_a_controller_what_the_cluster_has() -> Result<()> {
    let cluster = shop()?;
    let plane = ControlPlane::start(&cluster, 1, &[])?;
    announce(&cluster)?;

    // Tokens of others, and for others, are refused.
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=agent-node1", "--namespace=weft-system"];
    let strangers = plane.token("stranger", &["default", "--audience=istio-ca"])?;
    let elsewhere = plane.token("elsewhere", &[&["weft-agent"], &bound[..]].concat())?;
    for (token, reason) in
        [(strangers, "is neither an agent's nor a waypoint's"), (elsewhere, "does not accept the token")]
    {
        let agent = plane.agent("node1", &token)?;
        eventually_within(PATIENCE, &format!("the log says that a caller {reason}"), || {
            Ok(plane.log(&controller_log(0)).contains(reason).then_some(()))
        })?;
        ensure!(agent.enrolled()?.is_empty(), "a caller that was refused knows of {:?}", agent.enrolled()?);
    }

    let agent = plane.agent("node1", &plane.token_of("node1")?)?;
    let names = agent.wait_for_enrolled(3)?;
    ensure!(names[0] == "client" && names[1].starts_with("server-"), "enrolled are {names:?}");

    // Kinds that the cluster did not have when the controller started.
    let definitions = std::fs::read_to_string(super::Kit::find()?.definitions().join("istio.yaml"))?;
    cluster.apply(&definitions)?;
    eventually_within(PATIENCE, "the policy is taken", || Ok(cluster.apply(DENY).is_ok().then_some(())))?;
    eventually_within(PATIENCE, "the agent has the policy", || {
        Ok(agent.json("policies")?.iter().any(|policy| policy["name"] == "deny-all").then_some(()))
    })?;

    // While the API server is away what was known stays, and then what has changed meanwhile is learned.
    let control = cluster.control_plane();
    control.stop_service("kube-apiserver")?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(agent.enrolled()? == names, "without the API server {:?} are left of {names:?}", agent.enrolled()?);
    control.start_service("kube-apiserver")?;
    eventually_within(PATIENCE, "the API server takes orders", || {
        Ok(cluster.kubectl(&["scale", "deployment/server", "--replicas=3"])?.status.success().then_some(()))
    })?;
    eventually_within(PATIENCE, "the agent knows the new pod", || {
        announce(&cluster)?;
        Ok((agent.enrolled()?.len() == 4).then_some(()))
    })?;
    cluster.kubectl(&["label", "namespace/default", "istio.io/dataplane-mode-"])?.success()?;
    agent.wait_for_enrolled(0)?;
    Ok(())
}
