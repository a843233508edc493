//! The few questions that are put to the API server while a cluster starts. kubectl could put them, but takes longer to
//! start than the answers take.

use std::fs;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::machine::Machine;
use super::plan::{Plan, fabric_addresses};
use crate::netns::enter_thread;

pub(super) struct Api<'a> {
    machine: &'a Machine,
    /// The file that tells curl the administrator's token, which is not for the list of processes.
    header: String,
    authority: String,
    address: IpAddr,
}

impl<'a> Api<'a> {
    pub(super) fn new(plan: &Plan, machine: &'a Machine) -> Result<Self> {
        let folder = plan.folder();
        let header = folder.join("admin.header");
        let token = super::control_plane::token(plan, "admin")?;
        fs::write(&header, format!("Authorization: Bearer {token}\n"))?;
        Ok(Self {
            machine,
            header: format!("@{}", header.display()),
            authority: folder.join("ca.crt").display().to_string(),
            address: fabric_addresses(0).0.into(),
        })
    }

    /// Whether all parts of the API server's own start are through.
    pub(super) fn is_ready(&self) -> Result<Option<()>> {
        self.machine.check()?;
        Ok(self.ask("/readyz")?.map(drop))
    }

    /// Whether so many nodes are ready.
    pub(super) fn ready_nodes(&self, wanted: usize) -> Result<Option<()>> {
        let Some(list) = self.object("/api/v1/nodes")? else { return Ok(None) };
        let is_ready = |node: &&Value| {
            let conditions = node["status"]["conditions"].as_array();
            conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
        };
        let ready = list["items"].as_array().map_or(0, |nodes| nodes.iter().filter(is_ready).count());
        Ok((ready == wanted).then_some(()))
    }

    /// Whether a deployment has all of its replicas.
    pub(super) fn is_available(&self, namespace: &str, deployment: &str) -> Result<Option<()>> {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}");
        let Some(object) = self.object(&path)? else { return Ok(None) };
        Ok((object["status"]["availableReplicas"] == object["spec"]["replicas"]).then_some(()))
    }

    fn object(&self, path: &str) -> Result<Option<Value>> {
        let Some(answer) = self.ask(path)? else { return Ok(None) };
        serde_json::from_slice(&answer).map(Some).with_context(|| format!("parsing the answer to {path}"))
    }

    /// The body of an answer; none while there is no good one.
    fn ask(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let netns = self.machine.netns()?;
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "5", "--cacert", &self.authority, "--header", &self.header]);
        curl.arg(format!("https://{}:6443{path}", self.address));
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that it owns.
        unsafe { curl.pre_exec(move || enter_thread(&netns)) };
        let output = curl.output().context("starting curl: is it installed?")?;
        Ok(output.status.success().then_some(output.stdout))
    }
}
