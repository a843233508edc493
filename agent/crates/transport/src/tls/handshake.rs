//! The handshake, by rustls, from buffer to buffer.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CipherSuite, ClientConfig, CommonState, ExtractedSecrets, ServerConfig};
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};
use weft_model::Identity;

use super::alert::Alert;
use super::content_type;
use super::error::TlsError;
use super::identity::ALPN;
use super::keys::{KeySchedule, RecordKey};
use super::leaf::Leaf;
use super::open::Opener;
use super::seal::Sealer;

/// A handshake under way.
pub struct Handshake {
    connection: Connection,
    /// How many bytes at the front of the caller's buffer are whole records that rustls has seen, and wants to see
    /// again together with the next: parts of one message.
    whole: usize,
}

enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
    /// It succeeded or failed; nothing is left to do.
    Over,
}

/// How far a handshake is.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once, and a box would outlive the handshake")]
pub enum Progress {
    /// Send what is in `outgoing`; come back with more bytes.
    Continue,
    /// Send what is in `outgoing`; the session can be used. Bytes left in `incoming` belong to it.
    Done(Session),
}

/// An established session. Its directions are independent of each other and of threads.
pub struct Session {
    /// Protects what is sent.
    pub sealer: Sealer,
    /// Opens what is received.
    pub opener: Opener,
    /// The peer's identity, from its verified certificate.
    pub peer: Identity,
    /// When the peer's certificate expires. TLS does not look at it again; whoever keeps a session beyond it should.
    pub peer_not_after: SystemTime,
    /// The cipher suite, by its IANA name.
    pub suite: &'static str,
    /// The key exchange group, by its IANA name.
    pub group: &'static str,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer)
            .field("suite", &self.suite)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

impl Handshake {
    pub(super) fn client(config: Arc<ClientConfig>) -> Result<Self, TlsError> {
        let connection = UnbufferedClientConnection::new(config, nameless()).map_err(TlsError::Internal)?;
        Ok(Self { connection: Connection::Client(Box::new(connection)), whole: 0 })
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let connection = UnbufferedServerConnection::new(config).map_err(TlsError::Internal)?;
        Ok(Self { connection: Connection::Server(Box::new(connection)), whole: 0 })
    }

    /// Takes received bytes from the front of `incoming` and appends what must be sent to `outgoing`. A client begins
    /// with nothing received. `incoming` must come back with what was left in it, and may have grown.
    ///
    /// A client is done as soon as it may send; whether the server accepts its certificate shows in the session, as
    /// an alert if it does not. A server is done when it has verified the client.
    ///
    /// # Errors
    /// The alert for the peer, if there is one, is in `outgoing`: send it and close.
    pub fn advance(&mut self, incoming: &mut Vec<u8>, outgoing: &mut Vec<u8>) -> Result<Progress, TlsError> {
        let mut shown = self.whole;
        loop {
            let (discard, step, is_established) = match &mut self.connection {
                Connection::Client(connection) => {
                    let (discard, step) = take(connection.process_tls_records(&mut incoming[..shown]), outgoing);
                    (discard, step, !connection.is_handshaking())
                }
                Connection::Server(connection) => {
                    let (discard, step) = take(connection.process_tls_records(&mut incoming[..shown]), outgoing);
                    (discard, step, !connection.is_handshaking())
                }
                Connection::Over => return Err(TlsError::Misuse("the handshake is over")),
            };
            incoming.drain(..discard);
            shown -= discard;
            self.whole = self.whole.saturating_sub(discard);
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Blocked) if is_established => return self.finish(outgoing),
                Ok(Step::Blocked) => {
                    let Some(end) = self.next_end(incoming, shown) else {
                        return Ok(Progress::Continue);
                    };
                    shown = end;
                }
                Err(error @ TlsError::PeerAlert(_)) => {
                    self.connection = Connection::Over;
                    return Err(error);
                }
                Err(error) => {
                    self.answer(&mut incoming[..shown], outgoing);
                    self.connection = Connection::Over;
                    return Err(error);
                }
            }
        }
    }

    /// How much of `incoming` to show next, `shown` having been: one record more, so that rustls never sees what
    /// belongs to the session; or the beginning of one, so that what is no TLS at all is refused at once.
    fn next_end(&mut self, incoming: &[u8], shown: usize) -> Option<usize> {
        let record = Opener::needed(&incoming[self.whole..]).map(|length| self.whole + length);
        match record.filter(|end| *end <= incoming.len()) {
            Some(end) => {
                self.whole = end;
                Some(end)
            }
            None => (shown < incoming.len()).then_some(incoming.len()),
        }
    }

    /// Appends the alert that rustls has queued with its error, and what it may have queued before. It is shown the
    /// same bytes again, since it may be in the middle of them, but never once it has nothing more to say: it would
    /// trip over them again.
    fn answer(&mut self, shown: &mut [u8], outgoing: &mut Vec<u8>) {
        let mut at = 0;
        loop {
            let start = outgoing.len();
            let (discard, step) = match &mut self.connection {
                Connection::Client(connection) => take(connection.process_tls_records(&mut shown[at..]), outgoing),
                Connection::Server(connection) => take(connection.process_tls_records(&mut shown[at..]), outgoing),
                Connection::Over => return,
            };
            at += discard;
            if step.is_err() || outgoing.len() == start || is_alert(&outgoing[start..]) {
                return;
            }
        }
    }

    fn finish(&mut self, outgoing: &mut Vec<u8>) -> Result<Progress, TlsError> {
        let established = match std::mem::replace(&mut self.connection, Connection::Over) {
            Connection::Client(connection) => Established::of(&connection).and_then(|established| {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection().map_err(TlsError::Internal)?;
                established.session(secrets, kernel)
            }),
            Connection::Server(connection) => Established::of(&connection).and_then(|established| {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection().map_err(TlsError::Internal)?;
                established.session(secrets, kernel)
            }),
            Connection::Over => Err(TlsError::Misuse("the handshake is over")),
        };
        let (mut session, speaks_h2) = established?;
        if !speaks_h2 {
            let error = TlsError::NoApplicationProtocol;
            session.sealer.alert(&error, outgoing);
            return Err(error);
        }
        Ok(Progress::Done(session))
    }
}

