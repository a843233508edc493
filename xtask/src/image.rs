//! `cargo xtask image`: the agent as a container image, packed by this program alone.

mod elf;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::archive::{self, Description, Layer, Storage};
use crate::build;
use crate::progress;
use crate::setup;
use crate::workspace;

/// The image that the chart takes unless it is told another: this version, of no registry.
pub(crate) const TAG: &str = concat!("localhost/weft:", env!("CARGO_PKG_VERSION"));

/// The users that the image knows. The chart says which one a pod runs as: agents need root for eBPF and namespaces,
/// controllers are nobody in particular.
const USERS: &str = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
const GROUPS: &str = "root:x:0:\nnonroot:x:65532:\n";

/// What `cargo xtask image` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the image goes, an OCI archive [default: image.tar in the folder that cargo builds into]
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// The image's name, with the registry that it will be pushed to, and its tag
    #[arg(long, value_name = "REF", default_value = TAG, value_parser = reference)]
    tag: String,
    /// Pack this program in place of the one that `cargo xtask build` builds. It must be linked statically
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// `cargo xtask image`
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => {
            setup::for_build()?;
            build::agent()?
        }
    };
    let output = match &options.output {
        Some(output) => output.clone(),
        None => default_output()?,
    };
    progress::heading(&format!("packing the image {}", options.tag));
    write(&binary, &options.tag, &output)?;
    println!();
    progress::note("into a registry:      skopeo copy oci-archive:FILE docker://REGISTRY/weft:TAG");
    progress::note("onto one node:        ctr --namespace k8s.io images import FILE");
    progress::note("into a kind cluster:  kind load image-archive FILE");
    Ok(())
}

/// Where the image goes that was told no other place.
pub(crate) fn default_output() -> Result<PathBuf> {
    Ok(workspace::target()?.join("image.tar"))
}

/// Packs a program, linked statically, into an image of this name.
pub(crate) fn write(binary: &Path, tag: &str, output: &Path) -> Result<()> {
    let program = stripped(binary)?;
    let mut layer = Layer::new();
    layer.folder("/etc", 0o755)?;
    layer.file("/etc/group", GROUPS.as_bytes(), 0o644)?;
    layer.file("/etc/passwd", USERS.as_bytes(), 0o644)?;
    layer.file("/weft", &program, 0o755)?;
    archive::write(output, &Description { name: tag, entrypoint: &["/weft"], storage: Storage::Gzip }, layer)?;
    let mega = |bytes: u64| bytes as f64 / 1e6;
    let (size, unpacked) = (mega(fs::metadata(output)?.len()), mega(program.len() as u64));
    progress::note(&format!("{} ({size:.1} MB; {unpacked:.1} MB unpacked)", output.display()));
    Ok(())
}

/// The program without what only debuggers read, three quarters of it. The names of functions stay: a backtrace in a
/// user's log is worth their 3 MB.
fn stripped(binary: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    if let Some(loader) = elf::interpreter(&bytes).with_context(|| binary.display().to_string())? {
        anyhow::bail!(
            "{} needs {loader} and shared libraries, and the image holds nothing else: `cargo xtask build` links it statically",
            binary.display()
        );
    }
    let to = workspace::target()?.join(format!("weft.stripped-{}", std::process::id()));
    // A part of what C compilers are installed with.
    let strip = workspace::program("strip").context("there is no program `strip`: install binutils")?;
    let ended = Command::new(strip).arg("--strip-debug").arg("-o").args([&to, binary]).status();
    let result = ended.context("starting strip").and_then(|ended| {
        ensure!(ended.success(), "strip ended with {ended}");
        fs::read(&to).with_context(|| format!("reading {}", to.display()))
    });
    let _ = fs::remove_file(&to);
    result
}

/// A name with a tag, as far as a mistake would be noticed only on a node.
fn reference(text: &str) -> Result<String, String> {
    let (name, tag) = text.rsplit_once(':').ok_or("write it as NAME:TAG")?;
    let is_word = |text: &str, also: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
    };
    if !is_word(tag, b"_.-") {
        return Err("a tag has letters, digits, and any of _.- alone".to_owned());
    }
    if !is_word(name, b"_.-/:") || name.starts_with('/') || name.ends_with('/') {
        return Err(
            "a name has letters, digits, and any of _.-/ alone, and perhaps the port of its registry".to_owned()
        );
    }
    // What has no registry would be looked for at Docker's.
    let registry = name.split('/').next().unwrap_or_default();
    if !name.contains('/') || !(registry == "localhost" || registry.contains(['.', ':'])) {
        return Err("write the registry as well, or localhost: localhost/weft:1".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name_is_one_that_may_be_given() {
        assert_eq!(reference(TAG).unwrap(), TAG);
        assert!(reference("registry.example:5000/mesh/weft:v1.2-rc_3").is_ok());
    }

    #[test]
    fn names_that_a_node_would_look_for_elsewhere_are_refused() {
        for name in ["weft", "weft:1", "mesh/weft:1", "registry.example/weft", "registry.example/weft:a b", "/weft:1"] {
            assert!(reference(name).is_err(), "{name}");
        }
    }
}
