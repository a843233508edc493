//! Links, addresses and routes, laid by `ip -batch`: one process lays a whole namespace.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::netns::{Netns, enter_thread};

/// Lines for one run of `ip -batch` in one network namespace.
#[derive(Default)]
pub(crate) struct Batch(String);

impl Batch {
    pub(crate) fn line(&mut self, line: impl std::fmt::Display) -> &mut Self {
        writeln!(self.0, "{line}").expect("writing to a string does not fail");
        self
    }

    /// Runs the lines in order; the first that fails ends the batch.
    pub(crate) fn run(&self, netns: &Netns) -> Result<()> {
        let entry = netns.descriptor()?;
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that it owns.
        unsafe { command.pre_exec(move || enter_thread(&entry)) };
        let mut child = command.spawn().context("running ip: is the package iproute2 installed?")?;
        let written = child.stdin.take().expect("stdin is piped").write_all(self.0.as_bytes());
        let mut complaint = String::new();
        child.stderr.take().expect("stderr is piped").read_to_string(&mut complaint)?;
        let status = child.wait()?;
        if !status.success() {
            bail!("ip -batch in {} ended with {status}: {complaint}\n{}", netns.name(), self.0);
        }
        written.context("handing the batch to ip")
    }
}
