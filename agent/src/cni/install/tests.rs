use std::collections::BTreeMap;

use serde_json::Value;
use tempfile::TempDir;
use weft_runtime::Tasks;

use super::*;

/// A node with folders of its own.
struct Node {
    folder: TempDir,
}

const LIST: &str =
    "{\n  \"cniVersion\": \"0.4.0\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    { \"type\": \"ptp\" }\n  ]\n}\n";
const SINGLE: &str = "{\"cniVersion\": \"0.4.0\", \"name\": \"pods\", \"type\": \"bridge\", \"mtu\": 1.50e3}";

impl Node {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["conf", "bin", "state"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let node = Self { folder };
        for (name, text) in files {
            fs::write(node.conf(name), text).unwrap();
        }
        node
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn conf(&self, name: &str) -> PathBuf {
        self.dir("conf").join(name)
    }

    fn installation(&self) -> Installation {
        Installation {
            conf_dir: self.dir("conf"),
            bin_dir: self.dir("bin"),
            state_dir: self.dir("state"),
            admin_socket: self.dir("state").join("admin.sock"),
            namespaces: vec!["kube-system".to_owned()],
            kubeconfig: None,
        }
    }

    fn look(&self) -> Standing {
        Installer { installation: self.installation(), compared: None }.look().standing.expect("it can be installed")
    }

    fn uninstall(&self) -> Removed {
        uninstall(&self.dir("conf"), &self.dir("bin"), &self.dir("state")).expect("it can be removed")
    }

    /// All of the files of the configuration.
    fn files(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(self.dir("conf")).unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect()
    }

    fn types(&self, name: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(&fs::read_to_string(self.conf(name)).unwrap()).unwrap();
        let plugins = list["plugins"].as_array().unwrap();
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn it_goes_into_the_first_configuration_and_out_again_without_a_trace() {
    let node = Node::with(&[("10-pods.conflist", LIST), ("20-other.conflist", LIST), ("05-notes.txt", "x")]);
    let before = node.files();
    let path = node.conf("10-pods.conflist");
    assert_eq!(node.look(), Standing::Installed(path.clone()));
    assert_eq!(node.types("10-pods.conflist"), ["ptp", "weft-cni"]);
    assert_eq!(node.types("20-other.conflist"), ["ptp"]);
    assert_eq!(node.files().len(), before.len(), "nothing else is left in the folder");
    let list: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let state = node.dir("state");
    let expected = json!({
        "type": "weft-cni", "adminSocket": state.join("admin.sock"), "kubeconfig": state.join("cni-kubeconfig"),
        "namespaces": ["kube-system"],
    });
    assert_eq!(list["plugins"][1], expected);
    assert_eq!(node.look(), Standing::Kept(path));

    let binary = node.dir("bin").join("weft-cni");
    assert!(is_same(Path::new("/proc/self/exe"), &binary).unwrap());
    assert_eq!(fs::metadata(&binary).unwrap().permissions().mode() & 0o7777, 0o755);

    // An agent was killed while it wrote.
    fs::write(node.conf(".weft-cni-10-pods.conflist.7.tmp"), "{").unwrap();
    fs::write(node.dir("bin").join(".weft-cni-weft-cni.7.tmp"), "x").unwrap();
    assert_eq!(node.uninstall(), Removed { networks: 1, files: 1 });
    assert_eq!(node.files(), before);
    assert_eq!(fs::read_dir(node.dir("bin")).unwrap().count(), 0);
    assert_eq!(node.uninstall(), Removed::default(), "a second time there is nothing to do");
}

#[test]
fn a_single_plug_in_becomes_a_list_and_comes_back() {
    for name in ["10-pods.conf", "10-pods.json"] {
        let node = Node::with(&[(name, SINGLE), ("20-other.conflist", LIST)]);
        let before = node.files();
        assert_eq!(node.look(), Standing::Installed(node.conf("10-pods.conflist")));
        assert_eq!(node.types("10-pods.conflist"), ["bridge", "weft-cni"]);
        assert!(!node.conf(name).exists());
        assert_eq!(node.look(), Standing::Kept(node.conf("10-pods.conflist")));
        node.uninstall();
        assert_eq!(node.files(), before, "{name}");
    }
}

#[test]
fn a_single_plug_in_that_its_owner_writes_anew_becomes_a_list_anew() {
    let node = Node::with(&[("10-pods.conf", SINGLE)]);
    node.look();
    let newer = SINGLE.replace("bridge", "macvlan");
    fs::write(node.conf("10-pods.conf"), &newer).unwrap();
    assert_eq!(node.look(), Standing::Installed(node.conf("10-pods.conflist")));
    assert_eq!(node.types("10-pods.conflist"), ["macvlan", "weft-cni"]);
    // Written once more, with nobody there to see it.
    fs::write(node.conf("10-pods.conf"), SINGLE).unwrap();
    node.uninstall();
    assert_eq!(node.files(), BTreeMap::from([("10-pods.conf".to_owned(), SINGLE.to_owned())]));
}

#[test]
fn a_new_first_configuration_gets_it_as_well_and_all_lose_it() {
    let node = Node::with(&[("10-pods.conflist", LIST)]);
    node.look();
    fs::write(node.conf("05-new.conflist"), LIST.replace("ptp", "new")).unwrap();
    assert_eq!(node.look(), Standing::Installed(node.conf("05-new.conflist")));
    assert_eq!(node.uninstall().networks, 2);
    assert_eq!(
        (node.types("05-new.conflist"), node.types("10-pods.conflist")),
        (vec!["new".into()], vec!["ptp".into()])
    );
}

#[test]
fn what_no_runtime_would_use_is_passed_over_and_nothing_of_it_changed() {
    let broken = "{\"name\": \"pods\", \"plugins\": [";
    let node = Node::with(&[("00-broken.conflist", broken), ("01-old.conf", "{\"type\": \"x\"}")]);
    assert_eq!(node.look(), Standing::Waiting);
    fs::write(node.conf("10-pods.conflist"), LIST).unwrap();
    let mut installer = Installer { installation: node.installation(), compared: None };
    let look = installer.look();
    assert_eq!(look.standing.unwrap(), Standing::Installed(node.conf("10-pods.conflist")));
    assert!(look.notes.iter().any(|note| note.contains("00-broken.conflist is passed over")), "{:?}", look.notes);
    assert_eq!(node.files()["00-broken.conflist"], broken);
}

#[test]
fn another_version_of_the_binary_is_replaced() {
    let node = Node::with(&[]);
    let binary = node.dir("bin").join("weft-cni");
    let mut installer = Installer { installation: node.installation(), compared: None };
    for other in ["#!/bin/sh\n", "#!/bin/sh -e\n"] {
        fs::write(&binary, other).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let standing = installer.look().standing.unwrap();
        assert_eq!(standing, Standing::Waiting, "the binary is there before any configuration names it");
        assert!(is_same(Path::new("/proc/self/exe"), &binary).unwrap());
    }
}

#[test]
fn the_mode_of_a_configuration_stays() {
    let node = Node::with(&[("10-pods.conflist", LIST)]);
    let path = node.conf("10-pods.conflist");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    node.look();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
}

#[test]
fn two_that_undo_each_others_work_do_so_ever_more_seldom() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    let first = pace.pause(start);
    assert!(first <= PAUSES.0);
    let mut last = first;
    for _ in 0..20 {
        last = pace.pause(start);
    }
    assert!(last >= PAUSES.1 / 2, "{last:?}");
    assert!(pace.pause(start + CALM + Duration::from_secs(1)) <= PAUSES.0, "calm came");
}

#[tokio::test]
async fn while_it_is_kept_a_rewrite_is_undone_and_the_end_leaves_it() {
    let node = Node::with(&[]);
    let tasks = Tasks::new();
    tasks.spawn("cni", keep(node.installation(), tasks.shutdown()));
    let installed = async |text: &str| {
        // As installers do it: a file beside it, renamed.
        fs::write(node.conf("new"), text).unwrap();
        fs::rename(node.conf("new"), node.conf("10-pods.conflist")).unwrap();
        while node.types("10-pods.conflist").last().unwrap() != "weft-cni" {
            sleep(Duration::from_millis(10)).await;
        }
    };
    for plugin in ["ptp", "bridge", "macvlan"] {
        tokio::time::timeout(Duration::from_secs(20), installed(&LIST.replace("ptp", plugin))).await.expect("restored");
        assert_eq!(node.types("10-pods.conflist"), [plugin, "weft-cni"]);
    }
    assert!(tasks.drain(Duration::from_secs(5)).await.aborted.is_empty());
    assert_eq!(node.types("10-pods.conflist"), ["macvlan", "weft-cni"]);
}
