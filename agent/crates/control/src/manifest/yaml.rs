//! Files of YAML.

pub(super) mod plain;

use serde_json::Value;
use serde_saphyr::{Options, alias_limits, budget, options};

use super::document::Document;
use super::{Manifest, Part, Reader, divide};

/// So many documents are read at a time: fewer are not worth a thread.
const SHARE: usize = 32;

/// Reads documents, separated by `---`.
pub(super) fn read(reader: &Reader<'_>, text: &str, threads: usize) -> Manifest {
    divide(&documents(text), SHARE, threads, |part, (text, line)| {
        let document = Document::Yaml(text);
        match document.glance() {
            Some((_, kind)) if kind.ends_with("List") => part.list(reader, text, *line),
            _ => part.object(reader, document, *line, None),
        }
    })
    .into_manifest()
}

impl Part {
    /// Reads the items of a list. In a `PodList` they need not say that they are Pods.
    fn list(&mut self, reader: &Reader<'_>, text: &str, line: u32) {
        let document = Document::Yaml(text);
        let list = match document.tree() {
            Ok(list) => list,
            Err(error) => {
                let line = line + document.line_at(&error.place);
                return self.unreadable(reader, line, error.message, "correct the list");
            }
        };
        let kind = list.get("kind").and_then(Value::as_str).and_then(|kind| kind.strip_suffix("List"));
        match list.get("items") {
            Some(Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.object(reader, Document::Item(item, index, text), line, kind.filter(|kind| !kind.is_empty()));
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => {
                let line = line + document.line_of("items");
                self.unreadable(reader, line, "the items of a list are not a list", "write '- ' before each item");
            }
        }
    }
}

/// Cuts a file at its document markers. A line that begins with `---` or `...` is one wherever it stands (YAML 1.2.2,
/// 9.1.2): so a mistake in one document cannot hide another. Returns those that have any content, each with the number
/// of its first line that has.
fn documents(text: &str) -> Vec<(&str, u32)> {
    let mut found = Vec::new();
    // Where the current document starts, and its first line with content.
    let (mut start, mut content) = (0, None);
    let (mut offset, mut line) = (0, 0);
    while offset < text.len() {
        let length = memchr::memchr(b'\n', &text.as_bytes()[offset..]).map_or(text.len() - offset, |end| end + 1);
        let whole = &text[offset..offset + length];
        line += 1;
        let trimmed = whole.trim_end();
        let marker = trimmed.get(..3).filter(|marker| {
            matches!(*marker, "---" | "...") && trimmed[3..].chars().next().is_none_or(|c| matches!(c, ' ' | '\t'))
        });
        if let Some(marker) = marker {
            if let Some(first) = content.take() {
                found.push((&text[start..offset], first));
            }
            start = offset + 3;
            if marker == "---" && has_content(&trimmed[3..]) {
                content = Some(line);
            }
        } else if content.is_none() && has_content(trimmed) && !trimmed.starts_with('%') {
            content = Some(line);
            // Lines before it are blank, comments or directives, which have no say here. Lines of an error count
            // from this one.
            start = offset;
        }
        offset += whole.len();
    }
    if let Some(first) = content {
        found.push((&text[start..], first));
    }
    found
}

fn has_content(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('#')
}

/// What a document may cost: its length is bounded by the file's, and what it can grow to by aliases is bounded here.
pub(super) fn options() -> Options {
    options! {
        budget: budget! {
            max_events: 32 << 20,
            max_nodes: 16 << 20,
            max_depth: 64,
            flow_nesting_limit: 64,
            max_aliases: 1000,
            max_anchors: 1000,
            max_merge_keys: 1000,
            max_recorded_anchor_events: 100_000,
        },
        alias_limits: alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        with_snippet: false,
    }
}

/// `apiVersion` and `kind` of a document in block style: in that, a line without indentation begins a top-level key.
pub(super) fn glance(text: &str) -> Option<(&str, &str)> {
    let (mut api_version, mut kind) = (None, None);
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("apiVersion:") {
            api_version = Some(scalar(value)?);
        } else if let Some(value) = line.strip_prefix("kind:") {
            kind = Some(scalar(value)?);
        }
        if let (Some(api_version), Some(kind)) = (api_version, kind) {
            return Some((api_version, kind));
        }
    }
    None
}

/// A plain or quoted scalar of the characters that versions and kinds have.
fn scalar(text: &str) -> Option<&str> {
    let text = text.split(" #").next().unwrap_or_default().trim();
    let quoted = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    let text = quoted('"').or_else(|| quoted('\'')).unwrap_or(text);
    let is_plain =
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/' | b'-'));
    is_plain.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_cut_at_markers_wherever_they_stand() {
        let text = "# comment\n%YAML 1.2\n---\na: 1\nb: |\n  ---\n  text\n--- # next\n\n# only a comment\n---\nc: 2\n...\n--- {d: 3}\n---x: 4\n---\n";
        let found = documents(text);
        let expected = [("a: 1\nb: |\n  ---\n  text\n", 4), ("c: 2\n", 12), (" {d: 3}\n---x: 4\n", 14)];
        assert_eq!(found, expected);
        assert_eq!(documents("\r\na: 1\r\n---\r\nb: 2"), [("a: 1\r\n", 2), ("b: 2", 4)]);
        assert_eq!(documents(""), []);
    }

    #[test]
    fn a_glance_finds_version_and_kind_in_block_style_only() {
        assert_eq!(glance("kind: Pod # a pod\napiVersion: 'v1'\n"), Some(("v1", "Pod")));
        assert_eq!(glance("{kind: Pod, apiVersion: v1}"), None);
        assert_eq!(glance("metadata:\n  kind: Pod\n  apiVersion: v1\n"), None);
        assert_eq!(glance("kind: &anchor Pod\napiVersion: v1"), None);
    }
}
