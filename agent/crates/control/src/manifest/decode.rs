//! From a document to an object, or to what is wrong with it.

use std::sync::Arc;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::Deserialize;
use serde_json::Value;
use weft_route::RouteKind;

use super::document::{Document, Place, ReadError};
use super::tree::read_tree;
use super::{Entry, Part, Reader, Reading, Scrutiny};
use crate::object::{
    AuthorizationPolicy, Described, EndpointSlice, Gateway, GatewayClass, GatewayClassManifest, GatewayManifest,
    GrpcRouteManifest, HttpRouteManifest, Interner, Kind, NETNS, Namespace, Node, Object, ObjectId, PeerAuthentication,
    PeerAuthenticationManifest, Pod, PodView, PolicyManifest, ReferenceGrant, ReferenceGrantManifest, RouteObject,
    Service, ServiceAccount, StreamRouteManifest, excerpt, identify,
};
use crate::problem::{Note, Notes, Problem, Severity};

/// Of so many problems of one object the lines are searched for.
const MAX_SEARCHES: usize = 20;

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
        let tree = match document.tree() {
            Ok(tree) => tree,
            Err(error) => return self.malformed(reader, document, line, error),
        };
        let text = |field: &str| tree.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let item_kind = item_kind.and_then(Kind::named);
        let kind = text("kind").or(item_kind.map(Kind::name));
        let api_version = text("apiVersion").or(item_kind.map(|kind| kind.api_versions()[0]));
        match (api_version, kind) {
            (Some(api_version), Some(kind)) => self.claimed(reader, document, line, api_version, kind),
            (_, kind) => {
                let what = match (tree.is_object(), kind) {
                    (false, _) => "this is not a Kubernetes object",
                    (true, None) => "the object has no kind",
                    (true, Some(_)) => "the object has no apiVersion",
                };
                let suggestion =
                    "begin each object with apiVersion and kind, and separate objects with a line of '---'";
                self.unreadable(reader, line, what, suggestion);
            }
        }
    }

    fn claimed(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, api_version: &str, kind: &str) {
        match Claim::of(api_version, kind) {
            Claim::Known(Kind::Pod) => self.pod(reader, document, line),
            Claim::Known(kind) => self.by_tree(reader, document, line, kind),
            Claim::Version(kind) => {
                let versions = kind.api_versions().join(" or ");
                let mut notes = Notes::default();
                notes.error(
                    "apiVersion",
                    format!("'{}' is not a version of {kind} that is read here", excerpt(api_version)),
                    format!("write {versions}"),
                );
                match document.tree() {
                    Ok(tree) => self.invalid(reader, document, line, kind, notes, &tree),
                    Err(error) => self.malformed(reader, document, line, error),
                }
            }
            Claim::Other => self.other(reader, document, line, api_version, kind),
        }
    }

    /// Reads a Pod without a tree, if all is well with it.
    fn pod(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32) {
        let view = document.pod().filter(|view| agree(Kind::Pod, &view.api_version, &view.kind).is_ok());
        let Some(view) = view.filter(|_| reader.scrutiny == Scrutiny::Normal) else {
            return self.by_tree(reader, document, line, Kind::Pod);
        };
        let mut notes = Notes::default();
        match Pod::read(&view, &mut self.interner, &mut notes) {
            Some(pod) => self.found(reader, document, line, notes, Object::Pod(pod)),
            None => self.by_tree(reader, document, line, Kind::Pod),
        }
    }

    fn by_tree(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, kind: Kind) {
        let tree = match document.tree() {
            Ok(tree) => tree,
            Err(error) => return self.malformed(reader, document, line, error),
        };
        let mut notes = Notes::default();
        match understood(kind, &tree, reader.scrutiny, &mut self.interner, &mut notes) {
            Some(object) => self.found(reader, document, line, notes, object),
            None => self.invalid(reader, document, line, kind, notes, &tree),
        }
    }

    fn found(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, notes: Notes, object: Object) {
        let id = object.id();
        let reading = match is_valid(&id, &notes) {
            true => Reading::Valid(object),
            false => Reading::Invalid(Some(object)),
        };
        self.note(reader, document, line, notes, Some(&id));
        self.entries.push(Entry { id, line, reading });
    }

    /// Notes an object that is known by name only, and what stands in for it if no good version of it is known.
    fn invalid(
        &mut self,
        reader: &Reader<'_>,
        document: Document<'_>,
        line: u32,
        kind: Kind,
        notes: Notes,
        tree: &Value,
    ) {
        let text = |field: &str| tree.get("metadata")?.get(field)?.as_str();
        // The name's own mistakes are noted already.
        let id = identify(kind, text("namespace"), text("name"), &mut self.interner, &mut Notes::default());
        self.note(reader, document, line, notes, id.as_ref());
        match id {
            Some(id) => {
                let reading = Reading::Invalid(substitute(&id, tree, &mut self.interner));
                self.entries.push(Entry { id, line, reading });
            }
            None => self.is_whole = false,
        }
    }

    fn note(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, notes: Notes, id: Option<&ObjectId>) {
        let notes = notes.into_vec().into_iter().enumerate();
        self.problems.extend(notes.map(|(i, note)| {
            // Each search reads the object again.
            let line = if i < MAX_SEARCHES { line + document.line_of(&note.field) } else { line };
            note.at(Some(Arc::clone(reader.file)), Some(line), id.cloned())
        }));
    }

    fn malformed(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, error: ReadError) {
        let suggestion = match document {
            Document::Yaml(_) => "correct the YAML: look at indentation, quotes and colons around this line",
            Document::Json(_) | Document::Item(..) => "correct the JSON",
        };
        self.unreadable(reader, line + document.line_at(&error.place), error.message, suggestion);
    }

    /// Notes an object of a kind that is not used.
    fn other(&mut self, reader: &Reader<'_>, document: Document<'_>, line: u32, api_version: &str, kind: &str) {
        let (severity, message, suggestion) = match kind {
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" | "CronJob" => {
                (
                    Severity::Warning,
                    "is not read, and nothing here makes pods of it".to_owned(),
                    "write the Pods themselves",
                )
            }
            "Endpoints" => (Severity::Warning, "is not read".to_owned(), "write an EndpointSlice"),
            "List" => (Severity::Error, "a list inside a list is not read".to_owned(), "write the items into one list"),
            _ => (Severity::Info, "is not used".to_owned(), ""),
        };
        let tree = match document.tree() {
            Ok(tree) => tree,
            Err(error) => return self.malformed(reader, document, line, error),
        };
        let name = tree.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
        let note = Note {
            severity,
            field: String::new(),
            message: format!(
                "{} {} ({}): {message}",
                excerpt(kind),
                excerpt(name.unwrap_or("without a name")),
                excerpt(api_version)
            ),
            suggestion: suggestion.to_owned(),
        };
        self.problems.push(note.at(Some(Arc::clone(reader.file)), Some(line), None));
    }
}

