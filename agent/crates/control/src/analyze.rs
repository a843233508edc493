//! Looking for mistakes in a folder before an agent does, and in a cluster.
//!
//! Beside what is wrong with each object by itself, it finds what does not fit together: selectors that match nothing,
//! names of things that are not there, settings that will have no effect.

mod mtls;
mod pods;
mod policies;
mod routes;
mod services;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use kube::Client;

use crate::manifest::Scrutiny;
use crate::object::{GATEWAY_GROUP, Kind, ObjectId};
use crate::operator::{ClusterError, list};
use crate::problem::{Notes, Problem, Severity};
use crate::source::kubernetes::read_once;
use crate::source::{Changes, Folder, Origin, SourceError, check};
use crate::translate::{ObjectCounts, TranslationOptions, Translator};

/// What was found. Displayed with one problem a line, in the order of files and lines.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All problems.
    pub problems: Vec<Problem>,
    /// How many objects there are.
    pub objects: ObjectCounts,
    /// How many files were read; none of a cluster.
    pub files: usize,
}

impl Report {
    /// Whether anything that was asked for will not be done.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many problems of a severity there are.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problems.iter().try_for_each(|problem| writeln!(f, "{problem}"))
    }
}

/// Reads a folder once, as the agent of `options.node` would, and reports all mistakes. Without a node it looks at
/// every pod as the agent of the pod's own node would.
#[must_use]
pub fn analyze(dir: &Path, options: &TranslationOptions) -> Report {
    if let Err(error) = check(dir, options) {
        return Report {
            problems: vec![Problem {
                severity: Severity::Error,
                file: matches!(error, SourceError::Unreadable { .. }).then(|| dir.into()),
                line: None,
                object: None,
                field: None,
                message: error.to_string(),
                suggestion: None,
            }],
            ..Report::default()
        };
    }
    let mut folder = Folder::new(dir, Scrutiny::Full);
    let mut translator = Translator::new(options.clone());
    folder.read(&mut translator);
    Changes::of(&mut translator);
    let mut problems = look(&translator, &|id| folder.origin(id).unwrap_or_default(), folder.problems());
    problems.sort_by(|a, b| (&a.file, a.line, a.severity).cmp(&(&b.file, b.line, b.severity)));
    Report { problems, objects: translator.counts(), files: folder.file_count() }
}

/// Lists the objects of a cluster once, and reports all mistakes. The worst come first.
///
/// # Errors
/// The API server does not answer, or refuses.
pub async fn analyze_cluster(client: &Client, options: &TranslationOptions) -> Result<Report, ClusterError> {
    let mut listed = Vec::with_capacity(Kind::ALL.len());
    for kind in Kind::ALL {
        listed.push((kind, list(client, kind, None).await?));
    }
    let absent = listed.iter().filter(|(_, objects)| objects.is_none()).map(|(kind, _)| Problem {
        severity: Severity::Info,
        file: None,
        line: None,
        object: None,
        field: None,
        message: format!("the cluster does not have the kind {kind}"),
        suggestion: Some(match kind.api_versions()[0].starts_with(GATEWAY_GROUP) {
            true => "install the Gateway API's definitions to have waypoints and routes".to_owned(),
            false => "install its definition to write policies: see the chart's crds.install".to_owned(),
        }),
    });
    let absent: Vec<Problem> = absent.collect();
    let (translator, mut found) = read_once(listed, TranslationOptions { on_kubernetes: true, ..options.clone() });
    found.extend(absent);
    let mut problems = look(&translator, &|_| Origin::default(), found);
    problems.sort_by(|a, b| (a.severity, &a.object).cmp(&(b.severity, &b.object)));
    Ok(Report { problems, objects: translator.counts(), files: 0 })
}

/// Adds what does not fit together to what was found in single objects.
fn look(translator: &Translator, origin: &dyn Fn(&ObjectId) -> Origin, found: Vec<Problem>) -> Vec<Problem> {
    let mut analysis = Analysis { translator, origin, problems: found };
    analysis.pods();
    analysis.services();
    analysis.policies();
    analysis.mtls();
    analysis.waypoints();
    analysis.routes();
    analysis.problems
}

/// An analysis in progress.
struct Analysis<'a> {
    translator: &'a Translator,
    origin: &'a dyn Fn(&ObjectId) -> Origin,
    problems: Vec<Problem>,
}

impl Analysis<'_> {
    /// Adds what `note` says about an object.
    fn about(&mut self, kind: Kind, namespace: &Arc<str>, name: &Arc<str>, note: impl FnOnce(&mut Notes)) {
        let id = ObjectId { kind, namespace: Arc::clone(namespace), name: Arc::clone(name) };
        let origin = (self.origin)(&id);
        let mut notes = Notes::default();
        note(&mut notes);
        let notes = notes.into_vec().into_iter();
        self.problems.extend(notes.map(|note| note.at(origin.file.clone(), origin.line, Some(id.clone()))));
    }
}

/// `1 pod`, `2 pods`.
fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
