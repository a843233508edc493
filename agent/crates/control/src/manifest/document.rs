//! One object of a file, before it is known what it is.

use std::borrow::Cow;

use serde_json::Value;

use super::place::line_of;
use super::tree::read_tree;
use super::yaml;
use crate::object::PodView;

/// Texts longer than this are not searched for the line of a field.
const MAX_SEARCHED: usize = 64 << 10;

/// One object, still as text, or as an item of a YAML list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Document<'a> {
    Json(&'a str),
    Yaml(&'a str),
    /// The item of this number, and the text of the list.
    Item(&'a Value, usize, &'a str),
}

/// Why something could not be read.
#[derive(Debug)]
pub(super) struct ReadError {
    pub message: String,
    pub place: Place,
}

/// Where in a document.
#[derive(Debug)]
pub(super) enum Place {
    /// The field of this path.
    Field(String),
    /// The line of this number, counted from 0.
    Line(u32),
    Unknown,
}

impl<'a> Document<'a> {
    /// Reads a Pod without a detour. `None` says only that the detour must be taken.
    pub fn pod(self) -> Option<PodView<'a>> {
        match self {
            Self::Json(text) => serde_json::from_str(text).ok(),
            Self::Yaml(text) => yaml::plain::read(text),
            Self::Item(tree, ..) => read_tree(tree, &mut |_| {}).ok(),
        }
    }

    /// Reads it as it is. It fails only if the text is malformed.
    pub fn tree(self) -> Result<Cow<'a, Value>, ReadError> {
        match self {
            Self::Json(text) => serde_json::from_str(text).map(Cow::Owned).map_err(|error| ReadError::json(&error)),
            Self::Yaml(text) => {
                let long_way = || serde_saphyr::from_str_with_options(text, yaml::options());
                let tree = yaml::plain::read(text).map_or_else(long_way, Ok);
                tree.map(Cow::Owned).map_err(|error| ReadError::yaml(&error))
            }
            Self::Item(tree, ..) => Ok(Cow::Borrowed(tree)),
        }
    }

    /// `apiVersion` and `kind`, found by a glance at the text where it has the usual form. They are checked when the
    /// object is read.
    pub fn glance(self) -> Option<(&'a str, &'a str)> {
        match self {
            Self::Json(text) => super::json::glance(text),
            Self::Yaml(text) => yaml::glance(text),
            Self::Item(tree, ..) => Some((tree.get("apiVersion")?.as_str()?, tree.get("kind")?.as_str()?)),
        }
    }

    /// The line of a field, or of what is nearest to it, counted from that of the document.
    pub fn line_of(self, field: &str) -> u32 {
        let found = match self {
            Self::Json(text) | Self::Yaml(text) | Self::Item(_, _, text) if text.len() > MAX_SEARCHED => None,
            Self::Json(text) => line_of(text, true, field),
            Self::Yaml(text) => line_of(text, false, field),
            Self::Item(_, index, text) => line_of(text, false, &format!("items[{index}].{field}")),
        };
        found.unwrap_or(0)
    }

    /// The line of a place, counted from that of the document.
    pub fn line_at(self, place: &Place) -> u32 {
        match place {
            Place::Field(field) => self.line_of(field),
            Place::Line(line) => *line,
            Place::Unknown => 0,
        }
    }
}

impl ReadError {
    pub fn json(error: &serde_json::Error) -> Self {
        let whole = error.to_string();
        // The place is told apart from the message: it is a place in the object, not in the file.
        let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message);
        Self { message: message.to_owned(), place: place(error.line() as u64) }
    }

    pub fn yaml(error: &serde_saphyr::Error) -> Self {
        let whole = error.without_snippet().to_string();
        // As for JSON.
        let message = ["\n", " at line ", " (line "]
            .iter()
            .fold(whole.as_str(), |text, mark| text.split_once(mark).map_or(text, |(message, _)| message));
        let message = message.strip_prefix("error: ").unwrap_or(message);
        Self { message: message.to_owned(), place: place(error.location().map_or(0, |location| location.line())) }
    }
}

/// The place of a line that is counted from 1, with 0 for an unknown one.
fn place(line: u64) -> Place {
    let line = u32::try_from(line).ok().and_then(|line| line.checked_sub(1));
    line.map_or(Place::Unknown, Place::Line)
}