/// Reads an object as an API server sends it.
pub(super) fn sent_by_cluster(kind: Kind, text: &str, interner: &mut Interner) -> (Option<Entry>, Vec<Problem>) {
    if kind == Kind::Pod
        && let Some(entry) = pod_of_cluster(text, interner)
    {
        return (Some(entry), Vec::new());
    }
    let Ok(mut tree) = serde_json::from_str::<Value>(text) else { return (None, Vec::new()) };
    if let Some(metadata) = tree.get_mut("metadata").and_then(Value::as_object_mut) {
        // Who wrote which field is half of many objects, and nobody reads it here.
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(NETNS);
        }
    }
    object_of_cluster(kind, &tree, interner)
}

/// Reads a Pod without a tree, if all is well with it: pods are the many.
fn pod_of_cluster(text: &str, interner: &mut Interner) -> Option<Entry> {
    let mut view: PodView<'_> = serde_json::from_str(text).ok()?;
    agree(Kind::Pod, &view.api_version, &view.kind).ok()?;
    // Who may make a pod must not choose the network namespace that is captured for it, which may be the host's. The
    // annotation is for files, which only the host's owner writes.
    view.metadata.annotations.netns = None;
    let mut notes = Notes::default();
    let object = Object::Pod(Pod::read(&view, interner, &mut notes)?);
    notes.into_vec().is_empty().then(|| Entry { id: object.id(), line: 0, reading: Reading::Valid(object) })
}

