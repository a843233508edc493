//! The authority that signs, which may be replaced while all goes on.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use weft_transport::CertificateAuthority;

/// The authority that signs now. Cheap to clone; all clones see it replaced, from the next certificate on.
#[derive(Clone)]
pub struct Signing(watch::Receiver<State>);

/// What is known of the authority.
#[derive(Clone, Default)]
pub(crate) struct State {
    /// The last one that could be used.
    pub authority: Option<Arc<CertificateAuthority>>,
    /// Why there is none, or why a newer one is not taken.
    pub problem: Option<String>,
}

impl Signing {
    /// An authority that is never replaced.
    #[must_use]
    pub fn fixed(authority: Arc<CertificateAuthority>) -> Self {
        // The sender goes, and with it any change.
        Self(watch::channel(State { authority: Some(authority), problem: None }).1)
    }

    /// One that somebody else watches over.
    pub(crate) fn watched() -> (watch::Sender<State>, Self) {
        let (sender, receiver) = watch::channel(State::default());
        (sender, Self(receiver))
    }

    /// The authority that signs now.
    ///
    /// # Errors
    /// Why there is none yet.
    pub fn current(&self) -> Result<Arc<CertificateAuthority>, String> {
        let state = self.0.borrow();
        let waiting = || state.problem.clone().unwrap_or_else(|| "it has not been looked for yet".to_owned());
        state.authority.clone().ok_or_else(|| format!("there is no certificate authority yet: {}", waiting()))
    }

    /// What is wrong with the authority that should sign: there is none, or an older one signs in its place.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.0.borrow().problem.clone()
    }

    /// Waits until there is one. Cancel-safe.
    pub async fn ready(&mut self) {
        if self.0.wait_for(|state| state.authority.is_some()).await.is_err() {
            // Whoever watched over it has ended, and this process is about to.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until another than `before` signs. Cancel-safe.
    pub(crate) async fn differs_from(&mut self, before: Option<&Arc<CertificateAuthority>>) {
        let is_another = |state: &State| match (&state.authority, before) {
            (Some(now), Some(before)) => !Arc::ptr_eq(now, before),
            (now, before) => now.is_some() != before.is_some(),
        };
        if self.0.wait_for(is_another).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").field("problem", &self.problem()).finish_non_exhaustive()
    }
}

/// Certificates in PEM, one after another.
pub(crate) fn pem_of<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let text = |der: &CertificateDer<'_>| pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), config);
    certificates.into_iter().map(text).collect()
}
