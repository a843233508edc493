//! `weft analyze`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use weft_control::TranslationOptions;

use super::cluster::{self, AGENTS_NAMESPACE};
use super::output::{self, OutputFormat};
use super::table::{Tone, single_line};
use super::{agent, measure};
use crate::admin::{Problem, Severity};

#[derive(Debug, Args)]
pub(super) struct AnalyzeArgs {
    /// Folder of manifests
    #[arg(value_name = "DIR", required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    folder: Option<PathBuf>,

    /// Look at the objects of a cluster, through its API server, instead of a folder
    #[arg(long)]
    kubernetes: bool,

    /// File that says where the API server is and who you are to it [env: WEFT_KUBECONFIG] [default: as for kubectl]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,

    /// Namespace of the agents in a cluster: its pods are never enrolled
    #[arg(long, env = "WEFT_POD_NAMESPACE", value_name = "NAME", default_value = AGENTS_NAMESPACE, value_parser = agent::namespace)]
    agents_namespace: String,

    /// Read it as the agent of this node would; otherwise every pod is looked at as its own node's agent would
    #[arg(long, env = "WEFT_NODE", value_name = "NAME", value_parser = agent::node_name)]
    node: Option<String>,

    /// Trust domain that is given to the agents
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "NAME", default_value = agent::CLUSTER_LOCAL, value_parser = agent::trust_domain)]
    trust_domain: String,

    /// Root namespace that is given to the agents
    #[arg(long, env = "WEFT_ROOT_NAMESPACE", value_name = "NAME", default_value = agent::ROOT_NAMESPACE, value_parser = agent::namespace)]
    root_namespace: String,

    /// Domain of the services' host names that is given to the agents
    #[arg(long, env = "WEFT_CLUSTER_DOMAIN", value_name = "NAME", default_value = agent::CLUSTER_LOCAL, value_parser = agent::cluster_domain)]
    cluster_domain: String,

    /// Form of the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,
}

pub(super) fn run(arguments: &AnalyzeArgs) -> anyhow::Result<ExitCode> {
    let mut options = TranslationOptions {
        node: arguments.node.clone().unwrap_or_default(),
        trust_domain: arguments.trust_domain.clone(),
        root_namespace: arguments.root_namespace.clone(),
        cluster_domain: arguments.cluster_domain.clone(),
        ..TranslationOptions::default()
    };
    let (report, count, noun) = match &arguments.folder {
        Some(folder) => {
            let report = weft_control::analyze(folder, &options);
            let files = report.files;
            (report, files, "file")
        }
        None => {
            options.excluded_namespaces.push(arguments.agents_namespace.clone());
            let report = cluster::block_on(async {
                let client = cluster::connect(arguments.kubeconfig.as_deref()).await?;
                Ok(weft_control::analyze_cluster(&client, &options).await?)
            })?;
            let objects = report.objects.total();
            (report, objects, "object")
        }
    };
    let problems: Vec<Problem> = report.problems.iter().map(Problem::from).collect();
    match arguments.output {
        OutputFormat::Json => output::print_json(&json!({ format!("{noun}s"): count, "problems": problems }))?,
        OutputFormat::Table => output::print(&render(&problems, &measure::count(count, noun), output::is_coloured()))?,
    };
    Ok(if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One line for each problem, as compilers write them, and a last one that counts `what` was looked at.
fn render(problems: &[Problem], what: &str, is_coloured: bool) -> String {
    let mut text = String::new();
    for problem in problems {
        let tone = match problem.severity {
            Severity::Error => Tone::Bad,
            Severity::Warning => Tone::Doubtful,
            Severity::Info => Tone::Plain,
        };
        text.push_str(&tone.paint(&single_line(&problem.to_string()), is_coloured));
        text.push('\n');
    }
    let counts: Vec<_> = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "note")]
        .into_iter()
        .map(|(severity, noun)| (problems.iter().filter(|problem| problem.severity == severity).count(), noun))
        .filter(|&(number, _)| number > 0)
        .map(|(number, noun)| measure::count(number, noun))
        .collect();
    let counts = if counts.is_empty() { "no problems".to_owned() } else { counts.join(", ") };
    text.push_str(&format!("{what}: {counts}.\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_is_a_line_and_the_last_line_counts() {
        let problem = |severity, line| Problem {
            severity,
            file: Some("mesh.yaml".into()),
            line: Some(line),
            object: Some("Service shop/web".into()),
            field: Some("spec.ports".into()),
            message: "is empty".into(),
            suggestion: Some("name a port".into()),
        };
        let problems = [problem(Severity::Error, 1), problem(Severity::Error, 2), problem(Severity::Info, 9)];
        assert_eq!(
            render(&problems, "3 files", false),
            "mesh.yaml:1: error: Service shop/web: spec.ports: is empty; name a port\n\
             mesh.yaml:2: error: Service shop/web: spec.ports: is empty; name a port\n\
             mesh.yaml:9: info: Service shop/web: spec.ports: is empty; name a port\n\
             3 files: 2 errors, 1 note.\n"
        );
        assert_eq!(render(&[], "1 file", false), "1 file: no problems.\n");
    }
}
