//! What an agent says it knows, for waiting until it knows something.
//!
//! A scenario that changes a manifest must not guess when every agent has read it. It asks the admin interface, as an
//! operator's script would.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Agent;
use crate::pod::Pod;
use crate::wait::eventually;

impl Agent {
    /// The list that the admin interface answers on `/v1/NAME`: `pods`, `workloads`, `services`, `policies`,
    /// `certificates` or `connections`.
    ///
    /// # Errors
    /// It does not answer, or not with such a list.
    pub fn list(&self, name: &str) -> Result<Vec<Value>> {
        let (status, body) = self.admin(&format!("/v1/{name}"))?;
        ensure!(status == 200, "/v1/{name} answered {status}: {body}");
        let mut answer: Value = serde_json::from_str(&body).with_context(|| format!("/v1/{name} answered {body:?}"))?;
        match answer[name].take() {
            Value::Array(list) => Ok(list),
            other => anyhow::bail!("/v1/{name} answered no list but {other}"),
        }
    }

    /// Waits until an item of a list is as wanted, and returns it.
    ///
    /// # Errors
    /// None is in 20 seconds; the message shows the list.
    pub fn wait_for(&self, list: &str, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let waited = eventually(&format!("{what} in the {list} of the agent of {}", self.options.label), || {
            Ok(self.list(list)?.into_iter().find(|item| is_wanted(item)))
        });
        waited.with_context(|| format!("{list}: {:#}", Value::from(self.list(list).unwrap_or_default())))
    }

    /// Waits until this pod of its own node is captured.
    ///
    /// # Errors
    /// It is not in 20 seconds.
    pub fn wait_enrolled(&self, pod: &Pod) -> Result<()> {
        self.wait_for("pods", &format!("{} captured", pod.name()), |item| {
            is_of(item, pod) && item["state"] == "captured"
        })?;
        Ok(())
    }

    /// Waits until this pod of its own node is no longer captured, and its listeners are gone.
    ///
    /// # Errors
    /// It still is after 20 seconds.
    pub fn wait_unenrolled(&self, pod: &Pod) -> Result<()> {
        let is_outside = |item: &Value| is_of(item, pod) && item["state"] == "outside";
        self.wait_for("pods", &format!("{} outside", pod.name()), is_outside)?;
        eventually("its listeners are closed", || Ok((!pod.listens_on(15008)?).then_some(())))
    }

    /// Waits until it knows this pod, of whichever node, and would reach it over this protocol: `hbone` or `tcp`.
    ///
    /// # Errors
    /// It does not in 20 seconds.
    pub fn wait_for_protocol(&self, pod: &Pod, protocol: &str) -> Result<()> {
        let is_wanted = |item: &Value| is_of(item, pod) && item["protocol"] == protocol;
        self.wait_for("workloads", &format!("{} over {protocol}", pod.name()), is_wanted)?;
        Ok(())
    }

    /// Waits until it knows the policy `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// It does not in 20 seconds.
    pub fn wait_for_policy(&self, key: &str) -> Result<()> {
        let (namespace, name) = key.split_once('/').context("a policy's key is NAMESPACE/NAME")?;
        let is_wanted = |item: &Value| item["namespace"] == namespace && item["name"] == name;
        self.wait_for("policies", key, is_wanted)?;
        Ok(())
    }

    /// Waits until a service of its has endpoints in these conditions, in any order: `ready`, `not_ready`,
    /// `terminating`.
    ///
    /// # Errors
    /// It has not in 20 seconds.
    pub fn wait_for_endpoints(&self, service: &str, conditions: &[&str]) -> Result<()> {
        let mut wanted = conditions.to_vec();
        wanted.sort_unstable();
        let is_wanted = |item: &Value| {
            let endpoints = item["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
            let mut found: Vec<_> = endpoints.iter().filter_map(|endpoint| endpoint["condition"].as_str()).collect();
            found.sort_unstable();
            item["name"] == service && found == wanted
        };
        self.wait_for("services", &format!("{service} with endpoints {wanted:?}"), is_wanted)?;
        Ok(())
    }
}

fn is_of(item: &Value, pod: &Pod) -> bool {
    item["namespace"] == pod.namespace() && item["name"] == pod.name()
}
