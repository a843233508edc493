//! Tokens of service accounts, judged by the API server.

mod cache;
mod claims;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cache::Reviewed;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};

use super::authenticate::{Authenticating, AuthenticationError, Authenticator, Caller};

/// Whom a token must be for: the audience that Istio's agents ask for as well.
const AUDIENCE: &str = "istio-ca";
/// How long a review may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// What the API server says of the pod that a token was made for.
const POD: &str = "authentication.kubernetes.io/pod-name";
/// What it says of that pod's node (Kubernetes 1.30 and later).
const NODE: &str = "authentication.kubernetes.io/node-name";

/// Asks the API server who a token belongs to (`authentication.k8s.io/v1` TokenReview). Only the service accounts of
/// agents are let in: who shows their token on a node may have certificates for whatever runs there.
///
/// What it said of a good token is remembered for up to a minute, and it is asked about few tokens at one time: agents
/// that all connect again do not drown it.
pub struct TokenReviews {
    reviews: Api<TokenReview>,
    /// As `namespace/name`.
    accounts: Vec<String>,
    reviewed: Reviewed,
}

impl std::fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviews").field("accounts", &self.accounts).finish_non_exhaustive()
    }
}

impl TokenReviews {
    /// Lets in these service accounts, each as `namespace/name`.
    #[must_use]
    pub fn new(client: Client, accounts: Vec<String>) -> Self {
        Self { reviews: Api::all(client), accounts, reviewed: Reviewed::default() }
    }

    async fn review(&self, token: &str) -> Result<Caller, AuthenticationError> {
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let unavailable = |reason: String| AuthenticationError::Unavailable(format!("asking the API server: {reason}"));
        let reviewed = tokio::time::timeout(ANSWER_WITHIN, self.reviews.create(&PostParams::default(), &review)).await;
        let reviewed = reviewed
            .map_err(|_| unavailable(format!("no answer in {} s", ANSWER_WITHIN.as_secs())))?
            .map_err(|error| unavailable(error.to_string()))?;
        let status = reviewed.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            let reason = status.error.unwrap_or_else(|| "it is none, or has expired".to_owned());
            return Err(AuthenticationError::Refused(format!("the API server does not accept the token: {reason}")));
        }
        // An API server that knows nothing of audiences would let in any token.
        if !status.audiences.is_some_and(|audiences| audiences.iter().any(|audience| audience == AUDIENCE)) {
            return Err(AuthenticationError::Refused(format!("the token is not for the audience {AUDIENCE}")));
        }
        caller(&status.user.unwrap_or_default(), &self.accounts).map_err(AuthenticationError::Refused)
    }
}

impl Authenticator for TokenReviews {
    fn authenticate<'a>(&'a self, token: &'a str) -> Authenticating<'a> {
        Box::pin(self.reviewed.caller(token, SystemTime::now(), || self.review(token)))
    }
}

/// Who a user of the API server is, if that is an agent.
fn caller(user: &UserInfo, accounts: &[String]) -> Result<Caller, String> {
    let name = user.username.as_deref().unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    let (namespace, service_account) = account.ok_or_else(|| format!("'{name}' is not a service account"))?;
    if !accounts.iter().any(|known| known.split_once('/') == Some((namespace, service_account))) {
        return Err(format!("the service account {namespace}/{service_account} is not that of an agent"));
    }
    let extra = |key: &str| user.extra.as_ref()?.get(key)?.first().map(String::as_str);
    let node = extra(NODE).filter(|node| !node.is_empty());
    let node = node.ok_or("the token names no node: it must be one that the kubelet projects into a pod")?;
    Ok(Caller {
        namespace: namespace.into(),
        service_account: service_account.into(),
        pod: Arc::from(extra(POD).unwrap_or_default()),
        node: node.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, extra: &[(&str, &str)]) -> UserInfo {
        let extra = extra.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()]));
        UserInfo { username: Some(name.to_owned()), extra: Some(extra.collect()), ..UserInfo::default() }
    }

    #[test]
    fn only_agents_whose_node_is_known_are_let_in() {
        let accounts = ["weft-system/weft-agent".to_owned()];
        let bound = [(POD, "weft-agent-x"), (NODE, "n1")];
        let found = caller(&user("system:serviceaccount:weft-system:weft-agent", &bound), &accounts);
        let expected = Caller {
            namespace: "weft-system".into(),
            service_account: "weft-agent".into(),
            pod: "weft-agent-x".into(),
            node: "n1".into(),
        };
        assert_eq!(found, Ok(expected));
        for (name, extra) in [
            ("system:serviceaccount:shop:weft-agent", &bound[..]),
            ("system:serviceaccount:weft-system:default", &bound),
            ("system:serviceaccount:weft-system:weft-agent", &bound[..1]),
            ("system:node:n1", &bound),
            ("", &bound),
        ] {
            assert!(caller(&user(name, extra), &accounts).is_err(), "{name}");
        }
    }
}