/// Reads an object that an API server has.
pub(super) fn object_of_cluster(kind: Kind, tree: &Value, interner: &mut Interner) -> (Option<Entry>, Vec<Problem>) {
    let mut notes = Notes::default();
    let scrutiny = match kind {
        // A condition that is not known here must not be taken for none: without it a rule would allow more.
        Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::TlsRoute
        | Kind::TcpRoute => Scrutiny::Normal,
        _ => Scrutiny::Lenient,
    };
    let (id, reading) = match understood(kind, tree, scrutiny, interner, &mut notes) {
        Some(object) if !is_valid(&object.id(), &notes) => (Some(object.id()), Reading::Invalid(Some(object))),
        Some(object) => (Some(object.id()), Reading::Valid(object)),
        None => {
            let text = |field: &str| tree.get("metadata")?.get(field)?.as_str();
            let id = identify(kind, text("namespace"), text("name"), interner, &mut Notes::default());
            let substitute = id.as_ref().and_then(|id| substitute(id, tree, interner));
            (id, Reading::Invalid(substitute))
        }
    };
    let problems = notes.into_vec().into_iter().map(|note| note.at(None, None, id.clone())).collect();
    (id.map(|id| Entry { id, line: 0, reading }), problems)
}

/// Whether an object that was read is in force as it is now. The parts of some are judged one by one.
fn is_valid(id: &ObjectId, notes: &Notes) -> bool {
    id.kind.is_judged_by_parts() || !notes.has_errors()
}

/// Reads an object of a kind, and notes why it cannot be.
fn understood(
    kind: Kind,
    tree: &Value,
    scrutiny: Scrutiny,
    interner: &mut Interner,
    notes: &mut Notes,
) -> Option<Object> {
    object(kind, tree, scrutiny, interner, notes).unwrap_or_else(|error| {
        let field = match error.place {
            Place::Field(field) => field,
            Place::Line(_) | Place::Unknown => String::new(),
        };
        let suggestion = if error.message.ends_with("expected a string") {
            "put the value into quotes"
        } else {
            "correct the value, or remove the field"
        };
        notes.error(field, error.message, suggestion);
        None
    })
}

/// Reads an object of a kind. `None`: its name cannot be made out.
fn object(
    kind: Kind,
    tree: &Value,
    scrutiny: Scrutiny,
    interner: &mut Interner,
    notes: &mut Notes,
) -> Result<Option<Object>, ReadError> {
    Ok(match kind {
        Kind::Pod => {
            let view: PodView<'_> = read_tree(tree, &mut |_| {})?;
            agree(kind, &view.api_version, &view.kind)?;
            if scrutiny == Scrutiny::Full {
                scrutinize(tree, notes);
            }
            Pod::read(&view, interner, notes).map(Object::Pod)
        }
        Kind::Namespace => {
            let manifest: core::Namespace = full(tree, scrutiny, notes)?;
            Namespace::read(&manifest, interner, notes).map(Object::Namespace)
        }
        Kind::Node => {
            let manifest: core::Node = full(tree, scrutiny, notes)?;
            Node::read(&manifest, interner, notes).map(Object::Node)
        }
        Kind::ServiceAccount => {
            let manifest: core::ServiceAccount = full(tree, scrutiny, notes)?;
            ServiceAccount::read(&manifest, interner, notes).map(Object::ServiceAccount)
        }
        Kind::Service => {
            let manifest: core::Service = full(tree, scrutiny, notes)?;
            Service::read(&manifest, interner, notes).map(Object::Service)
        }
        Kind::EndpointSlice => {
            let manifest: discovery::EndpointSlice = full(tree, scrutiny, notes)?;
            EndpointSlice::read(&manifest, interner, notes).map(Object::EndpointSlice)
        }
        Kind::AuthorizationPolicy => {
            let manifest: PolicyManifest = full(tree, scrutiny, notes)?;
            agree(kind, &manifest.api_version, &manifest.kind)?;
            AuthorizationPolicy::read(&manifest, interner, notes).map(Object::AuthorizationPolicy)
        }
        Kind::PeerAuthentication => {
            let manifest: PeerAuthenticationManifest = full(tree, scrutiny, notes)?;
            agree(kind, &manifest.api_version, &manifest.kind)?;
            PeerAuthentication::read(&manifest, interner, notes).map(Object::PeerAuthentication)
        }
        Kind::GatewayClass => {
            let manifest: GatewayClassManifest = full(tree, scrutiny, notes)?;
            agree(kind, &manifest.api_version, &manifest.kind)?;
            GatewayClass::read(&manifest, interner, notes).map(Object::GatewayClass)
        }
        Kind::Gateway => {
            let manifest: GatewayManifest = full(tree, scrutiny, notes)?;
            agree(kind, &manifest.api_version, &manifest.kind)?;
            Gateway::read(&manifest, interner, notes).map(Object::Gateway)
        }
        Kind::HttpRoute => {
            let manifest: HttpRouteManifest = described(kind, tree, scrutiny, notes)?;
            route(RouteObject::read(RouteKind::Http, &manifest, interner, notes))
        }
        Kind::GrpcRoute => {
            let manifest: GrpcRouteManifest = described(kind, tree, scrutiny, notes)?;
            route(RouteObject::read(RouteKind::Grpc, &manifest, interner, notes))
        }
        Kind::TlsRoute => {
            let manifest: StreamRouteManifest = described(kind, tree, scrutiny, notes)?;
            route(RouteObject::read(RouteKind::Tls, &manifest, interner, notes))
        }
        Kind::TcpRoute => {
            let manifest: StreamRouteManifest = described(kind, tree, scrutiny, notes)?;
            route(RouteObject::read(RouteKind::Tcp, &manifest, interner, notes))
        }
        Kind::ReferenceGrant => {
            let manifest: ReferenceGrantManifest = full(tree, scrutiny, notes)?;
            agree(kind, &manifest.api_version, &manifest.kind)?;
            ReferenceGrant::read(&manifest, interner, notes).map(Object::ReferenceGrant)
        }
    })
}

