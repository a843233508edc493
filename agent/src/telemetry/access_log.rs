//! The access log: one record for each connection, when it has ended or failed.
//!
//! Fields and form are those of Istio's node proxy, so that what reads its log reads ours. A worker makes a record
//! from references that it holds anyway and hands it over; text is made and written by a thread of its own. Records go
//! to standard output (diagnostics go to standard error). When the reader is too slow records are dropped and counted
//! in `weft_access_log_dropped_total`; connections never wait.

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use weft_model::{Identity, Service, Workload};

use super::line::{Line, LineFormat};
use super::sink::{Sink, SinkCounters};

/// Records that can wait for the output before further ones are dropped.
const QUEUE: usize = 8192;

/// Which way a connection goes, seen from the pod whose agent reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The pod opened it.
    Outbound,
    /// The pod accepts it.
    Inbound,
}

impl Direction {
    /// The word used in logs, metrics and the admin interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// One end of a connection.
#[derive(Debug, Clone)]
pub struct AccessEnd {
    /// `src.addr`: the client's own address. `dst.addr`: the address that was dialled, which in a tunnel is the peer's
    /// port 15008.
    pub address: SocketAddr,
    /// The workload, if it is known. Its name and namespace are logged.
    pub workload: Option<Arc<Workload>>,
    /// The identity that its certificate proved; none when in clear.
    pub identity: Option<Identity>,
}

/// A connection that has ended, or could not be made.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// Which way it went.
    pub direction: Direction,
    /// Who opened it.
    pub source: AccessEnd,
    /// Who accepted it.
    pub destination: AccessEnd,
    /// `dst.hbone_addr`: where the tunnel's CONNECT leads; none when in clear.
    pub hbone_address: Option<SocketAddr>,
    /// The service that was addressed, if one was.
    pub service: Option<Arc<Service>>,
    /// Bytes from the one that opened the connection.
    pub from_client: u64,
    /// Bytes to the one that opened the connection.
    pub to_client: u64,
    /// From accepting the connection to its end.
    pub duration: Duration,
    /// When it ended.
    pub ended: SystemTime,
    /// The connection was carried: both ends were connected.
    pub is_established: bool,
    /// What went wrong, in words, and what to do about it where that can be guessed.
    pub error: Option<Cow<'static, str>>,
}

impl AccessRecord {
    /// Appends the record's line.
    ///
    /// `bytes_sent` and `bytes_recv` are those of the pod whose agent reports: the client's at the source, the server's
    /// at the destination. (Not so in the metrics, see [`crate::telemetry::tcp`].)
    fn write(&self, format: LineFormat, out: &mut Vec<u8>) {
        let level = if self.error.is_some() { "error" } else { "info" };
        let message = if self.is_established { "connection complete" } else { "connection failed" };
        let mut line = Line::begin(out, format, self.ended, level, "access", message);
        line.plain("src.addr", self.source.address);
        self.source.write(&mut line, ["src.workload", "src.namespace", "src.identity"]);
        line.plain("dst.addr", self.destination.address);
        if let Some(address) = self.hbone_address {
            line.plain("dst.hbone_addr", address);
        }
        if let Some(service) = &self.service {
            line.quoted("dst.service", &service.hostname);
        }
        self.destination.write(&mut line, ["dst.workload", "dst.namespace", "dst.identity"]);
        line.quoted("direction", self.direction.as_str());
        let (sent, received) = match self.direction {
            Direction::Outbound => (self.from_client, self.to_client),
            Direction::Inbound => (self.to_client, self.from_client),
        };
        line.scalar("bytes_sent", sent);
        line.scalar("bytes_recv", received);
        line.quoted("duration", &format!("{}ms", self.duration.as_millis()));
        if let Some(error) = &self.error {
            line.quoted("error", error);
        }
        line.end();
    }
}

impl AccessEnd {
    fn write(&self, line: &mut Line<'_>, [workload_key, namespace_key, identity_key]: [&str; 3]) {
        if let Some(workload) = &self.workload {
            line.quoted(workload_key, &workload.name);
            line.quoted(namespace_key, &workload.namespace);
        } else if let Some(identity) = &self.identity {
            line.quoted(namespace_key, identity.namespace());
        }
        if let Some(identity) = &self.identity {
            line.quoted(identity_key, identity.uri());
        }
    }
}

/// Where workers put their records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    sink: Option<Arc<Sink<Box<AccessRecord>>>>,
}

impl AccessLog {
    /// An access log that writes to `output` (standard output, as a rule).
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(format: LineFormat, output: impl Write + Send + 'static, counters: SinkCounters) -> io::Result<Self> {
        let write = move |record: Box<AccessRecord>, out: &mut Vec<u8>| record.write(format, out);
        let sink = Sink::start("weft-access-log", QUEUE, counters, output, write)?;
        Ok(Self { sink: Some(Arc::new(sink)) })
    }

    /// One that writes nothing.
    pub fn off() -> Self {
        Self { sink: None }
    }

    /// Whether records are wanted at all.
    pub fn is_enabled(&self) -> bool {
        self.sink.is_some()
    }

    /// Hands a record over. Never waits; drops and counts the record when the queue is full.
    pub fn write(&self, record: AccessRecord) {
        if let Some(sink) = &self.sink {
            sink.send(Box::new(record));
        }
    }

    /// Writes what is queued and ends the log, within `deadline`. False when the output was too slow and records are
    /// lost. For the end of the process, after the workers have ended.
    pub fn finish(&self, deadline: Duration) -> bool {
        self.sink.as_ref().is_none_or(|sink| sink.finish(deadline))
    }
}

#[cfg(test)]
mod tests;
