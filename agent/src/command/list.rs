//! The commands that list objects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::agents::ClusterArgs;
use super::client::{AgentAddress, decode};
use super::measure;
use super::output::{self, OutputFormat};
use super::table::{Cell, Table, Tone};
use crate::admin::{
    CertificateInfo, CertificateState, ConnectionEnd, ConnectionInfo, OlderConnectionInfo, PodState, PodStatus,
    PolicyInfo, ServiceInfo, WorkloadInfo,
};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those of this namespace
    #[arg(long, short, value_name = "NAME", value_parser = super::agent::namespace)]
    namespace: Option<String>,

    /// Form of the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,

    #[command(flatten)]
    agent: AgentAddress,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A list that the agent has.
pub(super) struct List {
    /// The name in the answer, and for people.
    name: &'static str,
    /// Makes a table of the answer's array.
    table: fn(Value) -> anyhow::Result<Table>,
}

pub(super) const PODS: List = List { name: "pods", table: |value| rows(value, pods) };
pub(super) const WORKLOADS: List = List { name: "workloads", table: |value| rows(value, workloads) };
pub(super) const SERVICES: List = List { name: "services", table: |value| rows(value, services) };
pub(super) const POLICIES: List = List { name: "policies", table: |value| rows(value, policies) };
pub(super) const CERTIFICATES: List = List { name: "certificates", table: |value| rows(value, certificates) };
pub(super) const CONNECTIONS: List = List { name: "connections", table: |value| rows(value, connections) };
pub(super) const OLDER_CONNECTIONS: List =
    List { name: "older_connections", table: |value| rows(value, older_connections) };

pub(super) fn run(arguments: &ListArgs, list: &List) -> anyhow::Result<ExitCode> {
    let namespace = arguments.namespace.as_deref();
    let path = format!("/v1/{}", list.name);
    if arguments.cluster.kubernetes {
        return run_everywhere(arguments, list, &path);
    }
    let mut answer = arguments.agent.get(&path, namespace)?;
    match arguments.output {
        OutputFormat::Json => output::print_json(&answer),
        OutputFormat::Table => show(&(list.table)(answer[list.name].take())?, list, namespace),
    }
}

/// Asks the agents of a cluster. Exits with 1 if one of them did not answer.
fn run_everywhere(arguments: &ListArgs, list: &List, path: &str) -> anyhow::Result<ExitCode> {
    let namespace = arguments.namespace.as_deref();
    let answers = arguments.cluster.get(path, namespace)?;
    match arguments.output {
        OutputFormat::Json => output::print_json(&answers.to_json())?,
        OutputFormat::Table => show(&everywhere(list, &answers.answered)?, list, namespace)?,
    };
    answers.complaints().iter().for_each(|complaint| eprintln!("{complaint}"));
    Ok(if answers.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What all agents have listed, by node.
fn everywhere(list: &List, answers: &BTreeMap<String, Value>) -> anyhow::Result<Table> {
    let mut all: Option<Table> = None;
    for (node, answer) in answers {
        let mut table = (list.table)(answer[list.name].clone()).with_context(|| node.clone())?;
        table.lead_with("NODE", "AGENT", node);
        match &mut all {
            Some(all) => all.append(table),
            None => all = Some(table),
        }
    }
    Ok(all.unwrap_or_else(|| Table::new(&[])))
}

fn show(table: &Table, list: &List, namespace: Option<&str>) -> anyhow::Result<ExitCode> {
    if table.is_empty() {
        // Not on standard output: a pipe gets nothing where there is nothing.
        let place = namespace.map_or(String::new(), |namespace| format!(" in the namespace {namespace}"));
        eprintln!("There are no {}{place}.", list.name.replace('_', " "));
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&table.render(output::is_coloured()))
}

fn rows<T: DeserializeOwned>(value: Value, table: fn(&[T]) -> Table) -> anyhow::Result<Table> {
    let objects: Vec<T> = decode(value)?;
    Ok(table(&objects))
}

fn pods(pods: &[PodStatus]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "STATE", "ADDRESSES", "IDENTITY", "DETAIL"]);
    for pod in pods {
        let tone = match pod.state {
            PodState::Captured => Tone::Good,
            PodState::Failed => Tone::Bad,
            PodState::Pending | PodState::Draining => Tone::Doubtful,
            PodState::Outside => Tone::Plain,
        };
        let mut detail = pod.detail.clone().unwrap_or_default();
        if let Some(older @ 1..) = pod.older_connections {
            let separator = if detail.is_empty() { "" } else { "; " };
            let older = measure::count(older, "connection");
            detail = format!("{detail}{separator}{older} from before, outside the mesh");
        }
        table.row([
            pod.namespace.as_str().into(),
            pod.name.as_str().into(),
            Cell::toned(pod.state.as_str(), tone),
            addresses(&pod.addresses).into(),
            pod.identity.as_str().into(),
            detail.into(),
        ]);
    }
    table
}

