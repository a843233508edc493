//! Who calls: bearer tokens, and a file of them for hosts without Kubernetes.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest;
use hashbrown::HashMap;
use thiserror::Error;

/// Longest file of tokens.
const MAX_FILE: u64 = 4 << 20;

/// Who a token belongs to. Parts that are not known are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of the service account.
    pub namespace: Arc<str>,
    /// The service account.
    pub service_account: Arc<str>,
    /// The pod.
    pub pod: Arc<str>,
    /// The node that it runs on.
    pub node: Arc<str>,
    /// It is a waypoint, of the Gateway that has the namespace and name of its service account, and no agent.
    pub is_waypoint: bool,
}

/// Says which waypoints there are.
pub trait Waypoints: Send + Sync {
    /// Whether there is a Gateway of this namespace and name that is a waypoint of Weft.
    fn is_waypoint(&self, namespace: &str, name: &str) -> bool;
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_waypoint {
            f.write_str("the waypoint ")?;
        }
        if !self.service_account.is_empty() {
            write!(f, "{}/{} (pod {}) ", self.namespace, self.service_account, self.pod)?;
        }
        write!(f, "on node {}", if self.node.is_empty() { "unknown" } else { &self.node })
    }
}

/// Finds out who a token belongs to.
pub trait Authenticator: Send + Sync {
    /// The caller that shows `token`.
    fn authenticate<'a>(&'a self, token: &'a str) -> Authenticating<'a>;
}

/// The future that [`Authenticator::authenticate`] returns.
pub type Authenticating<'a> = Pin<Box<dyn Future<Output = Result<Caller, AuthenticationError>> + Send + 'a>>;

/// Why a caller is not known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    /// The token is nobody's, or is not valid (any more).
    #[error("{0}")]
    Refused(String),
    /// It could not be found out.
    #[error("{0}")]
    Unavailable(String),
}

/// A file with one line for each token: the name of a node, and the SHA-256 of its token in hexadecimal. Lines that
/// are empty or begin with `#` do not count. A node may have several tokens, so that one can be replaced.
///
/// The file is read again when it has changed. One that cannot be read, or has a mistake, leaves what it said before.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    read: Mutex<Read>,
}

/// What was read.
#[derive(Debug, Default)]
struct Read {
    stamp: Option<(u64, SystemTime)>,
    nodes: HashMap<[u8; 32], Arc<str>>,
}

/// Why a file of tokens cannot be used.
#[derive(Debug, Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("reading the tokens in {path} failed: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its lines have mistakes.
    #[error("the tokens in {path} cannot be used: {}", mistakes.join("; "))]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// Each with its line.
        mistakes: Vec<String>,
    },
}

impl TokenFile {
    /// Reads a file of tokens.
    ///
    /// # Errors
    /// When it cannot be read, or has mistakes: all of them are named.
    pub fn open(path: &Path) -> Result<Self, TokenFileError> {
        let read = read(path, None)?.unwrap_or_default();
        Ok(Self { path: path.to_owned(), read: Mutex::new(read) })
    }

    async fn look_up(&self, token: &str) -> Result<Caller, AuthenticationError> {
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).stamp;
        let path = self.path.clone();
        let news = tokio::task::spawn_blocking(move || read(&path, known)).await;
        let mut current = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match news {
            Ok(Ok(Some(news))) => *current = news,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the tokens that were known before stay"),
            Err(error) => return Err(AuthenticationError::Unavailable(error.to_string())),
        }
        // Digests are compared, of which a caller learns nothing by timing.
        let digest: [u8; 32] = digest::digest(&digest::SHA256, token.as_bytes())
            .as_ref()
            .try_into()
            .map_err(|_| AuthenticationError::Unavailable("SHA-256 has another length".to_owned()))?;
        match current.nodes.get(&digest) {
            Some(node) => Ok(Caller { node: Arc::clone(node), ..Caller::default() }),
            None => Err(AuthenticationError::Refused("the token is not known".to_owned())),
        }
    }
}

impl Authenticator for TokenFile {
    fn authenticate<'a>(&'a self, token: &'a str) -> Authenticating<'a> {
        Box::pin(self.look_up(token))
    }
}

/// Reads the file, unless it is as it was when `known` was noted.
fn read(path: &Path, known: Option<(u64, SystemTime)>) -> Result<Option<Read>, TokenFileError> {
    let unreadable = |error| TokenFileError::Unreadable { path: path.to_owned(), error };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    let stamp = (metadata.len(), metadata.modified().map_err(unreadable)?);
    if known == Some(stamp) {
        return Ok(None);
    }
    if metadata.len() > MAX_FILE {
        return Err(unreadable(io::Error::other(format!("it is larger than {} MiB", MAX_FILE >> 20))));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let nodes = parse(&text).map_err(|mistakes| TokenFileError::Mistakes { path: path.to_owned(), mistakes })?;
    Ok(Some(Read { stamp: Some(stamp), nodes }))
}

fn parse(text: &str) -> Result<HashMap<[u8; 32], Arc<str>>, Vec<String>> {
    let mut nodes = HashMap::new();
    let mut mistakes = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(node), Some(digest), None) = (words.next(), words.next(), words.next()) else {
            mistakes.push(format!("line {number}: is not a node's name and the SHA-256 of its token"));
            continue;
        };
        let Some(digest) = hexadecimal(digest) else {
            mistakes.push(format!("line {number}: '{digest}' is not a SHA-256 of 64 hexadecimal digits"));
            continue;
        };
        if nodes.insert(digest, Arc::from(node)).is_some_and(|other| *other != *node) {
            mistakes.push(format!("line {number}: the token is another node's as well"));
        }
    }
    if mistakes.is_empty() { Ok(nodes) } else { Err(mistakes) }
}

fn hexadecimal(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(node: &str, token: &str) -> String {
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{node} {digest}\n")
    }

    #[tokio::test]
    async fn a_token_belongs_to_the_node_of_its_line_and_a_changed_file_counts_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tokens");
        std::fs::write(&path, format!("# tokens\n\n{}", line("n1", "secret"))).expect("a file");
        let tokens = TokenFile::open(&path).expect("a good file");
        assert_eq!(&*tokens.authenticate("secret").await.expect("a known token").node, "n1");
        let refused = tokens.authenticate("other").await.expect_err("an unknown token");
        assert_eq!(refused, AuthenticationError::Refused("the token is not known".to_owned()));
        let write = |text: String, age| {
            std::fs::write(&path, text).expect("a file");
            let file = std::fs::File::open(&path).expect("a file");
            file.set_modified(SystemTime::now() + Duration::from_secs(age)).expect("a date");
        };
        write(line("n2", "other"), 10);
        assert_eq!(&*tokens.authenticate("other").await.expect("a known token").node, "n2");
        assert!(tokens.authenticate("secret").await.is_err());
        write("nonsense".to_owned(), 20);
        assert_eq!(&*tokens.authenticate("other").await.expect("what was known stays").node, "n2");
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        let text = format!("n1\nn2 abc\n{}{}n3 a b\n", line("n4", "t"), line("n5", "t"));
        let mistakes = parse(&text).expect_err("it has mistakes");
        assert_eq!(
            mistakes,
            [
                "line 1: is not a node's name and the SHA-256 of its token",
                "line 2: 'abc' is not a SHA-256 of 64 hexadecimal digits",
                "line 4: the token is another node's as well",
                "line 5: is not a node's name and the SHA-256 of its token",
            ]
        );
    }
}
