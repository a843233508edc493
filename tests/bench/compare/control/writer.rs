//! Writes objects through the API, many at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Client;
use serde_json::Value;
use tokio::task::JoinSet;

use super::cluster::client;
use super::objects::Object;

/// How often it is told how far it is.
const PROGRESS: Duration = Duration::from_secs(15);

/// Makes objects of numbers.
type Make = Arc<dyn Fn(usize) -> Object + Send + Sync>;

/// Writes with so many connections.
#[derive(Clone)]
pub struct Writer {
    kubeconfig: PathBuf,
    connections: usize,
    client: Client,
}

impl Writer {
    /// A writer that is whoever the file says.
    pub async fn new(kubeconfig: &Path, connections: usize) -> Result<Self> {
        Ok(Self { kubeconfig: kubeconfig.to_owned(), connections, client: client(kubeconfig).await? })
    }

    /// Creates the objects of these numbers and says so; returns how many a second.
    pub async fn create_all(
        &self,
        what: &str,
        numbers: std::ops::Range<usize>,
        make: impl Fn(usize) -> Object + Send + Sync + 'static,
    ) -> Result<f64> {
        let (start, count) = (Instant::now(), numbers.len());
        let (make, next): (Make, _) = (Arc::new(make), Arc::new(AtomicUsize::new(numbers.start)));
        let mut workers: JoinSet<Result<()>> = JoinSet::new();
        for _ in 0..self.connections.min(count) {
            let (make, next, end) = (Arc::clone(&make), Arc::clone(&next), numbers.end);
            let own = Self { client: client(&self.kubeconfig).await?, ..self.clone() };
            workers.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return Ok(());
                    }
                    own.create(&make(number)).await?;
                }
            });
        }
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS, PROGRESS);
        loop {
            tokio::select! {
                ended = workers.join_next() => match ended {
                    Some(result) => result.context("a writer panicked")?.with_context(|| format!("writing {what}"))?,
                    None => break,
                },
                _ = tick.tick() => {
                    let done = next.load(Ordering::Relaxed).min(numbers.end) - numbers.start;
                    let rate = done as f64 / start.elapsed().as_secs_f64();
                    eprintln!("  {what}: {done} of {count}, {rate:.0} a second");
                }
            }
        }
        let rate = count as f64 / start.elapsed().as_secs_f64();
        eprintln!("  {what}: {count}, {rate:.0} a second");
        Ok(rate)
    }

    /// Creates an object, and then its status if it has one. Returns it as the API server has it.
    pub async fn create(&self, object: &Object) -> Result<Value> {
        let created = self.send("POST", &object.path, &object.body).await?;
        if object.has_status {
            self.put_status(object).await?;
        }
        Ok(serde_json::from_str(&created)?)
    }

    /// Replaces an object.
    pub async fn put(&self, object: &Object) -> Result<()> {
        self.send("PUT", &format!("{}/{}", object.path, object.name), &object.body).await.map(drop)
    }

    /// Replaces an object's status.
    pub async fn put_status(&self, object: &Object) -> Result<()> {
        self.send("PUT", &format!("{}/{}/status", object.path, object.name), &object.body).await.map(drop)
    }

    /// Posts something to a path; returns the answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        Ok(serde_json::from_str(&self.send("POST", path, body).await?)?)
    }

    /// What is there, if it is.
    pub async fn get(&self, path: &str) -> Option<Value> {
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        serde_json::from_str(&self.client.request_text(request).await.ok()?).ok()
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Result<String> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(serde_json::to_vec(body)?)?;
        self.client.request_text(request).await.with_context(|| format!("{method} {path}"))
    }
}
