//! Certificates.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Where a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateState {
    /// There, and renewed in time so far.
    Valid,
    /// Requested for the first time, and not there yet.
    Pending,
    /// There, but the attempt to renew it failed.
    RenewalFailing,
    /// Not there, and the last attempt failed.
    Failing,
    /// It was not renewed in time.
    Expired,
}

impl CertificateState {
    /// The word that it is shown by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Pending => "pending",
            Self::RenewalFailing => "renewal failing",
            Self::Failing => "failing",
            Self::Expired => "expired",
        }
    }
}

/// The certificate of one identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateInfo {
    /// `spiffe://…`
    pub identity: String,
    /// Where it stands.
    pub state: CertificateState,
    /// Its serial number, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Start of validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// End of validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// When it will be renewed, or requested again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Timestamp>,
    /// Why the last attempt failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many workloads of this node use it.
    pub workloads: usize,
}
