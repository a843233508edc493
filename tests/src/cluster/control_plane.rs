//! The machine with etcd, API server, controllers and scheduler, and everybody's credentials.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::kit::Kit;
use super::machine::{Machine, Service};
use super::plan::{API_SERVICE, DOMAIN, Plan, SERVICE_RANGES, fabric_addresses};

/// The group and name that kube-proxy's role is bound to.
const PROXY: &str = "system:kube-proxy";

/// Makes credentials and starts the machine. The API server is not up yet when this returns.
pub(super) fn start(machine: &Machine, plan: &Plan, kit: &Kit) -> Result<()> {
    machine.make_folder()?;
    certificates(plan, kit)?;
    let mut tokens = String::new();
    let mut user = |name: &str, identity: &str, group: &str| -> Result<()> {
        let token = random()?;
        tokens.push_str(&format!("{token},{identity},{name},{group}\n"));
        write_secret(&token_file(plan, name), &token)?;
        write_secret(&plan.kubeconfig(name), &kubeconfig(plan, name, &token))
    };
    user("admin", "admin", "system:masters")?;
    user("controllers", "system:kube-controller-manager", "system:controllers")?;
    user("scheduler", "system:kube-scheduler", "system:schedulers")?;
    user("proxy", PROXY, "system:proxies")?;
    for node in plan.nodes() {
        user(&node, &format!("system:node:{node}"), "system:nodes")?;
    }
    write_secret(&plan.folder().join("tokens.csv"), &tokens)?;
    machine.start(kit, Vec::new(), services(machine, plan, kit))
}

/// A user's token.
pub(super) fn token(plan: &Plan, user: &str) -> Result<String> {
    let file = token_file(plan, user);
    fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
}

fn token_file(plan: &Plan, user: &str) -> std::path::PathBuf {
    plan.folder().join(format!("{user}.token"))
}

fn services(machine: &Machine, plan: &Plan, kit: &Kit) -> Vec<Service> {
    let kubernetes = kit.kubernetes();
    let file = |name: &str| plan.folder().join(name).display().to_string();
    let service = |name: &str, flags: &[(&str, &str)]| {
        let flags = flags.iter().map(|(flag, value)| format!("--{flag}={value}"));
        Service::new(name, &kubernetes, [name.to_owned()].into_iter().chain(flags))
    };
    let kubeconfig = |user| plan.kubeconfig(user).display().to_string();
    let ready = plan.api_server_mark();
    let data = machine.folder().join("etcd").display().to_string();
    vec![
        // Its data need not survive a loss of power of this machine, which would take the cluster along.
        service("etcd", &[("data-dir", &data), ("unsafe-no-fsync", "true"), ("log-level", "warn")]),
        service(
            "kube-apiserver",
            &[
                ("etcd-servers", "http://127.0.0.1:2379"),
                ("advertise-address", &fabric_addresses(0).0.to_string()),
                ("service-cluster-ip-range", SERVICE_RANGES),
                ("tls-cert-file", &file("apiserver.crt")),
                ("tls-private-key-file", &file("apiserver.key")),
                ("client-ca-file", &file("ca.crt")),
                ("token-auth-file", &file("tokens.csv")),
                ("authorization-mode", "Node,RBAC"),
                ("enable-admission-plugins", "NodeRestriction"),
                ("allow-privileged", "true"),
                // The names of nodes are known to nobody here.
                ("kubelet-preferred-address-types", "InternalIP"),
                ("service-account-issuer", &format!("https://kubernetes.default.svc.{DOMAIN}")),
                ("service-account-key-file", &file("service-accounts.key")),
                ("service-account-signing-key-file", &file("service-accounts.key")),
            ],
        ),
        service(
            "kube-controller-manager",
            &[
                ("kubeconfig", &kubeconfig("controllers")),
                ("leader-elect", "false"),
                ("use-service-account-credentials", "true"),
                ("service-account-private-key-file", &file("service-accounts.key")),
                ("root-ca-file", &file("ca.crt")),
                ("cluster-signing-cert-file", &file("ca.crt")),
                ("cluster-signing-key-file", &file("ca.key")),
            ],
        )
        .after(&ready),
        service("kube-scheduler", &[("kubeconfig", &kubeconfig("scheduler")), ("leader-elect", "false")]).after(&ready),
    ]
}

fn certificates(plan: &Plan, kit: &Kit) -> Result<()> {
    let (v4, v6) = fabric_addresses(0);
    let mut command = Command::new(kit.kubernetes());
    command.arg("certificates").arg(plan.folder());
    command.args([v4.to_string(), v6.to_string(), "127.0.0.1".into(), "localhost".into()]).args(API_SERVICE);
    command.args(["kubernetes", "kubernetes.default", "kubernetes.default.svc"]);
    command.arg(format!("kubernetes.default.svc.{DOMAIN}"));
    let output = command.output().with_context(|| format!("starting {}", kit.kubernetes().display()))?;
    ensure!(output.status.success(), "making certificates: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What a client needs, in JSON, which is YAML as well.
fn kubeconfig(plan: &Plan, user: &str, token: &str) -> String {
    let server = format!("https://{}:6443", fabric_addresses(0).0);
    let name = plan.name();
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority": plan.folder().join("ca.crt"),
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    });
    format!("{config:#}\n")
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("making {}", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// A token that nobody in the cluster guesses.
fn random() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes).context("reading /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
