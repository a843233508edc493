//! `weft enroll` and `weft unenroll`: a namespace joins the mesh, or leaves it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use weft_control::operator::{Check, Enrolment, Weight};

use super::agent::{self, ROOT_NAMESPACE};
use super::cluster::{self, AGENTS_NAMESPACE};
use super::measure::count;
use super::output;
use super::table::{Tone, single_line};

#[derive(Debug, Args)]
pub(super) struct EnrollArgs {
    /// The namespace
    #[arg(value_name = "NAMESPACE", value_parser = agent::namespace)]
    namespace: String,

    /// Go on although a check objects
    #[arg(long, visible_alias = "yes")]
    force: bool,

    /// File that says where the API server is and who you are to it [env: WEFT_KUBECONFIG] [default: as for kubectl]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Namespace of the agents
    #[arg(long, env = "WEFT_POD_NAMESPACE", value_name = "NAME", default_value = AGENTS_NAMESPACE, value_parser = agent::namespace)]
    agents_namespace: String,

    /// Namespace whose policies hold for the whole mesh
    #[arg(long, env = "WEFT_ROOT_NAMESPACE", value_name = "NAME", default_value = ROOT_NAMESPACE, value_parser = agent::namespace)]
    root_namespace: String,

    /// How long to wait until the pods have followed
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) fn run(arguments: &EnrollArgs, joins: bool) -> anyhow::Result<ExitCode> {
    let enrolment = Enrolment {
        namespace: &arguments.namespace,
        joins,
        agents_namespace: &arguments.agents_namespace,
        root_namespace: &arguments.root_namespace,
    };
    cluster::block_on(async {
        let client = cluster::connect(arguments.kubeconfig.as_deref()).await?;
        let checks = enrolment.checks(&client).await?;
        output::print(&render(&checks, output::is_coloured()))?;
        if let Some(reason) = obstacle(&checks, arguments.force) {
            bail!("{reason}");
        }
        enrolment.label(&client).await?;
        let tell = |news: &str| eprintln!("{}", single_line(news));
        let pods = enrolment.wait(&client, arguments.timeout, tell).await?;
        output::print(&result(&arguments.namespace, joins, pods))
    })
}

/// One line for each check.
fn render(checks: &[Check], is_coloured: bool) -> String {
    let lines = checks.iter().map(|check| {
        let (word, tone) = match check.weight {
            Weight::Refusal => ("impossible", Tone::Bad),
            Weight::Objection => ("objection", Tone::Doubtful),
            Weight::Note => ("note", Tone::Plain),
        };
        format!("{}: {}\n", tone.paint(word, is_coloured), single_line(&check.text))
    });
    lines.collect()
}

/// Why it is not done.
fn obstacle(checks: &[Check], force: bool) -> Option<&'static str> {
    match checks.iter().map(|check| check.weight).min() {
        Some(Weight::Refusal) => Some("nothing was changed: it cannot be done"),
        Some(Weight::Objection) if !force => Some("nothing was changed; --force does it all the same"),
        _ => None,
    }
}

fn result(namespace: &str, joins: bool, pods: usize) -> String {
    match (joins, pods) {
        (true, 0) => format!("{namespace} is in the mesh; it has no pods yet.\n"),
        (true, pods) => format!("{namespace} is in the mesh, with {}.\n", count(pods, "pod")),
        (false, 0) => format!("{namespace} is outside the mesh.\n"),
        (false, pods) => format!("{namespace} is outside the mesh, with {}: they talk in clear.\n", count(pods, "pod")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(weight: Weight) -> Check {
        Check { weight, text: "no agent\nis ready".to_owned() }
    }

    #[test]
    fn force_beats_objections_and_not_refusals() {
        let (note, objection, refusal) = (check(Weight::Note), check(Weight::Objection), check(Weight::Refusal));
        assert_eq!(obstacle(&[], false), None);
        assert_eq!(obstacle(std::slice::from_ref(&note), false), None);
        let objected = [objection, note];
        assert!(obstacle(&objected, false).is_some_and(|reason| reason.contains("--force")));
        assert_eq!(obstacle(&objected, true), None);
        assert!(obstacle(&[refusal], true).is_some());
    }

    #[test]
    fn each_check_is_one_line() {
        assert_eq!(render(&[check(Weight::Objection)], false), "objection: no agent\u{fffd}is ready\n");
        assert_eq!(render(&[], false), "");
    }

    #[test]
    fn the_result_says_where_the_pods_are() {
        assert_eq!(result("shop", true, 2), "shop is in the mesh, with 2 pods.\n");
        assert_eq!(result("shop", false, 1), "shop is outside the mesh, with 1 pod: they talk in clear.\n");
    }
}
