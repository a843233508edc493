//! Container images without a registry and without a daemon: OCI archives of one layer, which containerd and others load.
//!
//! Follows the OCI image layout 1.1. The same content makes the same bytes, whenever and by whomever it is packed.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The files of an image.
pub(crate) struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

/// What an image says of itself.
pub(crate) struct Description<'a> {
    /// Its full name with registry and tag.
    pub(crate) name: &'a str,
    /// The program that is run, with its first arguments.
    pub(crate) entrypoint: &'a [&'a str],
    /// How its layer is stored.
    pub(crate) storage: Storage,
}

/// How a layer is stored in its archive.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Storage {
    /// As it is: quick, for images that never leave this machine.
    Plain,
    /// Compressed: small, for images that are sent and kept.
    Gzip,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }

    /// Adds a file that everybody may read.
    pub(crate) fn file(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.add(tar::EntryType::Regular, path, mode, bytes)
    }

    /// Adds a folder.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.add(tar::EntryType::Directory, path, mode, &[])
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        let added = self.tar.append_link(&mut header, relative(path), target);
        added.with_context(|| format!("packing the link {path}"))
    }

    fn add(&mut self, kind: tar::EntryType, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let mut header = header(kind, mode, bytes.len());
        self.tar.append_data(&mut header, relative(path), bytes).with_context(|| format!("packing {path}"))
    }
}

/// Root's, of no particular time.
fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// Writes an image of one layer as an archive.
pub(crate) fn write(to: &Path, image: &Description, layer: Layer) -> Result<()> {
    let unfinished = to.with_extension("unfinished");
    let file = fs::File::create(&unfinished).with_context(|| format!("making {}", unfinished.display()))?;
    pack(file, image, layer).with_context(|| format!("writing {}", unfinished.display()))?;
    fs::rename(&unfinished, to).with_context(|| format!("making {}", to.display()))
}

fn pack(to: impl Write, image: &Description, layer: Layer) -> Result<()> {
    let content = layer.tar.into_inner()?;
    let content_digest = digest(&content);
    let (layer, layer_kind) = match image.storage {
        Storage::Plain => (Blob::new(content), "application/vnd.oci.image.layer.v1.tar"),
        Storage::Gzip => (Blob::new(compressed(&content)?), "application/vnd.oci.image.layer.v1.tar+gzip"),
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": image.entrypoint,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [content_digest]},
    });
    let config = Blob::new(serde_json::to_vec(&config)?);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor(layer_kind)],
    });
    let manifest = Blob::new(serde_json::to_vec(&manifest)?);
    let mut described = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    let tag = image.name.rsplit(':').next().unwrap_or_default();
    described["annotations"] =
        json!({"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described],
    });

    let mut archive = tar::Builder::new(to);
    let mut add = |path: &str, bytes: &[u8]| {
        archive.append_data(&mut header(tar::EntryType::Regular, 0o644, bytes.len()), path, bytes)
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", &serde_json::to_vec(&index)?)?;
    for blob in [&manifest, &config, &layer] {
        add(&format!("blobs/{}", blob.digest.replace(':', "/")), &blob.bytes)?;
    }
    Ok(archive.into_inner()?.flush()?)
}

/// Its header has neither a time nor a name: the same content makes the same bytes.
fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Content with its digest, which takes long enough to be made once.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), bytes }
    }

    fn descriptor(&self, kind: &str) -> Value {
        json!({"mediaType": kind, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// A digest as OCI writes it: `sha256:` and 64 hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hexadecimal: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hexadecimal}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    fn packed(storage: Storage) -> Vec<u8> {
        let mut layer = Layer::new();
        layer.folder("/tmp", 0o1777).unwrap();
        layer.file("/bin/program", b"text", 0o755).unwrap();
        layer.link("/sh", "/bin/program").unwrap();
        let mut bytes = Vec::new();
        let image = Description { name: "localhost/some/image:7", entrypoint: &["/bin/program"], storage };
        pack(&mut bytes, &image, layer).unwrap();
        bytes
    }

    fn unpacked(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    #[test]
    fn every_blob_is_found_by_its_digest_from_the_index_on() {
        for storage in [Storage::Plain, Storage::Gzip] {
            follow(&packed(storage), storage);
        }
    }

    fn follow(archive: &[u8], storage: Storage) {
        let files = unpacked(archive);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(super::digest(bytes), digest);
            assert_eq!(descriptor["size"], bytes.len());
            bytes
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/some/image:7");
        let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(blob(&manifest["config"])).unwrap();
        let mut layer = blob(&manifest["layers"][0]).clone();
        if matches!(storage, Storage::Gzip) {
            let mut content = Vec::new();
            flate2::read::GzDecoder::new(&layer[..]).read_to_end(&mut content).unwrap();
            layer = content;
        }
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        assert_eq!(unpacked(&layer)["bin/program"], b"text");
    }

    #[test]
    fn the_same_content_makes_the_same_bytes() {
        for storage in [Storage::Plain, Storage::Gzip] {
            assert_eq!(packed(storage), packed(storage));
        }
    }
}
