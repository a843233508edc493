use std::collections::BTreeMap;
use std::path::Path;

use weft_model::{Policy, Service, Workload};

use super::*;
use crate::manifest::{self, Format, Reading, Scrutiny};

mod endpoints;
mod incremental;
mod mtls;
mod policies;
mod routes;
mod waypoints;
mod workloads;

/// A translator, and the model as its changes make it.
struct Mesh {
    translator: Translator,
    workloads: BTreeMap<Arc<str>, Workload>,
    services: BTreeMap<Arc<str>, Service>,
    policies: BTreeMap<Arc<str>, Policy>,
}

/// The objects of a manifest, which must be valid.
fn objects(yaml: &str) -> Vec<Object> {
    let found = manifest::read(&Path::new("f").into(), Format::Yaml, yaml.as_bytes(), Scrutiny::Normal, 1);
    let objects = found.entries.into_iter().map(|entry| match entry.reading {
        Reading::Valid(object) => object,
        Reading::Invalid(_) => panic!("{} is invalid: {:#?}", entry.id, found.problems),
    });
    let objects: Vec<Object> = objects.collect();
    assert!(found.is_whole, "{:#?}", found.problems);
    objects
}

impl Mesh {
    fn new() -> Self {
        Self::with(TranslationOptions::default())
    }

    fn with(options: TranslationOptions) -> Self {
        Self {
            translator: Translator::new(options),
            workloads: BTreeMap::new(),
            services: BTreeMap::new(),
            policies: BTreeMap::new(),
        }
    }

    /// Puts the objects of a manifest. Returns the workloads that were touched.
    fn put(&mut self, yaml: &str) -> Vec<String> {
        objects(yaml).into_iter().for_each(|object| self.translator.put(object));
        self.flush()
    }

    /// Removes an object, `Kind namespace/name`.
    fn remove(&mut self, id: &str) -> Vec<String> {
        let (kind, name) = id.split_once(' ').expect("an id has a kind and a name");
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        self.translator.remove(&ObjectId {
            kind: Kind::named(kind).expect("the kind exists"),
            namespace: namespace.into(),
            name: name.into(),
        });
        self.flush()
    }

    fn flush(&mut self) -> Vec<String> {
        let mut touched = Vec::new();
        for change in self.translator.flush() {
            match change {
                Change::PutWorkload(workload) => {
                    touched.push(workload.name.to_string());
                    self.workloads.insert(Arc::clone(&workload.uid), workload);
                }
                Change::RemoveWorkload(uid) => {
                    touched.push(format!("-{}", uid.rsplit('/').next().unwrap_or_default()));
                    assert!(self.workloads.remove(&uid).is_some(), "{uid} was never there");
                }
                Change::PutService(service) => {
                    self.services.insert(Arc::clone(&service.key), service);
                }
                Change::RemoveService(key) => {
                    assert!(self.services.remove(&key).is_some(), "{key} was never there");
                }
                Change::PutPolicy(policy) => {
                    self.policies.insert(Arc::clone(&policy.key), policy);
                }
                Change::RemovePolicy(key) => {
                    assert!(self.policies.remove(&key).is_some(), "{key} was never there");
                }
                #[expect(unreachable_patterns, reason = "the model may learn more changes")]
                other => panic!("{other:?}"),
            }
        }
        touched.sort_unstable();
        touched
    }

    /// The workload of a pod, `namespace/name`.
    fn pod(&self, name: &str) -> &Workload {
        self.workloads
            .get(format!("Kubernetes//Pod/{name}").as_str())
            .unwrap_or_else(|| panic!("{name} is no workload"))
    }

    /// The services of a pod with their ports and conditions, as `web:80>8080 Ready`.
    fn services_of(&self, pod: &str) -> Vec<String> {
        memberships(self.pod(pod))
    }

    /// Keys of the policies of a pod.
    fn policies_of(&self, pod: &str) -> Vec<&str> {
        self.pod(pod).policies.iter().map(|key| &**key).collect()
    }
}

fn memberships(workload: &Workload) -> Vec<String> {
    let mut found: Vec<String> = workload
        .services
        .iter()
        .map(|membership| {
            let (_, hostname) = membership.service.split_once('/').expect("a key has a namespace");
            let name = hostname.split('.').next().unwrap_or_default();
            let ports: Vec<String> =
                membership.ports.iter().map(|port| format!("{}>{}", port.service_port, port.target_port)).collect();
            format!("{name}:{} {:?}", ports.join(","), membership.condition)
        })
        .collect();
    found.sort_unstable();
    found
}

/// A pod that is ready, `namespace/name`, with labels as in a flow mapping.
fn pod(name: &str, labels: &str, address: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("a pod has a namespace");
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec:\n  containers:\n  - name: main\n    ports: [{{name: http, containerPort: 8080}}]\n\
         status: {{podIPs: [{{ip: {address}}}], conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}

/// A service, `namespace/name`, with a port 80 that leads to the port `http`.
fn service(name: &str, selector: &str, address: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("a service has a namespace");
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{clusterIP: {address}, selector: {{{selector}}}, ports: [{{name: web, port: 80, targetPort: http}}]}}\n"
    )
}

fn namespace(name: &str, labels: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n")
}
