//! Files of JSON.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::document::{Document, ReadError};
use super::text::Text;
use super::{Manifest, Part, Reader, divide, newlines};

/// So many objects are read at a time: fewer are not worth a thread.
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
        rest = skip_space(rest);
        if rest.is_empty() {
            return all.into_manifest();
        }
        if let Some((kind, items, length)) = list(rest) {
            read_list(&mut all, reader, text, &kind, &items, threads);
            rest = &rest[length..];
            continue;
        }
        let line = 1 + newlines(&text.as_bytes()[..text.len() - rest.len()]);
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Top<'_>>();
        let length = match stream.next() {
            Some(Ok(top)) => {
                let length = stream.byte_offset();
                match (top.kind.as_deref(), top.items) {
                    (Some(kind), Some(items)) if kind.ends_with("List") => {
                        let items: Vec<&str> = items.into_iter().map(RawValue::get).collect();
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
fn read_list(all: &mut Part, reader: &Reader<'_>, text: &str, kind: &str, items: &[&str], threads: usize) {
    let (mut line, mut seen) = (1, 0);
    let items: Vec<(&str, u32)> = items
        .iter()
        .map(|item| {
            // Both are parts of the same allocation.
            let start = item.as_ptr().addr() - text.as_ptr().addr();
            line += newlines(&text.as_bytes()[seen..start]);
            seen = start;
            (*item, line)
        })
        .collect();
    let item_kind = kind.strip_suffix("List").filter(|kind| !kind.is_empty());
    all.append(divide(&items, SHARE, threads, |part, (item, line)| {
        part.object(reader, Document::Json(item), *line, item_kind);
    }));
}

/// Cuts a list into its items at a quarter of the price of parsing it: kind, items, and the length of the whole. Most
/// tools write the kind behind the items. Whether an item is well-formed is found out when it is read. `None` means only
/// that this must be left to the parser.
fn list(text: &str) -> Option<(Text<'_>, Vec<&str>, usize)> {
    if glance(text).is_some_and(|(_, kind)| !kind.ends_with("List")) {
        return None;
    }
    let (mut kind, mut items) = (None, None);
    let mut rest = text.strip_prefix('{')?;
    loop {
        let (key, after) = string(rest)?;
        let value = skip_space(skip_space(after).strip_prefix(':')?);
        let length = match key {
            "items" => {
                let (found, length) = elements(value)?;
                items.is_none().then(|| items = Some(found))?;
                length
            }
            "kind" => {
                let length = value_length(value)?;
                let found: Text<'_> = serde_json::from_str(&value[..length]).ok()?;
                kind.is_none().then(|| kind = Some(found))?;
                length
            }
            _ => {
                let length = value_length(value)?;
                serde_json::from_str::<IgnoredAny>(&value[..length]).ok()?;
                length
            }
        };
        let after = skip_space(&value[length..]);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => {
                let length = text.len() - after.strip_prefix('}')?.len();
                return kind
                    .filter(|kind| kind.ends_with("List"))
                    .zip(items)
                    .map(|(kind, items)| (kind, items, length));
            }
        }
    }
}

/// The elements of an array, and its length.
fn elements(text: &str) -> Option<(Vec<&str>, usize)> {
    let mut rest = skip_space(text.strip_prefix('[')?);
    let mut found = Vec::new();
    if let Some(after) = rest.strip_prefix(']') {
        return Some((found, text.len() - after.len()));
    }
    loop {
        let length = value_length(rest)?;
        found.push(&rest[..length]);
        let after = skip_space(&rest[length..]);
        match after.strip_prefix(',') {
            Some(next) => rest = skip_space(next),
            None => return Some((found, text.len() - after.strip_prefix(']')?.len())),
        }
    }
}

/// How long the value is that a text begins with, if it is well-formed.
fn value_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b'"' => {
                at += 1;
                loop {
                    match bytes.get(at)? {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
            }
            _ if depth == 0 => {
                let length = bytes[at..].iter().position(|byte| matches!(byte, b',' | b']' | b'}'))?;
                return Some(text[..at + length].trim_end().len()).filter(|length| *length > 0);
            }
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// `apiVersion` and `kind` of an object that begins with them, as every tool writes it.
pub(super) fn glance(text: &str) -> Option<(&str, &str)> {
    let (mut api_version, mut kind) = (None, None);
    let mut rest = skip_space(text).strip_prefix('{')?;
    while api_version.is_none() || kind.is_none() {
        let (key, after) = string(rest)?;
        let (value, after) = string(skip_space(after).strip_prefix(':')?)?;
        match key {
            "apiVersion" => api_version = Some(value),
            "kind" => kind = Some(value),
            _ => return None,
        }
        rest = skip_space(after).strip_prefix(',').unwrap_or(after);
    }
    Some((api_version?, kind?))
}

/// A string without escapes, and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    let (found, rest) = skip_space(text).strip_prefix('"')?.split_once('"')?;
    let is_plain = found.bytes().all(|byte| byte >= b' ' && byte != b'\\');
    is_plain.then_some((found, rest))
}

/// The text without the space that JSON allows before it.
fn skip_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\n', '\r', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_into_its_items() {
        let text =
            r#"{"kind":"List", "apiVersion":"v1","items":[ {"a":"}]\"{"} , 1,"x,]", [[],{}] ],"metadata":{}} {}"#;
        let (kind, items, length) = list(text).expect("this is a list");
        assert_eq!(&*kind, "List");
        assert_eq!(items, [r#"{"a":"}]\"{"}"#, "1", r#""x,]""#, "[[],{}]"]);
        assert_eq!(&text[length..], " {}");
        let (kind, items, _) = list(r#"{"apiVersion":"v1","items":[],"kind":"PodList"}"#).expect("this is a list");
        assert_eq!((&*kind, items.len()), ("PodList", 0));
        for left_to_the_parser in [
            r#"{"apiVersion":"v1","kind":"Pod"}"#,
            r#"{"apiVersion":"v1","kind":"List"}"#,
            r#"{"apiVersion":"v1","kind":"List","items":null}"#,
            r#"{"apiVersion":"v1","kind":"List","items":[{}"#,
            r#"{"apiVersion":"v1","kind":"List","items":[{},]}"#,
            r#"{"apiVersion":"v1","kind":"List","items":[{}],}"#,
            r#"{"apiVersion":"v1","kind":"List","items":[{}],"metadata":{x}}"#,
            r#"{"apiVersion":"v1","items":[{}],"kind":"Pod"}"#,
            r#"{"apiVersion":"v1","items":[{}]}"#,
            r#"{"apiVersion":"v1","kind":"List","kind":"PodList","items":[{}]}"#,
            r#"{"apiVersion":"v1","kind":"List","items":[{}],"items":[{}]}"#,
            r#"{"apiVersion":"v1","kind":3,"items":[{}]}"#,
            "{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{}\u{a0}]}",
        ] {
            assert!(list(left_to_the_parser).is_none(), "{left_to_the_parser}");
        }
    }
}
