//! Who may reach whom, as people write it and change it while traffic goes on.

use anyhow::{Result, ensure};
use weft_tests::eventually_within;

use super::PATIENCE;
use super::standing::{Place, curl, enrolled, in_the_mesh};

/// A server, clients of two accounts in its namespace, one of another namespace of the mesh, and one outside.
const BAKERY: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: baker, namespace: NAMESPACE}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: miller, namespace: NAMESPACE}
---
apiVersion: v1
kind: Pod
metadata: {name: oven, namespace: NAMESPACE, labels: {app: oven}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers: [{name: server, image: "localhost/weft-test/server:1"}]
---
apiVersion: v1
kind: Service
metadata: {name: oven, namespace: NAMESPACE}
spec:
  selector: {app: oven}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: baker, namespace: NAMESPACE}
spec:
  nodeName: node1
  serviceAccountName: baker
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "localhost/weft-test/client:1", args: [TALK]}]
---
apiVersion: v1
kind: Pod
metadata: {name: miller, namespace: NAMESPACE}
spec:
  nodeName: node1
  serviceAccountName: miller
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "localhost/weft-test/client:1", args: [TALK]}]
"#;

const GUESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: policy-street}
---
apiVersion: v1
kind: Pod
metadata: {name: guest, namespace: policy-guests}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: passer-by, namespace: policy-street}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
"#;

/// Rules of one namespace, by name: who is let in, or kept out.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: NAMESPACE}}\nspec: {spec}\n"
    )
}

/// All who could be let in, in this order.
const CALLERS: [(&str, &str); 4] =
    [("policy", "baker"), ("policy", "miller"), ("policy-guests", "guest"), ("policy-street", "passer-by")];

/// Waits until just these are let in.
fn let_in(place: &Place<'_>, expected: [bool; 4]) -> Result<()> {
    let mut seen = [false; 4];
    let waited = eventually_within(PATIENCE, &format!("of {CALLERS:?} these are let in: {expected:?}"), || {
        for ((namespace, pod), seen) in CALLERS.iter().zip(&mut seen) {
            // What is outside the mesh speaks in clear, and must say nothing that is looked for.
            let line = match *namespace == "policy-street" {
                true => "curl -sS --max-time 3 http://oven.policy:8080".to_owned(),
                false => curl("http://oven.policy:8080"),
            };
            let asked = place.cluster.kubectl(&["exec", "--namespace", namespace, pod, "--", "bash", "-c", &line])?;
            *seen = asked.status.success() && asked.stdout.starts_with("oven ");
        }
        Ok((seen == expected).then_some(()))
    });
    anyhow::Context::with_context(waited, || format!("these are: {seen:?}"))
}

#[test]
fn those_are_let_in_whose_account_or_namespace_a_policy_names() -> Result<()> {
    let bakery = BAKERY.replace("TALK", "\"sleep infinity\"");
    let manifests = format!("{bakery}---\n{}---{GUESTS}", enrolled("policy-guests"));
    in_the_mesh("policy", &manifests, |place| {
        let_in(place, [true; 4])?;
        // A policy that allows nothing is the default that everything else is an exception of.
        place.apply(&policy("nobody", "{}"))?;
        let_in(place, [false; 4])?;
        place.apply(&policy(
            "by-account",
            r#"{rules: [{from: [{source: {principals: ["cluster.local/ns/policy/sa/baker"]}}]}]}"#,
        ))?;
        let_in(place, [true, false, false, false])?;
        place.apply(&policy("by-namespace", "{rules: [{from: [{source: {namespaces: [policy-guests]}}]}]}"))?;
        let_in(place, [true, false, true, false])?;
        // Who is kept out stays out, whoever lets him in.
        place.apply(&policy(
            "not-the-baker",
            r#"{action: DENY, rules: [{from: [{source: {principals: ["*/sa/baker"]}}]}]}"#,
        ))?;
        let_in(place, [false, false, true, false])?;
        place.kubectl(&["delete", "authorizationpolicies", "--all"])?.success()?;
        let_in(place, [true; 4])?;
        place
            .cluster
            .kubectl(&["delete", "namespace", "policy-guests", "policy-street", "--wait=false"])?
            .success()
            .map(drop)
    })
}

/// Says something on one connection, again and again, until that ends. Before the first answer the server may not be there yet.
const TALK: &str = r#""
trap '' PIPE;
ask() {
  printf 'GET / HTTP/1.1\r\nHost: oven\r\nmark: MARK\r\n\r\n' >&3 || return; line=;
  until [[ $line == *answers* ]]; do read -r -t 30 line <&3 || return; done;
};
until exec 3<>/dev/tcp/oven/8080 && ask; do sleep 0.2; done;
while ask; do echo good; sleep 0.1; done;
echo ended; sleep infinity""#;

#[test]
fn a_connection_ends_with_the_policy_that_allowed_it_and_others_go_on() -> Result<()> {
    let talk: String = TALK.lines().collect::<Vec<_>>().join(" ").replace('\\', "\\\\");
    let bakery = BAKERY.replace("TALK", &talk);
    let allow = |account: &str| {
        let rule = r#"{rules: [{from: [{source: {principals: ["cluster.local/ns/NAMESPACE/sa/ACCOUNT"]}}]}]}"#;
        policy(account, &rule.replace("ACCOUNT", account))
    };
    let manifests = format!("{}---\n{}---\n{bakery}", allow("baker"), allow("miller"));
    in_the_mesh("revocation", &manifests, |place| {
        let said = |pod: &str| -> Result<(usize, bool)> {
            let logs = place.kubectl(&["logs", pod])?.success()?;
            Ok((logs.matches("good").count(), logs.contains("ended")))
        };
        let goes_on = |pod: &str| -> Result<()> {
            let (before, _) = said(pod)?;
            eventually_within(PATIENCE, &format!("{pod} hears more on its connection"), || {
                let (heard, has_ended) = said(pod)?;
                ensure!(!has_ended, "the connection of {pod} has ended");
                Ok((heard >= before + 5).then_some(()))
            })
        };
        goes_on("baker")?;
        goes_on("miller")?;
        place.kubectl(&["delete", "authorizationpolicy/baker"])?.success()?;
        eventually_within(PATIENCE, "the baker's connection has ended", || Ok(said("baker")?.1.then_some(())))?;
        goes_on("miller")?;
        let again = place.run_in("baker", &curl("http://oven:8080"))?;
        ensure!(!again.status.success(), "who was sent away is let in again: {}", again.stdout);

        place.apply(&policy(
            "no-millers",
            r#"{action: DENY, rules: [{from: [{source: {principals: ["*/sa/miller"]}}]}]}"#,
        ))?;
        eventually_within(PATIENCE, "the miller's connection has ended", || Ok(said("miller")?.1.then_some(())))
    })
}
