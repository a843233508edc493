//! A real web server in a pod.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::pod::Pod;
use crate::process::Process;
use crate::wait::eventually;

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    log: PathBuf,
}

impl Nginx {
    /// What it has logged: a line for each request that is complete, with the client's address and port first.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Serves `root` with nginx on a port of all addresses of a pod, taking uploads by PUT, and waits until it answers.
///
/// # Errors
/// nginx is not installed (Debian: `nginx-light`), or does not come up.
pub fn nginx(pod: &Pod, port: u16, root: &Path) -> Result<Nginx> {
    let work = pod.folder()?.join(format!("nginx-{port}"));
    fs::create_dir_all(&work)?;
    let log = work.join("access.log");
    let configuration = format!(
        "daemon off;
user root;
worker_processes 1;
pid {work}/pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    log_format plain '$remote_addr:$remote_port \"$request\" $status $body_bytes_sent';
    access_log {log} plain;
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
        log = log.display(),
        root = root.display(),
    );
    let file = work.join("nginx.conf");
    fs::write(&file, configuration).with_context(|| format!("writing {}", file.display()))?;
    let mut command = pod.command("nginx")?;
    command.arg("-c").arg(&file).args(["-e", "stderr"]);
    let errors = work.join("errors.log");
    let mut process =
        Process::spawn_logging_to(command, &errors).context("is nginx installed (Debian: nginx-light)?")?;
    eventually(&format!("nginx of {} listens", pod.name()), || {
        anyhow::ensure!(process.is_running()?, "nginx ended: {}", process.stderr());
        Ok(pod.listens_on(port)?.then_some(()))
    })?;
    Ok(Nginx { process, log })
}
