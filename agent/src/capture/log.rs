//! The programs' own log, carried into `tracing`.

use std::io;

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Reads what the eBPF programs of this process have to say.
pub(super) struct CaptureLog(EbpfLogger<IntoTracing>);

impl CaptureLog {
    /// The log to which a loaded program writes.
    pub(super) fn of(program: u32) -> Result<Self, aya_log::Error> {
        EbpfLogger::init_from_id_with_logger(program, IntoTracing).map(Self)
    }

    /// Carries records over as they come, for ever.
    pub(super) async fn forward(self) -> io::Result<()> {
        // SAFETY: the logger owns the ring buffer's descriptor, which is the only one that it gives, and nothing closes it
        // before the logger is dropped together with its registration.
        let registered = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        let mut logger = registered.map_err(|error| error.into_parts().1)?;
        loop {
            let mut ready = logger.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

impl std::fmt::Debug for CaptureLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CaptureLog")
    }
}

/// aya speaks the `log` crate's language. The file and line of a record are those of the eBPF program.
struct IntoTracing;

impl log::Log for IntoTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let file = record.file().unwrap_or_default();
        let line = record.line().unwrap_or_default();
        let message = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: "weft::capture::kernel", file, line, "{message}"),
            log::Level::Warn => tracing::warn!(target: "weft::capture::kernel", file, line, "{message}"),
            log::Level::Info => tracing::info!(target: "weft::capture::kernel", file, line, "{message}"),
            log::Level::Debug => tracing::debug!(target: "weft::capture::kernel", file, line, "{message}"),
            log::Level::Trace => tracing::trace!(target: "weft::capture::kernel", file, line, "{message}"),
        }
    }

    fn flush(&self) {}
}
