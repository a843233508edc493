//! Protecting records (RFC 8446, 5.2), in place.

use std::sync::Arc;

use super::alert::Alert;
use super::error::TlsError;
use super::keys::{KeySchedule, RecordKey};
use super::{MAX_CONTENT, RECORD_HEADER, TAG, content_type, handshake_type};

/// Records sealed with one key before it is updated. AES-GCM keeps its margin for 2^24.5 full-size records (RFC 8446,
/// 5.5); half of 2^24 leaves room for all that a caller may seal before it next asks [`Sealer::maintain`].
const UPDATE_AFTER: u64 = 1 << 23;
/// Records sealed with one key at most. Never reached by a caller that keeps to [`Sealer::maintain`].
const NEVER_BEYOND: u64 = 1 << 24;

/// Protects what is sent, in place in the caller's buffers, without allocating.
pub struct Sealer {
    pub(super) key: RecordKey,
    pub(super) schedule: Arc<KeySchedule>,
    pub(super) update_after: u64,
    ended: bool,
}

impl Sealer {
    /// Bytes that a record needs before its plaintext.
    pub const HEADER: usize = RECORD_HEADER;
    /// Bytes that a record needs behind its plaintext: content type and tag.
    pub const TRAILER: usize = 1 + TAG;
    /// Longest plaintext of a record.
    pub const MAX_PLAINTEXT: usize = MAX_CONTENT;

    pub(super) fn new(key: RecordKey, schedule: Arc<KeySchedule>) -> Self {
        Self { key, schedule, update_after: UPDATE_AFTER, ended: false }
    }

    /// Turns `record`, which is [`Sealer::HEADER`] free bytes, the plaintext and [`Sealer::TRAILER`] free bytes, into a
    /// complete record in place.
    ///
    /// # Errors
    /// Mistakes of the caller only: a plaintext longer than [`Sealer::MAX_PLAINTEXT`], a session that was ended by
    /// [`Sealer::close_notify`] or [`Sealer::alert`], 2^24 records without a [`Sealer::maintain`] among them. The
    /// record must not be sent then.
    pub fn seal(&mut self, record: &mut [u8]) -> Result<(), TlsError> {
        if self.ended {
            return Err(TlsError::Misuse("a record was to be sealed after the session's end"));
        }
        if self.key.sequence >= NEVER_BEYOND {
            return Err(TlsError::Misuse("the key was to be used beyond its limit"));
        }
        self.protect(content_type::APPLICATION_DATA, record)
    }

    /// Appends the KeyUpdate that is due, if one is: because the peer asked for it, or because the key has protected
    /// as much as it should. What is sealed afterwards must be sent behind it.
    ///
    /// To be called before each batch of records, and after [`super::Content::Control`]; it costs a comparison.
    ///
    /// # Errors
    /// When the cryptographic library fails; the session is unusable then.
    #[inline]
    pub fn maintain(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.key.sequence < self.update_after && !self.schedule.is_reply_due() {
            return Ok(());
        }
        self.update_key(out)
    }

    /// Appends a close_notify alert: nothing more will be sent (6.1). Nothing can be sealed afterwards.
    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        self.end(Alert::CLOSE_NOTIFY, out);
    }

    /// Appends the alert that tells the peer why the session ends, if `error` is one that is told. Nothing can be
    /// sealed afterwards.
    pub fn alert(&mut self, error: &TlsError, out: &mut Vec<u8>) {
        if let Some(alert) = error.alert() {
            self.end(alert, out);
        }
    }

    #[cold]
    fn update_key(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.ended {
            return Ok(());
        }
        let next = self.schedule.next_sending()?;
        // A KeyUpdate of one byte, update_not_requested: the peer looks after its own limit (4.6.3).
        self.append(content_type::HANDSHAKE, &[handshake_type::KEY_UPDATE, 0, 0, 1, 0], out)?;
        self.key = next;
        self.schedule.replied();
        Ok(())
    }

    fn end(&mut self, alert: Alert, out: &mut Vec<u8>) {
        /// Alert levels are decoration in TLS 1.3, but close_notify is a warning for older readers' sake (6).
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        if self.ended {
            return;
        }
        let level = if alert == Alert::CLOSE_NOTIFY { WARNING } else { FATAL };
        // Two bytes cannot be too long, the only failure that sealing has.
        let _ = self.append(content_type::ALERT, &[level, alert.0], out);
        self.ended = true;
    }

    /// Appends a record of any type.
    pub(super) fn append(&mut self, content_type: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let start = out.len();
        out.extend_from_slice(&[0; Self::HEADER]);
        out.extend_from_slice(content);
        out.extend_from_slice(&[0; Self::TRAILER]);
        self.protect(content_type, &mut out[start..]).inspect_err(|_| out.truncate(start))
    }

    /// Writes header and inner content type, encrypts. The key's limit is not checked here: what ends or updates it
    /// must pass.
    fn protect(&mut self, inner_type: u8, record: &mut [u8]) -> Result<(), TlsError> {
        let plaintext = record
            .len()
            .checked_sub(Self::HEADER + Self::TRAILER)
            .filter(|length| *length <= Self::MAX_PLAINTEXT)
            .ok_or(TlsError::Misuse("a record of a wrong length was to be sealed"))?;
        let [high, low] =
            u16::try_from(plaintext + Self::TRAILER).expect("the longest record is shorter than 2^16").to_be_bytes();
        // The outer type and version are fixed, and authenticated with the length (5.2).
        let header = [content_type::APPLICATION_DATA, 3, 3, high, low];
        let (head, rest) = record.split_at_mut(Self::HEADER);
        let (content, tag) = rest.split_at_mut(plaintext + 1);
        head.copy_from_slice(&header);
        content[plaintext] = inner_type;
        self.key.seal(header, content, tag)
    }
}
