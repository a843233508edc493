use super::*;
use crate::route::Timeouts;

const SECOND: Duration = Duration::from_secs(1);

fn rule(request: Option<u64>, backend: Option<u64>, retry: Option<Retry>) -> Rule {
    let timeouts =
        Timeouts { request: request.map(Duration::from_millis), backend: backend.map(Duration::from_millis) };
    Rule { timeouts, retry, ..Rule::default() }
}

fn retry(attempts: u32, backoff: Option<u64>) -> Option<Retry> {
    let codes = vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY];
    Some(Retry { codes, attempts, backoff: backoff.map(Duration::from_millis) })
}

#[test]
fn what_happened_decides_whether_it_is_tried_again() {
    use Outcome::*;
    let now = Instant::now();
    let (unavailable, missing) = (Answered(StatusCode::SERVICE_UNAVAILABLE), Answered(StatusCode::NOT_FOUND));
    for (outcome, method, plain, with_retry, without_body) in [
        (Refused, Method::POST, true, true, true),
        (Refused, Method::GET, true, true, true),
        (Broken, Method::POST, false, true, false),
        (Broken, Method::PUT, true, true, false),
        (Broken, Method::GET, true, true, false),
        (TimedOut, Method::GET, false, true, false),
        (unavailable, Method::GET, false, true, false),
        (unavailable, Method::POST, false, true, false),
        (missing, Method::GET, false, false, false),
        (PassedOn, Method::GET, false, false, false),
    ] {
        let next = |retry: Option<Retry>, has_body: bool| {
            let budget = Budget::new(now);
            let mut attempts = Attempts::new(&rule(None, None, retry), &method, &budget, 1, now);
            if !has_body {
                attempts.lose_body();
            }
            attempts.next(outcome, now).is_some()
        };
        assert_eq!(next(None, true), plain, "{outcome:?} {method}");
        assert_eq!(next(retry(2, None), true), with_retry, "{outcome:?} {method}, with retry");
        assert_eq!(next(retry(2, None), false), without_body, "{outcome:?} {method}, without body");
    }
}

#[test]
fn there_are_as_many_further_attempts_as_the_route_says() {
    let now = Instant::now();
    for (retry, expected) in [(None, 2), (retry(0, None), 0), (retry(1, None), 1), (retry(3, None), 3)] {
        let budget = Budget::new(now);
        let mut attempts = Attempts::new(&rule(None, None, retry), &Method::GET, &budget, 1, now);
        assert_eq!(attempts.may_repeat(), expected > 0);
        let made = (0..10).take_while(|_| attempts.next(Outcome::Refused, now).is_some()).count();
        assert_eq!((made, attempts.further()), (expected, expected as u32));
        assert!(!attempts.may_repeat());
    }
}

#[test]
fn pauses_grow_at_random_and_never_below_what_the_route_says() {
    let now = Instant::now();
    let milliseconds = Duration::from_millis;
    for (backoff, least, window) in [(None, 0, 25), (Some(100), 100, 100)] {
        let mut longest = [Duration::ZERO; 6];
        let mut shortest = [Duration::MAX; 6];
        for seed in 0..500 {
            // A budget of each, whose allowance is enough as time goes by.
            let budget = Budget::new(now);
            let mut attempts = Attempts::new(&rule(None, None, retry(6, backoff)), &Method::GET, &budget, seed, now);
            for further in 0..6 {
                let pause = attempts.next(Outcome::Refused, now + SECOND * further).expect("there is another");
                let further = further as usize;
                longest[further] = longest[further].max(pause);
                shortest[further] = shortest[further].min(pause);
            }
        }
        for (further, growth) in [1, 2, 4, 8, 10, 10].into_iter().enumerate() {
            let (least, window) = (milliseconds(least), milliseconds(window * growth));
            assert!(shortest[further] >= least && longest[further] < least + window, "{further}: {longest:?}");
            // All of the window is used.
            assert!(shortest[further] < least + window / 10, "{further}: {shortest:?}");
            assert!(longest[further] > least + window * 9 / 10, "{further}: {longest:?}");
        }
    }
}

#[test]
fn attempts_end_with_the_request() {
    let now = Instant::now();
    let budget = Budget::new(now);
    let later = |milliseconds| now + Duration::from_millis(milliseconds);
    let mut attempts = Attempts::new(&rule(Some(1_000), Some(400), retry(5, Some(100))), &Method::GET, &budget, 1, now);
    assert_eq!(attempts.deadline(), Some(later(1_000)));
    assert_eq!(attempts.attempt_deadline(now), Some(later(400)));
    assert_eq!(attempts.attempt_deadline(later(700)), Some(later(1_000)));
    assert!(attempts.next(Outcome::TimedOut, later(400)).is_some());
    assert_eq!(attempts.next(Outcome::TimedOut, later(900)), None, "the pause is as long as the time that is left");
    assert_eq!(attempts.next(Outcome::TimedOut, later(1_100)), None);
    let unbounded = Attempts::new(&rule(None, None, None), &Method::GET, &budget, 1, now);
    assert_eq!((unbounded.deadline(), unbounded.attempt_deadline(now)), (None, None));
}

#[test]
fn the_budget_allows_one_in_five_and_three_per_second_beyond() {
    let now = Instant::now();
    let budget = Budget::new(now);
    let rule = rule(None, None, retry(1, None));
    let mut requests: Vec<_> = (0..100).map(|seed| Attempts::new(&rule, &Method::GET, &budget, seed, now)).collect();
    assert_eq!(budget.active(), 100);
    let try_all = |requests: &mut [Attempts], now| {
        requests.iter_mut().filter_map(|request| request.next(Outcome::Refused, now)).count()
    };
    assert_eq!(try_all(&mut requests, now), 23);
    // Those are in a further attempt still, so only the allowance of the time since is there.
    assert_eq!(try_all(&mut requests[23..], now + SECOND / 3), 1);
    assert_eq!(try_all(&mut requests[24..], now + SECOND * 9), 3);
    // Their end gives back their share.
    requests.drain(..27);
    assert_eq!(budget.active(), 73);
    assert_eq!(try_all(&mut requests, now + SECOND * 9), 14);
    requests.clear();
    assert_eq!(budget.active(), 0);
}

#[test]
fn a_further_attempt_counts_until_its_outcome() {
    let now = Instant::now();
    let budget = Budget::new(now);
    let rule = rule(None, None, retry(9, None));
    let _others: Vec<_> = (0..4).map(|seed| Attempts::new(&rule, &Method::GET, &budget, seed, now)).collect();
    let mut one = Attempts::new(&rule, &Method::GET, &budget, 7, now);
    // One of five may be in a further attempt: this one may again and again, and the allowance is not touched.
    for _ in 0..9 {
        assert!(one.next(Outcome::Refused, now).is_some());
    }
    let mut two = Attempts::new(&rule, &Method::GET, &budget, 8, now);
    let allowed = (0..9).take_while(|_| two.next(Outcome::Refused, now).is_some()).count();
    assert_eq!(allowed, 3);
}
