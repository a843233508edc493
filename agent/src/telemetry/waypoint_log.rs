//! The access log of a waypoint: one record for each request, and for each connection that is none of HTTP.

use std::io::{self, Write};
use std::time::Duration;

use weft_waypoint::{ConnectionRecord, RequestRecord};

use super::line::{Line, LineFormat};
use super::sink::{Sink, SinkCounters};

/// Records that can wait for the output before further ones are dropped.
const QUEUE: usize = 8192;

/// A request or a connection.
#[derive(Debug)]
enum Entry {
    Request(Box<RequestRecord>),
    Connection(Box<ConnectionRecord>),
}

/// Where workers put their records. They never wait; what the output cannot take is dropped and counted.
#[derive(Debug)]
pub struct WaypointLog {
    sink: Option<Sink<Entry>>,
}

impl WaypointLog {
    /// A log that writes to `output`; without a format it writes nothing.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        format: Option<LineFormat>,
        output: impl Write + Send + 'static,
        counters: SinkCounters,
    ) -> io::Result<Self> {
        let Some(format) = format else { return Ok(Self { sink: None }) };
        let write = move |entry: Entry, out: &mut Vec<u8>| match entry {
            Entry::Request(record) => write_request(&record, format, out),
            Entry::Connection(record) => write_connection(&record, format, out),
        };
        Ok(Self { sink: Some(Sink::start("weft-access-log", QUEUE, counters, output, write)?) })
    }

    /// Hands the record of a request over.
    pub fn request(&self, record: RequestRecord) {
        if let Some(sink) = &self.sink {
            sink.send(Entry::Request(Box::new(record)));
        }
    }

    /// Hands the record of a connection over.
    pub fn connection(&self, record: ConnectionRecord) {
        if let Some(sink) = &self.sink {
            sink.send(Entry::Connection(Box::new(record)));
        }
    }

    /// Writes what is queued and ends the log, within `deadline`. False: records are lost.
    pub fn finish(&self, deadline: Duration) -> bool {
        self.sink.as_ref().is_none_or(|sink| sink.finish(deadline))
    }
}

fn write_request(record: &RequestRecord, format: LineFormat, out: &mut Vec<u8>) {
    let level = if record.error.is_some() { "error" } else { "info" };
    let message = if record.status.is_some() { "request complete" } else { "request failed" };
    let mut line = Line::begin(out, format, record.ended, level, "access", message);
    line.plain("src.addr", record.client.address);
    if let Some(source) = &record.source {
        line.quoted("src.workload", &source.name);
    }
    line.quoted("src.namespace", record.client.identity.namespace());
    line.quoted("src.identity", record.client.identity.uri());
    line.plain("dst.addr", record.endpoint_address.unwrap_or(record.address));
    if let Some(service) = &record.service {
        line.quoted("dst.service", &service.hostname);
    }
    if let Some(endpoint) = &record.endpoint {
        line.quoted("dst.workload", &endpoint.name);
        line.quoted("dst.namespace", &endpoint.namespace);
        line.quoted("dst.identity", endpoint.identity.uri());
    }
    line.quoted("method", record.method.as_str());
    line.quoted("host", &record.host);
    line.quoted("path", &record.path);
    line.quoted("protocol", &format!("{:?}", record.version));
    if let Some(route) = &record.route {
        line.quoted("route", route);
    }
    if let Some(status) = record.status {
        line.scalar("status", status.as_u16());
    }
    if let Some(status) = record.grpc_status {
        line.scalar("grpc_status", status);
    }
    line.quoted("flags", record.flags);
    line.scalar("attempts", record.attempts);
    line.scalar("bytes_recv", record.request_bytes);
    line.scalar("bytes_sent", record.response_bytes);
    line.quoted("duration", &format!("{}ms", record.duration.as_millis()));
    if let Some(error) = &record.error {
        line.quoted("error", error);
    }
    line.end();
}

fn write_connection(record: &ConnectionRecord, format: LineFormat, out: &mut Vec<u8>) {
    let level = if record.error.is_some() { "error" } else { "info" };
    let message = if record.is_established { "connection complete" } else { "connection failed" };
    let ends = &record.ends;
    let mut line = Line::begin(out, format, record.ended, level, "access", message);
    line.plain("src.addr", ends.client.address);
    if let Some(source) = &ends.source {
        line.quoted("src.workload", &source.name);
    }
    line.quoted("src.namespace", ends.client.identity.namespace());
    line.quoted("src.identity", ends.client.identity.uri());
    line.plain("dst.addr", ends.endpoint_address.unwrap_or(ends.address));
    if let Some(service) = &ends.service {
        line.quoted("dst.service", &service.hostname);
    }
    if let Some(endpoint) = &ends.endpoint {
        line.quoted("dst.workload", &endpoint.name);
        line.quoted("dst.namespace", &endpoint.namespace);
        line.quoted("dst.identity", endpoint.identity.uri());
    }
    line.scalar("bytes_recv", record.from_client);
    line.scalar("bytes_sent", record.to_client);
    line.quoted("duration", &format!("{}ms", record.duration.as_millis()));
    if let Some(error) = &record.error {
        line.quoted("error", error);
    }
    line.end();
}
