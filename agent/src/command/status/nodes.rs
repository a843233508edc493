//! `weft status` of a whole cluster: a line for each node, and what stands out.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::SystemTime;

use super::super::agents::Answers;
use super::super::client::decode;
use super::super::measure;
use super::super::output::{self, OutputFormat};
use super::super::table::{Cell, Table, Tone};
use super::{
    DiscoveryMode, ENDS_SOON, Finding, MANY, PodState, StatusArgs, StatusReport, conclude, findings, standing,
};

/// Reports by node.
type Reports = BTreeMap<String, StatusReport>;

pub(super) fn run(arguments: &StatusArgs) -> anyhow::Result<ExitCode> {
    let mut answers = arguments.cluster.get("/v1/status", None)?;
    let reports = understood(&mut answers);
    let now = SystemTime::now();
    let findings = stand_out(&answers, &reports, now);
    match arguments.output {
        OutputFormat::Json => output::print_json(&answers.to_json())?,
        OutputFormat::Table => output::print(&render(&answers, &reports, &findings, now, output::is_coloured()))?,
    };
    let is_well = findings.iter().all(|finding| finding.tone != Tone::Bad);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The answers as what they stand for. What cannot be understood is no answer.
fn understood(answers: &mut Answers) -> Reports {
    let mut reports = Reports::new();
    for (node, answer) in &answers.answered {
        match decode(answer.clone()) {
            Ok(report) => drop(reports.insert(node.clone(), report)),
            Err(error) => drop(answers.silent.insert(node.clone(), format!("{error:#}"))),
        }
    }
    answers.answered.retain(|node, _| reports.contains_key(node));
    reports
}

/// What is not as it should be: agents that do not answer, what differs between nodes, and what is wrong on each.
fn stand_out(answers: &Answers, reports: &Reports, now: SystemTime) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        answers.complaints().into_iter().map(|complaint| Finding::bad(complaint, "")).collect();
    found.extend(differences(reports));
    // Many nodes may have the same to say.
    let mut said: Vec<(Finding, Vec<&str>)> = Vec::new();
    for (node, report) in reports {
        for finding in findings(report, now) {
            match said.iter_mut().find(|(other, _)| *other == finding) {
                Some((_, nodes)) => nodes.push(node),
                None => said.push((finding, vec![node])),
            }
        }
    }
    found.extend(
        said.into_iter()
            .map(|(finding, nodes)| Finding { what: format!("{}: {}", named(&nodes), finding.what), ..finding }),
    );
    found
}

/// What should be the same on all nodes, and is not.
fn differences(reports: &Reports) -> Vec<Finding> {
    type Aspect = (&'static str, fn(&StatusReport) -> String);
    const ASPECTS: [Aspect; 7] = [
        ("Versions", |report| report.version.clone()),
        ("Trust domains", |report| report.agent.trust_domain.clone()),
        ("Names of the cluster", |report| report.agent.cluster.clone()),
        ("Sources of the configuration", |report| report.agent.configuration_source.clone()),
        ("Modes of discovery", |report| {
            report
                .agent
                .discovery
                .as_ref()
                .map(|discovery| discovery.mode)
                .map_or("none", DiscoveryMode::as_str)
                .to_owned()
        }),
        ("Choices of the operator", |report| match &report.agent.relaxations[..] {
            [] => "none".to_owned(),
            relaxations => relaxations.join(", "),
        }),
        // Every agent is told of all of them.
        ("Numbers of policies in force", |report| report.objects.policies.to_string()),
    ];
    let differing = ASPECTS.iter().filter_map(|(name, aspect)| {
        let mut values: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (node, report) in reports {
            values.entry(aspect(report)).or_default().push(node);
        }
        let parts: Vec<_> = values.iter().map(|(value, nodes)| format!("{value} on {}", named(nodes))).collect();
        (values.len() > 1).then(|| Finding::doubtful(format!("{name} differ: {}.", parts.join("; ")), ""))
    });
    differing.collect()
}

fn render(answers: &Answers, reports: &Reports, findings: &[Finding], now: SystemTime, is_coloured: bool) -> String {
    let mut table =
        Table::new(&["NODE", "STATE", "VERSION", "PODS", "CERTIFICATES", "NEXT-ENDS-IN", "CONNECTIONS", "PROBLEMS"]);
    let mut rows: BTreeMap<&str, [Cell; 8]> =
        reports.iter().map(|(node, report)| (&**node, row(node, report, now))).collect();
    for node in answers.silent.keys() {
        let no_answer = Cell::toned("no-answer", Tone::Bad);
        rows.insert(
            node,
            [node.as_str().into(), no_answer, "".into(), "".into(), "".into(), "".into(), "".into(), "".into()],
        );
    }
    rows.into_values().for_each(|row| table.row(row));
    let mut text = table.render(is_coloured);
    text.push('\n');
    conclude(&mut text, findings, is_coloured);
    text
}

fn row(node: &str, report: &StatusReport, now: SystemTime) -> [Cell; 8] {
    let (state, tone) = standing(report);
    let captured = report.pods.iter().filter(|pod| pod.state == PodState::Captured).count();
    let all = report.pods.iter().filter(|pod| pod.state != PodState::Outside).count();
    let has_failed = report.pods.iter().any(|pod| pod.state == PodState::Failed);
    let pods = match (captured == all, has_failed) {
        (_, true) => Tone::Bad,
        (false, _) => Tone::Doubtful,
        (true, _) => Tone::Plain,
    };
    let certificates = &report.certificates;
    let end = certificates.next_expiry.map_or(Cell::default(), |end| {
        let left = end.time().duration_since(now).unwrap_or_default();
        Cell::toned(measure::duration(left), if left < ENDS_SOON { Tone::Doubtful } else { Tone::Plain })
    });
    let all_certificates = certificates.valid + certificates.pending + certificates.failing.len();
    let is_failing = !certificates.failing.is_empty();
    let problems = if report.problems.is_empty() { String::new() } else { super::problems(report) };
    [
        node.into(),
        Cell::toned(state.replace(' ', "-"), tone),
        report.version.as_str().into(),
        Cell::toned(format!("{captured}/{all}"), pods),
        Cell::toned(
            format!("{}/{all_certificates}", certificates.valid),
            if is_failing { Tone::Bad } else { Tone::Plain },
        ),
        end,
        (report.connections.outbound + report.connections.inbound).to_string().into(),
        problems.into(),
    ]
}

/// Nodes in one line, the first ones of many.
fn named(nodes: &[&str]) -> String {
    match nodes.len().checked_sub(MANY) {
        None | Some(0) => nodes.join(", "),
        Some(more) => format!("{} and {more} more", nodes[..MANY].join(", ")),
    }
}

#[cfg(test)]
mod tests;
