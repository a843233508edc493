//! Programs of this machine, with the libraries that they load, as files of an image.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::archive::Layer;
use crate::workspace;

/// Adds programs under `/usr/bin`, and their libraries where the programs look for them.
pub(super) fn add_programs(layer: &mut Layer, names: &[&str]) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for name in names {
        let program =
            workspace::program(name).with_context(|| format!("there is no program {name} to put into an image"))?;
        let bytes = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
        layer.file(&format!("/usr/bin/{name}"), &bytes, 0o755)?;
        libraries.extend(libraries_of(&program)?);
    }
    // The C library loads these by name when a name is looked up, where it does not have them built in.
    let c_library = libraries.iter().find(|path| path.ends_with("libc.so.6")).cloned();
    if let Some(folder) = c_library.as_deref().and_then(Path::parent) {
        libraries.extend(
            ["libnss_dns.so.2", "libnss_files.so.2"]
                .map(|name| folder.join(name))
                .into_iter()
                .filter(|path| path.exists()),
        );
    }
    for library in libraries {
        let bytes = fs::read(&library).with_context(|| format!("reading {}", library.display()))?;
        layer.file(&library.display().to_string(), &bytes, 0o755)?;
    }
    Ok(())
}

/// What every image with programs of this machine needs besides.
pub(super) fn add_base(layer: &mut Layer) -> Result<()> {
    layer.link("/bin", "usr/bin")?;
    layer.folder("/tmp", 0o1777)?;
    layer.file("/etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", 0o644)?;
    layer.file("/etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)?;
    layer.file("/etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n", 0o644)
}

fn libraries_of(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("starting ldd")?;
    ensure!(output.status.success(), "ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f…)` and `/lib64/ld-linux-x86-64.so.2 (0x7f…)`.
fn parse(listed: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let path = line.split_once("=>").map_or(line, |(_, path)| path).split_whitespace().next()?.to_owned();
        path.starts_with('/').then(|| path.into())
    };
    listed.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_as_ldd_lists_them() {
        let listed = "\tlinux-vdso.so.1 (0x00007f8d484cb000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f8d47a1e000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f8d484cd000)
";
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse(listed), paths.map(PathBuf::from).into());
    }
}
