use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use weft_model::Workload;

use super::*;
use crate::problem::Severity;

/// A folder that is a source, and the model as its updates make it.
struct Fixture {
    dir: TempDir,
    source: Option<FileSource>,
    updates: mpsc::Receiver<Update>,
    workloads: std::collections::BTreeMap<String, Workload>,
    last: Update,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        Self::prepared(|dir| {
            for (name, text) in files {
                fs::write(dir.join(name), text).expect("the test's folder can be written");
            }
        })
    }

    fn prepared(prepare: impl FnOnce(&Path)) -> Self {
        let dir = TempDir::new().expect("a temporary folder can be made");
        prepare(dir.path());
        let mut options = SourceOptions::new(dir.path(), TranslationOptions::default());
        options.translation.node = "n1".to_owned();
        let (source, updates) = FileSource::start(options).expect("the folder is there");
        let mut fixture = Self {
            dir,
            source: Some(source),
            updates,
            workloads: std::collections::BTreeMap::new(),
            last: Update::default(),
        };
        fixture.next();
        fixture
    }

    /// Applies the next update, which must come soon.
    fn next(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
        let received = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), self.updates.recv()).await.expect("an update comes in time")
        });
        let update = received.expect("the source lives");
        for change in &update.changes {
            match change.clone() {
                Change::PutWorkload(workload) => {
                    self.workloads.insert(format!("{}/{}", workload.namespace, workload.name), workload);
                }
                Change::RemoveWorkload(uid) => {
                    let name = uid.split_once("//Pod/").expect("the workload is a pod").1;
                    self.workloads.remove(name);
                }
                _ => {}
            }
        }
        self.last = update;
    }

    /// Applies updates until `is_done`.
    fn until(&mut self, is_done: impl Fn(&Self) -> bool) {
        while !is_done(self) {
            self.next();
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).expect("the test's folder can be written");
    }

    /// Replaces a file as a careful writer does.
    fn replace(&self, name: &str, text: &str) {
        self.write(".new", text);
        fs::rename(self.dir.path().join(".new"), self.dir.path().join(name)).expect("the file can be renamed");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).expect("the file is there");
    }

    /// The pods with their addresses, as `a 10.0.0.1`.
    fn pods(&self) -> Vec<String> {
        self.workloads.values().map(|w| format!("{} {}", w.name, w.addresses[0])).collect()
    }

    fn problems(&self) -> Vec<String> {
        let dir = format!("{}/", self.dir.path().display());
        self.last.problems.iter().map(|problem| problem.to_string().replace(&dir, "")).collect()
    }
}

fn pod(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nstatus: {{podIP: {address}}}\n"
    )
}

#[test]
fn the_first_update_says_all() {
    let fixture = Fixture::new(&[
        ("a.yaml", &pod("a", "10.0.0.1")),
        ("b.json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"},"status":{"podIP":"10.0.0.2"}}"#),
        ("c.yml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"),
        ("notes.txt", "not a manifest"),
    ]);
    assert_eq!(fixture.pods(), ["b 10.0.0.2", "a 10.0.0.1"]);
    assert_eq!((fixture.last.objects.pods, fixture.last.objects.namespaces), (2, 1));
    assert_eq!(fixture.problems(), [""; 0]);
}

#[test]
fn an_empty_folder_is_a_source_too() {
    let mut fixture = Fixture::new(&[]);
    assert_eq!(fixture.last.objects, ObjectCounts::default());
    fixture.write("a.yaml", &pod("a", "10.0.0.1"));
    fixture.until(|fixture| fixture.pods() == ["a 10.0.0.1"]);
}

#[test]
fn files_that_are_written_replaced_and_removed_are_noticed() {
    let mut fixture = Fixture::new(&[("a.yaml", &pod("a", "10.0.0.1"))]);
    fixture.write("a.yaml", &(pod("a", "10.0.0.1") + &pod("b", "10.0.0.2")));
    fixture.until(|fixture| fixture.pods() == ["a 10.0.0.1", "b 10.0.0.2"]);
    fixture.replace("a.yaml", &pod("b", "10.0.0.3"));
    fixture.until(|fixture| fixture.pods() == ["b 10.0.0.3"]);
    fixture.write("c.yaml", &pod("c", "10.0.0.4"));
    fixture.until(|fixture| fixture.pods() == ["b 10.0.0.3", "c 10.0.0.4"]);
    fixture.remove("a.yaml");
    fixture.until(|fixture| fixture.pods() == ["c 10.0.0.4"]);
}

#[test]
fn an_update_says_what_changed_and_no_more() {
    let mut fixture = Fixture::new(&[("a.yaml", &(pod("a", "10.0.0.1") + &pod("b", "10.0.0.2")))]);
    fixture.write("a.yaml", &(pod("a", "10.0.0.1") + &pod("b", "10.0.0.3")));
    fixture.next();
    assert_eq!(fixture.last.changes.len(), 1, "{:?}", fixture.last.changes);
}

