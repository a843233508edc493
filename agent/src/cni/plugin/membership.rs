//! Whether a pod belongs to the mesh, asked of the API server, while no agent says it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use weft_control::Membership;
use weft_control::kubernetes::{self, lookup};

use crate::cni::Remembered;
use crate::sandbox::Sandbox;

/// How long the API server may take. After that what was last known counts.
const LOOKUP: Duration = Duration::from_secs(5);

/// Whether a pod belongs to the mesh.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Belongs {
    Member,
    Outside,
    /// Nobody says; why.
    Unknown(String),
}

/// Where membership is looked up.
pub(super) struct Registry<'a> {
    kubeconfig: Option<&'a Path>,
    remembered: PathBuf,
}

/// What the API server said.
#[derive(Debug, Default)]
struct Said {
    pod: Option<String>,
    namespace: Option<String>,
    error: String,
}

impl<'a> Registry<'a> {
    /// Asks by way of `kubeconfig`, and remembers in `folder`.
    pub(super) fn new(kubeconfig: Option<&'a Path>, folder: &Path) -> Self {
        Self { kubeconfig, remembered: Remembered::path(folder) }
    }

    /// Remembers that a pod of this namespace belongs to the mesh.
    pub(super) fn note_member(&self, namespace: &str) {
        self.remember(|known| known.note_member(namespace));
    }

    /// Whether a pod belongs to the mesh.
    pub(super) fn belongs(&self, sandbox: &Sandbox) -> Belongs {
        let said = self.ask(sandbox);
        self.judge(sandbox, &said)
    }

    /// The pod's own word comes from the API server only: there is no other who has it on this node. What its namespace
    /// said may be remembered, and then decides for all of its pods.
    fn judge(&self, sandbox: &Sandbox, said: &Said) -> Belongs {
        let namespace = said.namespace.as_deref().and_then(|json| Membership::of_namespace(json).ok());
        if let Some(label) = namespace {
            self.remember(|known| known.note_label(&sandbox.namespace, label == Membership::Member));
        }
        let pod = said.pod.as_deref().filter(|json| is_of(json, &sandbox.uid));
        let pod = pod.and_then(|json| Membership::of_pod(json).ok());
        match (pod, namespace) {
            (Some(Membership::Outside), _) => return Belongs::Outside,
            (Some(Membership::Member), _) => {
                self.note_member(&sandbox.namespace);
                return Belongs::Member;
            }
            (Some(pod), Some(namespace)) => {
                return if pod.is_member(namespace) { Belongs::Member } else { Belongs::Outside };
            }
            (_, Some(Membership::Member)) => return Belongs::Member,
            _ => {}
        }
        match Remembered::read(&self.remembered).is_member(&sandbox.namespace) {
            Some(true) => Belongs::Member,
            // The API server answers, and has no such pod: it will have, or the pod is gone.
            Some(false) if said.error.is_empty() => Belongs::Unknown("the API server does not know the pod".to_owned()),
            Some(false) => Belongs::Outside,
            None if said.error.is_empty() => Belongs::Unknown("the API server does not know the pod".to_owned()),
            None => Belongs::Unknown(said.error.clone()),
        }
    }

    fn ask(&self, sandbox: &Sandbox) -> Said {
        let Some(kubeconfig) = self.kubeconfig else {
            return Said { error: "there is no kubeconfig to ask the API server with".to_owned(), ..Said::default() };
        };
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return Said { error: error.to_string(), ..Said::default() },
        };
        let said = runtime.block_on(async {
            tokio::time::timeout(LOOKUP, look_up(kubeconfig, sandbox)).await.unwrap_or_else(|_| Said {
                error: format!("the API server did not answer within {LOOKUP:?}"),
                ..Said::default()
            })
        });
        // Resolving a name may hang on a thread of its own, for which nothing here waits.
        runtime.shutdown_background();
        said
    }

    fn remember(&self, note: impl Fn(&mut Remembered) -> bool) {
        // It is a convenience for later: a node with a full disk must still start pods.
        let _ = Remembered::add(&self.remembered, note);
    }
}

async fn look_up(kubeconfig: &Path, sandbox: &Sandbox) -> Said {
    let client = match kubernetes::connect(Some(kubeconfig)).await {
        Ok(client) => client,
        Err(error) => return Said { error: error.to_string(), ..Said::default() },
    };
    let (pod, namespace) = tokio::join!(
        lookup::pod(&client, &sandbox.namespace, &sandbox.name),
        lookup::namespace(&client, &sandbox.namespace)
    );
    let mut said = Said::default();
    for (answer, place) in [(pod, &mut said.pod), (namespace, &mut said.namespace)] {
        match answer {
            Ok(found) => *place = found,
            Err(error) => said.error = error.to_string(),
        }
    }
    said
}

