//! Files of JSON.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::document::{Document, ReadError};
use super::text::Text;
use super::{Manifest, Part, Reader, divide, newlines};

/// Fewer objects than this are not worth a thread.
const SHARE: usize = 256;

/// An object at the top of the file. Its members are found and its syntax is checked in one pass, without reading
/// what is in them.
#[derive(Deserialize)]
#[serde(expecting = "a Kubernetes object (a mapping with apiVersion and kind)")]
struct Top<'a> {
    #[serde(borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// Reads objects that stand one after another.
pub(super) fn read(reader: &Reader<'_>, text: &str, threads: usize) -> Manifest {
    let mut all = Part::default();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            return all.into_manifest();
        }
        let line = 1 + newlines(&text.as_bytes()[..text.len() - rest.len()]);
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Top<'_>>();
        let length = match stream.next() {
            Some(Ok(top)) => {
                let length = stream.byte_offset();
                match (top.kind.as_deref(), top.items) {
                    (Some(kind), Some(items)) if kind.ends_with("List") => {
                        read_list(&mut all, reader, text, kind, &items, threads);
                    }
                    _ => all.object(reader, Document::Json(&rest[..length]), line, None),
                }
                length
            }
            Some(Err(error)) => {
                // The object may be well-formed JSON nevertheless: then the next one is found.
                let mut skip = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
                let is_json = matches!(skip.next(), Some(Ok(_)));
                let length = skip.byte_offset();
                let error = ReadError::json(&error);
                let suggestion = if is_json { "write a Kubernetes object" } else { "correct the JSON" };
                let line = line + Document::Json(rest).line_at(&error.place);
                all.unreadable(reader, line, error.message, suggestion);
                if !is_json {
                    return all.into_manifest();
                }
                length
            }
            None => return all.into_manifest(),
        };
        rest = &rest[length..];
    }
}

/// Reads the items of a list. In a `PodList` they need not say that they are Pods.
fn read_list(all: &mut Part, reader: &Reader<'_>, text: &str, kind: &str, items: &[&RawValue], threads: usize) {
    let (mut line, mut seen) = (1, 0);
    let items: Vec<(&str, u32)> = items
        .iter()
        .map(|item| {
            // Both are parts of the same allocation.
            let start = item.get().as_ptr().addr() - text.as_ptr().addr();
            line += newlines(&text.as_bytes()[seen..start]);
            seen = start;
            (item.get(), line)
        })
        .collect();
    let item_kind = kind.strip_suffix("List").filter(|kind| !kind.is_empty());
    all.append(divide(&items, SHARE, threads, |part, (item, line)| {
        part.object(reader, Document::Json(item), *line, item_kind);
    }));
}

/// `apiVersion` and `kind` of an object that begins with them, as every tool writes it.
pub(super) fn glance(text: &str) -> Option<(&str, &str)> {
    let (mut api_version, mut kind) = (None, None);
    let mut rest = text.trim_start().strip_prefix('{')?;
    while api_version.is_none() || kind.is_none() {
        let (key, after) = string(rest)?;
        let (value, after) = string(after.trim_start().strip_prefix(':')?)?;
        match key {
            "apiVersion" => api_version = Some(value),
            "kind" => kind = Some(value),
            _ => return None,
        }
        rest = after.trim_start().strip_prefix(',').unwrap_or(after);
    }
    Some((api_version?, kind?))
}

/// A string without escapes, and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    let (found, rest) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    (!found.contains('\\')).then_some((found, rest))
}
