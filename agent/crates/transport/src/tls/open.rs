//! Opening records (RFC 8446, 5.2), in place.

use std::ops::Range;
use std::sync::Arc;

use super::alert::Alert;
use super::error::TlsError;
use super::keys::{KeySchedule, RecordKey};
use super::{MAX_CIPHERTEXT, MAX_CONTENT, RECORD_HEADER, content_type, handshake_type};

/// Records without data in a row: tickets after a handshake, key updates and empty records are few among data; a peer
/// that sends nothing else makes this node work for nothing.
const MOST_CONTROL_IN_A_ROW: u32 = 32;
/// Longest message taken after the handshake: a ticket, whose fields together have at most this length (4.6.1).
const LONGEST_MESSAGE: u32 = 4 + 4 + 1 + 255 + 2 + 65_535 + 2 + 65_534;

/// Opens what is received, in place in the caller's buffer, without allocating.
pub struct Opener {
    pub(super) key: RecordKey,
    schedule: Arc<KeySchedule>,
    messages: Messages,
    control_in_a_row: u32,
    closed: bool,
}

/// A record that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Bytes at the front of the buffer that the record took; the next one begins behind them.
    pub consumed: usize,
    /// What was in it.
    pub content: Content,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Application data: this range of the buffer, never empty.
    Data(Range<usize>),
    /// Something that was handled inside: a key update, a ticket, an empty record. Call [`super::Sealer::maintain`]
    /// before sealing more.
    Control,
    /// The peer sends nothing more (close_notify, 6.1). Whatever follows it is consumed and ignored.
    Closed,
}

impl Opener {
    pub(super) fn new(key: RecordKey, schedule: Arc<KeySchedule>) -> Self {
        Self { key, schedule, messages: Messages::default(), control_in_a_row: 0, closed: false }
    }

    /// How many bytes the record at the front of `buf` has altogether, as soon as its header is there: what a reader
    /// needs before [`Opener::open`] can open it. At most 16645 for a record that will not be refused.
    pub fn needed(buf: &[u8]) -> Option<usize> {
        match buf {
            [_, _, _, high, low, ..] => Some(RECORD_HEADER + usize::from(u16::from_be_bytes([*high, *low]))),
            _ => None,
        }
    }

