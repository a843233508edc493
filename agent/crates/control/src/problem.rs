//! What is wrong with a configuration, said so that a person can put it right.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::object::ObjectId;

/// How bad a [`Problem`] is. The worst comes first in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something that was asked for is not done. `weft analyze` exits with 1.
    Error,
    /// What was asked for is done, and is probably not what was meant.
    Warning,
    /// Worth knowing.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// One mistake, with where it is and what to do about it.
///
/// Displayed as `file:line: severity: Kind namespace/name: field: message; what to do`, without the parts that are
/// not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// File that it is in.
    pub file: Option<Arc<Path>>,
    /// Line, counted from 1: of the mistake itself where that is known, else the first line of the object.
    pub line: Option<u32>,
    /// Object that it is in.
    pub object: Option<ObjectId>,
    /// Path of the field inside the object, as in `spec.rules[0].from[1].source.ipBlocks[0]`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub suggestion: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{}:{line}: ", file.display())?,
            (Some(file), None) => write!(f, "{}: ", file.display())?,
            (None, _) => {}
        }
        write!(f, "{}: ", self.severity)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; {suggestion}"),
            None => Ok(()),
        }
    }
}

/// A problem inside an object, before it is known in which file and line the object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub severity: Severity,
    pub field: String,
    pub message: String,
    pub suggestion: String,
}

impl Note {
    /// Says where the problem is. An empty field or suggestion is left out.
    pub fn at(self, file: Option<Arc<Path>>, line: Option<u32>, object: Option<ObjectId>) -> Problem {
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        Problem {
            severity: self.severity,
            file,
            line,
            object,
            field: filled(self.field),
            message: self.message,
            suggestion: filled(self.suggestion),
        }
    }
}

/// Collects the problems of one object while it is read.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    notes: Vec<Note>,
}

impl Notes {
    pub fn error(&mut self, field: impl Into<String>, message: impl Into<String>, suggestion: impl Into<String>) {
        self.add(Severity::Error, field, message, suggestion);
    }

    pub fn warning(&mut self, field: impl Into<String>, message: impl Into<String>, suggestion: impl Into<String>) {
        self.add(Severity::Warning, field, message, suggestion);
    }

    pub fn info(&mut self, field: impl Into<String>, message: impl Into<String>, suggestion: impl Into<String>) {
        self.add(Severity::Info, field, message, suggestion);
    }

    pub fn add(
        &mut self,
        severity: Severity,
        field: impl Into<String>,
        message: impl Into<String>,
        suggestion: impl Into<String>,
    ) {
        self.notes.push(Note { severity, field: field.into(), message: message.into(), suggestion: suggestion.into() });
    }

    /// Whether the object is invalid.
    pub fn has_errors(&self) -> bool {
        self.notes.iter().any(|note| note.severity == Severity::Error)
    }

    /// Paths of the fields that were noted.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.notes.iter().map(|note| note.field.as_str())
    }

    pub fn into_vec(self) -> Vec<Note> {
        self.notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    #[test]
    fn a_problem_reads_as_one_line_of_a_compiler() {
        let mut notes = Notes::default();
        notes.error("spec.selector", "is empty", "write matchLabels");
        let note = notes.into_vec().pop().expect("one note was made");
        let object = ObjectId { kind: Kind::PeerAuthentication, namespace: "shop".into(), name: "strict".into() };
        let problem = note.clone().at(Some(Path::new("a.yaml").into()), Some(7), Some(object));
        assert_eq!(
            problem.to_string(),
            "a.yaml:7: error: PeerAuthentication shop/strict: spec.selector: is empty; write matchLabels"
        );
        assert_eq!(
            Note { field: String::new(), suggestion: String::new(), ..note }.at(None, Some(7), None).to_string(),
            "error: is empty"
        );
    }
}
