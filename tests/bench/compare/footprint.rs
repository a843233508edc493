//! What the mesh costs a node that does nothing, and one that holds connections.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::Options;
use crate::contender::{Contender, Kind};
use crate::figures::Required::AtMost;
use crate::figures::{Figure, Figures};
use crate::load::{self, Memory};

/// The measurements of this part.
pub const NAMES: &[&str] = &["memory-idle", "memory-1000-connections"];

const CONNECTIONS: usize = 1000;
const FIRST_CONNECTIONS: usize = 20;

const IDLE: Figure = Figure::new("memory-idle", "resident", "MB").requires(AtMost(12.0));
const IDLE_SHARE: Figure = Figure::new("memory-idle", "proportional", "MB");
const HELD: Figure = Figure::new("memory-1000-connections", "resident, added", "MB").requires(AtMost(5.0));
const HELD_SHARE: Figure = Figure::new("memory-1000-connections", "proportional, added", "MB");

/// Time for what a start or an opened connection leaves behind to be freed, or not.
const SETTLE: Duration = Duration::from_millis(1500);

/// Measures processes that were started for it, so that no earlier load counts. Of the two nodes the larger one counts.
pub fn run(options: &Options, figures: &mut Figures) -> Result<()> {
    for kind in options.contenders.iter().filter(|kind| **kind != Kind::Direct) {
        let mut measure = || -> Result<()> {
            let contender = Contender::build(*kind, options)?;
            // Idle is who has carried connections and carries none now: an agent that never did has not even the code
            // for it in memory.
            thread::sleep(SETTLE);
            drop(load::hold(contender.client(), contender.server(), FIRST_CONNECTIONS)?);
            thread::sleep(SETTLE);
            let idle = largest(&contender)?;
            let held = load::hold(contender.client(), contender.server(), CONNECTIONS)?;
            thread::sleep(SETTLE);
            let busy = largest(&contender)?;
            drop(held);
            for (figure, value) in [
                (IDLE, idle.resident),
                (IDLE_SHARE, idle.proportional),
                (HELD, busy.resident - idle.resident),
                (HELD_SHARE, busy.proportional - idle.proportional),
            ] {
                figures.add(figure, kind.column(), value);
            }
            Ok(())
        };
        if let Err(error) = measure() {
            figures.note(format!("memory of {} is missing: {error:#}", kind.column()));
        }
        eprintln!("  memory: {}", kind.column());
    }
    Ok(())
}

fn largest(contender: &Contender) -> Result<Memory> {
    let mut largest = Memory { resident: 0.0, proportional: 0.0 };
    for pid in contender.processes() {
        let memory = Memory::of(pid)?;
        largest.resident = largest.resident.max(memory.resident);
        largest.proportional = largest.proportional.max(memory.proportional);
    }
    Ok(largest)
}
