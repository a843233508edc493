//! In which line of a text a field stands.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_saphyr::Spanned;

use super::text::Text;
use super::{newlines, yaml};

/// The line, counted from 0, of the field of a path as in `spec.rules[0].from[1]`, or of the nearest field around it
/// that is there.
pub(super) fn line_of(text: &str, is_json: bool, field: &str) -> Option<u32> {
    let path = steps(field);
    // The whole text has no line of its own: it begins where it begins.
    (1..=path.len()).rev().find_map(|length| {
        let path = &path[..length];
        if is_json {
            let mut deserializer = serde_json::Deserializer::from_str(text);
            let found = Seek::<&RawValue>::along(path).deserialize(&mut deserializer).ok()??;
            // Both are parts of the same allocation.
            let offset = found.get().as_ptr().addr() - text.as_ptr().addr();
            Some(newlines(&text.as_bytes()[..offset]))
        } else {
            let found = serde_saphyr::with_deserializer_from_str_with_options(text, yaml::options(), |deserializer| {
                Seek::<Spanned<IgnoredAny>>::along(path).deserialize(deserializer)
            });
            u32::try_from(found.ok()??.referenced.line()).ok()?.checked_sub(1)
        }
    })
}

/// The keys and indices of a path. What stands in brackets may be either.
fn steps(field: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        let (step, after) = match rest.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').unwrap_or((bracketed, "")),
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        steps.push(step);
        rest = after.strip_prefix('.').unwrap_or(after);
    }
    steps
}

/// Follows a path, and reads what is at its end as a `T`.
struct Seek<'p, T> {
    path: &'p [&'p str],
    end: PhantomData<fn() -> T>,
}

impl<'p, T> Seek<'p, T> {
    fn along(path: &'p [&'p str]) -> Self {
        Self { path, end: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Seek<'_, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.path.is_empty() { T::deserialize(deserializer).map(Some) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Seek<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if found.is_none() && *key == *self.path[0] {
                found = map.next_value_seed(Self::along(&self.path[1..]))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let wanted = self.path[0].parse::<usize>().ok();
        let mut found = None;
        let mut index = 0;
        loop {
            let next = if wanted == Some(index) {
                seq.next_element_seed(Self::along(&self.path[1..]))?.map(|element| found = element)
            } else {
                seq.next_element::<IgnoredAny>()?.map(drop)
            };
            if next.is_none() {
                return Ok(found);
            }
            index += 1;
        }
    }

    // A value without parts ends the path too early.

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_or_what_is_around_it_has_a_line() {
        let yaml = "a: 1\nspec:\n  rules:\n  - x: 1\n  - from:\n    - source: {ns: [a,\n        b]}\n  annotations:\n    weft.dev/netns: x\n";
        let json = "{\"a\": 1,\n\"spec\": {\n\"rules\": [\n{\"x\": 1},\n{\"from\": [\n{\"source\": {\"ns\": [\"a\",\n\"b\"]}}]}],\n\"annotations\":\n{\n\"weft.dev/netns\": \"x\"}}}";
        for (field, in_yaml, in_json) in [
            ("a", Some(0), Some(0)),
            ("spec.rules[0].x", Some(3), Some(3)),
            ("spec.rules[1].from[0].source.ns[1]", Some(6), Some(6)),
            ("spec.rules[1].from[0].source.missing", Some(5), Some(5)),
            ("spec.annotations[weft.dev/netns]", Some(8), Some(9)),
            ("nothing", None, None),
            ("", None, None),
        ] {
            assert_eq!(line_of(yaml, false, field), in_yaml, "{field}");
            assert_eq!(line_of(json, true, field), in_json, "{field}");
        }
    }
}
