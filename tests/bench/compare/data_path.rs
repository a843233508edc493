//! What the mesh costs a connection: throughput, latency, CPU time.

use anyhow::Result;

use crate::Options;
use crate::contender::{Contender, Kind};
use crate::figures::Required::{RatioAtLeast, RatioAtMost};
use crate::figures::{Figure, Figures};
use crate::load::{Load, Outcome};

/// The measurements of this part.
pub const NAMES: &[&str] = &["bulk-1", "bulk-8", "request-1", "request-8", "request-64", "connect-4"];

struct Line {
    name: &'static str,
    load: Load,
    figures: &'static [(Figure, Of)],
}

/// Takes a figure out of a run's outcome.
type Of = fn(&Outcome) -> f64;

const GBIT: Of = |outcome| outcome.rate * 8.0 / 1e9;
const CPU_PER_GB: Of = |outcome| outcome.cpu * 1e9;
const CPU_PER_10K: Of = |outcome| outcome.cpu * 1e4;
const RATE: Of = |outcome| outcome.rate;
const P50: Of = |outcome| outcome.p50;
const P99: Of = |outcome| outcome.p99;

const LINES: [Line; 6] = [
    Line {
        name: "bulk-1",
        load: Load::Bulk(1),
        figures: &[
            (Figure::new("bulk-1", "throughput", "Gb/s").requires(RatioAtLeast(0.85)), GBIT),
            (Figure::new("bulk-1", "CPU", "s/GB").requires(RatioAtMost(1.35)), CPU_PER_GB),
        ],
    },
    Line {
        name: "bulk-8",
        load: Load::Bulk(8),
        figures: &[
            (Figure::new("bulk-8", "throughput", "Gb/s").requires(RatioAtLeast(0.85)), GBIT),
            (Figure::new("bulk-8", "CPU", "s/GB").requires(RatioAtMost(1.45)), CPU_PER_GB),
        ],
    },
    Line {
        name: "request-1",
        load: Load::Request(1),
        figures: &[
            (Figure::new("request-1", "rate", "1/s"), RATE),
            (Figure::new("request-1", "p50", "us").requires(RatioAtMost(1.10)), P50),
            (Figure::new("request-1", "p99", "us"), P99),
            (Figure::new("request-1", "CPU", "s/10k"), CPU_PER_10K),
        ],
    },
    Line {
        name: "request-8",
        load: Load::Request(8),
        figures: &[
            (Figure::new("request-8", "rate", "1/s"), RATE),
            (Figure::new("request-8", "p50", "us"), P50),
            (Figure::new("request-8", "p99", "us"), P99),
            (Figure::new("request-8", "CPU", "s/10k"), CPU_PER_10K),
        ],
    },
    Line {
        name: "request-64",
        load: Load::Request(64),
        figures: &[
            (Figure::new("request-64", "rate", "1/s").requires(RatioAtLeast(1.35)), RATE),
            (Figure::new("request-64", "p50", "us"), P50),
            (Figure::new("request-64", "p99", "us").requires(RatioAtMost(0.65)), P99),
            (Figure::new("request-64", "CPU", "s/10k").requires(RatioAtMost(0.70)), CPU_PER_10K),
        ],
    },
    Line {
        name: "connect-4",
        load: Load::Connect(4),
        figures: &[
            (Figure::new("connect-4", "rate", "1/s").requires(RatioAtLeast(1.0)), RATE),
            (Figure::new("connect-4", "p50", "us"), P50),
            (Figure::new("connect-4", "p99", "us"), P99),
            (Figure::new("connect-4", "CPU", "s/10k").requires(RatioAtMost(0.85)), CPU_PER_10K),
        ],
    },
];

/// Measures all lines for all contenders in turns.
pub fn run(options: &Options, figures: &mut Figures) -> Result<()> {
    let mut contenders = Vec::new();
    for kind in &options.contenders {
        match Contender::build(*kind, options) {
            Ok(contender) => contenders.push(contender),
            Err(error) => figures.note(format!("{} is missing: {error:#}", kind.column())),
        }
    }
    for line in LINES.iter().filter(|line| options.wants(line.name)) {
        for round in 0..options.rounds {
            // Another one begins in each round: whatever drifts meanwhile does not always hit the same.
            let another = usize::from(contenders.len() > 1);
            contenders.rotate_left(another);
            for contender in &contenders {
                measure(line, contender, options, figures);
            }
            eprintln!("  {}: round {} of {}", line.name, round + 1, options.rounds);
        }
    }
    Ok(())
}

fn measure(line: &Line, contender: &Contender, options: &Options, figures: &mut Figures) {
    let column = contender.kind.column();
    let watched = contender.processes();
    match line.load.run(options, contender.client(), contender.server(), &watched, &contender.cgroup()) {
        Ok(outcome) => {
            for (figure, of) in line.figures {
                // There is no process between the ends whose time could be counted.
                if contender.kind != Kind::Direct || figure.name != "CPU" {
                    figures.add(*figure, column, of(&outcome));
                }
            }
            figures.add_foreign(outcome.foreign);
            if outcome.failed > 0 {
                let error = outcome.error.unwrap_or_default();
                figures.note(format!("{} {column}: {} connections failed: {error}", line.name, outcome.failed));
            }
        }
        Err(error) => {
            let log = contender.log();
            let tail: Vec<&str> = log.lines().rev().take(10).collect();
            let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n      ");
            figures.note(format!("{} {column} failed: {error:#}\n      {tail}", line.name));
        }
    }
}
