//! Further roots and revocation lists from files that may change.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use weft_runtime::Shutdown;

use super::CertificateOptions;
use crate::bundle::{BundleError, TrustBundle};

/// How often the files are looked at. A mounted ConfigMap or Secret takes a minute to arrive as it is.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The files that are watched.
pub(super) struct Watched {
    files: Vec<WatchedFile>,
}

struct WatchedFile {
    path: PathBuf,
    kind: Kind,
    /// Size and time of modification of what was read last. A file that could not be read has none.
    seen: Option<(u64, SystemTime)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Roots,
    RevocationLists,
}

impl Watched {
    /// Reads the configured files into `bundle`; `None` when none is configured.
    pub(super) fn load(options: &CertificateOptions, bundle: &TrustBundle) -> Result<Option<Self>, BundleError> {
        let configured = [(&options.extra_roots, Kind::Roots), (&options.revocation_lists, Kind::RevocationLists)];
        let mut files = Vec::new();
        for (path, kind) in configured {
            if let Some(path) = path {
                let mut file = WatchedFile { path: path.clone(), kind, seen: None };
                file.read(bundle)?;
                files.push(file);
            }
        }
        Ok((!files.is_empty()).then_some(Self { files }))
    }
}

impl WatchedFile {
    fn stamp(&self) -> io::Result<(u64, SystemTime)> {
        let metadata = std::fs::metadata(&self.path)?;
        Ok((metadata.len(), metadata.modified()?))
    }

    fn read(&mut self, bundle: &TrustBundle) -> Result<(), BundleError> {
        let unreadable =
            |source| BundleError::Read { path: self.path.clone(), source: rustls_pki_types::pem::Error::Io(source) };
        // Stamped before it is read: a change in between is seen next time.
        let stamp = self.stamp().map_err(unreadable)?;
        let pem = std::fs::read(&self.path).map_err(unreadable)?;
        self.seen = Some(stamp);
        match self.kind {
            Kind::Roots => bundle.set_extra(&pem, self.path.clone()),
            Kind::RevocationLists => bundle.set_revocation_lists(&pem, self.path.clone()),
        }
    }

    /// Reads the file if it has changed. A file that is gone or broken leaves what it said before, with a warning
    /// each time it changes.
    fn refresh(&mut self, bundle: &TrustBundle) {
        match self.stamp() {
            Ok(stamp) if self.seen == Some(stamp) => return,
            Err(_) if self.seen.is_none() => return,
            _ => {}
        }
        self.seen = None;
        match self.read(bundle) {
            Ok(()) => tracing::info!(file = %self.path.display(), "read again what to trust"),
            Err(error) => tracing::warn!(%error, "what was trusted before stays"),
        }
    }
}

/// Keeps `bundle` in step with the files until told to end.
pub(super) async fn reload(mut watched: Watched, bundle: Arc<TrustBundle>, mut shutdown: Shutdown) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let bundle = Arc::clone(&bundle);
        // Files block, and this runtime serves others.
        let refreshed = tokio::task::spawn_blocking(move || {
            for file in &mut watched.files {
                file.refresh(&bundle);
            }
            watched
        });
        match refreshed.await {
            Ok(back) => watched = back,
            Err(error) => {
                tracing::error!(%error, "the files of further roots and revocation lists are not watched any more");
                return;
            }
        }
    }
}
