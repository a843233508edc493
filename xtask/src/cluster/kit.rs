//! The programs that clusters are made of, built once and kept in the folder for tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::Kit;

use super::go;
use crate::archive::digest;
use crate::progress;
use crate::workspace;

/// The release that `tests/cluster/kubernetes/go.mod` names; its programs say so of themselves.
const KUBERNETES: &str = "1.36.3";

const HELM: &str = "helm.sh/helm/v3/cmd/helm@v3.22.0";

const GATEWAY_API: &str = "sigs.k8s.io/gateway-api@v1.6.1";

const ISTIO_API: &str = "istio.io/api@v1.31.1";

/// The kit of this tree, whether it is complete or not.
pub(super) fn here() -> Kit {
    Kit::at(workspace::tools().join("cluster"))
}

/// Builds what is missing or was built from something else.
pub(super) fn build() -> Result<Kit> {
    let kit = here();
    fs::create_dir_all(kit.folder())?;
    kubernetes(&kit)?;
    from_sources(&kit.coredns(), &sources().join("coredns"), &["-ldflags", "-s -w"], "a minute or two")?;
    helm(&kit)?;
    definitions(&kit)?;
    pause(&kit)?;
    machine(&kit)?;
    Ok(kit)
}

/// Builds Kubernetes' components, and what Istio defines, alone.
pub(super) fn with_kubernetes() -> Result<Kit> {
    let kit = here();
    fs::create_dir_all(kit.folder())?;
    kubernetes(&kit)?;
    definitions(&kit)?;
    Ok(kit)
}

/// Builds Helm alone.
pub(super) fn with_helm() -> Result<Kit> {
    let kit = here();
    fs::create_dir_all(kit.folder())?;
    helm(&kit)?;
    Ok(kit)
}

/// The sources that only clusters need.
pub(super) fn sources() -> PathBuf {
    workspace::root().join("tests/cluster")
}

/// The static program of the pause image.
pub(super) fn pause_program(kit: &Kit) -> PathBuf {
    kit.folder().join("pause")
}

fn kubernetes(kit: &Kit) -> Result<()> {
    let version = "-X k8s.io/component-base/version.git";
    let linking = format!(
        "-s -w {version}Version=v{KUBERNETES} {version}Major=1 {version}Minor={}",
        KUBERNETES.split('.').nth(1).context("a release has a minor version")?
    );
    let tags = ["-tags", "providerless,dockerless"];
    let arguments = ["-ldflags", &linking, tags[0], tags[1]];
    from_sources(&kit.kubernetes(), &sources().join("kubernetes"), &arguments, "5 to 15 minutes")
}

fn from_sources(program: &Path, folder: &Path, arguments: &[&str], patience: &str) -> Result<()> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
    let mut from = arguments.join(" ").into_bytes();
    for file in files(folder)? {
        from.extend_from_slice(file.file_name().unwrap_or_default().as_encoded_bytes());
        from.extend(fs::read(&file)?);
    }
    once(program, &digest(&from), |unfinished| {
        progress::heading(&format!("building {name}"));
        let mut go = go::command()?;
        go.current_dir(folder)
            .args(["build", "-trimpath", "-mod=readonly", "-o"])
            .arg(unfinished)
            .args(arguments)
            .arg(".");
        progress::run(&format!("building {name} from Go modules, which takes {patience} the first time"), &mut go)
    })
}

fn helm(kit: &Kit) -> Result<()> {
    once(&kit.helm(), HELM, |unfinished| {
        progress::heading("building Helm");
        let folder = unfinished.with_extension("folder");
        let mut go = go::command()?;
        go.args(["install", "-trimpath", "-ldflags", "-s -w", HELM]).env("GOBIN", &folder);
        progress::run("building Helm from Go modules, which takes a minute or two", &mut go)?;
        fs::rename(folder.join("helm"), unfinished)?;
        Ok(fs::remove_dir(&folder)?)
    })
}

/// The resources of Gateway API and of Istio that Weft reads, for whoever wants to apply them.
fn definitions(kit: &Kit) -> Result<()> {
    once(&kit.definitions(), &format!("{GATEWAY_API} {ISTIO_API}"), |unfinished| {
        progress::heading("fetching the definitions of Gateway API and Istio");
        let _ = fs::remove_dir_all(unfinished);
        fs::create_dir(unfinished)?;
        let gateway = go::module(GATEWAY_API)?;
        for channel in ["standard", "experimental"] {
            let parts = files(&gateway.join("config/crd").join(channel))?;
            let texts = parts.iter().filter(|part| part.extension().is_some_and(|extension| extension == "yaml"));
            let texts = texts.map(fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
            fs::write(unfinished.join(format!("gateway-api-{channel}.yaml")), texts.join("\n---\n"))?;
        }
        let istio = go::module(ISTIO_API)?.join("kubernetes/customresourcedefinitions.gen.yaml");
        let text = fs::read(&istio).with_context(|| format!("reading {}", istio.display()))?;
        Ok(fs::write(unfinished.join("istio.yaml"), text)?)
    })
}

fn pause(kit: &Kit) -> Result<()> {
    let source = sources().join("pause/pause.c");
    once(&pause_program(kit), &digest(&fs::read(&source)?), |unfinished| {
        let mut compiler = Command::new("cc");
        compiler.args(["-static", "-Os", "-s", "-Wall", "-o"]).arg(unfinished).arg(&source);
        progress::run("building the pause program", &mut compiler)
    })
}

/// The first process of each machine. Cargo knows when it is up to date.
fn machine(kit: &Kit) -> Result<()> {
    let build = ["build", "--quiet", "--locked", "--package", "weft-tests", "--bin", "weft-machine"];
    let status = workspace::cargo().args(build).status()?;
    ensure!(status.success(), "building weft-machine failed");
    let built = workspace::target()?.join("debug/weft-machine");
    let unfinished = kit.machine().with_extension("unfinished");
    fs::copy(&built, &unfinished).with_context(|| format!("copying {}", built.display()))?;
    Ok(fs::rename(&unfinished, kit.machine())?)
}

/// Makes a file or a folder, unless it was made from the same things before, as a note beside it says. What runs from
/// an earlier one goes on doing so.
fn once(made: &Path, from: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let note = made.with_extension("made-from");
    if made.exists() && fs::read_to_string(&note).is_ok_and(|before| before == from) {
        return Ok(());
    }
    let unfinished = made.with_extension("unfinished");
    make(&unfinished).with_context(|| format!("making {}", made.display()))?;
    if made.is_dir() {
        fs::remove_dir_all(made)?;
    }
    fs::rename(&unfinished, made)?;
    Ok(fs::write(note, from)?)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut files: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}
