//! An etcd and an API server, and nothing else of Kubernetes: nobody runs the pods, nobody changes them but this program.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use weft_tests::cluster::Kit;
use weft_tests::{Node, Process};

/// The virtual addresses of services.
const SERVICE_RANGE: &str = "10.96.0.0/12";
/// Room for the data of a large cluster, in bytes: etcd stops to take writes at 2 GB otherwise.
const ETCD_QUOTA: &str = "8589934592";
/// How long a start may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// A control plane without controllers. Its processes end, and its files go, with the world that it is in.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    api_server: Process,
    _etcd: Process,
}

impl Cluster {
    /// Starts both on a node and waits until the API server is ready. Istio's definitions are there.
    pub fn start(node: &Node, folder: PathBuf, kit: &Kit) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let address = node.addresses()[0];
        let kubernetes = kit.kubernetes().to_string_lossy().into_owned();
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc", &address.to_string()].map(str::to_owned);
        let certificates = [kubernetes.clone(), "certificates".to_owned(), folder.display().to_string()];
        let certificates: Vec<String> = certificates.into_iter().chain(names).collect();
        node.run(&certificates.iter().map(String::as_str).collect::<Vec<_>>())?.success()?;
        let mut tokens = String::new();
        for (user, group) in [("admin", "system:masters"), ("weft-controller", "system:masters")] {
            let token = random()?;
            tokens += &format!("{token},{user},{user},{group}\n");
            fs::write(folder.join(format!("{user}.kubeconfig")), kubeconfig(&folder, address, user, &token))?;
        }
        fs::write(folder.join("tokens.csv"), tokens)?;
        let spawn = |component: &str, flags: &[(&str, &str)]| -> Result<Process> {
            let mut command = node.command(&kubernetes)?;
            command.arg(component).args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
            Process::spawn_logging_to(command, &folder.join(format!("{component}.log")))
        };
        let file = |name: &str| folder.join(name).display().to_string();
        let etcd = spawn(
            "etcd",
            &[
                ("data-dir", &file("etcd")),
                // Its data need not survive this program.
                ("unsafe-no-fsync", "true"),
                ("quota-backend-bytes", ETCD_QUOTA),
                ("log-level", "warn"),
            ],
        )?;
        let api_server = spawn(
            "kube-apiserver",
            &[
                ("etcd-servers", "http://127.0.0.1:2379"),
                ("advertise-address", &address.to_string()),
                ("service-cluster-ip-range", SERVICE_RANGE),
                ("tls-cert-file", &file("apiserver.crt")),
                ("tls-private-key-file", &file("apiserver.key")),
                ("client-ca-file", &file("ca.crt")),
                ("token-auth-file", &file("tokens.csv")),
                ("authorization-mode", "RBAC"),
                ("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
                ("service-account-key-file", &file("service-accounts.key")),
                ("service-account-signing-key-file", &file("service-accounts.key")),
            ],
        )?;
        let mut cluster = Self { folder, api_server, _etcd: etcd };
        cluster.wait(node)?;
        let definitions = kit.definitions().join("istio.yaml");
        let (kubeconfig, definitions) = (cluster.kubeconfig("admin"), definitions.display().to_string());
        let apply =
            ["--kubeconfig", &kubeconfig.display().to_string(), "create", "-f", &definitions].map(str::to_owned);
        let apply = [kubernetes, "kubectl".to_owned()].into_iter().chain(apply).collect::<Vec<_>>();
        node.run(&apply.iter().map(String::as_str).collect::<Vec<_>>())?.success()?;
        Ok(cluster)
    }

    /// The file that says where the API server is, and who this user is.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.kubeconfig"))
    }

    fn wait(&mut self, node: &Node) -> Result<()> {
        let start = Instant::now();
        let kubeconfig = self.kubeconfig("admin");
        loop {
            let answer = node.enter(|| -> Result<String> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let request = http::Request::get("/readyz").body(Vec::new())?;
                    Ok(client(&kubeconfig).await?.request_text(request).await?)
                })
            });
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => {
                    bail!("the API server is not ready after {PATIENCE:?}: {error:#}\n{}", self.api_server.stderr())
                }
                Err(_) => {}
            }
            ensure!(self.api_server.is_running()?, "the API server has ended:\n{}", self.api_server.stderr());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A client with connections of its own. It must be used where the API server is to be reached.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// What a client needs, in JSON, which is YAML as well.
fn kubeconfig(folder: &Path, address: IpAddr, user: &str, token: &str) -> String {
    let config: Value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": {
            "server": format!("https://{address}:6443"),
            "certificate-authority": folder.join("ca.crt"),
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": user}}],
        "current-context": "bench",
    });
    format!("{config:#}\n")
}

fn random() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes).context("reading /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
