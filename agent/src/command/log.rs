//! `weft log`.

use std::process::ExitCode;

use clap::Args;

use super::client::{AgentAddress, decode};
use super::output;
use crate::admin::LogLevel;
use crate::telemetry::LogFilter;

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// off, error, warn, info, debug, trace, or module=level, separated by commas
    #[arg(value_name = "FILTER")]
    filter: Option<LogFilter>,

    #[command(flatten)]
    agent: AgentAddress,
}

pub(super) fn run(arguments: &LogArgs) -> anyhow::Result<ExitCode> {
    let answer = match &arguments.filter {
        Some(filter) => arguments.agent.put("/v1/log", &LogLevel { filter: filter.to_string() })?,
        None => arguments.agent.get("/v1/log", None)?,
    };
    let level: LogLevel = decode(answer)?;
    output::print(&format!("{}\n", level.filter))
}
