//! All tests: of the crates by themselves, of the HTTP/2 framing against a foreign suite, of the agent in a world, and of
//! Weft on a real Kubernetes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::build;
use crate::cluster;
use crate::image;
use crate::progress;
use crate::setup;
use crate::workspace;

/// How many scenarios run at the same time. They mostly wait, so this is more than the processors of a small machine.
const PARALLEL: &str = "6";

/// What `cargo xtask test` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only the scenarios whose name contains this, such as `fail_closed::`
    filter: Option<String>,
    /// Only what runs on a real Kubernetes, of that what the filter says, such as `mesh::`
    #[arg(long)]
    cluster: bool,
    /// Run the scenarios so many times, to find one that fails now and then
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    repeat: usize,
}

/// `cargo xtask test`
pub(crate) fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    setup::for_tests()?;
    let agent = build::agent()?;
    let mut totals = Totals::default();
    if options.cluster {
        for round in 1..=options.repeat {
            if options.repeat > 1 {
                progress::heading(&format!("round {round} of {}", options.repeat));
            }
            on_kubernetes(&agent, options.filter.as_deref(), &mut totals)?;
        }
        return totals.tell(start);
    }
    if options.filter.is_none() {
        crates(&mut totals)?;
        framing(&mut totals)?;
        harness(&mut totals)?;
    }
    for round in 1..=options.repeat {
        if options.repeat > 1 {
            progress::heading(&format!("round {round} of {}", options.repeat));
        }
        scenarios(&agent, options.filter.as_deref(), &mut totals)?;
    }
    if options.filter.is_none() {
        on_kubernetes(&agent, None, &mut totals)?;
    }
    totals.tell(start)
}

/// The crates' own tests.
fn crates(totals: &mut Totals) -> Result<()> {
    progress::heading("tests of the crates");
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--locked", "--no-fail-fast", "--workspace", "--exclude", "weft-tests"]);
    totals.run("the crates", &mut cargo)
}

