//! `weft status`: one screen that says whether all is well, and what to do if not.

mod nodes;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::agents::ClusterArgs;
use super::client::{AgentAddress, decode};
use super::measure::{self, count};
use super::output::{self, OutputFormat};
use super::table::{Tone, single_line};
use crate::admin::{AgentState, DiscoveryMode, DiscoveryStatus, PodState, Severity, StatusReport};

/// A certificate that ends sooner than this has missed its renewal, which is due at half its life.
const ENDS_SOON: Duration = Duration::from_secs(3600);

/// The most lines of one kind that are shown; the rest is counted.
const MANY: usize = 8;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Form of the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,

    #[command(flatten)]
    agent: AgentAddress,

    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) fn run(arguments: &StatusArgs) -> anyhow::Result<ExitCode> {
    if arguments.cluster.kubernetes {
        return nodes::run(arguments);
    }
    let answer = arguments.agent.get("/v1/status", None)?;
    let report: StatusReport = decode(answer.clone())?;
    let findings = findings(&report, SystemTime::now());
    match arguments.output {
        OutputFormat::Json => output::print_json(&answer)?,
        OutputFormat::Table => output::print(&render(&report, &findings, SystemTime::now(), output::is_coloured()))?,
    };
    let is_well = findings.iter().all(|finding| finding.tone != Tone::Bad);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// [`Tone::Bad`]: something does not work. [`Tone::Doubtful`]: someone should know.
    tone: Tone,
    what: String,
    advice: &'static str,
}

impl Finding {
    fn bad(what: impl Into<String>, advice: &'static str) -> Self {
        Self { tone: Tone::Bad, what: what.into(), advice }
    }

    fn doubtful(what: impl Into<String>, advice: &'static str) -> Self {
        Self { tone: Tone::Doubtful, what: what.into(), advice }
    }
}

fn findings(report: &StatusReport, now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    match report.agent.state {
        AgentState::Draining => findings.push(Finding::bad(
            "The agent is ending: it takes no new connections.",
            "captured connections are refused until an agent runs again",
        )),
        AgentState::Starting | AgentState::Running => {}
    }
    for reason in &report.not_ready {
        findings.push(Finding::bad(format!("Not ready: {reason}"), ""));
    }
    if !report.agent.capture.is_active {
        let what = format!("Capture is not active: {}", report.agent.capture.detail);
        findings.push(Finding::bad(what, "no pod of this node is in the mesh; the agent's log says more"));
    }
    if let Some(discovery) = report.agent.discovery.as_ref().filter(|discovery| !discovery.is_connected) {
        let reason = discovery.last_error.as_deref().unwrap_or("a stream is being opened");
        let what = format!("The control plane {} is not connected: {reason}", discovery.control_plane);
        findings.push(match (discovery.is_synced, discovery.mode) {
            (false, _) if discovery.last_state.is_some() => {
                Finding::bad(what, "what was known before the start is in force; certificates wait for their authority")
            }
            (false, _) => Finding::bad(what, "nothing is known of the mesh yet"),
            (true, DiscoveryMode::OnDemand) if discovery.last_error.is_some() => {
                Finding::bad(what, "what is known goes on; connections to what is not are held, and then refused")
            }
            (true, _) => Finding::doubtful(what, "what is known goes on as it was"),
        });
    }
    for pod in report.pods.iter().filter(|pod| pod.state == PodState::Failed) {
        let detail = pod.detail.as_deref().unwrap_or("no reason given");
        let what = format!("Pod {}/{} cannot be enrolled: {detail}", pod.namespace, pod.name);
        findings.push(Finding::bad(what, ""));
    }
    let captured = || report.pods.iter().filter(|pod| pod.state == PodState::Captured);
    for (pod, detail) in captured().filter_map(|pod| Some((pod, pod.detail.as_deref()?))) {
        findings.push(Finding::doubtful(format!("Pod {}/{}: {detail}", pod.namespace, pod.name), ""));
    }
    let older: u64 = captured().filter_map(|pod| pod.older_connections).sum();
    if older > 0 {
        let what = format!("In clear until they end: {} from before enrolment.", count(older, "connection"));
        findings
            .push(Finding::doubtful(what, "see \"weft older-connections\"; --older-connections end would end them"));
    }
    for (identity, reason) in &report.certificates.failing {
        let what = format!("No certificate for {identity}: {reason}");
        findings.push(Finding::bad(what, "connections of its pods fail; see \"weft certificates\""));
    }
    for problem in &report.problems {
        findings.push(match problem.severity {
            Severity::Error => Finding::bad(format!("Configuration: {problem}"), ""),
            Severity::Warning => Finding::doubtful(format!("Configuration: {problem}"), ""),
            // What is only worth knowing is for `weft analyze`.
            Severity::Info => continue,
        });
    }
    if let Some(end) = report.certificates.next_expiry
        && report.certificates.failing.is_empty()
        && end.time().duration_since(now).unwrap_or_default() < ENDS_SOON
    {
        let what = format!("A certificate ends at {end} and has not been renewed yet.");
        findings.push(Finding::doubtful(what, "see \"weft certificates\""));
    }
    for relaxation in &report.agent.relaxations {
        findings.push(Finding::doubtful(format!("By choice: {relaxation}"), ""));
    }
    let losses = &report.losses;
    if losses.access_records + losses.log_lines > 0 {
        let what = format!(
            "Lost since the start: {} access records, {} lines of the log.",
            losses.access_records, losses.log_lines
        );
        findings.push(Finding::doubtful(what, "what reads the agent's output is too slow, or has ended"));
    }
    if report.version != env!("CARGO_PKG_VERSION") {
        let what = format!("The agent is version {}, this command {}.", report.version, env!("CARGO_PKG_VERSION"));
        findings.push(Finding::doubtful(what, ""));
    }
    findings
}

