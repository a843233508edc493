//! The Kubernetes source: the objects of a cluster, watched.
//!
//! Each kind has a watch of its own, which lists, goes on from there by the API server's events, and lists again when it
//! has fallen behind; while the API server is away what was known stays. The first update waits for all kinds: an agent
//! is never told of half a cluster. Kinds that a cluster does not have, of Istio or of the Gateway API, are none, and are
//! looked for again; of one that has several versions the first that the cluster has is watched.

mod contents;
pub mod lookup;
mod watched;

use std::fmt;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use contents::Contents;
use kube::Api;
pub use kube::Client;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::config::{Config, InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, utils, watcher as watch_of};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use watched::Watched;
use weft_runtime::{Backoff, Shutdown, Tasks};

use super::{Sent, Update};
use crate::object::{Kind, REDIRECTION};
use crate::problem::Problem;
use crate::translate::{LocalPod, TranslationOptions, Translator};

/// After a first change, how long others may join it.
const COALESCING: Duration = Duration::from_millis(20);
/// Events that wait to be read, of all kinds; then the watches wait.
const QUEUE: usize = 256;
/// How often, at first and at last, a watch that failed is begun anew.
const RETRIES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What a watch has to say.
#[derive(Debug)]
enum News {
    /// All objects will be listed.
    Listing,
    Listed(Box<Watched>),
    /// There are no others than those that were listed.
    ListEnd,
    Put(Box<Watched>),
    Removed(Box<Watched>),
    /// The cluster has no such kind.
    Absent,
}

impl From<Event<Watched>> for News {
    fn from(event: Event<Watched>) -> Self {
        match event {
            Event::Init => Self::Listing,
            Event::InitApply(object) => Self::Listed(Box::new(object)),
            Event::InitDone => Self::ListEnd,
            Event::Apply(object) => Self::Put(Box::new(object)),
            Event::Delete(object) => Self::Removed(Box::new(object)),
        }
    }
}

/// Starts to watch a cluster. The first update comes when all kinds were listed, and says all; each later one says what
/// changed. A receiver that falls behind holds the source up, and misses nothing.
#[must_use]
pub fn start(client: &Client, translation: TranslationOptions, tasks: &Tasks) -> mpsc::Receiver<Update> {
    start_kinds(client, Kind::ALL.map(|kind| (kind, None)), translation, tasks)
}

/// Starts to watch what an agent needs to know of its own node, `translation.node`: the pods there, and the namespaces.
/// Only [`Update::local_pods`] is of use then, and what is wrong with those.
#[must_use]
pub fn start_node(client: &Client, translation: TranslationOptions, tasks: &Tasks) -> mpsc::Receiver<Update> {
    let here = format!("spec.nodeName={}", translation.node);
    start_kinds(client, [(Kind::Namespace, None), (Kind::Pod, Some(here))], translation, tasks)
}

/// What a cluster holds that was listed once, and what is wrong with single objects. `None`: it does not have the kind.
pub(crate) fn read_once(
    listed: Vec<(Kind, Option<Vec<DynamicObject>>)>,
    translation: TranslationOptions,
) -> (Translator, Vec<Problem>) {
    let mut contents = Contents::new(translation, listed.iter().map(|(kind, _)| *kind));
    for (kind, objects) in listed {
        let Some(objects) = objects else {
            contents.note(kind, News::Absent);
            continue;
        };
        contents.note(kind, News::Listing);
        let objects = objects.iter().filter_map(Watched::of);
        objects.for_each(|object| contents.note(kind, News::Listed(Box::new(object))));
        contents.note(kind, News::ListEnd);
    }
    contents.into_parts()
}

/// Watches these kinds, of each only what its field selector says.
fn start_kinds<const COUNT: usize>(
    client: &Client,
    kinds: [(Kind, Option<String>); COUNT],
    translation: TranslationOptions,
    tasks: &Tasks,
) -> mpsc::Receiver<Update> {
    let (news, read) = mpsc::channel(QUEUE);
    let contents = Contents::new(translation, kinds.iter().map(|(kind, _)| *kind));
    for (kind, fields) in kinds {
        let watch = Watch { kind, fields, client: client.clone(), news: news.clone(), said: String::new() };
        tasks.spawn(format!("watch-{}", kind.plural()), watch.run(tasks.shutdown()));
    }
    let (sender, updates) = mpsc::channel(4);
    tasks.spawn("cluster", follow(contents, read, sender, tasks.shutdown()));
    updates
}

