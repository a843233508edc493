//! The kubelet's cgroup, found by itself: what comes from there are probes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{PROC, processes};
use crate::capture::Capture;
use crate::duty::Duty;

/// How often the kubelet is looked for: its cgroup is another one after each of its restarts.
const INTERVAL: Duration = Duration::from_secs(5);

/// Looks for the kubelet from time to time, and tells capture which its cgroup is. A task without end. While there is none,
/// probes are judged like any plaintext connection.
pub async fn follow_kubelet(capture: Arc<Capture>, cgroup_root: PathBuf, duty: Duty) {
    let mut interval = tokio::time::interval(INTERVAL);
    let mut said = String::new();
    loop {
        interval.tick().await;
        let act = duty.act().await;
        if act.number().is_none() {
            continue;
        }
        let (capture, root) = (Arc::clone(&capture), cgroup_root.clone());
        let found = tokio::task::spawn_blocking(move || {
            let cgroup = processes::kubelet_cgroup(Path::new(PROC), &root)?;
            capture.set_probe_cgroup(Some(cgroup.clone())).map_err(|error| error.to_string())?;
            Ok::<_, String>(cgroup)
        });
        let news = match found.await {
            Ok(Ok(cgroup)) => format!("{}", cgroup.display()),
            Ok(Err(reason)) => reason,
            Err(error) => error.to_string(),
        };
        if news != said {
            if news.starts_with('/') {
                tracing::info!(cgroup = news, "probes come from the kubelet's cgroup");
            } else {
                tracing::warn!(reason = news, "probes are judged like any connection");
            }
            said = news;
        }
    }
}
