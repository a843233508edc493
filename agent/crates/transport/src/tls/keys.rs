//! Traffic keys: one direction's AEAD with its sequence number, and where the next ones come from.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use rustls::kernel::KernelConnection;

use super::error::TlsError;
use super::{RECORD_HEADER, TAG};

/// The key of one direction and the number of its next record.
pub(super) struct RecordKey {
    key: LessSafeKey,
    iv: [u8; 12],
    /// Records protected so far, which is also the number of the next one.
    pub(super) sequence: u64,
}

impl RecordKey {
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(TlsError::Misuse("a cipher suite was negotiated that was not offered")),
        };
        let unusable = |_| TlsError::Misuse("the traffic key has the wrong length");
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(unusable)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().map_err(|_| TlsError::Misuse("the traffic IV has the wrong length"))?,
            sequence,
        })
    }

    /// Encrypts `content` in place and writes the tag into `tag`.
    pub(super) fn seal(
        &mut self,
        header: [u8; RECORD_HEADER],
        content: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), TlsError> {
        self.key
            .seal_in_place_scatter(self.nonce(), Aad::from(header), content, &[], tag)
            .map_err(|_| TlsError::Misuse("a record of a wrong length was to be sealed"))?;
        self.sequence += 1;
        Ok(())
    }

    /// Decrypts `ciphertext` in place, the tag being its last 16 bytes, and returns the plaintext's length.
    pub(super) fn open(&mut self, header: [u8; RECORD_HEADER], ciphertext: &mut [u8]) -> Result<usize, TlsError> {
        let length = ciphertext.len().checked_sub(TAG).ok_or(TlsError::BadRecord)?;
        self.key.open_in_place(self.nonce(), Aad::from(header), ciphertext).map_err(|_| TlsError::BadRecord)?;
        self.sequence += 1;
        Ok(length)
    }

    /// The nonce of the next record: the IV XOR the sequence number, padded on the left (RFC 8446, 5.3).
    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// What both directions of a session share: the secrets that their next keys derive from (RFC 8446, 7.2).
///
/// The lock is taken when a key is updated and never else, about once in eight million records.
pub(super) struct KeySchedule {
    secrets: Mutex<Box<dyn TrafficSecrets>>,
    reply_due: AtomicBool,
}

impl KeySchedule {
    pub(super) fn new(secrets: Box<dyn TrafficSecrets>) -> Self {
        Self { secrets: Mutex::new(secrets), reply_due: AtomicBool::new(false) }
    }

    /// The key for what is sent after our KeyUpdate.
    pub(super) fn next_sending(&self) -> Result<RecordKey, TlsError> {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        RecordKey::new(secrets.next_sending().map_err(TlsError::Internal)?)
    }

    /// The key for what is received after the peer's KeyUpdate.
    pub(super) fn next_receiving(&self) -> Result<RecordKey, TlsError> {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        RecordKey::new(secrets.next_receiving().map_err(TlsError::Internal)?)
    }

    /// The peer wants our key to be updated too. Several requests before the answer are answered by one (4.6.3).
    pub(super) fn request_reply(&self) {
        self.reply_due.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_reply_due(&self) -> bool {
        self.reply_due.load(Ordering::Relaxed)
    }

    pub(super) fn replied(&self) {
        self.reply_due.store(false, Ordering::Relaxed);
    }
}

/// The part of rustls that stays for the life of a session, whichever its side.
pub(super) trait TrafficSecrets: Send {
    fn next_sending(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error>;
    fn next_receiving(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error>;
}

impl<Data: Send> TrafficSecrets for KernelConnection<Data> {
    fn next_sending(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.update_tx_secret()
    }

    fn next_receiving(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.update_rx_secret()
    }
}