/// Puts the news of all watches together.
async fn follow(
    mut contents: Contents,
    mut news: mpsc::Receiver<(Kind, News)>,
    sender: mpsc::Sender<Update>,
    mut shutdown: Shutdown,
) {
    let mut sent = Sent::default();
    let mut due: Option<Instant> = None;
    loop {
        let next = due.filter(|_| contents.is_complete());
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            () = at(next) => {
                due = None;
                let (changes, state) = contents.flush();
                if let Some(update) = sent.news(changes, state) {
                    tokio::select! {
                        biased;
                        () = shutdown.requested() => return,
                        taken = sender.send(update) => if taken.is_err() { return },
                    }
                }
            }
            event = news.recv() => {
                let Some((kind, event)) = event else { return };
                contents.note(kind, event);
                due.get_or_insert_with(|| Instant::now() + COALESCING);
            }
        }
    }
}

/// Completes at that time; without one, never.
pub(crate) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The watch of one kind.
struct Watch {
    kind: Kind,
    /// Which of them, as a field selector; `None`: all.
    fields: Option<String>,
    client: Client,
    news: mpsc::Sender<(Kind, News)>,
    /// What was last said of it in the log.
    said: String,
}

/// Why a watch ended.
enum Ended {
    /// The API server does not know how to list by a watch (before Kubernetes 1.32).
    NeedsList,
    /// The API server does not have this version of the kind.
    Missing,
    /// Nobody listens any more.
    Over,
}

impl Watch {
    async fn run(mut self, mut shutdown: Shutdown) {
        let watching = async {
            let listing = watcher::Config { field_selector: self.fields.take(), ..watcher::Config::default() };
            // A list in pieces, as events, costs the API server and this process least memory.
            let mut config = listing.clone().streaming_lists();
            let mut versions = self.kind.api_versions().iter().cycle();
            let (mut missing, mut pauses) = (0, Retries::default());
            while let Some(version) = versions.next() {
                match self.watch(version, config.clone()).await {
                    Ended::Over => return,
                    Ended::NeedsList => {
                        (config, missing) = (listing.clone(), 0);
                        versions = self.kind.api_versions().iter().cycle();
                    }
                    Ended::Missing => missing += 1,
                }
                if missing == self.kind.api_versions().len() {
                    missing = 0;
                    let message = |kind| tracing::info!(%kind, "the cluster does not have it; waiting for it");
                    if self.say(message, "absent") && self.news.send((self.kind, News::Absent)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pauses.0.pause()).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            () = watching => {}
        }
    }

    async fn watch(&mut self, version: &str, config: watcher::Config) -> Ended {
        let lists_by_watch = matches!(config.initial_list_strategy, watcher::InitialListStrategy::StreamingList);
        let api: Api<Watched> = Api::all_with(self.client.clone(), &resource_of(self.kind, version));
        let mut events = pin!(watch_of(api, config).backoff(Retries::default()));
        while let Some(event) = events.next().await {
            let news = match event {
                Ok(event) => {
                    if matches!(event, Event::InitDone) {
                        self.say(|kind| tracing::info!(%kind, "watching"), "watching");
                    }
                    News::from(event)
                }
                Err(error) => match code(&error) {
                    Some(400 | 422) if lists_by_watch => return Ended::NeedsList,
                    Some(404) => return Ended::Missing,
                    code => {
                        let hint = Hint(self.kind, code);
                        let text = error.to_string();
                        let message =
                            |kind| tracing::warn!(%kind, error = text, "watching failed; what is known stays. {hint}");
                        self.say(message, &text);
                        continue;
                    }
                },
            };
            if self.news.send((self.kind, news)).await.is_err() {
                return Ended::Over;
            }
        }
        Ended::Over
    }

    /// Says something once, not with each attempt. Returns whether it was news.
    fn say(&mut self, message: impl FnOnce(Kind), what: &str) -> bool {
        let is_news = self.said != what;
        if is_news {
            what.clone_into(&mut self.said);
            message(self.kind);
        }
        is_news
    }
}

/// The pauses between attempts.
pub(crate) struct Retries(Backoff);

impl Default for Retries {
    fn default() -> Self {
        Self(Backoff::new(RETRIES.0, RETRIES.1))
    }
}

impl Iterator for Retries {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.pause())
    }
}

