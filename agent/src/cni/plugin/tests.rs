use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::admin::tests::Running;
use crate::sandbox::{BoxFuture, Sandboxes};

/// A result with what a careless copy would lose: order, a number's form, an escape, fields of other specifications.
const RESULT: &str = r#"{ "cniVersion":"1.0.0", "zeta":1.50, "big":12345678901234567890123,
  "ips":[{"address":"10.1.0.7/24","gateway":"10.1.0.1"},{"address":"fd00::7/64"}], "interfaces":[],"dns":{"x":"\u00e9"}}"#;

fn call(command: &str, namespace: &str, input: &str) -> (String, bool) {
    let arguments = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web;K8S_POD_UID=u-1");
    let variables = HashMap::from([
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", "c1".to_owned()),
        ("CNI_NETNS", "/run/netns/c1".to_owned()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_ARGS", arguments),
    ]);
    let (output, code) = answer(|name| variables.get(name).cloned(), input.as_bytes());
    (output, code == ExitCode::SUCCESS)
}

/// A network whose agent would keep its socket in `folder`.
fn network(folder: &Path, version: &str, more: &str) -> String {
    let socket = folder.join("admin.sock");
    format!(
        r#"{{"cniVersion":"{version}","name":"pods","type":"weft-cni","adminSocket":{socket:?},
           "namespaces":["kube-system"]{more}}}"#
    )
}

fn with_result(folder: &Path) -> String {
    network(folder, "1.0.0", &format!(",\"prevResult\":{RESULT}"))
}

fn failure(output: &str) -> Value {
    serde_json::from_str(output).expect("an error in JSON")
}

#[test]
fn a_pod_outside_is_passed_on_to_the_byte_while_the_agent_is_away() {
    let folder = TempDir::new().unwrap();
    let mut known = crate::cni::Remembered::default();
    known.note_label("bank", false);
    known.write(&crate::cni::Remembered::path(folder.path())).unwrap();
    for namespace in ["bank", "kube-system"] {
        assert_eq!(call("ADD", namespace, &with_result(folder.path())), (RESULT.to_owned(), true), "{namespace}");
    }
}

#[test]
fn a_container_that_is_no_pod_is_passed_on() {
    let folder = TempDir::new().unwrap();
    let variables = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")];
    let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let (output, code) = answer(variable, with_result(folder.path()).as_bytes());
    assert_eq!((output.as_str(), code), (RESULT, ExitCode::SUCCESS));
}

#[test]
fn a_pod_of_the_mesh_is_refused_while_the_agent_is_away_and_told_why() {
    let folder = TempDir::new().unwrap();
    let mut known = crate::cni::Remembered::default();
    known.note_label("shop", true);
    known.write(&crate::cni::Remembered::path(folder.path())).unwrap();
    for (namespace, words) in [("shop", "belongs to the mesh"), ("unheard-of", "may belong to the mesh")] {
        let (output, is_success) = call("ADD", namespace, &with_result(folder.path()));
        let error = failure(&output);
        assert!(!is_success);
        assert_eq!((&error["code"], &error["cniVersion"]), (&json!(11), &json!("1.0.0")));
        let message = error["msg"].as_str().expect("a message");
        assert!(message.starts_with("the Weft agent of this node is not running"), "{message}");
        assert!(message.contains(words) && message.contains("weft-agent"), "{message}");
        assert!(error["details"].as_str().expect("details").contains("there is no socket"), "{error}");
    }
}

#[test]
fn a_pod_can_be_removed_and_the_node_is_ready_while_the_agent_is_away() {
    let folder = TempDir::new().unwrap();
    let nothing = (String::new(), true);
    assert_eq!(call("DEL", "shop", &network(folder.path(), "0.3.1", "")), nothing);
    assert_eq!(call("CHECK", "shop", &with_result(folder.path())), nothing);
    assert_eq!(call("STATUS", "shop", &network(folder.path(), "1.1.0", "")), nothing);
    let attachments = r#","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]"#;
    assert_eq!(call("GC", "shop", &network(folder.path(), "1.1.0", attachments)), nothing);
}