#[test]
fn a_config_map_that_is_switched_is_noticed() {
    let version = |dir: &Path, name: &str, text: &str| {
        fs::create_dir(dir.join(name)).expect("the folder can be made");
        fs::write(dir.join(name).join("a.yaml"), text).expect("the file can be written");
    };
    let mut fixture = Fixture::prepared(|dir| {
        version(dir, "..1", &pod("a", "10.0.0.1"));
        symlink("..1", dir.join("..data")).expect("a link can be made");
        symlink("..data/a.yaml", dir.join("a.yaml")).expect("a link can be made");
    });
    assert_eq!(fixture.pods(), ["a 10.0.0.1"]);
    let dir = fixture.dir.path();
    version(dir, "..2", &pod("a", "10.0.0.2"));
    symlink("..2", dir.join("..data_tmp")).expect("a link can be made");
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("the link can be renamed");
    fixture.until(|fixture| fixture.pods() == ["a 10.0.0.2"]);
}

#[test]
fn a_file_that_turns_bad_keeps_its_objects() {
    let good = pod("a", "10.0.0.1") + &pod("b", "10.0.0.2");
    let mut fixture = Fixture::new(&[("a.yaml", &good)]);
    fixture.write("a.yaml", &(pod("a", "10.0.0.9") + "---\n{\n"));
    fixture.until(|fixture| !fixture.last.problems.is_empty());
    assert_eq!(fixture.pods(), ["a 10.0.0.1", "b 10.0.0.2"]);
    assert!(fixture.problems()[0].starts_with("a.yaml:"), "{:?}", fixture.problems());
    fixture.write("a.yaml", &pod("a", "10.0.0.9"));
    fixture.until(|fixture| fixture.last.problems.is_empty());
    assert_eq!(fixture.pods(), ["a 10.0.0.9"]);
}

#[test]
fn an_object_that_turns_bad_keeps_its_last_version_and_the_others_move_on() {
    let mut fixture = Fixture::new(&[("a.yaml", &(pod("a", "10.0.0.1") + &pod("b", "10.0.0.2")))]);
    fixture.write("a.yaml", &(pod("a", "10.0.0.x") + &pod("c", "10.0.0.3")));
    fixture.until(|fixture| !fixture.last.problems.is_empty());
    assert_eq!(fixture.pods(), ["a 10.0.0.1", "c 10.0.0.3"]);
    assert_eq!(
        fixture.problems(),
        ["a.yaml:5: error: Pod shop/a: status.podIP: '10.0.0.x' is not an IP address; write an IPv4 or IPv6 address"]
    );
    fixture.write("a.yaml", &pod("c", "10.0.0.3"));
    fixture.until(|fixture| fixture.last.problems.is_empty());
    assert_eq!(fixture.pods(), ["c 10.0.0.3"], "what is removed goes, valid or not");
}

#[test]
fn a_policy_that_was_never_valid_is_in_force_at_its_strictest_until_it_is() {
    let policy = |ports: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{action: DENY, rules: [{{to: [{{operation: {{ports: [{ports}]}}}}]}}]}}\n"
        )
    };
    let ports = |fixture: &Fixture| -> Option<usize> {
        fixture.last.changes.iter().find_map(|change| match change {
            Change::PutPolicy(policy) => Some(policy.rules[0].clauses.len()),
            _ => None,
        })
    };
    let mut fixture = Fixture::new(&[("p.yaml", &policy("http"))]);
    assert_eq!(ports(&fixture), Some(0), "no condition is left: all is denied");
    fixture.write("p.yaml", &policy("'80'"));
    fixture.until(|fixture| fixture.last.problems.is_empty());
    assert_eq!(ports(&fixture), Some(1));
    fixture.write("p.yaml", &policy("http"));
    fixture.until(|fixture| !fixture.last.problems.is_empty());
    assert_eq!(ports(&fixture), None, "the last valid version stays");
}

#[test]
fn of_an_object_in_two_files_the_first_file_by_name_counts() {
    let mut fixture = Fixture::new(&[("b.yaml", &pod("a", "10.0.0.2"))]);
    fixture.write("c.yaml", &pod("a", "10.0.0.3"));
    fixture.until(|fixture| !fixture.last.problems.is_empty());
    assert_eq!(fixture.pods(), ["a 10.0.0.2"]);
    assert_eq!(
        fixture.problems(),
        ["c.yaml:2: error: Pod shop/a: is in b.yaml:2 as well, and that one counts; keep one of the two"]
    );
    fixture.write("a.yaml", &pod("a", "10.0.0.1"));
    fixture.until(|fixture| fixture.pods() == ["a 10.0.0.1"]);
    assert_eq!(fixture.last.problems.len(), 2);
    fixture.remove("a.yaml");
    fixture.until(|fixture| fixture.pods() == ["a 10.0.0.2"]);
    fixture.write("b.yaml", "");
    fixture.until(|fixture| fixture.pods() == ["a 10.0.0.3"]);
    assert_eq!(fixture.problems(), [""; 0]);
}

