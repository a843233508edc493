//! Weft on a cluster, as a user installs it: the image, and Helm with the chart of this tree.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Cluster, Kit};
use crate::process::{Finished, Process};

/// Where Weft is installed.
pub const NAMESPACE: &str = "weft-system";

/// Time for everything of a release to become ready, or to go, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(300);

/// The namespace, with the label that its README asks for.
const LABELLED: &str = "apiVersion: v1
kind: Namespace
metadata: {name: weft-system, labels: {pod-security.kubernetes.io/enforce: privileged}}
";

/// The chart of this tree.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart")
}

/// What the chart renders by default, for whoever has no Helm.
pub fn plain_manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/weft.yaml")
}

/// The image that `WEFT_IMAGE` names, or the one that `cargo xtask image` has packed into the target folder of the running
/// program.
///
/// # Errors
/// There is none; the message says how to pack it.
pub fn weft_image() -> Result<PathBuf> {
    if let Some(image) = env::var_os("WEFT_IMAGE").map(PathBuf::from) {
        ensure!(image.exists(), "WEFT_IMAGE names {}, which does not exist", image.display());
        return Ok(image);
    }
    let program = env::current_exe().context("finding the running program")?;
    let packed = program.ancestors().map(|folder| folder.join("image.tar")).find(|file| file.is_file());
    packed.with_context(|| {
        format!("no image.tar above {}: run `cargo xtask image`, or set WEFT_IMAGE", program.display())
    })
}

impl Kit {
    /// What the chart renders with these values, as `NAME=VALUE`, and without the hooks, which are Helm's own affair.
    ///
    /// # Errors
    /// Helm refuses the chart or a value; the message says why.
    pub fn render_chart(&self, values: &[&str]) -> Result<String> {
        let mut helm = Command::new(self.helm());
        // Helm would ask no cluster, and does not know by itself which one this is for.
        helm.args(["template", "weft", "--namespace", NAMESPACE, "--kube-version", "1.36", "--no-hooks"]);
        helm.arg(chart()).args(values.iter().flat_map(|value| ["--set", value])).process_group(0);
        let rendered = Process::spawn(helm)?.finish_within(Duration::from_secs(60))?.success()?;
        // A file without spaces at the end of its lines, whatever a template leaves behind.
        let mut text: String = rendered.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        text.truncate(text.trim_end().len());
        Ok(text + "\n")
    }
}

impl Cluster {
    /// Runs Helm against the cluster to its end, at most some minutes.
    ///
    /// # Errors
    /// It did not end in time. A failure of Helm itself is in the returned status.
    pub fn helm(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command("helm")?;
        command.args(arguments).process_group(0);
        Process::spawn(command)?.finish_within(PATIENCE + Duration::from_secs(30))
    }

    /// Installs Weft by its chart, as a user does, with these values, as `NAME=VALUE`, and waits until controllers and agents
    /// are ready.
    ///
    /// # Errors
    /// There is no image, or something does not become ready: the message has what its pods say.
    pub fn install_weft(&self, values: &[&str]) -> Result<()> {
        self.load_image(&weft_image()?)?;
        self.apply(LABELLED)?;
        let timeout = format!("{}s", PATIENCE.as_secs());
        let chart = chart().display().to_string();
        let mut arguments = vec!["install", "weft", &chart, "--namespace", NAMESPACE, "--wait", "--timeout", &timeout];
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        self.helm(&arguments)?.success().map(drop).with_context(|| self.what_weft_says())?;
        // Helm is content when all agents but as many as an upgrade may take away are ready.
        let all = ["rollout", "status", "daemonset/weft-agent", "--namespace", NAMESPACE, "--timeout=50s"];
        self.kubectl(&all)?.success().map(drop).with_context(|| self.what_weft_says())
    }

    /// Uninstalls Weft: every agent clears its node before Helm deletes anything.
    ///
    /// # Errors
    /// A node is not clear in time: the message has what the pods say.
    pub fn uninstall_weft(&self) -> Result<()> {
        let timeout = format!("{}s", PATIENCE.as_secs());
        let arguments = ["uninstall", "weft", "--namespace", NAMESPACE, "--wait", "--timeout", &timeout];
        self.helm(&arguments)?.success().map(drop).with_context(|| self.what_weft_says())
    }

    /// What a person needs to know when something of Weft does not become ready.
    fn what_weft_says(&self) -> String {
        let within = format!("--namespace={NAMESPACE}");
        let questions: [&[&str]; 3] = [
            &["get", "pods", "--output=wide"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "--selector=app.kubernetes.io/part-of=weft", "--prefix", "--tail=12", "--ignore-errors"],
        ];
        let answers = questions.map(|question| {
            let asked = self.kubectl(&[&[within.as_str()], question].concat());
            asked.map(|finished| finished.stdout + &finished.stderr).unwrap_or_else(|error| format!("{error:#}\n"))
        });
        answers.concat()
    }
}