fn workloads(workloads: &[WorkloadInfo]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "ADDRESSES", "NODE", "PROTOCOL", "HEALTH", "IDENTITY"]);
    for workload in workloads {
        let tone = if workload.health == "healthy" { Tone::Plain } else { Tone::Doubtful };
        table.row([
            (&*workload.namespace).into(),
            (&*workload.name).into(),
            addresses(&workload.addresses).into(),
            (&*workload.node).into(),
            workload.protocol.to_uppercase().into(),
            Cell::toned(workload.health.as_str(), tone),
            (&*workload.identity).into(),
        ]);
    }
    table
}

fn services(services: &[ServiceInfo]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "ADDRESSES", "PORTS", "READY", "HOSTNAME"]);
    for service in services {
        let (ready, all) = (service.ready_endpoints(), service.endpoints.len());
        let tone = match ready {
            0 => Tone::Bad,
            _ if ready < all => Tone::Doubtful,
            _ => Tone::Plain,
        };
        let ports: Vec<_> = service.ports.iter().map(|port| format!("{}/{}", port.port, port.protocol)).collect();
        table.row([
            (&*service.namespace).into(),
            (&*service.name).into(),
            if service.addresses.is_empty() { "headless".into() } else { addresses(&service.addresses).into() },
            ports.join(",").into(),
            Cell::toned(format!("{ready}/{all}"), tone),
            (&*service.hostname).into(),
        ]);
    }
    table
}

fn policies(policies: &[PolicyInfo]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "ACTION", "APPLIES-TO", "RULES", "ENFORCED"]);
    for policy in policies {
        let applies_to = match (policy.scope.as_str(), policy.selected_by) {
            ("workload", Some(1)) => "1 workload".to_owned(),
            ("workload", Some(count)) => format!("{count} workloads"),
            ("namespace", _) => "its namespace".to_owned(),
            ("mesh", _) => "the mesh".to_owned(),
            (other, _) => other.to_owned(),
        };
        let enforced = if policy.dry_run { Cell::toned("no, dry run", Tone::Doubtful) } else { "yes".into() };
        table.row([
            (&*policy.namespace).into(),
            policy.name.as_str().into(),
            policy.action.to_uppercase().into(),
            applies_to.into(),
            policy.rules.len().to_string().into(),
            enforced,
        ]);
    }
    table
}

fn certificates(certificates: &[CertificateInfo]) -> Table {
    let mut table = Table::new(&["IDENTITY", "STATE", "ENDS-IN", "RENEWED-IN", "WORKLOADS", "SERIAL", "ERROR"]);
    let now = SystemTime::now();
    for certificate in certificates {
        let tone = match certificate.state {
            CertificateState::Valid => Tone::Good,
            CertificateState::Pending | CertificateState::RenewalFailing => Tone::Doubtful,
            CertificateState::Failing | CertificateState::Expired => Tone::Bad,
        };
        let remaining = |time: Option<crate::admin::Timestamp>| {
            time.map_or(String::new(), |time| match time.time().duration_since(now) {
                Ok(left) => measure::duration(left),
                Err(passed) => format!("{} ago", measure::duration(passed.duration())),
            })
        };
        table.row([
            certificate.identity.as_str().into(),
            Cell::toned(certificate.state.as_str(), tone),
            remaining(certificate.not_after).into(),
            remaining(certificate.renewal).into(),
            certificate.workloads.to_string().into(),
            certificate.serial.clone().unwrap_or_default().into(),
            certificate.error.clone().unwrap_or_default().into(),
        ]);
    }
    table
}

fn connections(connections: &[ConnectionInfo]) -> Table {
    let mut table = Table::new(&[
        "DIRECTION",
        "SOURCE",
        "DESTINATION",
        "SERVICE",
        "SECURITY",
        "STATE",
        "FROM-CLIENT",
        "TO-CLIENT",
        "AGE",
    ]);
    for connection in connections {
        let security = match connection.tunnel {
            Some(_) => Cell::toned("mTLS", Tone::Good),
            None => Cell::toned("clear", Tone::Doubtful),
        };
        table.row([
            connection.direction.as_str().into(),
            end(&connection.source).into(),
            end(&connection.destination).into(),
            connection.service.clone().unwrap_or_default().into(),
            security,
            connection.state.as_str().into(),
            measure::bytes(connection.bytes_from_client).into(),
            measure::bytes(connection.bytes_to_client).into(),
            measure::duration(Duration::from_millis(connection.age_milliseconds)).into(),
        ]);
    }
    table
}

fn older_connections(connections: &[OlderConnectionInfo]) -> Table {
    let mut table = Table::new(&["DIRECTION", "SOURCE", "DESTINATION"]);
    for connection in connections {
        table.row([
            connection.direction.as_str().into(),
            end(&connection.source).into(),
            end(&connection.destination).into(),
        ]);
    }
    table
}

fn end(end: &ConnectionEnd) -> String {
    match (&end.namespace, &end.workload) {
        (Some(namespace), Some(workload)) => format!("{namespace}/{workload}@{}", end.address),
        _ => end.address.to_string(),
    }
}

fn addresses(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
