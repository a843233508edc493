//! What is printed and written in the end.

use serde_json::{Value, json};

use crate::Options;
use crate::contender::Kind;
use crate::figures::{Figures, Required, Series};
use crate::machine::Machine;
use crate::outside::{self, WITH, WITHOUT};
use crate::table::{Table, number};

/// All that there is to tell.
#[derive(Debug)]
pub struct Report<'a> {
    /// What was asked for.
    pub options: &'a Options,
    /// Where it was measured.
    pub machine: &'a Machine,
    /// What was measured.
    pub figures: &'a Figures,
}

const HOW: &str = "\
How: all processes on one machine, in network namespaces: a client's pod, node, bridge, node, a server's pod. `direct` has
nothing in between; `relay` two plain TCP relays that capture the pods in the same way as Weft (one thread a side, no TLS,
no HTTP/2, no policy); `weft` two agents. The three take turns, another one first in each round. Figures are medians over
the rounds, ratios those of the medians; the range is that of the single rounds' ratios. Bytes are counted by the receiver.
CPU is the time of both agents (relays) by the scheduler's clock, in the window that is measured. Requests and responses
have 1 KB; a new connection is connect, one request, one response, close. Memory is that of the larger of the two agents,
started for this purpose.";

impl Report<'_> {
    /// The tables and what one needs to know to read them.
    pub fn to_text(&self) -> String {
        let mut data_path = Table::new(
            3,
            &["line", "figure", "unit", "direct", "relay", "weft", "weft/relay", "range", "required", "met"],
        );
        let mut cost = Table::new(3, &["line", "figure", "unit", "relay", "weft", "required", "met"]);
        let mut outside = Table::new(3, &["line", "figure", "unit", WITHOUT, WITH, "cost", "range", "required", "met"]);
        for series in self.figures.series() {
            let figure = series.figure;
            let words = [figure.line, figure.name, figure.unit].map(str::to_owned);
            let (value, reference) = columns(series);
            let medians =
                |columns: &[&str]| columns.iter().map(|column| number(series.median(column))).collect::<Vec<_>>();
            let judged = [required(series), met(series)];
            if is_outside(series) {
                let ratio = [cost_ratio(series), cost_range(series)];
                outside.row([&words[..], &medians(&[reference, value]), &ratio, &judged].concat());
            } else if is_absolute(series) {
                cost.row([&words[..], &medians(&["relay", "weft"]), &judged].concat());
            } else {
                let ratio = [number(series.ratio(value, reference)), range(series.ratio_range(value, reference))];
                data_path.row([&words[..], &medians(&["direct", "relay", "weft"]), &ratio, &judged].concat());
            }
        }
        let mut text = String::new();
        for (title, table) in [
            ("Through the mesh, weft against relay", data_path),
            ("Memory and start", cost),
            ("Outside the mesh, a node with an agent against one without", outside),
        ] {
            if !table.is_empty() {
                text += &format!("\n{title}\n\n{}", table.to_text());
            }
        }
        text += &format!("\nMachine: {}.\n", self.machine.to_text());
        if let Some((median, worst)) = self.figures.foreign() {
            text += &format!(
                "Other processes took {:.0} % of it while this was measured (median; at worst {:.0} %).\n",
                median * 100.0,
                worst * 100.0
            );
        }
        let Options { rounds, seconds, .. } = self.options;
        let workers = self.options.workers.map_or("its own number of".to_owned(), |workers| workers.to_string());
        text += &format!("Rounds: {rounds} of {seconds} s; each agent with {workers} worker threads.\n");
        if let Some(name) = &self.options.congestion_control {
            text += &format!("The pods' TCP congestion control was set to {name}.\n");
        }
        if !self.options.agent_argument.is_empty() {
            text += &format!("The agents had further arguments: {}\n", self.options.agent_argument.join(" "));
        }
        text += &format!("{HOW}\n");
        for note in self.figures.notes() {
            text += &format!("Note: {note}\n");
        }
        text
    }

    /// Everything, each round included.
    pub fn to_json(&self) -> Value {
        let series: Vec<Value> = self
            .figures
            .series()
            .iter()
            .map(|series| {
                let (value, reference) = columns(series);
                series.to_json(value, reference)
            })
            .collect();
        json!({
            "machine": self.machine.to_json(),
            "foreign_cpu_share": self.figures.foreign().map(|(median, worst)| json!({ "median": median, "worst": worst })),
            "rounds": self.options.rounds,
            "seconds": self.options.seconds,
            "workers": self.options.workers,
            "congestion_control": self.options.congestion_control,
            "agent_arguments": self.options.agent_argument,
            "series": series,
            "notes": self.figures.notes(),
        })
    }
}

/// The column that is judged, and the one it is compared with.
fn columns(series: &Series) -> (&'static str, &'static str) {
    if is_outside(series) { (WITH, WITHOUT) } else { (Kind::Weft.column(), Kind::Relay.column()) }
}

fn is_outside(series: &Series) -> bool {
    outside::NAMES.contains(&series.figure.line)
}

fn is_absolute(series: &Series) -> bool {
    series.figure.line.starts_with("memory") || series.figure.line.starts_with("scale")
}

/// How many times worse the figure is with an agent: above 1 it costs something.
fn cost_ratio(series: &Series) -> String {
    let (value, reference) = columns(series);
    let ratio = series.ratio(value, reference);
    number(if is_loss(series) { ratio.map(f64::recip) } else { ratio })
}

fn cost_range(series: &Series) -> String {
    let (value, reference) = columns(series);
    let bounds = series.ratio_range(value, reference);
    range(if is_loss(series) { bounds.map(|(low, high)| (high.recip(), low.recip())) } else { bounds })
}

fn is_loss(series: &Series) -> bool {
    matches!(series.figure.required, Some(Required::LossAtMost(_)))
}

fn range(bounds: Option<(f64, f64)>) -> String {
    bounds.map_or("-".to_owned(), |(low, high)| format!("{low:.2} to {high:.2}"))
}

fn required(series: &Series) -> String {
    match series.figure.required {
        None => String::new(),
        Some(Required::RatioAtLeast(limit)) => format!(">= {limit:.2}"),
        Some(Required::RatioAtMost(limit) | Required::LossAtMost(limit)) => format!("<= {limit:.2}"),
        Some(Required::AtMost(limit)) => format!("<= {limit:.0} {}", series.figure.unit),
    }
}

fn met(series: &Series) -> String {
    let (value, reference) = columns(series);
    let is_met = series.figure.required.map(|required| required.is_met(series.median(reference), series.median(value)));
    match is_met {
        None => String::new(),
        Some(None) => "?".to_owned(),
        Some(Some(true)) => "yes".to_owned(),
        Some(Some(false)) => "NO".to_owned(),
    }
}