impl utils::Backoff for Retries {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// What to do about a watch that is refused.
struct Hint(Kind, Option<u16>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = self.0.plural();
        match self.1 {
            Some(401) => f.write_str("The API server does not accept the credentials"),
            Some(403) => write!(f, "The ClusterRole must allow get, list and watch of {plural}"),
            _ => f.write_str("Trying again"),
        }
    }
}

/// The status that the API server answered with, if it did.
pub(crate) fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        },
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::NoResourceVersion => None,
    }
}

/// Tells the mesh, by an annotation of the pod's object, that its agent captures it, or no longer does. A pod that is no
/// more, or another one of its name, is left alone.
///
/// # Errors
/// When the API server cannot be reached or refuses.
pub async fn mark(client: &Client, pod: &LocalPod, is_captured: bool) -> Result<(), kube::Error> {
    let (name, value) = REDIRECTION;
    let annotations = serde_json::json!({ name: is_captured.then_some(value) });
    // The uid makes the patch fail on another pod of that name.
    let patch = serde_json::json!({ "metadata": { "uid": &*pod.instance, "annotations": annotations } });
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &pod.namespace, &resource(Kind::Pod));
    let Err(error) = api.patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(patch)).await else {
        return Ok(());
    };
    if !matches!(&error, kube::Error::Api(status) if matches!(status.code, 404 | 409 | 422)) {
        return Err(error);
    }
    // Not every refusal means that it is another pod: admission may have refused as well.
    match api.get_metadata_opt(&pod.name).await? {
        Some(now) if now.metadata.uid.as_deref() == Some(&*pod.instance) => Err(error),
        _ => {
            tracing::debug!(pod = %pod.uid, %error, "it is no more, and is not marked");
            Ok(())
        }
    }
}

/// Where the API has a kind.
pub(crate) fn resource(kind: Kind) -> ApiResource {
    resource_of(kind, kind.api_versions()[0])
}

/// Where the API has a version of a kind.
pub(crate) fn resource_of(kind: Kind, api_version: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.name().to_owned(),
        plural: kind.plural().to_owned(),
    }
}

/// A client of the API server: that of a kubeconfig, or with none, of the cluster that this process's pod is in.
///
/// # Errors
/// When there is no such file, or it is none, or this is no pod.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let config = match kubeconfig {
        Some(path) => {
            let failed = |error: KubeconfigError| ConnectError(path.display().to_string(), error.to_string());
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => Config::incluster().map_err(|error| {
            ConnectError(
                "the pod's service account".to_owned(),
                format!("{error}: is this a pod? Else give --kubeconfig"),
            )
        })?,
    };
    client_of(config)
}

/// A client of the API server with an operator's own rights: those of a kubeconfig, or with none, what `KUBECONFIG` or
/// `~/.kube/config` says, as `kubectl` has it; then those of the pod that this is.
///
/// # Errors
/// When there is no such file, or it is none, or without one this is no pod.
pub async fn connect_as_operator(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    if kubeconfig.is_some() {
        return connect(kubeconfig).await;
    }
    let failed = |error: InferConfigError| {
        ConnectError("KUBECONFIG, ~/.kube/config or a pod's service account".to_owned(), error.to_string())
    };
    client_of(Config::infer().await.map_err(failed)?)
}

fn client_of(config: Config) -> Result<Client, ConnectError> {
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|error| ConnectError(server, error.to_string()))
}

/// Why there is no client: what it was to be made of, and what is wrong with that.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the API server cannot be reached by way of {0}: {1}")]
pub struct ConnectError(String, String);

#[cfg(test)]
mod tests;
