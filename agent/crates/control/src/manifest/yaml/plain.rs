//! The short way through a document in block style without anchors, aliases and tags, as every tool writes them.
//!
//! It reads lines where a reader that is ready for all of YAML reads characters, at a tenth of the price. Whatever is
//! unusual, and whatever is wrong, is left to that one, which can say what it is: nothing may be taken here that it
//! would refuse or read in another way.

mod scan;

use std::fmt;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use scan::{Event, Scanner};

/// A mapping with more keys than this is not plain: each key is compared with all before it.
const MAX_KEYS: usize = 64;
/// Nor is a document that is deeper than this.
const MAX_DEPTH: usize = 32;

/// Reads a document as a `T`. `None` says only that the long way must be taken.
pub(crate) fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    let mut events = Events { scanner: Scanner::new(text)?, next: None, keys: Vec::with_capacity(MAX_KEYS), depth: 0 };
    let found = T::deserialize(&mut events).ok()?;
    (events.next().ok()? == Event::DocumentEnd).then_some(found)
}

/// This is not plain YAML, or not what was expected.
#[derive(Debug)]
struct Unusual;

impl fmt::Display for Unusual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is not plain YAML")
    }
}

impl std::error::Error for Unusual {}

impl serde::de::Error for Unusual {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// What is left of a document.
struct Events<'a> {
    scanner: Scanner<'a>,
    /// An event that was looked at and not taken.
    next: Option<Event<'a>>,
    /// The keys that were read so far of all mappings around this place.
    keys: Vec<&'a str>,
    depth: usize,
}

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<Event<'a>, Unusual> {
        match self.next.take() {
            Some(event) => Ok(event),
            None => self.scanner.next(),
        }
    }

    fn enter(&mut self) -> Result<(), Unusual> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(Unusual) } else { Ok(()) }
    }

    /// Takes a scalar, and whether it is written without quotes.
    fn scalar(&mut self) -> Result<(&'a str, bool), Unusual> {
        match self.next()? {
            Event::Plain(text) => Ok((text, true)),
            Event::Quoted(text) => Ok((text, false)),
            _ => Err(Unusual),
        }
    }

    fn string(&mut self) -> Result<&'a str, Unusual> {
        let (text, is_plain) = self.scalar()?;
        if is_plain && !is_surely_string(text) { Err(Unusual) } else { Ok(text) }
    }

    /// Takes the next key of the mapping whose keys begin at `first`.
    fn key(&mut self, first: usize) -> Result<Option<&'a str>, Unusual> {
        match self.next()? {
            Event::End => {
                self.keys.truncate(first);
                self.depth -= 1;
                return Ok(None);
            }
            event => self.next = Some(event),
        }
        let key = self.string()?;
        let others = &self.keys[first..];
        if others.len() == MAX_KEYS || others.contains(&key) || key == "<<" {
            return Err(Unusual);
        }
        self.keys.push(key);
        Ok(Some(key))
    }

    fn skip(&mut self) -> Result<(), Unusual> {
        match self.next()? {
            Event::Plain(_) | Event::Quoted(_) => Ok(()),
            Event::Sequence => {
                self.enter()?;
                loop {
                    match self.next()? {
                        Event::End => break,
                        event => self.next = Some(event),
                    }
                    self.skip()?;
                }
                self.depth -= 1;
                Ok(())
            }
            Event::Mapping => {
                self.enter()?;
                let first = self.keys.len();
                while self.key(first)?.is_some() {
                    self.skip()?;
                }
                Ok(())
            }
            _ => Err(Unusual),
        }
    }
}

/// Whether nobody would take a scalar without quotes for a number, a boolean or null. It may say no to a string.
fn is_surely_string(text: &str) -> bool {
    const WORDS: [&str; 12] = ["y", "n", "no", "on", "off", "yes", "nan", "inf", "true", "null", "false", "infinity"];
    match text.as_bytes() {
        [b'/', ..] => true,
        [first, ..] if first.is_ascii_alphabetic() => {
            text.len() > 8 || !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
        }
        [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..] => false,
        [first, ..] if first.is_ascii_digit() => {
            let of_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'_' | b'e' | b'E' | b'+' | b'-');
            !text.as_bytes().iter().all(of_number) || text.bytes().filter(|byte| *byte == b'.').count() > 1
        }
        _ => false,
    }
}

/// A number as everybody writes it, and reads it.
fn number(text: &str) -> Result<u64, Unusual> {
    match text.as_bytes() {
        [b'0'] | [b'1'..=b'9', ..] if text.len() < 19 => text.parse().map_err(|_| Unusual),
        _ => Err(Unusual),
    }
}

impl<'de> Deserializer<'de> for &mut Events<'de> {
    type Error = Unusual;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.next()? {
            event @ Event::Sequence => {
                self.next = Some(event);
                self.deserialize_seq(visitor)
            }
            event @ Event::Mapping => {
                self.next = Some(event);
                self.deserialize_map(visitor)
            }
            Event::Plain(text) => match text {
                "" | "~" | "null" => visitor.visit_unit(),
                "true" => visitor.visit_bool(true),
                "false" => visitor.visit_bool(false),
                _ if is_surely_string(text) => visitor.visit_borrowed_str(text),
                _ => visitor.visit_u64(number(text)?),
            },
            Event::Quoted(text) => visitor.visit_borrowed_str(text),
            _ => Err(Unusual),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.scalar()? {
            ("true", true) => visitor.visit_bool(true),
            ("false", true) => visitor.visit_bool(false),
            _ => Err(Unusual),
        }
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.scalar()? {
            (text, true) => visitor.visit_u64(number(text)?),
            _ => Err(Unusual),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        visitor.visit_borrowed_str(self.string()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.next()? {
            Event::Plain("" | "~" | "null") => visitor.visit_none(),
            event => {
                self.next = Some(event);
                visitor.visit_some(self)
            }
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.next()? {
            Event::Sequence => {
                self.enter()?;
                visitor.visit_seq(Elements(self))
            }
            _ => Err(Unusual),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.next()? {
            Event::Mapping => {
                self.enter()?;
                let first = self.keys.len();
                visitor.visit_map(Fields { events: self, first })
            }
            _ => Err(Unusual),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unusual> {
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        self.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct enum identifier
    }
}

/// The elements of a sequence that are left.
struct Elements<'e, 'a>(&'e mut Events<'a>);

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Unusual;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Unusual> {
        match self.0.next()? {
            Event::End => {
                self.0.depth -= 1;
                Ok(None)
            }
            event => {
                self.0.next = Some(event);
                seed.deserialize(&mut *self.0).map(Some)
            }
        }
    }
}

/// The fields of a mapping that are left.
struct Fields<'e, 'a> {
    events: &'e mut Events<'a>,
    /// Where its keys begin.
    first: usize,
}

impl<'de> MapAccess<'de> for Fields<'_, 'de> {
    type Error = Unusual;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unusual> {
        let key = self.events.key(self.first)?.map(BorrowedStrDeserializer::new);
        key.map(|key| seed.deserialize(key)).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Unusual> {
        seed.deserialize(&mut *self.events)
    }
}

#[cfg(test)]
mod tests;
