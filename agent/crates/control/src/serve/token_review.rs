//! Tokens of service accounts, judged by the API server.

mod cache;
mod claims;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cache::Reviewed;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};

use super::authenticate::{Authenticating, AuthenticationError, Authenticator, Caller, Waypoints};

/// Whom a token must be for: the audience that Istio's agents ask for as well.
const AUDIENCE: &str = "istio-ca";
/// How long a review may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// What the API server says of the pod that a token was made for.
const POD: &str = "authentication.kubernetes.io/pod-name";
/// What it says of that pod's node (Kubernetes 1.30 and later).
const NODE: &str = "authentication.kubernetes.io/node-name";

/// Asks the API server who a token belongs to (`authentication.k8s.io/v1` TokenReview). The service accounts of agents are
/// let in: who shows their token on a node may have certificates for whatever runs there. And so is the service account
/// of each waypoint, which has the namespace and name of its Gateway: for a certificate of its own, and for routes.
///
/// What it said of a good token is remembered for up to a minute, and it is asked about few tokens at one time: agents
/// that all connect again do not drown it.
pub struct TokenReviews {
    reviews: Api<TokenReview>,
    /// As `namespace/name`.
    accounts: Vec<String>,
    waypoints: Arc<dyn Waypoints>,
    reviewed: Reviewed,
}

impl std::fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviews").field("accounts", &self.accounts).finish_non_exhaustive()
    }
}

impl TokenReviews {
    /// Lets in these service accounts of agents, each as `namespace/name`, and those of waypoints.
    #[must_use]
    pub fn new(client: Client, accounts: Vec<String>, waypoints: Arc<dyn Waypoints>) -> Self {
        Self { reviews: Api::all(client), accounts, waypoints, reviewed: Reviewed::default() }
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
        caller(&status.user.unwrap_or_default(), &self.accounts, &*self.waypoints).map_err(AuthenticationError::Refused)
    }
}

impl Authenticator for TokenReviews {
    fn authenticate<'a>(&'a self, token: &'a str) -> Authenticating<'a> {
        Box::pin(self.reviewed.caller(token, SystemTime::now(), || self.review(token)))
    }
}

/// Who a user of the API server is, if that is an agent or a waypoint.
fn caller(user: &UserInfo, accounts: &[String], waypoints: &dyn Waypoints) -> Result<Caller, String> {
    let name = user.username.as_deref().unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    let (namespace, service_account) = account.ok_or_else(|| format!("'{name}' is not a service account"))?;
    let is_agent = accounts.iter().any(|known| known.split_once('/') == Some((namespace, service_account)));
    // A Gateway that somebody calls like the agents must not make waypoints of them.
    let is_waypoint = !is_agent && waypoints.is_waypoint(namespace, service_account);
    if !is_agent && !is_waypoint {
        return Err(format!(
            "the service account {namespace}/{service_account} is neither an agent's nor a waypoint's"
        ));
    }
    let extra = |key: &str| user.extra.as_ref()?.get(key)?.first().map(String::as_str);
    let node = extra(NODE).filter(|node| !node.is_empty());
    let node = node.ok_or("the token names no node: it must be one that the kubelet projects into a pod")?;
    Ok(Caller {
        namespace: namespace.into(),
        service_account: service_account.into(),
        pod: Arc::from(extra(POD).unwrap_or_default()),
        node: node.into(),
        is_waypoint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, extra: &[(&str, &str)]) -> UserInfo {
        let extra = extra.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()]));
        UserInfo { username: Some(name.to_owned()), extra: Some(extra.collect()), ..UserInfo::default() }
    }

    /// There is one waypoint, `shop/edge`, and one that is called like the agents.
    struct Edge;

    impl Waypoints for Edge {
        fn is_waypoint(&self, namespace: &str, name: &str) -> bool {
            [("shop", "edge"), ("weft-system", "weft-agent")].contains(&(namespace, name))
        }
    }

    #[test]
    fn a_waypoint_is_let_in_by_the_service_account_of_its_gateway_and_an_agent_is_never_one() {
        let accounts = ["weft-system/weft-agent".to_owned()];
        let bound = [(POD, "edge-x"), (NODE, "n1")];
        let found = |name: &str| caller(&user(&format!("system:serviceaccount:{name}"), &bound), &accounts, &Edge);
        assert!(found("shop:edge").is_ok_and(|caller| caller.is_waypoint && &*caller.service_account == "edge"));
        assert!(found("weft-system:weft-agent").is_ok_and(|caller| !caller.is_waypoint));
        assert!(found("lab:edge").is_err() && found("shop:default").is_err());
    }

    #[test]
    fn only_agents_whose_node_is_known_are_let_in() {
        let accounts = ["weft-system/weft-agent".to_owned()];
        let bound = [(POD, "weft-agent-x"), (NODE, "n1")];
        let found = caller(&user("system:serviceaccount:weft-system:weft-agent", &bound), &accounts, &Edge);
        let expected = Caller {
            namespace: "weft-system".into(),
            service_account: "weft-agent".into(),
            pod: "weft-agent-x".into(),
            node: "n1".into(),
            is_waypoint: false,
        };
        assert_eq!(found, Ok(expected));
        for (name, extra) in [
            ("system:serviceaccount:shop:weft-agent", &bound[..]),
            ("system:serviceaccount:weft-system:default", &bound),
            ("system:serviceaccount:weft-system:weft-agent", &bound[..1]),
            ("system:node:n1", &bound),
            ("", &bound),
        ] {
            assert!(caller(&user(name, extra), &accounts, &Edge).is_err(), "{name}");
        }
    }
}
