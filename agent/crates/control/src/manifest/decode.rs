//! From a document to an object, or to what is wrong with it.

use std::sync::Arc;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::de::{Deserialize, DeserializeOwned};
use serde_json::Value;

use super::document::{Document, Head, ReadError};
use super::{Entry, Part, Reader, Reading, Scrutiny};
use crate::object::{
    AuthorizationPolicy, EndpointSlice, Interner, Kind, Namespace, Node, Object, ObjectId, PeerAuthentication,
    PeerAuthenticationManifest, Pod, PodView, PolicyManifest, Service, ServiceAccount, excerpt, identify,
};
use crate::problem::{Note, Notes, Severity};

/// What an object claims to be.
enum Claim {
    Known(Kind),
    /// One of Weft's kinds, in a version that it does not read.
    Version(Kind),
    /// Something else.
    Other,
}

impl Claim {
    fn of(api_version: &str, kind: &str) -> Self {
        let Some(kind) = Kind::named(kind) else {
            return Self::Other;
        };
        let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
        let versions = kind.api_versions();
        if versions.contains(&api_version) {
            Self::Known(kind)
        } else if group(versions[0]) == group(api_version) {
            Self::Version(kind)
        } else {
            Self::Other
        }
    }
}

impl Part {
    /// Reads one object. `item_kind` is the kind that the list around it names.
    pub(super) fn object(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, item_kind: Option<&str>) {
        if let Some((api_version, kind)) = document.glance() {
            return self.claimed(reader, document, line, api_version, kind);
        }
        let head: Head<'_> = match document.read() {
            Ok(head) => head,
            Err(error) => return self.not_an_object(reader, document, line, error),
        };
        let item_kind = item_kind.and_then(Kind::named);
        let kind = head.kind.as_deref().or(item_kind.map(Kind::name)).unwrap_or_default();
        let api_version = head.api_version.as_deref().or(item_kind.map(|kind| kind.api_versions()[0]));
        let missing = if kind.is_empty() { "kind" } else { "apiVersion" };
        match api_version {
            Some(api_version) if !kind.is_empty() => self.claimed(reader, document, line, api_version, kind),
            _ => self.unreadable(
                reader,
                line,
                format!("the object has no {missing}"),
                "begin each object with apiVersion and kind, and separate objects with a line of '---'",
            ),
        }
    }

    fn claimed(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, api_version: &str, kind: &str) {
        match Claim::of(api_version, kind) {
            Claim::Known(kind) => self.known(reader, document, line, kind),
            Claim::Version(kind) => {
                let versions = kind.api_versions().join(" or ");
                let mut notes = Notes::default();
                notes.error(
                    "apiVersion",
                    format!("'{}' is not a version of {kind} that is read here", excerpt(api_version)),
                    format!("write {versions}"),
                );
                self.invalid(reader, document, line, kind, notes);
            }
            Claim::Other => self.other(reader, document, line, api_version, kind),
        }
    }

    fn known(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, kind: Kind) {
        let interner = &mut self.interner;
        let mut notes = Notes::default();
        let notes_ref = &mut notes;
        let object = match kind {
            Kind::Pod => pod(document).map(|view| {
                if reader.scrutiny == Scrutiny::Full {
                    scrutinize(document, notes_ref);
                }
                Pod::read(&view, interner, notes_ref).map(Object::Pod)
            }),
            Kind::Namespace => full(document, notes_ref)
                .map(|manifest: core::Namespace| Namespace::read(&manifest, interner, notes_ref).map(Object::Namespace)),
            Kind::Node => full(document, notes_ref)
                .map(|manifest: core::Node| Node::read(&manifest, interner, notes_ref).map(Object::Node)),
            Kind::ServiceAccount => full(document, notes_ref).map(|manifest: core::ServiceAccount| {
                ServiceAccount::read(&manifest, interner, notes_ref).map(Object::ServiceAccount)
            }),
            Kind::Service => full(document, notes_ref)
                .map(|manifest: core::Service| Service::read(&manifest, interner, notes_ref).map(Object::Service)),
            Kind::EndpointSlice => full(document, notes_ref).map(|manifest: discovery::EndpointSlice| {
                EndpointSlice::read(&manifest, interner, notes_ref).map(Object::EndpointSlice)
            }),
            Kind::AuthorizationPolicy => full(document, notes_ref).and_then(|manifest: PolicyManifest| {
                agree(kind, &manifest.api_version, &manifest.kind)?;
                Ok(AuthorizationPolicy::read(&manifest, interner, notes_ref).map(Object::AuthorizationPolicy))
            }),
            Kind::PeerAuthentication => full(document, notes_ref).and_then(|manifest: PeerAuthenticationManifest| {
                agree(kind, &manifest.api_version, &manifest.kind)?;
                Ok(PeerAuthentication::read(&manifest, interner, notes_ref).map(Object::PeerAuthentication))
            }),
        };
        match object {
            Ok(Some(object)) => {
                let reading = match notes.has_errors() {
                    false => Reading::Valid(object),
                    true => Reading::Invalid(Some(object)),
                };
                let id = match &reading {
                    Reading::Valid(object) | Reading::Invalid(Some(object)) => object.id(),
                    Reading::Invalid(None) => return,
                };
                self.note(reader, line, notes, Some(&id));
                self.entries.push(Entry { id, line, reading });
            }
            Ok(None) => self.invalid(reader, document, line, kind, notes),
            Err((error, field)) => {
                if document.check_syntax().is_err() {
                    return self.not_an_object(reader, document, line, error);
                }
                let line = line + error.line.unwrap_or(0);
                notes.error(field.unwrap_or_default(), error.message, "correct the value, or remove the field");
                self.invalid(reader, document, line, kind, notes);
            }
        }
    }

    /// Notes an object that is known by name only, and what stands in for it if no good version of it is known.
    fn invalid(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, kind: Kind, notes: Notes) {
        let tree = document.tree().unwrap_or_default();
        let text = |field: &str| tree.get("metadata")?.get(field)?.as_str();
        // The name's own mistakes are noted already.
        let id = identify(kind, text("namespace"), text("name"), &mut self.interner, &mut Notes::default());
        self.note(reader, line, notes, id.as_ref());
        match id {
            Some(id) => {
                let reading = Reading::Invalid(substitute(&id, &tree, &mut self.interner));
                self.entries.push(Entry { id, line, reading });
            }
            None => self.is_whole = false,
        }
    }

    fn note(&mut self, reader: &Reader<'_>, line: u32, notes: Notes, id: Option<&ObjectId>) {
        let notes = notes.into_vec().into_iter();
        self.problems.extend(notes.map(|note| note.at(Some(Arc::clone(reader.file)), Some(line), id.cloned())));
    }

    fn not_an_object(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, error: ReadError) {
        let suggestion = match document {
            Document::Yaml(_) => "correct the YAML: look at indentation, quotes and colons around this line",
            Document::Json(_) | Document::Tree(_) => "write a Kubernetes object",
        };
        self.unreadable(reader, line + error.line.unwrap_or(0), error.message, suggestion);
    }

    /// Notes an object of a kind that is not used.
    fn other(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, api_version: &str, kind: &str) {
        let (severity, message, suggestion) = match kind {
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" | "CronJob" => (
                Severity::Warning,
                "is not read, and nothing here makes pods of it".to_owned(),
                "write the Pods themselves",
            ),
            "Endpoints" => (Severity::Warning, "is not read".to_owned(), "write an EndpointSlice"),
            "List" => (Severity::Error, "a list inside a list is not read".to_owned(), "write the items into one list"),
            _ => (Severity::Info, "is not used".to_owned(), ""),
        };
        let tree = document.tree().unwrap_or_default();
        let name = tree.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
        let note = Note {
            severity,
            field: String::new(),
            message: format!("{} {} ({}): {message}", excerpt(kind), excerpt(name.unwrap_or("without a name")), excerpt(api_version)),
            suggestion: suggestion.to_owned(),
        };
        self.problems.push(note.at(Some(Arc::clone(reader.file)), Some(line), None));
    }
}

