//! The plug-in's way to the API server: the agent's own service account, in a file.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// Where a pod finds its service account.
pub(super) const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A kubeconfig in JSON, which is YAML as well. The token is the one that is there now: it is rotated long before it
/// ends, and ends with the agent's pod.
///
/// # Errors
/// This is no pod, or its account cannot be read.
pub(super) fn write(account: &Path, variable: impl Fn(&str) -> Option<String>) -> io::Result<String> {
    let missing = |name: &str| io::Error::new(io::ErrorKind::NotFound, format!("{name} is not set: is this a pod?"));
    let needed = |name: &str| variable(name).filter(|value| !value.is_empty()).ok_or_else(|| missing(name));
    let (host, port) = (needed("KUBERNETES_SERVICE_HOST")?, needed("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let read = |name: &str| {
        let path = account.join(name);
        fs::read(&path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    let token = String::from_utf8(read("token")?).map_err(|_| io::Error::other("the token is not text"))?;
    let cluster = json!({
        "server": format!("https://{host}:{port}"),
        "certificate-authority-data": STANDARD.encode(read("ca.crt")?),
    });
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "cluster", "cluster": cluster }],
        "users": [{ "name": "weft-cni", "user": { "token": token.trim() } }],
        "contexts": [{ "name": "weft-cni", "context": { "cluster": "cluster", "user": "weft-cni" } }],
        "current-context": "weft-cni",
    });
    Ok(format!("{kubeconfig:#}\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn it_names_the_api_server_and_shows_the_account() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("token"), "secret\n").unwrap();
        fs::write(folder.path().join("ca.crt"), "-----").unwrap();
        let variable = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some("fd00::1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
            _ => None,
        };
        let kubeconfig: Value = serde_json::from_str(&write(folder.path(), variable).unwrap()).unwrap();
        assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], json!("https://[fd00::1]:443"));
        assert_eq!(kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"], json!("LS0tLS0="));
        assert_eq!(kubeconfig["users"][0]["user"]["token"], json!("secret"));

        let error = write(folder.path(), |_| None).unwrap_err().to_string();
        assert!(error.contains("is this a pod?"), "{error}");
        let error = write(Path::new("/nowhere"), variable).unwrap_err().to_string();
        assert!(error.contains("/nowhere/token"), "{error}");
    }
}
