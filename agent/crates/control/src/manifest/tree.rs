//! From a tree to the type of a manifest.
//!
//! Whatever a file is written in, all but the many are read by way of a tree, and by this one deserializer: what the
//! large types of Kubernetes compile to is there once. It knows at any time which field it reads, so that mistakes
//! can be placed.

use std::slice;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value, map};

use super::document::{Place, ReadError};

/// Reads a tree as a `T`, and names the fields that a `T` does not have.
pub(super) fn read_tree<'de, T: Deserialize<'de>>(
    tree: &'de Value,
    unknown: &mut dyn FnMut(String),
) -> Result<T, ReadError> {
    let mut log = Log { unknown, failed: None };
    T::deserialize(Node { value: tree, place: &Step::Root, log: &mut log }).map_err(|error| ReadError {
        message: error.to_string(),
        place: log.failed.map_or(Place::Unknown, Place::Field),
    })
}

/// What is to be told of the reading.
struct Log<'l> {
    unknown: &'l mut dyn FnMut(String),
    /// Path of the innermost field that could not be read.
    failed: Option<String>,
}

impl Log<'_> {
    fn fail(&mut self, place: &Step<'_>) {
        self.failed.get_or_insert_with(|| place.path());
    }
}

/// Where in the tree.
enum Step<'p> {
    Root,
    Key(&'p Step<'p>, &'p str),
    Index(&'p Step<'p>, usize),
}

impl Step<'_> {
    /// In the form `spec.rules[0].from[1]`.
    fn path(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Key(Self::Root, key) => (*key).to_owned(),
            Self::Key(parent, key) => format!("{}.{key}", parent.path()),
            Self::Index(parent, index) => format!("{}[{index}]", parent.path()),
        }
    }
}

/// One value of the tree.
struct Node<'de, 'a, 'l> {
    value: &'de Value,
    place: &'a Step<'a>,
    log: &'a mut Log<'l>,
}

impl<'de> Deserializer<'de> for Node<'de, '_, '_> {
    type Error = Error;

    /// A tree says what each of its values is: a visitor that wants something else refuses it in the same words as if
    /// it were asked for.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Self { value, place, log } = self;
        match value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => number.deserialize_any(visitor),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(values) => {
                let mut left = Elements { rest: values.iter(), next: 0, place, log };
                let found = visitor.visit_seq(&mut left)?;
                match left.rest.len() {
                    0 => Ok(found),
                    _ => Err(Error::invalid_length(values.len(), &"fewer elements in array")),
                }
            }
            Value::Object(fields) => {
                let mut left = Fields { rest: fields.iter(), current: None, place, log };
                let found = visitor.visit_map(&mut left)?;
                match left.rest.len() {
                    0 => Ok(found),
                    _ => Err(Error::invalid_length(fields.len(), &"fewer elements in map")),
                }
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        (self.log.unknown)(self.place.path());
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

/// The elements of an array that are left.
struct Elements<'de, 'a, 'l> {
    rest: slice::Iter<'de, Value>,
    next: usize,
    place: &'a Step<'a>,
    log: &'a mut Log<'l>,
}

impl<'de> SeqAccess<'de> for &mut Elements<'de, '_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.rest.next() else {
            return Ok(None);
        };
        let place = Step::Index(self.place, self.next);
        self.next += 1;
        let element = seed.deserialize(Node { value, place: &place, log: self.log });
        element.map(Some).inspect_err(|_| self.log.fail(&place))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The fields of an object that are left.
struct Fields<'de, 'a, 'l> {
    rest: map::Iter<'de>,
    current: Option<(&'de str, &'de Value)>,
    place: &'a Step<'a>,
    log: &'a mut Log<'l>,
}

impl<'de> MapAccess<'de> for &mut Fields<'de, '_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.current = Some((key, value));
        let found = seed.deserialize(BorrowedStrDeserializer::new(key));
        found.map(Some).inspect_err(|_: &Error| self.log.fail(&Step::Key(self.place, key)))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let (key, value) = self.current.take().ok_or_else(|| Error::custom("a value was asked for before its key"))?;
        let place = Step::Key(self.place, key);
        let found = seed.deserialize(Node { value, place: &place, log: self.log });
        found.inspect_err(|_| self.log.fail(&place))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}
