use std::future::{Ready, ready};
use std::io;
use std::task::{Context as TaskContext, Poll};

use kube::client::Body;
use tonic::codegen::http::{Request, Response};
use tower_service::Service;
use weft_runtime::SystemClock;

use super::*;

/// An API server that is not there.
struct Away;

impl Service<Request<Body>> for Away {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Ready<Result<Response<Body>, io::Error>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Err(io::Error::other("nobody is there")))
    }
}

fn keeper() -> (Keeper, Signing) {
    let (sender, signing) = Signing::watched();
    let keeper = Keeper {
        secrets: Api::namespaced(Client::new(Away, "mesh"), "mesh"),
        namespace: "mesh".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        clock: Arc::new(SystemClock),
        sender,
        given: Seen::Unknown,
        made: Seen::Unknown,
        backoff: Backoff::new(RETRIES.0, RETRIES.1),
        again: None,
        said: HashSet::new(),
    };
    (keeper, signing)
}

fn new_secret() -> Secret {
    secret(AuthorityMaterial::generate("cluster.local", SystemClock.now()).expect("random numbers"))
}

/// Of a Secret, or that there is none.
async fn see(keeper: &mut Keeper, name: &str, secret: Option<Secret>) {
    keeper.note(name, Ok(secret));
    keeper.decide().await;
}

#[tokio::test(start_paused = true)]
async fn the_operators_authority_comes_before_the_one_that_was_made() {
    let (mut keeper, signing) = keeper();
    see(&mut keeper, MADE, Some(new_secret())).await;
    assert!(signing.current().is_err(), "whether the operator has given one is not known yet");
    see(&mut keeper, GIVEN, None).await;
    let made = signing.current().expect("it was made");
    see(&mut keeper, GIVEN, Some(new_secret())).await;
    let given = signing.current().expect("it was given");
    assert_ne!(given.roots(), made.roots());
    see(&mut keeper, GIVEN, None).await;
    assert_eq!(signing.current().expect("it was made").roots(), made.roots());
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_named_again_is_no_news_and_one_that_is_changed_is() {
    let (mut keeper, signing) = keeper();
    see(&mut keeper, GIVEN, None).await;
    let secret = new_secret();
    see(&mut keeper, MADE, Some(secret.clone())).await;
    let first = signing.current().expect("an authority");
    let mut labelled = secret.clone();
    labelled.metadata.resource_version = Some("2".to_owned());
    labelled.metadata.labels = None;
    see(&mut keeper, MADE, Some(labelled)).await;
    assert!(Arc::ptr_eq(&first, &signing.current().expect("an authority")));

    // A second root is trusted, and the same authority signs.
    let roots = |secret: &Secret| secret.data.as_ref().map(|data| data[AuthorityMaterial::ROOTS].0.clone());
    let both = [roots(&secret), roots(&new_secret())].map(Option::unwrap_or_default).concat();
    let mut rotating = secret;
    rotating.data.get_or_insert_default().insert(AuthorityMaterial::ROOTS.to_owned(), ByteString(both));
    see(&mut keeper, MADE, Some(rotating)).await;
    let second = signing.current().expect("an authority");
    assert_eq!((second.roots().len(), &second.roots()[0]), (2, &first.roots()[0]));
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_authority_is_said_and_the_last_one_signs_on() {
    let (mut keeper, signing) = keeper();
    let mut broken = new_secret();
    broken.data.get_or_insert_default().remove(AuthorityMaterial::KEY);
    see(&mut keeper, GIVEN, Some(broken)).await;
    let reason = signing.current().err().expect("it has no key");
    assert!(reason.contains("the Secret mesh/cacerts has no ca-key.pem: it needs ca-cert.pem"), "{reason}");
    see(&mut keeper, MADE, Some(new_secret())).await;
    assert!(signing.current().is_err(), "the operator's Secret is meant, not the one that was made");

    see(&mut keeper, GIVEN, Some(new_secret())).await;
    let good = signing.current().expect("an authority");
    assert_eq!(signing.problem(), None);
    let mut foreign = new_secret();
    let key = new_secret().data.unwrap_or_default().remove(AuthorityMaterial::KEY).expect("a key");
    foreign.data.get_or_insert_default().insert(AuthorityMaterial::KEY.to_owned(), key);
    see(&mut keeper, GIVEN, Some(foreign)).await;
    assert!(Arc::ptr_eq(&good, &signing.current().expect("the last one")));
    let problem = signing.problem().expect("the key is another's");
    assert!(problem.starts_with("Secret mesh/cacerts/ca-cert.pem: its key is not the one in"), "{problem}");

    // Nobody makes a new root where agents trust another one.
    see(&mut keeper, MADE, None).await;
    see(&mut keeper, GIVEN, None).await;
    assert!(Arc::ptr_eq(&good, &signing.current().expect("the last one")));
    let problem = signing.problem().expect("both are gone");
    assert!(problem.contains("are gone") && keeper.again.is_none(), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_takes_nothing_from_an_authority() {
    let (mut keeper, signing) = keeper();
    let away = || Err(watcher::Error::NoResourceVersion);
    assert!(!keeper.note(GIVEN, away()), "there is nothing to decide");
    let reason = signing.current().err().expect("nothing is known");
    assert!(reason.contains("watching the Secret mesh/cacerts failed"), "{reason}");
    see(&mut keeper, GIVEN, None).await;
    see(&mut keeper, MADE, Some(new_secret())).await;
    assert_eq!(signing.problem(), None);
    assert!(!keeper.note(MADE, away()));
    assert_eq!((signing.current().is_ok(), signing.problem()), (true, None));
}

#[tokio::test(start_paused = true)]
async fn making_a_root_is_tried_again_while_the_api_server_is_away() {
    let (mut keeper, signing) = keeper();
    see(&mut keeper, GIVEN, None).await;
    assert_eq!(keeper.again, None, "whether there is one is not known yet");
    see(&mut keeper, MADE, None).await;
    let reason = signing.current().err().expect("there is none");
    assert!(reason.contains("making the Secret mesh/weft-ca failed"), "{reason}");
    assert!(keeper.again.is_some_and(|again| again > Instant::now()));
}
