//! The command line: one that runs the agent, and those by which an operator asks it.
//!
//! Every flag of `weft agent` has an environment variable, `WEFT_` and its name; a flag beats its variable. Commands
//! that ask the agent use the Unix socket in its state directory; those for a cluster go through its API server, with a
//! kubeconfig. They exit with 0 when all is well, with 1 when it is not, and with 2 when the command itself is wrong.

mod address;
mod agent;
mod agents;
mod analyze;
mod client;
mod cluster;
mod cni_flags;
mod control_plane;
mod controller;
mod enroll;
mod list;
mod log;
mod measure;
mod output;
mod ready;
mod status;
mod table;
mod uninstall;
mod waypoint;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cni;

pub use agent::{AccessLogFormat, AgentOptions, LoopbackCongestionControl, NodeSource};
pub use cni_flags::CniFolders;
pub use control_plane::{ControlPlanes, DiscoveryMode};
pub use controller::{ControllerOptions, ControllerSource};
pub use waypoint::WaypointProcessOptions;

/// Weft: a service mesh without sidecars.
#[derive(Debug, Parser)]
#[command(name = "weft", bin_name = "weft", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of this node
    Agent(Box<agent::AgentArgs>),
    /// Run a controller: it tells agents what a folder says, and issues their certificates
    Controller(Box<controller::ControllerArgs>),
    /// Run a waypoint: it routes and judges the requests to the services that name it, and opens tunnels of its own to
    /// their endpoints
    Waypoint(Box<waypoint::WaypointArgs>),
    /// Say whether all is well on this node, or on all of a cluster, and what to do if not
    Status(status::StatusArgs),
    /// Say whether this pod's own agent runs, and is ready: for a startup probe
    ///
    /// Agents of one node answer at the same ports. While one takes over from another, only this tells them apart.
    Ready(ready::ReadyArgs),
    /// List the pods of this node and how their enrolment stands
    Pods(list::ListArgs),
    /// List the workloads that the agent knows
    Workloads(list::ListArgs),
    /// List the services that the agent knows, and their endpoints
    Services(list::ListArgs),
    /// List the policies in force
    Policies(list::ListArgs),
    /// List the certificates of this node's identities
    Certificates(list::ListArgs),
    /// List the connections that are being carried
    Connections(list::ListArgs),
    /// List the connections from before their pod was enrolled: in clear until they end
    OlderConnections(list::ListArgs),
    /// Take a namespace of a cluster, with its running pods, into the mesh
    ///
    /// Sets its label istio.io/dataplane-mode=ambient, after checks, and waits until its pods have followed.
    Enroll(enroll::EnrollArgs),
    /// Take a namespace of a cluster, with its running pods, out of the mesh
    ///
    /// Removes its label istio.io/dataplane-mode, after checks, and waits until its pods have followed.
    Unenroll(enroll::EnrollArgs),
    /// Show or change what the running agent logs
    ///
    /// Without a filter: shows the one in force. A change lasts until the agent ends.
    Log(log::LogArgs),
    /// Check a folder of manifests, or a cluster, and print every mistake in it
    ///
    /// Reads it as the agents would, and changes nothing. Exits with 1 if there are errors.
    Analyze(analyze::AnalyzeArgs),
    /// Be the CNI plug-in: for container runtimes, which call it by the name weft-cni
    ///
    /// What to do is in variables (CNI_COMMAND and others) and on standard input, as the CNI specification has it.
    Cni,
    /// Remove every trace of a node's capture from the kernel, and its CNI plug-in
    ///
    /// Its pods talk in clear from then on. Stop the agent first: SIGTERM alone never removes capture.
    Uninstall(uninstall::UninstallArgs),
    /// Print the version
    Version,
}

/// Runs the program: parses the arguments of this process and does what they say.
///
/// Under the name of the CNI plug-in it is that, and takes no arguments.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(OsStr::new(cni::NAME)) {
        return cni::main();
    }
    run(std::env::args_os())
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are such "errors" as well, and go to standard output.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match cli.command {
        Command::Agent(arguments) => agent::run(*arguments),
        Command::Controller(arguments) => controller::run(*arguments),
        Command::Waypoint(arguments) => waypoint::run(*arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Ready(arguments) => ready::run(&arguments),
        Command::Pods(arguments) => list::run(&arguments, &list::PODS),
        Command::Workloads(arguments) => list::run(&arguments, &list::WORKLOADS),
        Command::Services(arguments) => list::run(&arguments, &list::SERVICES),
        Command::Policies(arguments) => list::run(&arguments, &list::POLICIES),
        Command::Certificates(arguments) => list::run(&arguments, &list::CERTIFICATES),
        Command::Connections(arguments) => list::run(&arguments, &list::CONNECTIONS),
        Command::OlderConnections(arguments) => list::run(&arguments, &list::OLDER_CONNECTIONS),
        Command::Enroll(arguments) => enroll::run(&arguments, true),
        Command::Unenroll(arguments) => enroll::run(&arguments, false),
        Command::Log(arguments) => log::run(&arguments),
        Command::Analyze(arguments) => analyze::run(&arguments),
        Command::Cni => Ok(cni::main()),
        Command::Uninstall(arguments) => uninstall::run(arguments),
        Command::Version => output::print(concat!("weft ", env!("CARGO_PKG_VERSION"), "\n")),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}