    /// Opens the record at the front of `buf` in place. `None`: it is not complete yet.
    ///
    /// # Errors
    /// The session is over then: send what [`super::Sealer::alert`] makes of the error, and close. `buf` is not
    /// meaningful any more.
    pub fn open(&mut self, buf: &mut [u8]) -> Result<Option<Opened>, TlsError> {
        if self.closed {
            return Ok((!buf.is_empty()).then_some(Opened { consumed: buf.len(), content: Content::Closed }));
        }
        let Some((header, rest)) = buf.split_first_chunk_mut::<RECORD_HEADER>() else {
            return Ok(None);
        };
        // Judged before the rest is awaited: nobody is held up by a length that will be refused.
        if header[0] != content_type::APPLICATION_DATA {
            return Err(TlsError::unexpected("the peer sent an unprotected record in an established session"));
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length > MAX_CIPHERTEXT {
            return Err(overflow());
        }
        let Some(ciphertext) = rest.get_mut(..length) else {
            return Ok(None);
        };
        let opened = self.key.open(*header, ciphertext)?;
        // The padding is the zeros behind the content type (5.4).
        let Some(content) = ciphertext[..opened].iter().rposition(|byte| *byte != 0) else {
            return Err(TlsError::unexpected("the peer sent a record without a content type"));
        };
        // Padding counts towards the limit: the inner plaintext, its type apart, has at most 2^14 bytes (5.4).
        if opened - 1 > MAX_CONTENT {
            return Err(overflow());
        }
        let inner_type = ciphertext[content];
        let content = match self.interpret(inner_type, &ciphertext[..content])? {
            Inner::Data => Content::Data(RECORD_HEADER..RECORD_HEADER + content),
            Inner::Control => Content::Control,
            Inner::Closed => Content::Closed,
        };
        Ok(Some(Opened { consumed: RECORD_HEADER + length, content }))
    }

    #[inline]
    fn interpret(&mut self, inner_type: u8, content: &[u8]) -> Result<Inner, TlsError> {
        if inner_type == content_type::APPLICATION_DATA && !self.messages.is_within_one() {
            if content.is_empty() {
                return self.control();
            }
            self.control_in_a_row = 0;
            return Ok(Inner::Data);
        }
        self.interpret_other(inner_type, content)
    }

    #[cold]
    fn interpret_other(&mut self, inner_type: u8, content: &[u8]) -> Result<Inner, TlsError> {
        match (inner_type, content) {
            // An alert is one record (5.1); close_notify and user_canceled alone do not end the session at once (6).
            (content_type::ALERT, [_, alert]) => match Alert(*alert) {
                Alert::CLOSE_NOTIFY => {
                    self.closed = true;
                    Ok(Inner::Closed)
                }
                Alert::USER_CANCELED => self.control(),
                alert => Err(TlsError::PeerAlert(alert)),
            },
            (content_type::ALERT, []) => Err(TlsError::unexpected("the peer sent an empty alert")),
            (content_type::ALERT, _) => Err(TlsError::Protocol {
                alert: Alert::DECODE_ERROR,
                reason: "the peer sent an alert that is not two bytes long",
            }),
            (content_type::HANDSHAKE, []) => Err(TlsError::unexpected("the peer sent an empty handshake record")),
            (content_type::HANDSHAKE, content) => {
                match self.messages.read(content)? {
                    Outcome::Nothing => {}
                    Outcome::KeyUpdate { reply } => {
                        self.key = self.schedule.next_receiving()?;
                        if reply {
                            self.schedule.request_reply();
                        }
                    }
                }
                self.control()
            }
            (content_type::APPLICATION_DATA, _) => {
                Err(TlsError::unexpected("the peer sent data within a handshake message"))
            }
            _ => Err(TlsError::unexpected("the peer sent a record of an unknown type")),
        }
    }

    fn control(&mut self) -> Result<Inner, TlsError> {
        self.control_in_a_row += 1;
        if self.control_in_a_row > MOST_CONTROL_IN_A_ROW {
            return Err(TlsError::unexpected("the peer sends records without data, one after the other"));
        }
        Ok(Inner::Control)
    }
}

enum Inner {
    Data,
    Control,
    Closed,
}

fn overflow() -> TlsError {
    TlsError::Protocol { alert: Alert::RECORD_OVERFLOW, reason: "the peer sent a record longer than allowed" }
}

/// Reads the handshake messages of an established session, which may be spread over records and share them (5.1),
/// without keeping more of them than the few bytes that matter.
#[derive(Default)]
struct Messages {
    /// Type, length and, of a KeyUpdate, the body of the message under way.
    head: [u8; 5],
    /// How many bytes of `head` are there.
    filled: usize,
    /// Bytes of a ticket that are still to come, and to be ignored: sessions are not resumed here.
    ignore: u32,
}

enum Outcome {
    Nothing,
    KeyUpdate { reply: bool },
}

impl Messages {
    fn is_within_one(&self) -> bool {
        self.filled > 0 || self.ignore > 0
    }

    fn read(&mut self, mut content: &[u8]) -> Result<Outcome, TlsError> {
        while !content.is_empty() {
            if self.ignore > 0 {
                let skipped = content.len().min(usize::try_from(self.ignore).unwrap_or(usize::MAX));
                content = &content[skipped..];
                self.ignore -= u32::try_from(skipped).expect("a record is shorter than 2^32");
                continue;
            }
            let (first, rest) = content.split_first().expect("the loop's condition");
            content = rest;
            self.head[self.filled] = *first;
            self.filled += 1;
            if self.filled < 4 {
                continue;
            }
            let [kind, length @ .., body] = self.head;
            let length = u32::from_be_bytes([0, length[0], length[1], length[2]]);
            match (kind, length) {
                (handshake_type::NEW_SESSION_TICKET, 1..=LONGEST_MESSAGE) => {
                    self.ignore = length;
                    self.filled = 0;
                }
                (handshake_type::KEY_UPDATE, 1) if self.filled < 5 => {}
                (handshake_type::KEY_UPDATE, 1) => {
                    self.filled = 0;
                    // What follows is protected with the next key, so that it must not share this record (5.1).
                    if !content.is_empty() {
                        return Err(TlsError::unexpected("the peer sent a message behind its key update"));
                    }
                    return match body {
                        0 => Ok(Outcome::KeyUpdate { reply: false }),
                        1 => Ok(Outcome::KeyUpdate { reply: true }),
                        _ => Err(TlsError::Protocol {
                            alert: Alert::ILLEGAL_PARAMETER,
                            reason: "the peer sent a key update of an unknown kind",
                        }),
                    };
                }
                (handshake_type::NEW_SESSION_TICKET | handshake_type::KEY_UPDATE, _) => {
                    return Err(TlsError::Protocol {
                        alert: Alert::DECODE_ERROR,
                        reason: "the peer sent a handshake message of an impossible length",
                    });
                }
                _ => {
                    return Err(TlsError::unexpected(
                        "the peer sent a handshake message that has no place in an established session",
                    ));
                }
            }
        }
        Ok(Outcome::Nothing)
    }
}