/// rustls wants a name; none is sent, since SNI is off, and the verifier looks at identities alone.
pub(super) fn nameless() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4])))
}

/// What is read off a connection before its keys are taken.
struct Established {
    leaf: Leaf,
    speaks_h2: bool,
    suite: &'static str,
    group: &'static str,
}

impl Established {
    fn of(connection: &CommonState) -> Result<Self, TlsError> {
        let certificates = connection.peer_certificates().unwrap_or_default();
        let certificate = certificates.first().ok_or(TlsError::NoCertificate)?;
        Ok(Self {
            leaf: Leaf::read(certificate).map_err(TlsError::Certificate)?,
            speaks_h2: connection.alpn_protocol() == Some(ALPN),
            suite: match connection.negotiated_cipher_suite().map(|suite| suite.suite()) {
                Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
                Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
                _ => return Err(TlsError::Misuse("a cipher suite was negotiated that was not offered")),
            },
            group: connection
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str())
                .unwrap_or("unknown"),
        })
    }

    fn session<Data: Send + 'static>(
        self,
        secrets: ExtractedSecrets,
        kernel: KernelConnection<Data>,
    ) -> Result<(Session, bool), TlsError> {
        let schedule = Arc::new(KeySchedule::new(Box::new(kernel)));
        let session = Session {
            sealer: Sealer::new(RecordKey::new(secrets.tx)?, Arc::clone(&schedule)),
            opener: Opener::new(RecordKey::new(secrets.rx)?, schedule),
            peer: self.leaf.identity,
            peer_not_after: self.leaf.not_after,
            suite: self.suite,
            group: self.group,
        };
        Ok((session, self.speaks_h2))
    }
}

enum Step {
    /// Something was done; there may be more to do.
    Again,
    /// Nothing can be done without another record.
    Blocked,
}

/// Does what rustls asks for, and says how many bytes it has consumed.
fn take<Data>(status: UnbufferedStatus<'_, '_, Data>, outgoing: &mut Vec<u8>) -> (usize, Result<Step, TlsError>) {
    let UnbufferedStatus { discard, state } = status;
    let step = match state {
        Err(error) => Err(TlsError::from_handshake(error)),
        Ok(ConnectionState::EncodeTlsData(mut data)) => match data.encode(&mut []) {
            Err(EncodeError::InsufficientSize(size)) => {
                let start = outgoing.len();
                outgoing.resize(start + size.required_size, 0);
                data.encode(&mut outgoing[start..])
                    .map(|_| Step::Again)
                    .map_err(|_| TlsError::Misuse("rustls could not encode a message"))
            }
            Ok(_) => Ok(Step::Again),
            Err(EncodeError::AlreadyEncoded) => Err(TlsError::Misuse("rustls could not encode a message")),
        },
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::Blocked),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(TlsError::PeerAlert(Alert::CLOSE_NOTIFY)),
        Ok(_) => Err(TlsError::Misuse("rustls was shown data of the session")),
    };
    (discard, step)
}

/// Whether a record is an alert: by its type, or, protected, by its length, which no handshake message is short enough
/// to have.
fn is_alert(record: &[u8]) -> bool {
    const LENGTH: u8 = 2;
    const PROTECTED_LENGTH: u8 = LENGTH + Sealer::TRAILER as u8;
    matches!(record, [content_type::ALERT, ..] | [content_type::APPLICATION_DATA, _, _, 0, PROTECTED_LENGTH, ..])
}