fn route(read: Option<RouteObject>) -> Option<Object> {
    read.map(|route| Object::Route(Box::new(route)))
}

/// Reads the whole manifest of a route.
fn described<T: Described>(kind: Kind, tree: &Value, scrutiny: Scrutiny, notes: &mut Notes) -> Result<T, ReadError> {
    let manifest: T = full(tree, scrutiny, notes)?;
    let (api_version, name) = manifest.described();
    agree(kind, api_version, name)?;
    Ok(manifest)
}

/// Whether an object is what it seemed to be at a glance. Where it says nothing, its list has said it.
fn agree(kind: Kind, api_version: &str, found: &str) -> Result<(), ReadError> {
    if [kind.name(), ""].contains(&found) && (api_version.is_empty() || kind.api_versions().contains(&api_version)) {
        return Ok(());
    }
    Err(ReadError {
        message: format!("the object says in two ways what it is: {kind}, and {}", excerpt(found)),
        place: Place::Field("kind".to_owned()),
    })
}

/// Reads a whole manifest; fields that it does not have are noted.
fn full<'v, T: Deserialize<'v>>(tree: &'v Value, scrutiny: Scrutiny, notes: &mut Notes) -> Result<T, ReadError> {
    read_tree(tree, &mut |field| {
        if scrutiny != Scrutiny::Lenient {
            notes.warning(field, "is not a field, and has no effect", "correct its name or indentation");
        }
    })
}

/// Reads a Pod as an API server would, for what Weft itself does not look at.
fn scrutinize(tree: &Value, notes: &mut Notes) {
    if let Err(ReadError { message, place }) = full::<core::Pod>(tree, Scrutiny::Full, notes) {
        let field = match place {
            Place::Field(field) => field,
            Place::Line(_) | Place::Unknown => String::new(),
        };
        let message = format!("{message}: Kubernetes would refuse this");
        notes.warning(field, message, "correct the value, or remove the field");
    }
}

/// What is in force in place of a policy that cannot be read: it may have been about anything that it could select.
fn substitute(id: &ObjectId, tree: &Value, interner: &mut Interner) -> Option<Object> {
    let selector = tree.get("spec").and_then(|spec| spec.get("selector"));
    let selector = selector.and_then(|selector| read_tree(selector, &mut |_| {}).ok());
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
