//! `weft ready`: whether the agent that answers is the one that is asked for, and does its work.
//!
//! While an agent takes over from another, whatever asks at a port is answered by the other: a DaemonSet would take the
//! new pod for ready, and end the old one too early.

use std::process::ExitCode;

use clap::Args;

use super::client::{AgentAddress, decode};
use crate::admin::StatusReport;

#[derive(Debug, Args)]
pub(super) struct ReadyArgs {
    /// The pod, or the host, whose agent is asked for [default: any]
    #[arg(long, env = "WEFT_POD_NAME", value_name = "NAME")]
    pod: Option<String>,

    #[command(flatten)]
    agent: AgentAddress,
}

pub(super) fn run(arguments: &ReadyArgs) -> anyhow::Result<ExitCode> {
    let report: StatusReport = decode(arguments.agent.get("/v1/status", None)?)?;
    match obstacle(&report, arguments.pod.as_deref()) {
        None => Ok(ExitCode::SUCCESS),
        Some(obstacle) => anyhow::bail!("{obstacle}"),
    }
}

/// Why it is not ready, if it is not.
fn obstacle(report: &StatusReport, wanted: Option<&str>) -> Option<String> {
    match (report.agent.pod.as_deref(), wanted) {
        // It is of a version that does not hand over: its successor runs when it has ended, which it does when its successor
        // counts as ready.
        (None, Some(_)) => None,
        (Some(own), Some(wanted)) if own != wanted => {
            Some(format!("the agent of {own} runs here: the one of {wanted} has not taken over from it yet"))
        }
        _ if report.is_ready => None,
        _ => Some(format!("not ready: {}", report.not_ready.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::status::tests::report;

    #[test]
    fn only_the_own_agent_counts_unless_the_other_cannot_hand_over() {
        let mut report = report(|report| report.agent.pod = Some("weft-agent-1".to_owned()));
        assert_eq!(obstacle(&report, Some("weft-agent-1")), None);
        assert_eq!(obstacle(&report, None), None);
        assert!(obstacle(&report, Some("weft-agent-2")).expect("another one runs").contains("weft-agent-1"));
        (report.is_ready, report.not_ready) = (false, vec!["it is taking over".to_owned()]);
        assert_eq!(obstacle(&report, Some("weft-agent-1")).as_deref(), Some("not ready: it is taking over"));
        report.agent.pod = None;
        assert_eq!(obstacle(&report, Some("weft-agent-2")), None, "it must be ended first");
    }
}
