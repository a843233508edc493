//! The benchmark: no mesh, a plain relay, and Weft, in turns, on one machine.
//!
//! It builds a small cluster for each of the three, lets the same load run through them one after the other, round by
//! round, and prints medians beside what is required of Weft. Figures never make it fail: it measures, people judge.

mod contender;
mod control;
mod data_path;
mod figures;
mod footprint;
mod load;
mod machine;
mod outside;
mod report;
mod scale;
mod table;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use crate::contender::Kind;
use crate::figures::Figures;
use crate::machine::Machine;
use crate::report::Report;

/// Compares Weft with a plain relay and with no mesh at all.
#[derive(Debug, Clone, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    other: Option<Other>,
    /// How often each measurement is made; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each measurement takes, in seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only measurements whose name begins with one of these words; `--list` prints the names.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these contenders.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["direct", "relay", "weft"])]
    contenders: Vec<Kind>,
    /// Worker threads of each agent; without it, what the agent does by itself.
    #[arg(long)]
    workers: Option<usize>,
    /// One more argument of `weft agent`: `--agent-argument=--access-log=off`, say.
    #[arg(long, allow_hyphen_values = true)]
    agent_argument: Vec<String>,
    /// TCP's congestion control in the pods, one of `net.ipv4.tcp_allowed_congestion_control`; without it, the default.
    #[arg(long)]
    congestion_control: Option<String>,
    /// Waits before each measurement, at most so many seconds, until other processes leave the machine alone.
    #[arg(long, default_value_t = 0.0)]
    patience: f64,
    /// Writes every single figure here as well.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Prints the names of all measurements and ends.
    #[arg(long)]
    list: bool,
}

/// What is measured apart.
#[derive(Debug, Clone, Subcommand)]
enum Other {
    Control(control::Options),
}

impl Options {
    /// Whether a measurement was asked for.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.starts_with(word.as_str()))
    }

    /// Arguments of `weft agent` that follow from the options.
    fn agent_arguments(&self) -> Vec<String> {
        let workers = self.workers.map(|workers| format!("--workers={workers}"));
        workers.into_iter().chain(self.agent_argument.iter().cloned()).collect()
    }
}

/// One part of the benchmark: the names of its measurements, and what makes them.
type Part = (&'static [&'static str], fn(&Options, &mut Figures) -> Result<()>);

const PARTS: [Part; 4] = [
    (data_path::NAMES, data_path::run),
    (footprint::NAMES, footprint::run),
    (scale::NAMES, scale::run),
    (outside::NAMES, outside::run),
];

fn main() -> Result<()> {
    // Before any thread is started: those would still be killed by the signal.
    weft_tests::sweep_on_interrupt()?;
    let options = Options::parse();
    if let Some(Other::Control(options)) = &options.other {
        return control::run(options);
    }
    if options.list {
        PARTS.iter().flat_map(|(names, _)| *names).for_each(|name| println!("{name}"));
        return Ok(());
    }
    ensure!(options.rounds > 0 && options.seconds > 0.0, "--rounds and --seconds must be greater than zero");
    let machine = Machine::look();
    let mut figures = Figures::default();
    for (names, run) in PARTS {
        if names.iter().any(|name| options.wants(name))
            && let Err(error) = run(&options, &mut figures)
        {
            figures.note(format!("{} stopped: {error:#}", names.join(", ")));
        }
    }
    let report = Report { options: &options, machine: &machine, figures: &figures };
    println!("{}", report.to_text());
    if let Some(path) = &options.json {
        fs::write(path, format!("{:#}\n", report.to_json())).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
