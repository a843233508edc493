//! Debian's packages.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::progress;
use crate::workspace;

/// A package, how to see whether it is there without asking the package manager, and what it is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) sign: Sign,
    pub(crate) purpose: &'static str,
}

/// What tells that a package is there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sign {
    /// A program on the search path.
    Program(&'static str),
    /// A file.
    File(&'static str),
}

/// For building the agent.
pub(crate) const BUILD: &[Package] = &[
    Package { name: "gcc", sign: Sign::Program("cc"), purpose: "aws-lc, the cryptography, is written in C" },
    Package {
        name: "libc6-dev",
        sign: Sign::File("/usr/include/stdio.h"),
        purpose: "aws-lc, the cryptography, is written in C",
    },
];

/// For nodes, pods, and the programs that run in them.
pub(crate) const WORLD: &[Package] = &[
    Package { name: "iproute2", sign: Sign::Program("ip"), purpose: "lays the networks of nodes and pods" },
    Package { name: "curl", sign: Sign::Program("curl"), purpose: "a real client" },
    Package { name: "nginx-light", sign: Sign::Program("nginx"), purpose: "a real server" },
    Package { name: "python3", sign: Sign::Program("python3"), purpose: "another real server" },
];

/// For the tests, beyond [`WORLD`].
pub(crate) const TESTS: &[Package] = &[
    Package { name: "nodejs", sign: Sign::Program("node"), purpose: "its HTTP/2 is libnghttp2's, a foreign peer" },
    Package {
        name: "containernetworking-plugins",
        sign: Sign::File("/usr/lib/cni/bridge"),
        purpose: "real CNI plug-ins, for Weft's to stand behind",
    },
];

/// For the nodes of a Kubernetes.
pub(crate) const CLUSTER: &[Package] = &[
    Package { name: "containerd", sign: Sign::Program("containerd"), purpose: "runs the containers of a Kubernetes" },
    Package { name: "runc", sign: Sign::Program("runc"), purpose: "runs the containers of a Kubernetes" },
    Package {
        name: "containernetworking-plugins",
        sign: Sign::File("/usr/lib/cni/ptp"),
        purpose: "connects the pods of a Kubernetes",
    },
    Package { name: "conntrack", sign: Sign::Program("conntrack"), purpose: "kube-proxy ends stale flows with it" },
    Package { name: "nftables", sign: Sign::Program("nft"), purpose: "kube-proxy's services are rules of nftables" },
];

/// For building Kubernetes, CoreDNS and Helm.
pub(crate) const GO: &[Package] = &[Package {
    name: "golang-go",
    sign: Sign::Program("go"),
    purpose: "Kubernetes, CoreDNS and Helm are written in Go",
}];

/// Installs those that are missing.
///
/// # Errors
/// There is no root, or apt fails; the message says what to run instead.
pub(crate) fn install(wanted: &[Package]) -> Result<()> {
    let missing: Vec<&Package> = wanted.iter().filter(|package| !is_there(package.sign)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    progress::heading("installing packages");
    for package in &missing {
        progress::note(&format!("{}: {}", package.name, package.purpose));
    }
    apt_install(&missing.iter().map(|package| package.name).collect::<Vec<_>>())
}

/// Whether apt knows a package, after its lists were fetched.
pub(crate) fn is_offered(name: &str) -> bool {
    let shown = Command::new("apt-cache").args(["show", "--no-all-versions", name]).output();
    shown.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

/// Fetches apt's lists, once in the life of this process.
///
/// # Errors
/// There is no root or no apt, or it fails.
pub(crate) fn update_lists() -> Result<()> {
    use std::sync::OnceLock;
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        may_install(&["update"])?;
        progress::run("fetching the package lists", Command::new("apt-get").arg("update"))?;
        let _ = DONE.set(());
    }
    Ok(())
}

/// Installs packages by name.
///
/// # Errors
/// There is no root or no apt, or it fails.
pub(crate) fn apt_install(names: &[&str]) -> Result<()> {
    may_install(names)?;
    update_lists()?;
    let _held = HeldServices::hold();
    let mut command = Command::new("apt-get");
    command.args(["install", "--yes", "--no-install-recommends"]).args(names).env("DEBIAN_FRONTEND", "noninteractive");
    progress::run(&format!("installing {}", names.join(" ")), &mut command)
}

fn may_install(names: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install {}", names.join(" "));
    if workspace::program("apt-get").is_none() {
        bail!("this machine has no apt-get; install the counterparts of these Debian packages: {}", names.join(" "));
    }
    // SAFETY: geteuid takes nothing and always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        bail!("installing packages needs root; run this with sudo, or run yourself: sudo {by_hand}");
    }
    Ok(())
}

fn is_there(sign: Sign) -> bool {
    match sign {
        Sign::Program(name) => workspace::program(name).is_some(),
        Sign::File(path) => Path::new(path).exists(),
    }
}

/// A server's package would start its service, on this machine's own port 80, which nobody asked for. Debian asks this
/// file first.
struct HeldServices {
    is_ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl HeldServices {
    fn hold() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        // One that is there already is the owner's, and stands.
        let is_ours = !Path::new(POLICY).exists()
            && fs::write(POLICY, "#!/bin/sh\nexit 101\n").is_ok()
            && fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).is_ok();
        Self { is_ours }
    }
}

impl Drop for HeldServices {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
