//! Builds the eBPF programs, for the agent to embed.
//!
//! They need a compiler with the sources of `core`, and `bpf-linker`; `cargo xtask setup` installs both. Without them a
//! debug build embeds nothing, and says so when capture is asked for; a release build fails.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = package.parent().expect("the agent's package lies in the workspace").to_owned();
    for path in ["ebpf/src", "ebpf/Cargo.toml", "ebpf/Cargo.lock", "common/src", "common/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WEFT_BPF_RUSTC");
    if env::var("PROFILE").as_deref() == Ok("release") {
        // Keeps an idle agent small: the script says how.
        let layout = package.join("layout.ld");
        println!("cargo::rerun-if-changed={}", layout.display());
        println!("cargo::rustc-link-arg-bins=-Wl,--script={}", layout.display());
    }

    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("weft.bpf.o");
    let built = Toolchain::find().and_then(|toolchain| toolchain.build(&root.join("ebpf")));
    match built {
        Ok(path) => embed(&path, &object),
        Err(problem) if env::var("PROFILE").as_deref() == Ok("release") => {
            panic!("the eBPF programs cannot be built: {problem}");
        }
        Err(problem) => {
            println!("cargo::warning=without eBPF programs, this agent cannot capture: {problem}");
            // What is installed later is noticed here.
            println!("cargo::rerun-if-changed={}", cargo_home().join("bin").display());
            fs::write(&object, []).unwrap_or_else(|error| panic!("writing {}: {error}", object.display()));
        }
    }
}

/// Copies the object without its DWARF, which is nine tenths of it; what the kernel reads is in other sections.
fn embed(built: &Path, object: &Path) {
    let strip = ["/usr/lib/llvm-22/bin/llvm-strip".into()]
        .into_iter()
        .chain(on_path("llvm-strip"))
        .find(|path: &PathBuf| path.exists());
    let stripped = strip.is_some_and(|strip| {
        let done = Command::new(strip).args(["--strip-debug", "-o"]).arg(object).arg(built).status();
        done.is_ok_and(|status| status.success())
    });
    if !stripped {
        fs::copy(built, object).unwrap_or_else(|error| panic!("copying {}: {error}", built.display()));
    }
}

/// A compiler that can build `core` for eBPF, and the cargo that goes with it.
struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    /// Where `bpf-linker` is.
    linker: PathBuf,
}

impl Toolchain {
    fn find() -> Result<Self, String> {
        let linker = on_path("bpf-linker").or_else(|| existing(cargo_home().join("bin/bpf-linker")));
        let linker = linker.ok_or("bpf-linker is not installed: run `cargo xtask setup`")?;
        let given = env::var_os("WEFT_BPF_RUSTC").map(PathBuf::from);
        // Debian's compiler for the web has the sources with it; so may a nightly of rustup's.
        let candidates = [given, Some("/usr/bin/rustc".into()), rustup_nightly()];
        for rustc in candidates.into_iter().flatten() {
            let cargo = rustc.with_file_name("cargo");
            if has_sources(&rustc) && cargo.exists() {
                return Ok(Self { rustc, cargo, linker });
            }
        }
        Err("no Rust compiler with the sources of its library was found: run `cargo xtask setup`".into())
    }

    fn build(&self, ebpf: &Path) -> Result<PathBuf, String> {
        // Not under OUT_DIR: `core` would be built for each profile and each target folder anew.
        let target = ebpf.join("target");
        let flags = [
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            // What the verifier quotes of the source names it as seen from the project's folder.
            format!("--remap-path-prefix={}=weft", ebpf.with_file_name("").display()),
        ];
        let mut command = Command::new(&self.cargo);
        command
            .current_dir(ebpf)
            .args(["build", "--release", "--locked", "--quiet"])
            .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
            .arg("--target-dir")
            .arg(&target);
        for (name, _) in env::vars_os() {
            // What cargo tells this script is about another build.
            let text = name.to_string_lossy();
            let is_ours =
                text.starts_with("CARGO") && text != "CARGO_HOME" || text.starts_with("RUST") && text != "RUSTUP_HOME";
            if is_ours || text == "TARGET" || text == "HOST" || text == "PROFILE" || text == "OUT_DIR" {
                command.env_remove(&name);
            }
        }
        let output = command
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("PATH", self.search_path())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("running {}: {error}", self.cargo.display()))?;
        if !output.status.success() {
            // A mistake in the programs is not a missing toolchain: no build goes on without them.
            panic!("building the eBPF programs failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(target.join("bpfel-unknown-none/release/weft"))
    }

    fn search_path(&self) -> OsString {
        let own = self.linker.parent().map(Path::to_owned);
        let others = env::var_os("PATH").unwrap_or_default();
        env::join_paths(own.into_iter().chain(env::split_paths(&others))).unwrap_or(others)
    }
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.exists().then_some(path)
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.env_remove("RUSTUP_TOOLCHAIN").stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn has_sources(rustc: &Path) -> bool {
    output(Command::new(rustc).args(["--print", "sysroot"]))
        .is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists())
}

fn rustup_nightly() -> Option<PathBuf> {
    output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"])).map(PathBuf::from)
}