#[test]
fn the_versions_are_those_in_which_plug_ins_are_chained() {
    let (output, is_success) = call("VERSION", "shop", "{\"cniVersion\": \"1.1.0\"}");
    let expected = json!({ "cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] });
    assert_eq!((failure(&output), is_success), (expected, true));
    assert!(call("VERSION", "shop", "").1, "who asks need not say a version");
}

#[test]
fn what_cannot_be_right_is_refused_with_the_specifications_codes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let cases = [
        ("ADD", String::new(), 6),
        ("ADD", "[]".to_owned(), 6),
        ("ADD", "{\"cniVersion\": 1}".to_owned(), 6),
        ("ADD", "{}".to_owned(), 1),
        ("ADD", network(path, "0.2.0", ""), 1),
        ("ADD", network(path, "2.0.0", ""), 1),
        ("ADD", "{\"cniVersion\":\"1.0.0\",\"adminSocket\":\"/a\"}".to_owned(), 7),
        ("ADD", "{\"cniVersion\":\"1.0.0\",\"name\":\"pods\",\"adminSocket\":\"a\"}".to_owned(), 7),
        ("ADD", network(path, "1.0.0", ""), 7),
        ("ADD", network(path, "1.0.0", ",\"prevResult\":null"), 7),
        ("ADD", network(path, "1.0.0", ",\"prevResult\":[]"), 6),
        ("ADD", network(path, "1.0.0", ",\"prevResult\":{\"ips\":[{\"address\":\"ten\"}]}"), 6),
        ("ADD", network(path, "1.0.0", ",\"name\":\"again\""), 6),
        ("CHECK", network(path, "0.3.1", ""), 1),
        ("STATUS", network(path, "1.0.0", ""), 1),
        ("GC", network(path, "1.0.0", ""), 1),
        ("GC", network(path, "1.1.0", ""), 7),
        ("GC", network(path, "1.1.0", ",\"cni.dev/valid-attachments\":[{\"containerID\":\"../x\"}]"), 7),
        ("EAT", network(path, "1.0.0", ""), 4),
    ];
    for (command, input, code) in cases {
        let (output, is_success) = call(command, "shop", &input);
        assert!(!is_success, "{command} {input}");
        assert_eq!(failure(&output)["code"], json!(code), "{command} {input}: {output}");
    }
}

#[test]
fn each_call_leaves_a_line_in_the_log() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");
    let more = format!(",\"logFile\":{log:?},\"prevResult\":{RESULT}");
    call("ADD", "kube-system", &network(folder.path(), "1.0.0", &more));
    call("ADD", "shop", &network(folder.path(), "1.0.0", &more));
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].ends_with(" ADD pod kube-system/web: ok"), "{log}");
    assert!(lines[1].contains(" ADD pod shop/web: the Weft agent of this node is not running"), "{log}");
}

/// What an agent makes of pods, by their namespaces: "shop" is captured, "bank" outside, and the rest cannot be.
struct Made;

impl Sandboxes for Made {
    fn add(&self, sandbox: Sandbox) -> BoxFuture<'_, Result<Verdict, String>> {
        Box::pin(std::future::ready(match sandbox.namespace.as_str() {
            "shop" => {
                let addresses: Vec<String> = sandbox.addresses.iter().map(ToString::to_string).collect();
                assert_eq!(addresses, ["10.1.0.7", "fd00::7"]);
                assert_eq!((sandbox.uid.as_str(), sandbox.netns.to_str()), ("u-1", Some("/run/netns/c1")));
                Ok(Verdict::Enrolled)
            }
            "bank" => Ok(Verdict::NotInMesh),
            _ => Err("there is no certificate".to_owned()),
        }))
    }

    fn remove<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    fn check(&self, sandbox: Sandbox) -> BoxFuture<'_, Result<Verdict, String>> {
        self.add(sandbox)
    }

    fn retain(&self, containers: BTreeSet<String>) -> BoxFuture<'_, ()> {
        assert_eq!(containers, BTreeSet::from(["c1".to_owned()]));
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn the_agents_word_decides() {
    let running = Running::with(Some(Arc::new(Made)));
    let folder = running.folder.path().to_owned();
    // The plug-in blocks, as one that is a process of its own may.
    let outcomes = tokio::task::spawn_blocking(move || {
        let mut known = crate::cni::Remembered::default();
        known.note_label("outside", false);
        known.write(&crate::cni::Remembered::path(&folder)).unwrap();
        let outcome = |command: &str, namespace: &str| call(command, namespace, &with_result(&folder));
        let attachments = r#","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]"#;
        let outcomes = [
            outcome("ADD", "shop"),
            outcome("ADD", "bank"),
            outcome("ADD", "outside"),
            outcome("ADD", "other"),
            outcome("CHECK", "shop"),
            outcome("CHECK", "other"),
            outcome("DEL", "other"),
            call("GC", "shop", &network(&folder, "1.1.0", attachments)),
        ];
        let known = crate::cni::Remembered::read(&crate::cni::Remembered::path(&folder));
        assert_eq!(known.is_member("shop"), Some(true), "what the agent said is remembered");
        outcomes
    })
    .await
    .unwrap();
    let [shop, bank, outside, other, checked, lost, removed, collected] = outcomes;
    for passed in [shop, bank, outside] {
        assert_eq!(passed, (RESULT.to_owned(), true));
    }
    for (refused, code) in [(&other, 100), (&lost, 101)] {
        assert!(!refused.1);
        let error = failure(&refused.0);
        assert_eq!(error["code"], json!(code));
        assert!(error["details"].as_str().is_some_and(|why| why.contains("there is no certificate")), "{error}");
    }
    for silent in [checked, removed, collected] {
        assert_eq!(silent, (String::new(), true));
    }
}

#[test]
fn whatever_a_runtime_writes_is_read_or_refused_with_a_code() {
    let network = with_result(Path::new("/state"));
    let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u-1";
    let mut state = 1_u64;
    let mut draw = |below: usize| {
        // Knuth's MMIX generator: its upper bits are good enough to choose a byte.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    let (mut read, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let (mut network, mut arguments) = (network.as_bytes().to_vec(), arguments.as_bytes().to_vec());
        for bytes in [&mut network, &mut arguments] {
            let (at, byte) = (draw(bytes.len()), b"{}[],:;=\"\\/. 0a\xff"[draw(16)]);
            match draw(3) {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        let outcomes = [
            NetworkConfig::read(&network).and_then(|config| config.previous().map(drop)),
            PodArguments::read(&String::from_utf8_lossy(&arguments)).map(drop),
        ];
        for outcome in outcomes {
            match outcome {
                Ok(()) => read += 1,
                Err(failure) => {
                    assert!([1, 4, 6, 7].contains(&failure.code), "{failure}");
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 1000 && refused > 1000, "{read} were read, {refused} refused");
}
