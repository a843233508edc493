//! One log line, in either of the two formats that the agent writes.
//!
//! Diagnostics and access records share it, so that one parser reads everything that the agent prints:
//! JSON objects with `time`, `level`, `scope`, `message` and then the fields, or the same separated by
//! tabs with fields as `key=value`, as Istio's components write them.

use std::fmt::{self, Display, Write as _};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LineFormat {
    /// Tab-separated: time, level, scope, message, then `key=value` pairs.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Appends one line to a buffer. A line is always a single line: control characters, which a stranger may have put
/// into a name that is logged, are escaped.
pub(crate) struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LineFormat,
    has_fields: bool,
}

impl<'a> Line<'a> {
    /// Starts a line with what every line has.
    pub(crate) fn begin(
        out: &'a mut Vec<u8>,
        format: LineFormat,
        time: SystemTime,
        level: &str,
        scope: impl Display,
        message: &str,
    ) -> Self {
        let time = humantime::format_rfc3339_micros(time);
        let mut line = Self { out, format, has_fields: false };
        match format {
            LineFormat::Text => {
                line.write_text(format_args!("{time}\t{level}\t{scope}\t{message}"));
            }
            LineFormat::Json => {
                line.out.push(b'{');
                line.plain("time", time);
                line.plain("level", level);
                line.plain("scope", scope);
                line.plain("message", message);
            }
        }
        line
    }

    /// A field that is text: quoted in both formats.
    pub(crate) fn quoted(&mut self, key: &str, value: &str) {
        match self.format {
            LineFormat::Text => {
                self.text_key(key);
                // What quoting leaves as it is, as good as all names, is not worth the formatter's time.
                if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
                    self.out.push(b'"');
                    self.out.extend_from_slice(value.as_bytes());
                    self.out.push(b'"');
                } else {
                    self.write_text(format_args!("{value:?}"));
                }
            }
            LineFormat::Json => {
                self.json_key(key);
                self.write_json(value);
            }
        }
    }

    /// A field such as an address: a string in JSON, bare in text.
    pub(crate) fn plain(&mut self, key: &str, value: impl Display) {
        match self.format {
            LineFormat::Text => {
                self.text_key(key);
                self.write_text(format_args!("{value}"));
            }
            LineFormat::Json => {
                self.json_key(key);
                self.write_json(&format_args!("{value}"));
            }
        }
    }

    /// A field that is a number or a truth value: bare in both formats.
    pub(crate) fn scalar(&mut self, key: &str, value: impl Display + Serialize) {
        match self.format {
            LineFormat::Text => {
                self.text_key(key);
                self.write_text(format_args!("{value}"));
            }
            LineFormat::Json => {
                self.json_key(key);
                self.write_json(&value);
            }
        }
    }

    /// A field whose value is JSON already. Only meaningful in JSON lines.
    pub(crate) fn embedded(&mut self, key: &str, json: &str) {
        self.json_key(key);
        self.out.extend_from_slice(json.as_bytes());
    }

    /// Ends the line.
    pub(crate) fn end(self) {
        if self.format == LineFormat::Json {
            self.out.push(b'}');
        }
        self.out.push(b'\n');
    }

    fn text_key(&mut self, key: &str) {
        self.out.push(if self.has_fields { b' ' } else { b'\t' });
        self.has_fields = true;
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(b'=');
    }

    fn json_key(&mut self, key: &str) {
        if self.has_fields {
            self.out.push(b',');
        }
        self.has_fields = true;
        self.write_json(key);
        self.out.push(b':');
    }

    fn write_text(&mut self, value: fmt::Arguments<'_>) {
        // Writing to a vector fails only if the value's own Display does; a truncated field is then the best there is.
        let _ = SingleLine(self.out).write_fmt(value);
    }

    fn write_json<T: Serialize + ?Sized>(&mut self, value: &T) {
        let start = self.out.len();
        if serde_json::to_writer(&mut *self.out, value).is_err() {
            self.out.truncate(start);
            self.out.extend_from_slice(b"null");
        }
    }
}

/// Writes text in which control characters other than tab are escaped.
struct SingleLine<'a>(&'a mut Vec<u8>);

impl fmt::Write for SingleLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The last of these begins the control characters beyond ASCII in UTF-8, and some others.
        if !text.bytes().any(|byte| byte < b' ' && byte != b'\t' || matches!(byte, 0x7f | 0xc2)) {
            self.0.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        for c in text.chars() {
            if c.is_control() && c != '\t' {
                for escaped in c.escape_default() {
                    self.write_char(escaped)?;
                }
            } else {
                self.0.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn write(format: LineFormat, fill: impl FnOnce(&mut Line<'_>)) -> String {
        let mut out = Vec::new();
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_714_816_745_028_709);
        let mut line = Line::begin(&mut out, format, time, "info", "access", "connection complete");
        fill(&mut line);
        line.end();
        String::from_utf8(out).expect("lines are UTF-8")
    }

    #[test]
    fn text_separates_the_head_by_tabs_and_the_fields_by_spaces() {
        let line = write(LineFormat::Text, |line| {
            line.plain("src.addr", "10.0.0.1:1");
            line.quoted("src.workload", "curl \"x\"");
            line.scalar("bytes_sent", 7);
        });
        assert_eq!(
            line,
            "2024-05-04T09:59:05.028709Z\tinfo\taccess\tconnection complete\t\
             src.addr=10.0.0.1:1 src.workload=\"curl \\\"x\\\"\" bytes_sent=7\n"
        );
    }

    #[test]
    fn json_keeps_the_order_and_the_types() {
        let line = write(LineFormat::Json, |line| {
            line.plain("src.addr", "10.0.0.1:1");
            line.quoted("src.workload", "curl");
            line.scalar("bytes_sent", 7);
            line.embedded("spans", "[]");
        });
        assert_eq!(
            line,
            "{\"time\":\"2024-05-04T09:59:05.028709Z\",\"level\":\"info\",\"scope\":\"access\",\
             \"message\":\"connection complete\",\"src.addr\":\"10.0.0.1:1\",\"src.workload\":\"curl\",\
             \"bytes_sent\":7,\"spans\":[]}\n"
        );
    }

    #[test]
    fn a_line_stays_one_line_whatever_a_stranger_puts_into_it() {
        for format in [LineFormat::Text, LineFormat::Json] {
            let line = write(format, |line| {
                line.plain("plain", "a\nforged\tline\u{1b}[31m\u{85}\u{9b}31m\u{7f}");
                line.quoted("quoted", "a\r\nforged\u{85}");
            });
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            assert!(!line.contains(['\u{1b}', '\r']), "{line:?}");
            assert!(format == LineFormat::Json || !line.contains(['\u{7f}', '\u{85}', '\u{9b}']), "{line:?}");
        }
    }
}