/// Whether this is the pod that has the sandbox, and not a later one of the same name. A pod that the kubelet has from a
/// file is known to it by another uid, which its counterpart on the API server bears as an annotation.
fn is_of(pod: &str, uid: &str) -> bool {
    #[derive(Default, Deserialize)]
    struct Pod {
        #[serde(default)]
        metadata: Metadata,
    }
    #[derive(Default, Deserialize)]
    struct Metadata {
        #[serde(default)]
        uid: String,
        #[serde(default)]
        annotations: Option<BTreeMap<String, String>>,
    }
    let Ok(Pod { metadata }) = serde_json::from_str(pod) else {
        return false;
    };
    let annotations = metadata.annotations.unwrap_or_default();
    uid.is_empty()
        || metadata.uid == uid
        || annotations.get("kubernetes.io/config.hash").is_some_and(|hash| hash == uid)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    fn sandbox() -> Sandbox {
        Sandbox {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u-1".into(),
            container: "c1".into(),
            netns: "/run/netns/c1".into(),
            addresses: Vec::new(),
        }
    }

    fn labelled(mode: &str) -> Value {
        json!({ "metadata": { "uid": "u-1", "labels": { "istio.io/dataplane-mode": mode } } })
    }

    fn plain() -> Value {
        json!({ "metadata": { "uid": "u-1" } })
    }

    fn said(pod: Option<Value>, namespace: Option<Value>, error: &str) -> Said {
        let text = |object: Option<Value>| object.map(|object| object.to_string());
        Said { pod: text(pod), namespace: text(namespace), error: error.to_owned() }
    }

    fn unknown(why: &str) -> Belongs {
        Belongs::Unknown(why.to_owned())
    }

    #[test]
    fn the_api_servers_word_decides() {
        let absent = "the API server does not know the pod";
        let another = json!({ "metadata": { "uid": "u-2" } });
        let of_a_file = json!({ "metadata": { "uid": "u-2", "annotations": { "kubernetes.io/config.hash": "u-1" } } });
        let cases = [
            (said(Some(plain()), Some(labelled("ambient")), ""), Belongs::Member),
            (said(Some(plain()), Some(plain()), ""), Belongs::Outside),
            (said(Some(labelled("none")), Some(labelled("ambient")), ""), Belongs::Outside),
            (said(Some(labelled("ambient")), Some(plain()), ""), Belongs::Member),
            (said(Some(labelled("ambient")), None, "x"), Belongs::Member),
            (said(Some(of_a_file), Some(plain()), ""), Belongs::Outside),
            (said(Some(another), Some(plain()), ""), unknown(absent)),
            (said(None, Some(labelled("ambient")), "x"), Belongs::Member),
            (said(None, Some(plain()), ""), unknown(absent)),
            (said(Some(plain()), None, "x"), unknown("x")),
            (said(None, None, "x"), unknown("x")),
            (said(None, None, ""), unknown(absent)),
        ];
        for (said, expected) in cases {
            let folder = TempDir::new().unwrap();
            assert_eq!(Registry::new(None, folder.path()).judge(&sandbox(), &said), expected, "{said:?}");
        }
    }

    #[test]
    fn while_it_is_away_what_the_namespace_said_last_decides() {
        let folder = TempDir::new().unwrap();
        let registry = Registry::new(None, folder.path());
        assert!(matches!(registry.belongs(&sandbox()), Belongs::Unknown(_)));
        registry.judge(&sandbox(), &said(Some(plain()), Some(plain()), ""));
        assert_eq!(registry.belongs(&sandbox()), Belongs::Outside);
        registry.judge(&sandbox(), &said(Some(plain()), Some(labelled("ambient")), ""));
        assert_eq!(registry.belongs(&sandbox()), Belongs::Member);
    }

    #[test]
    fn an_agents_verdict_is_remembered_as_well() {
        let folder = TempDir::new().unwrap();
        let registry = Registry::new(None, folder.path());
        registry.judge(&sandbox(), &said(Some(plain()), Some(plain()), ""));
        registry.note_member("shop");
        assert_eq!(registry.belongs(&sandbox()), Belongs::Member);
    }
}
