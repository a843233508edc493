//! One object of a file, before it is known what it is.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_ignored::Path as IgnoredPath;
use serde_json::Value;

use super::text::Text;
use super::yaml;

/// One object, still as text, or as a tree when it stood in a YAML list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Document<'a> {
    Json(&'a str),
    Yaml(&'a str),
    Tree(&'a Value),
}

/// Why something could not be read.
#[derive(Debug)]
pub(super) struct ReadError {
    pub message: String,
    /// Line inside the document, counted from 0, if known.
    pub line: Option<u32>,
}

/// What an object says of itself first.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a Kubernetes object (a mapping with apiVersion and kind)")]
pub(super) struct Head<'a> {
    #[serde(borrow, rename = "apiVersion")]
    pub api_version: Option<Text<'a>>,
    #[serde(borrow)]
    pub kind: Option<Text<'a>>,
}

impl<'a> Document<'a> {
    /// Reads it as a `T`.
    pub fn read<T: Deserialize<'a>>(self) -> Result<T, ReadError> {
        match self {
            Self::Json(text) => serde_json::from_str(text).map_err(|error| ReadError::json(&error)),
            Self::Yaml(text) => {
                serde_saphyr::from_str_with_options(text, yaml::options()).map_err(|error| ReadError::yaml(&error))
            }
            Self::Tree(tree) => T::deserialize(tree).map_err(|error| ReadError::json(&error)),
        }
    }

    /// Reads it as a `T`, and names the fields that a `T` does not have.
    pub fn read_all<T: DeserializeOwned>(self, mut unknown: impl FnMut(String)) -> Result<T, ReadError> {
        let mut ignored = |path: IgnoredPath<'_>| unknown(field_path(&path));
        match self {
            Self::Json(text) => {
                let mut deserializer = serde_json::Deserializer::from_str(text);
                let found = serde_ignored::deserialize(&mut deserializer, &mut ignored);
                found.map_err(|error| ReadError::json(&error))
            }
            Self::Yaml(text) => {
                serde_saphyr::with_deserializer_from_str_with_options(text, yaml::options(), |deserializer| {
                    serde_ignored::deserialize(deserializer, &mut ignored)
                })
                .map_err(|error| ReadError::yaml(&error))
            }
            Self::Tree(tree) => {
                serde_ignored::deserialize(tree, &mut ignored).map_err(|error| ReadError::json(&error))
            }
        }
    }

    /// Reads it as a `T` again, which fails, to learn in which field.
    pub fn locate<T: Deserialize<'a>>(self) -> Option<String> {
        let mut track = serde_path_to_error::Track::new();
        let failed = match self {
            Self::Json(text) => {
                let mut deserializer = serde_json::Deserializer::from_str(text);
                T::deserialize(serde_path_to_error::Deserializer::new(&mut deserializer, &mut track)).is_err()
            }
            Self::Yaml(text) => {
                serde_saphyr::with_deserializer_from_str_with_options(text, yaml::options(), |deserializer| {
                    T::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track))
                })
                .is_err()
            }
            Self::Tree(tree) => T::deserialize(serde_path_to_error::Deserializer::new(tree, &mut track)).is_err(),
        };
        let path = track.path().to_string();
        // A path of "." is the object itself.
        (failed && path != ".").then_some(path)
    }

    /// Whether it is well-formed at all.
    pub fn check_syntax(self) -> Result<(), ReadError> {
        match self {
            // The text of an object is cut out of the file by reading it.
            Self::Json(_) | Self::Tree(_) => Ok(()),
            Self::Yaml(_) => self.read::<IgnoredAny>().map(drop),
        }
    }

    /// What can be found in it whatever else is wrong: the value at a path of keys.
    pub fn tree(self) -> Option<Value> {
        match self {
            Self::Tree(tree) => Some(tree.clone()),
            _ => self.read().ok(),
        }
    }

    /// `apiVersion` and `kind`, found by a glance at the text where it has the usual form. They are checked when the
    /// object is read.
    pub fn glance(self) -> Option<(&'a str, &'a str)> {
        match self {
            Self::Json(text) => super::json::glance(text),
            Self::Yaml(text) => yaml::glance(text),
            Self::Tree(tree) => Some((tree.get("apiVersion")?.as_str()?, tree.get("kind")?.as_str()?)),
        }
    }
}

impl ReadError {
    pub fn json(error: &serde_json::Error) -> Self {
        let whole = error.to_string();
        // The place is told apart from the message: it is a place in the object, not in the file.
        let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message);
        Self {
            message: message.to_owned(),
            line: u32::try_from(error.line()).ok().and_then(|line| line.checked_sub(1)),
        }
    }

    fn yaml(error: &serde_saphyr::Error) -> Self {
        let location = error.location();
        let whole = error.without_snippet().to_string();
        // As for JSON.
        let message = ["\n", " at line ", " (line ", " at "]
            .iter()
            .fold(whole.as_str(), |text, mark| text.split_once(mark).map_or(text, |(message, _)| message));
        let message = message.strip_prefix("error: ").unwrap_or(message);
        Self {
            message: message.to_owned(),
            line: location.and_then(|location| u32::try_from(location.line()).ok()?.checked_sub(1)),
        }
    }
}

/// A path in the form `spec.rules[0].from[1]`.
fn field_path(path: &IgnoredPath<'_>) -> String {
    match path {
        IgnoredPath::Root => String::new(),
        IgnoredPath::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        IgnoredPath::Map { parent, key } => match field_path(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        IgnoredPath::Some { parent }
        | IgnoredPath::NewtypeStruct { parent }
        | IgnoredPath::NewtypeVariant { parent } => field_path(parent),
    }
}
