//! The images that every node of a cluster has.

use std::fs;

use anyhow::{Context, Result};
use weft_tests::cluster::Kit;

use super::{host_files, kit};
use crate::archive::{self, Description, Layer, Storage};
use crate::progress;

/// The programs of the client's image: a shell, and what one looks around with.
const CLIENT: [&str; 26] = [
    "bash", "sh", "cat", "chmod", "cp", "curl", "date", "env", "getent", "grep", "head", "id", "ip", "ls", "mkdir",
    "rm", "sed", "seq", "sleep", "sort", "ss", "tail", "timeout", "tr", "uname", "wc",
];

/// gRPC's `HealthCheckResponse` that says `SERVING`, as it is on the wire: not compressed, two bytes, field 1 is 1.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 0x08, 1];

/// Where an image comes from.
struct Image {
    name: &'static str,
    entrypoint: &'static [&'static str],
    fill: fn(&Kit, &mut Layer) -> Result<()>,
}

const IMAGES: [Image; 4] = [
    // Holds the namespaces of a pod.
    Image {
        name: "pause",
        entrypoint: &["/pause"],
        fill: |kit, layer| add_program(layer, "/pause", &kit::pause_program(kit)),
    },
    Image {
        name: "coredns",
        entrypoint: &["/coredns"],
        fill: |kit, layer| add_program(layer, "/coredns", &kit.coredns()),
    },
    // Waits to be told what to do, by `kubectl exec` or by arguments.
    Image {
        name: "client",
        entrypoint: &["/bin/bash", "-c"],
        fill: |_, layer| {
            host_files::add_base(layer)?;
            host_files::add_programs(layer, &CLIENT)
        },
    },
    // Answers HTTP on the ports 8080 and 8081 of both families with its own name and the client's address, and gRPC's health
    // checks on port 9000.
    Image {
        name: "server",
        entrypoint: &["/bin/nginx", "-e", "stderr", "-c", "/etc/nginx.conf"],
        fill: |_, layer| {
            host_files::add_base(layer)?;
            host_files::add_programs(layer, &["nginx", "bash", "sleep"])?;
            layer.file("/etc/serving", &SERVING, 0o644)?;
            layer.file("/etc/nginx.conf", &fs::read(kit::sources().join("server/nginx.conf"))?, 0o644)
        },
    },
];

/// Packs all images into the kit, or those that are missing alone.
pub(super) fn pack(kit: &Kit, keep: bool) -> Result<()> {
    let folder = kit.image_folder();
    fs::create_dir_all(&folder)?;
    for Image { name, entrypoint, fill } in &IMAGES {
        let archive = folder.join(format!("{name}.tar"));
        if keep && archive.exists() {
            continue;
        }
        let mut layer = Layer::new();
        fill(kit, &mut layer).with_context(|| format!("filling the image {name}"))?;
        let name = format!("localhost/weft-test/{name}:1");
        archive::write(&archive, &Description { name: &name, entrypoint, storage: Storage::Plain }, layer)?;
    }
    progress::note(&format!("{} images are packed in {}", IMAGES.len(), folder.display()));
    Ok(())
}

fn add_program(layer: &mut Layer, path: &str, from: &std::path::Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    layer.file(path, &bytes, 0o755)
}
