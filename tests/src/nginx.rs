//! A real web server in a pod.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::pod::Pod;
use crate::process::Process;
use crate::wait::eventually;

/// Serves `root` with nginx on a port of all addresses of a pod, taking uploads by PUT, and waits until it answers. Its
/// access log goes to standard output, a line for each request, with the client's address first.
///
/// # Errors
/// nginx is not installed (Debian: `nginx-light`), or does not come up.
pub fn nginx(pod: &Pod, port: u16, root: &Path) -> Result<Process> {
    let work = pod.folder()?.join(format!("nginx-{port}"));
    fs::create_dir_all(&work)?;
    let configuration = format!(
        "daemon off;
user root;
worker_processes 1;
pid {work}/pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    log_format plain '$remote_addr:$remote_port \"$request\" $status $body_bytes_sent';
    access_log /dev/stdout plain;
    client_max_body_size 0;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{
        listen 0.0.0.0:{port};
        listen [::]:{port};
        location / {{ root {root}; dav_methods PUT; }}
    }}
}}
",
        work = work.display(),
        root = root.display(),
    );
    let file = work.join("nginx.conf");
    fs::write(&file, configuration).with_context(|| format!("writing {}", file.display()))?;
    let mut nginx = pod
        .spawn(&["nginx", "-c", &file.to_string_lossy(), "-e", "stderr"])
        .context("is nginx installed (Debian: nginx-light)?")?;
    eventually(&format!("nginx of {} listens", pod.name()), || {
        anyhow::ensure!(nginx.is_running()?, "nginx ended: {}", nginx.stderr());
        Ok(pod.listens_on(port)?.then_some(()))
    })?;
    Ok(nginx)
}
