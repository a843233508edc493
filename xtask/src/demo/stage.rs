//! What the audience reads.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use weft_tests::Finished;

use super::shop::Shop;

/// Lines that are shown of an output.
const SHOWN: usize = 16;

/// Tells the story.
pub(super) struct Stage {
    start: Instant,
    is_terminal: bool,
    steps: usize,
    step: usize,
    checks: usize,
}

impl Stage {
    pub(super) fn new(steps: usize) -> Self {
        Self { start: Instant::now(), is_terminal: std::io::stdout().is_terminal(), steps, step: 0, checks: 0 }
    }

    /// Begins a step.
    pub(super) fn step(&mut self, title: &str) {
        self.step += 1;
        println!("\n{}", self.bold(&format!("{} of {}: {title}", self.step, self.steps)));
    }

    /// Explains, in plain words.
    pub(super) fn say(&self, text: &str) {
        wrap(text, 96).iter().for_each(|line| println!("  {line}"));
    }

    /// Shows a command and what came of it.
    pub(super) fn show(&self, whose: &str, command: &str, finished: &Finished) {
        println!("    {whose} $ {command}");
        let lines: Vec<&str> = finished.stdout.lines().chain(finished.stderr.lines()).collect();
        self.quote(&lines);
        if !finished.status.success() {
            println!("    | (it ended with status {})", finished.code());
        }
    }

    /// Shows lines that were read somewhere.
    pub(super) fn quote(&self, lines: &[&str]) {
        lines.iter().take(SHOWN).for_each(|line| println!("    | {line}"));
        if lines.len() > SHOWN {
            println!("    | ... and {} lines more", lines.len() - SHOWN);
        }
    }

    /// Shows one long line of a log, broken between its fields.
    pub(super) fn quote_log(&self, line: &str) {
        for (number, line) in wrap(line, 104).iter().enumerate() {
            println!("    | {}{line}", if number == 0 { "" } else { "    " });
        }
    }

    /// Something that must be so.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check(&mut self, what: &str, is_so: Result<bool>) -> Result<()> {
        let reason = match is_so {
            Ok(true) => {
                self.checks += 1;
                println!("  {} {what}", self.coloured("ok", 32));
                return Ok(());
            }
            Ok(false) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        println!("  {} {what}{reason}", self.coloured("NOT SO:", 31));
        bail!("the demo failed in step {}: {what}", self.step)
    }

    /// The last word.
    pub(super) fn end(&self) {
        let text = format!("All {} checks hold, after {:.0} s.", self.checks, self.start.elapsed().as_secs_f32());
        println!("\n{}", self.bold(&text));
    }

    /// How to go on in a shop that is left running.
    pub(super) fn look_around(&self, shop: &Shop, agent: &Path) {
        let weft = agent.display();
        let state = |agent: &weft_tests::Agent| agent.state_folder().display().to_string();
        let pod = |pod: &weft_tests::Pod| pod.netns().path().display().to_string();
        let commands = [
            ("ask the agents", format!("{weft} status --state-dir {}", state(&shop.agent_a))),
            ("", format!("{weft} workloads --state-dir {}", state(&shop.agent_b))),
            (
                "call the catalogue as the frontend, by its service",
                format!("nsenter --net={} curl http://{}/prices.txt", pod(&shop.frontend), shop.service),
            ),
            (
                "call it as the visitor",
                format!("nsenter --net={} curl http://{}/prices.txt", pod(&shop.visitor), shop.service),
            ),
            ("change the configuration", format!("ls {}", shop.world.config().path().display())),
            ("read what an agent logs", format!("tail -f {}", shop.agent_b.log_file().display())),
            (
                "scrape its metrics",
                format!("nsenter --net={} curl -s localhost:15020/metrics", shop.a.netns().path().display()),
            ),
            ("remove it all", "cargo xtask demo --remove".to_owned()),
        ];
        let commands: Vec<(&str, &str)> = commands.iter().map(|(what, command)| (*what, &**command)).collect();
        self.list("The shop goes on running. To look around:", &commands);
    }

    /// Says what one can go on with: commands, each with what it is for, or with nothing if that is said above.
    pub(super) fn list(&self, title: &str, commands: &[(&str, &str)]) {
        println!("\n{}", self.bold(title));
        for (what, command) in commands {
            if !what.is_empty() {
                println!("  {what}:");
            }
            println!("    {command}");
        }
    }

    fn bold(&self, text: &str) -> String {
        self.coloured(text, 1)
    }

    fn coloured(&self, text: &str, code: u8) -> String {
        if self.is_terminal { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Breaks a text between words into lines that are no longer than this, unless a word is.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one from the start");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
