//! What clusters are made of: programs and images, built once by `cargo xtask cluster`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A folder with the programs and images of clusters.
#[derive(Debug, Clone)]
pub struct Kit {
    folder: PathBuf,
}

impl Kit {
    /// The kit in `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The kit that `WEFT_CLUSTER_KIT` names, or else the one that `cargo xtask cluster build` has built in this tree.
    ///
    /// # Errors
    /// It lacks a part.
    pub fn find() -> Result<Self> {
        let kit = Self::at(folder());
        kit.check()?;
        Ok(kit)
    }

    /// The same for those who need only its programs and definitions, no images.
    ///
    /// # Errors
    /// It lacks one of those.
    pub fn find_programs() -> Result<Self> {
        let kit = Self::at(folder());
        for part in [kit.kubernetes(), kit.definitions()] {
            ensure!(part.exists(), "{} is missing; `cargo xtask cluster build` builds it", part.display());
        }
        Ok(kit)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All of Kubernetes in one program: the first argument names the component, `kubectl` among them.
    pub fn kubernetes(&self) -> PathBuf {
        self.folder.join("kubernetes")
    }

    /// CoreDNS, as it lies in its image.
    pub fn coredns(&self) -> PathBuf {
        self.folder.join("coredns")
    }

    /// Helm.
    pub fn helm(&self) -> PathBuf {
        self.folder.join("helm")
    }

    /// The first process of a machine: the program `weft-machine` of this package.
    pub fn machine(&self) -> PathBuf {
        self.folder.join("weft-machine")
    }

    /// The folder with the images, OCI archives, that every node gets.
    pub fn image_folder(&self) -> PathBuf {
        self.folder.join("images")
    }

    /// The folder with the definitions of Gateway API's and Istio's resources, for whoever wants to apply them:
    /// `gateway-api-standard.yaml`, `gateway-api-experimental.yaml`, `istio.yaml`.
    pub fn definitions(&self) -> PathBuf {
        self.folder.join("definitions")
    }

    /// The images, in order of their names.
    ///
    /// # Errors
    /// There is no folder of images.
    pub fn images(&self) -> Result<Vec<PathBuf>> {
        let folder = self.image_folder();
        let listed = fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
        let mut images: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
        images.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
        images.sort();
        Ok(images)
    }

    pub(super) fn check(&self) -> Result<()> {
        for program in [self.kubernetes(), self.machine()] {
            ensure!(program.is_file(), "{} is missing; `cargo xtask cluster build` builds it", program.display());
        }
        ensure!(
            !self.images()?.is_empty(),
            "{} is empty; `cargo xtask cluster build` fills it",
            self.image_folder().display()
        );
        Ok(())
    }
}

fn folder() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/cluster");
    std::env::var_os("WEFT_CLUSTER_KIT").map_or_else(built, PathBuf::from)
}