/// Why an object could not be read, and in which field if that is known.
type Failure = (ReadError, Option<String>);

fn pod(document: Document<'_>) -> Result<PodView<'_>, Failure> {
    let view: PodView<'_> = document.read().map_err(|error| (error, document.locate::<PodView<'_>>()))?;
    agree(Kind::Pod, &view.api_version, &view.kind)?;
    Ok(view)
}

/// Whether an object is what it seemed to be at a glance. Where it says nothing, its list has said it.
fn agree(kind: Kind, api_version: &str, found: &str) -> Result<(), Failure> {
    if [kind.name(), ""].contains(&found) && (api_version.is_empty() || kind.api_versions().contains(&api_version)) {
        return Ok(());
    }
    let error = ReadError {
        message: format!("the object says in two ways what it is: {kind}, and {}", excerpt(found)),
        line: None,
    };
    Err((error, Some("kind".to_owned())))
}

/// Reads a whole manifest; fields that it does not have are noted.
fn full<T: DeserializeOwned>(document: Document<'_>, notes: &mut Notes) -> Result<T, Failure> {
    let unknown = |field| notes.warning(field, "is not a field, and has no effect", "correct its name or indentation");
    document.read_all(unknown).map_err(|error| (error, document.locate::<T>()))
}

/// Reads a Pod as an API server would, for what Weft itself does not look at.
fn scrutinize(document: Document<'_>, notes: &mut Notes) {
    match full::<core::Pod>(document, notes) {
        Ok(_) => {}
        Err((error, field)) => notes.warning(
            field.unwrap_or_default(),
            format!("{}: Kubernetes would refuse this", error.message),
            "correct the value, or remove the field",
        ),
    }
}

/// What is in force in place of a policy that cannot be read: it may have been about anything that it could select.
fn substitute(id: &ObjectId, tree: &Value, interner: &mut Interner) -> Option<Object> {
    let selector = tree.get("spec").and_then(|spec| spec.get("selector"));
    let selector = selector.and_then(|selector| Deserialize::deserialize(selector).ok());
    match id.kind {
        Kind::AuthorizationPolicy => {
            Some(Object::AuthorizationPolicy(AuthorizationPolicy::refuse_all(id, selector.as_ref(), interner)))
        }
        Kind::PeerAuthentication => {
            Some(Object::PeerAuthentication(PeerAuthentication::strictest(id, selector.as_ref(), interner)))
        }
        _ => None,
    }
}