#[test]
fn of_an_object_that_is_twice_in_a_file_the_first_counts() {
    let fixture = Fixture::new(&[("a.yaml", &(pod("a", "10.0.0.1") + &pod("a", "10.0.0.2")))]);
    assert_eq!(fixture.pods(), ["a 10.0.0.1"]);
    assert_eq!(
        fixture.problems(),
        ["a.yaml:7: error: Pod shop/a: is in a.yaml:2 as well, and that one counts; keep one of the two"]
    );
}

#[test]
fn an_object_that_moves_to_another_file_stays() {
    let mut fixture = Fixture::new(&[("a.yaml", &pod("a", "10.0.0.1"))]);
    let dir = fixture.dir.path();
    fs::rename(dir.join("a.yaml"), dir.join("z.yaml")).expect("the file can be renamed");
    fixture.write("b.yaml", &pod("b", "10.0.0.2"));
    fixture.until(|fixture| fixture.pods().len() == 2);
    let touched: Vec<_> = fixture.last.changes.iter().filter(|c| matches!(c, Change::RemoveWorkload(_))).collect();
    assert!(touched.is_empty(), "{touched:?}");
    assert_eq!(fixture.pods(), ["a 10.0.0.1", "b 10.0.0.2"]);
}

#[test]
fn local_pods_come_and_go_with_their_enrolment() {
    let local = |label: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: shop, labels: {{{label}}}, annotations: {{weft.dev/netns: /run/netns/a}}}}\n\
             spec: {{nodeName: n1}}\nstatus: {{podIP: 10.0.0.1}}\n"
        )
    };
    let mut fixture = Fixture::new(&[("a.yaml", &local(""))]);
    assert!(matches!(&fixture.last.local_pods[..], [pod] if !pod.enrolled));
    fixture.write("a.yaml", &local("istio.io/dataplane-mode: ambient"));
    fixture.until(|fixture| fixture.last.local_pods.iter().any(|pod| pod.enrolled));
    fixture.write("a.yaml", &local("istio.io/dataplane-mode: ambient").replace("weft.dev/netns", "weft.dev/other"));
    fixture.until(|fixture| fixture.last.local_pods.is_empty());
    let [problem] = &fixture.last.problems[..] else { panic!("{:?}", fixture.last.problems) };
    assert_eq!((problem.severity, problem.line), (Severity::Error, Some(1)));
    fixture.remove("a.yaml");
    fixture.until(|fixture| fixture.last.problems.is_empty());
}

#[test]
fn a_folder_that_goes_and_comes_back_leaves_all_in_force() {
    let mut fixture = Fixture::prepared(|dir| {
        fs::create_dir(dir.join("in")).expect("the folder can be made");
    });
    // The folder of interest is one that can be taken away.
    let inner = fixture.dir.path().join("in");
    let away = fixture.dir.path().join("away");
    fs::write(inner.join("a.yaml"), pod("a", "10.0.0.1")).expect("the file can be written");
    let (source, updates) =
        FileSource::start(SourceOptions::new(&inner, TranslationOptions::default())).expect("the folder is there");
    fixture.source = Some(source);
    fixture.updates = updates;
    fixture.next();
    fs::rename(&inner, &away).expect("the folder can be renamed");
    fixture.until(|fixture| !fixture.last.problems.is_empty());
    assert_eq!(fixture.pods(), ["a 10.0.0.1"]);
    assert!(fixture.problems()[0].contains("the folder cannot be read"), "{:?}", fixture.problems());
    fs::create_dir(&inner).expect("the folder can be made");
    fs::write(inner.join("a.yaml"), pod("a", "10.0.0.2")).expect("the file can be written");
    fixture.until(|fixture| fixture.pods() == ["a 10.0.0.2"]);
    assert_eq!(fixture.problems(), [""; 0]);
    fs::write(inner.join("a.yaml"), pod("a", "10.0.0.3")).expect("the file can be written");
    fixture.until(|fixture| fixture.pods() == ["a 10.0.0.3"]);
}

#[test]
fn the_source_ends_with_its_owner() {
    let mut fixture = Fixture::new(&[("a.yaml", &pod("a", "10.0.0.1"))]);
    // An update that nobody takes does not keep it either.
    for i in 0..20 {
        fixture.replace("a.yaml", &pod("a", &format!("10.0.1.{i}")));
    }
    drop(fixture.source.take());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    runtime.block_on(async { while fixture.updates.recv().await.is_some() {} });
}

#[test]
fn a_folder_that_is_not_there_or_a_bad_trust_domain_is_an_error() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let missing = FileSource::start(SourceOptions::new(dir.path().join("x"), TranslationOptions::default()));
    assert!(matches!(missing, Err(SourceError::Unreadable { .. })));
    let translation = TranslationOptions { trust_domain: "No/Domain".to_owned(), ..TranslationOptions::default() };
    let domain = FileSource::start(SourceOptions::new(dir.path(), translation));
    assert!(matches!(domain, Err(SourceError::TrustDomain { .. })));
}

#[test]
fn many_files_are_read_side_by_side() {
    let files: Vec<(String, String)> = (0..300)
        .map(|i| (format!("{i}.yaml"), pod(&format!("p{i}"), &format!("10.0.{}.{}", i / 250, i % 250))))
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(Fixture::new(&files).workloads.len(), 300);
}