/// h2spec, a conformance suite for HTTP/2, against the framing.
fn framing(totals: &mut Totals) -> Result<()> {
    const MODULE: &str = "github.com/summerwind/h2spec";
    progress::heading("the HTTP/2 framing against h2spec");
    let h2spec = match workspace::program("h2spec") {
        Some(h2spec) => h2spec,
        None if workspace::program("go").is_some() => {
            progress::note("h2spec: tries what RFC 9113 and RFC 7541 demand of a server");
            std::fs::create_dir_all(workspace::tools())?;
            let mut go = Command::new("go");
            go.args(["install", &format!("{MODULE}/cmd/h2spec@v2.2.1+incompatible")]).env("GOBIN", workspace::tools());
            progress::run("building h2spec", &mut go)?;
            workspace::tools().join("h2spec")
        }
        None => {
            progress::note(&format!("SKIPPED: {MODULE} is a Go program, and neither it nor go is installed"));
            totals.skipped += 1;
            return Ok(());
        }
    };
    let mut cargo = workspace::cargo();
    let example = ["build", "--locked", "--package", "weft-hbone", "--example", "h2c_server"];
    ensure!(cargo.args(example).status()?.success(), "building the server for h2spec failed");
    let server = workspace::target()?.join("debug/examples/h2c_server");
    let mut server = Command::new(server).arg("127.0.0.1:0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let result = drive_h2spec(&h2spec, &mut server, totals);
    let _ = server.kill();
    let _ = server.wait();
    result
}

fn drive_h2spec(h2spec: &Path, server: &mut Child, totals: &mut Totals) -> Result<()> {
    let mut line = String::new();
    BufReader::new(server.stdout.take().context("the server's output is piped")?).read_line(&mut line)?;
    let address = line.trim().rsplit(' ').next().unwrap_or_default();
    let (host, port) = address.rsplit_once(':').with_context(|| format!("the server said {line:?}"))?;
    let output = Command::new(h2spec).args(["--strict", "--host", host, "--port", port]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = text.lines().rev().find(|line| line.contains(" tests, ")).unwrap_or("h2spec gave no summary");
    if !output.status.success() {
        println!("{text}");
    }
    progress::note(summary);
    totals.count(summary);
    totals.note_end("h2spec", output.status);
    Ok(())
}

/// The tests of the world itself.
fn harness(totals: &mut Totals) -> Result<()> {
    progress::heading("tests of the world of nodes and pods");
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--locked", "--no-fail-fast", "--package", "weft-tests", "--lib", "--test", "harness"]);
    totals.run("the harness", &mut cargo)
}

/// The scenarios: first those that bear company, then those that need the machine to themselves.
fn scenarios(agent: &Path, filter: Option<&str>, totals: &mut Totals) -> Result<()> {
    for (what, arguments) in [
        ("scenarios", ["--skip=load::".to_owned(), format!("--test-threads={PARALLEL}")]),
        ("scenarios under load", ["load::".to_owned(), "--test-threads=1".to_owned()]),
    ] {
        if filter.is_some_and(|filter| filter.starts_with("load::") != (what == "scenarios under load")) {
            continue;
        }
        progress::heading(what);
        let mut cargo = workspace::cargo();
        cargo.args(["test", "--locked", "--no-fail-fast", "--package", "weft-tests", "--test", "scenarios", "--"]);
        match filter {
            Some(filter) => cargo.args([filter, &arguments[1]]),
            None => cargo.args(&arguments),
        };
        totals.run(what, cargo.env("WEFT_BIN", agent))?;
    }
    Ok(())
}

/// Weft on a real Kubernetes, one cluster after the other: each takes a machine of this size for itself.
fn on_kubernetes(agent: &Path, filter: Option<&str>, totals: &mut Totals) -> Result<()> {
    progress::heading("what clusters are made of");
    let kit = cluster::kit()?;
    let image = image::default_output()?;
    image::write(agent, image::TAG, &image)?;
    progress::heading("tests on a real Kubernetes");
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--locked", "--no-fail-fast", "--package", "weft-tests", "--test", "cluster", "--"]);
    cargo.args(filter).arg("--test-threads=1");
    cargo.env("WEFT_BIN", agent).env("WEFT_IMAGE", &image).env("WEFT_CLUSTER_KIT", kit.folder());
    totals.run("Kubernetes", &mut cargo)
}

/// What all runs together came to.
#[derive(Debug, Default)]
struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Runs that did not end well.
    broken: Vec<String>,
}

impl Totals {
    /// Runs a test command, shows its output and counts what it says.
    fn run(&mut self, what: &str, command: &mut Command) -> Result<()> {
        let start = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("the output is piped")?);
        let mut terminal = std::io::stdout().lock();
        for line in output.split(b'\n') {
            let line = line?;
            terminal.write_all(&line)?;
            terminal.write_all(b"\n")?;
            self.count(&String::from_utf8_lossy(&line));
        }
        drop(terminal);
        let status = child.wait()?;
        progress::note(&format!("{what}: {:.0} s", start.elapsed().as_secs_f32()));
        self.note_end(what, status);
        Ok(())
    }

    fn note_end(&mut self, what: &str, status: ExitStatus) {
        if !status.success() {
            self.broken.push(what.to_owned());
        }
    }

    /// Counts the summary of cargo's test runner or of h2spec.
    fn count(&mut self, line: &str) {
        let Some(summary) = line.strip_prefix("test result: ").or_else(|| line.contains(" tests, ").then_some(line))
        else {
            return;
        };
        for part in summary.split([';', ',', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(word)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" | "skipped" => self.skipped += number,
                _ => {}
            }
        }
    }

    fn tell(&self, start: Instant) -> Result<()> {
        progress::heading(&format!("all tests, in {:.0} s", start.elapsed().as_secs_f32()));
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        println!("total: {} passed, {} failed{skipped}", self.passed, self.failed);
        ensure!(self.broken.is_empty(), "these did not pass: {}", self.broken.join(", "));
        ensure!(self.passed > 0, "no test ran");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_both_runners_are_counted() {
        let mut totals = Totals::default();
        totals.count("test result: ok. 11 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.1s");
        totals.count("145 tests, 144 passed, 1 skipped, 0 failed");
        totals.count("test capture::a_test ... ok");
        assert_eq!((totals.passed, totals.failed, totals.skipped), (155, 1, 3));
    }
}