/// How the agent stands, in a word.
fn standing(report: &StatusReport) -> (&'static str, Tone) {
    match (report.agent.state, report.is_ready) {
        (AgentState::Draining, _) => ("draining", Tone::Bad),
        (_, true) => ("ready", Tone::Good),
        (AgentState::Starting, false) => ("starting", Tone::Doubtful),
        (AgentState::Running, false) => ("not ready", Tone::Bad),
    }
}

fn render(report: &StatusReport, findings: &[Finding], now: SystemTime, is_coloured: bool) -> String {
    let agent = &report.agent;
    let (word, tone) = standing(report);
    let mut text = format!("Node {}: {}\n\n", agent.node, tone.paint(word, is_coloured));
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<14}{value}");
    };
    let up = now.duration_since(agent.started.time()).unwrap_or_default();
    line(
        "agent",
        format!(
            "version {}, process {}, {}, up {}",
            report.version,
            report.pid,
            count(agent.workers, "worker"),
            measure::duration(up)
        ),
    );
    let place = if agent.network.is_empty() { String::new() } else { format!(", network {}", agent.network) };
    line("mesh", format!("trust domain {}, cluster {}{place}", agent.trust_domain, agent.cluster));
    let is_active = if agent.capture.is_active { "active" } else { "not active" };
    let detail = Some(agent.capture.detail.as_str()).filter(|detail| agent.capture.is_active && !detail.is_empty());
    line("capture", [Some(is_active), detail].into_iter().flatten().collect::<Vec<_>>().join(", "));
    let pods: Vec<_> = PodState::ALL
        .into_iter()
        .map(|state| (state, report.pods.iter().filter(|pod| pod.state == state).count()))
        .filter(|&(state, count)| count > 0 || state == PodState::Captured)
        .map(|(state, count)| format!("{count} {}", state.as_str()))
        .collect();
    line("pods", pods.join(", "));
    let objects = &report.objects;
    line(
        "configuration",
        format!("{}, generation {}, {}", agent.configuration_source, report.generation, problems(report)),
    );
    if let Some(discovery) = &agent.discovery {
        line("control plane", control_plane(discovery, now));
    }
    line(
        "known",
        format!(
            "{}, {}, {}",
            count(objects.workloads, "workload"),
            count(objects.services, "service"),
            count(objects.policies, "policy")
        ),
    );
    let certificates = &report.certificates;
    let mut held = vec![format!("{} valid", certificates.valid)];
    if certificates.pending > 0 {
        held.push(format!("{} requested", certificates.pending));
    }
    if !certificates.failing.is_empty() {
        held.push(format!("{} failing", certificates.failing.len()));
    }
    if let Some(end) = certificates.next_expiry {
        held.push(format!("the next one ends {end}"));
    }
    line("certificates", held.join(", "));
    line(
        "connections",
        format!(
            "{} outbound, {} inbound, in {}",
            report.connections.outbound,
            report.connections.inbound,
            count(report.tunnels.client + report.tunnels.server, "tunnel")
        ),
    );
    text.push('\n');
    conclude(&mut text, findings, is_coloured);
    text
}

fn control_plane(discovery: &DiscoveryStatus, now: SystemTime) -> String {
    let mut words = vec![if discovery.is_connected { "connected" } else { "not connected" }.to_owned()];
    if let Some(written) = discovery.last_state {
        let age = measure::duration(now.duration_since(written.time()).unwrap_or_default());
        words.push(format!("serving by what was known {age} ago, at {written}"));
    } else if !discovery.is_synced {
        words.push("has not said all yet".to_owned());
    }
    words.push(discovery.mode.as_str().to_owned());
    if discovery.mode == DiscoveryMode::OnDemand {
        words.push(format!("{} asked for", discovery.wanted));
        words.push(format!("{} held", count(discovery.held, "connection")));
    }
    words.join(", ")
}

fn problems(report: &StatusReport) -> String {
    let of = |severity| report.problems.iter().filter(|problem| problem.severity == severity).count();
    match (of(Severity::Error), of(Severity::Warning)) {
        (0, 0) => "no problems".to_owned(),
        (errors, 0) => count(errors, "error"),
        (0, warnings) => count(warnings, "warning"),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    }
}

/// The last lines: all is well, or what is not.
fn conclude(text: &mut String, findings: &[Finding], is_coloured: bool) {
    let bad: Vec<_> = findings.iter().filter(|finding| finding.tone == Tone::Bad).collect();
    let doubtful: Vec<_> = findings.iter().filter(|finding| finding.tone == Tone::Doubtful).collect();
    match (bad.len(), doubtful.len()) {
        (0, 0) => text.push_str(&Tone::Good.paint("All is well.\n", is_coloured)),
        (0, _) => text.push_str("All works. To be known:\n"),
        (_, _) => text.push_str(&Tone::Bad.paint("Needs attention:\n", is_coloured)),
    }
    for (kind, name) in [(bad, "more that need attention"), (doubtful, "more to be known")] {
        for finding in kind.iter().take(MANY) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  - {}", finding.tone.paint(&single_line(&finding.what), is_coloured));
            if !finding.advice.is_empty() {
                let _ = writeln!(text, "    {}", finding.advice);
            }
        }
        if kind.len() > MANY {
            let _ = writeln!(text, "  - and {} {name}: see \"weft status -o json\"", kind.len() - MANY);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
