//! What becomes of a request that matched a rule: its filters are applied and a backend is chosen, or it is answered.
//!
//! The rule's filters come first, then those of the backend that was chosen. Within either, cross-origin requests are
//! judged before anything changes what the browser said; the rest is in the order of the object. Paths are rewritten
//! from the request's own, so the last rewrite counts. Answers pass the other way: the backend's filters, then the
//! rule's.
//!
//! This is the place of filters to come: each kind has its arm in `apply`, and may answer, change, or leave a mark on
//! what goes on.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::header::HeaderMap;
use http::{StatusCode, request, response};
use smallvec::SmallVec;

use crate::route::{Backend, BackendTarget, Filter, Mirror, Rule};
use crate::table::Matched;

mod cors;
mod headers;
mod location;

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// It is answered without a backend.
    Answer(Answer),
    /// It goes to a backend.
    Forward(Forward),
}

/// An answer without a body.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Why it is given, for telemetry.
    pub cause: Cause,
}

/// Why an [`Answer`] is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A filter redirects.
    Redirect,
    /// It was a preflight of the Fetch standard.
    Preflight,
    /// The rule has no backend, or none with a weight.
    NoBackend,
    /// The backend that was chosen cannot take requests: why, in words.
    InvalidBackend(Arc<str>),
    /// What a filter makes of the request is no valid head.
    InvalidFilter,
}

/// How a request goes on. Its head was changed already.
#[derive(Debug)]
pub struct Forward {
    matched: Matched,
    backend: usize,
    mirrors: SmallVec<[Place; 2]>,
    /// What filters for cross-origin requests say about the answer: the rule's, and the backend's.
    cors: [Option<cors::Verdict>; 2],
}

/// Where a filter stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    is_backends: bool,
    index: usize,
}

impl Forward {
    /// The rule.
    #[must_use]
    pub fn matched(&self) -> &Matched {
        &self.matched
    }

    /// Which of the rule's backends it goes to.
    #[must_use]
    pub fn index(&self) -> usize {
        self.backend
    }

    /// That backend. Its target is never [`BackendTarget::Invalid`].
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.matched.rule().backends[self.backend]
    }

    /// Where copies go, of the request as it is now. A target may be invalid: such a copy goes nowhere.
    pub fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        self.mirrors.iter().filter_map(|place| {
            let filters = if place.is_backends { &self.backend().filters } else { &self.matched.rule().filters };
            if let Filter::Mirror(mirror) = &filters[place.index] { Some(mirror) } else { None }
        })
    }

    /// Changes the head of the answer: that of the backend, or one that is given in its place.
    pub fn edit_response(&self, head: &mut response::Parts) {
        let [of_rule, of_backend] = &self.cors;
        edit_answer(&self.backend().filters, of_backend.as_ref(), &mut head.headers);
        edit_answer(&self.matched.rule().filters, of_rule.as_ref(), &mut head.headers);
    }
}

/// Applies the rule's filters to a request, chooses its backend, and applies the backend's.
///
/// `parts` are changed in place; their path is normalized. `roll(n)` gives one of `0..n` at random.
pub fn decide(matched: &Matched, parts: &mut request::Parts, roll: &mut dyn FnMut(u32) -> u32) -> Decision {
    decide_in_session(matched, parts, None, roll)
}

/// As [`decide()`], for a request of a session that has its backend already ([`crate::session::Token::backend`]): it is
/// taken whatever the weights are.
pub fn decide_in_session(
    matched: &Matched,
    parts: &mut request::Parts,
    backend: Option<usize>,
    roll: &mut dyn FnMut(u32) -> u32,
) -> Decision {
    let rule = matched.rule();
    let mut passage = Passage { prefix: matched.prefix.as_deref(), path: None, mirrors: SmallVec::new() };
    let of_rule = match passage.apply(&rule.filters, false, parts, roll) {
        ControlFlow::Continue(verdict) => verdict,
        ControlFlow::Break(answer) => return Decision::Answer(answer),
    };
    let chosen = backend.filter(|backend| *backend < rule.backends.len()).or_else(|| choose(rule, roll));
    let invalid = match chosen.map(|backend| &rule.backends[backend].target) {
        None => Some(Cause::NoBackend),
        Some(BackendTarget::Invalid { reason }) => Some(Cause::InvalidBackend(Arc::clone(reason))),
        Some(BackendTarget::Service { .. }) => None,
    };
    let (backend, cause) = (chosen.unwrap_or_default(), invalid);
    if let Some(cause) = cause {
        let mut answer = Answer { status: StatusCode::INTERNAL_SERVER_ERROR, headers: HeaderMap::new(), cause };
        edit_answer(&rule.filters, of_rule.as_ref(), &mut answer.headers);
        return Decision::Answer(answer);
    }
    let of_backend = match passage.apply(&rule.backends[backend].filters, true, parts, roll) {
        ControlFlow::Continue(verdict) => verdict,
        ControlFlow::Break(mut answer) => {
            if answer.cause != Cause::Preflight {
                edit_answer(&rule.filters, of_rule.as_ref(), &mut answer.headers);
            }
            return Decision::Answer(answer);
        }
    };
    let mirrors = passage.mirrors;
    Decision::Forward(Forward { matched: matched.clone(), backend, mirrors, cors: [of_rule, of_backend] })
}

/// Chooses one of a rule's backends, in proportion to their weights: also for connections without requests. `None`:
/// there is none, or none with a weight.
pub fn choose(rule: &Rule, roll: &mut dyn FnMut(u32) -> u32) -> Option<usize> {
    let backends = &rule.backends;
    if let [only] = backends.as_slice() {
        return (only.weight > 0).then_some(0);
    }
    let sum: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    // Halved as often as it takes for the sum to be a number that can be rolled.
    let shift = sum.checked_ilog2().map_or(0, |bits| bits.saturating_sub(31));
    let mut left = roll(u32::try_from(sum >> shift).unwrap_or(u32::MAX).max(1));
    for (index, backend) in backends.iter().enumerate() {
        let weight = backend.weight >> shift;
        if left < weight {
            return Some(index);
        }
        left -= weight;
    }
    // What halving cut off belongs to the last of those that have a weight.
    backends.iter().rposition(|backend| backend.weight > 0)
}

/// A request on its way through filters.
struct Passage<'a> {
    /// The prefix that the rule matched.
    prefix: Option<&'a str>,
    /// The path that the request came with, once it was rewritten.
    path: Option<String>,
    mirrors: SmallVec<[Place; 2]>,
}

impl Passage<'_> {
    fn apply(
        &mut self,
        filters: &[Filter],
        is_backends: bool,
        parts: &mut request::Parts,
        roll: &mut dyn FnMut(u32) -> u32,
    ) -> ControlFlow<Answer, Option<cors::Verdict>> {
        let mut verdict = None;
        for filter in filters {
            if let Filter::Cors(cors) = filter {
                match cors::judge(cors, parts) {
                    cors::Judged::Preflight(headers) => {
                        let (status, cause) = (StatusCode::NO_CONTENT, Cause::Preflight);
                        return ControlFlow::Break(Answer { status, headers, cause });
                    }
                    cors::Judged::Request(judged) => verdict = Some(judged),
                }
            }
        }
        for (index, filter) in filters.iter().enumerate() {
            match filter {
                Filter::RequestHeaders(edits) => headers::edit_request(edits, parts),
                Filter::Rewrite(rewrite) => {
                    let came = self.path.get_or_insert_with(|| parts.uri.path().to_owned());
                    if location::rewrite(rewrite, came, self.prefix, parts).is_err() {
                        let (status, cause) = (StatusCode::INTERNAL_SERVER_ERROR, Cause::InvalidFilter);
                        return ControlFlow::Break(Answer { status, headers: HeaderMap::new(), cause });
                    }
                }
                Filter::Redirect(redirect) => {
                    let came = self.path.as_deref().unwrap_or(parts.uri.path());
                    let mut answer = match location::redirect(redirect, came, self.prefix, parts) {
                        Ok(headers) => Answer { status: redirect.status, headers, cause: Cause::Redirect },
                        Err(_) => {
                            let (status, cause) = (StatusCode::INTERNAL_SERVER_ERROR, Cause::InvalidFilter);
                            Answer { status, headers: HeaderMap::new(), cause }
                        }
                    };
                    edit_answer(filters, verdict.as_ref(), &mut answer.headers);
                    return ControlFlow::Break(answer);
                }
                Filter::Mirror(mirror) => {
                    let (numerator, denominator) = mirror.share;
                    if numerator >= denominator || roll(denominator) < numerator {
                        self.mirrors.push(Place { is_backends, index });
                    }
                }
                // Judged above; and of the answer.
                Filter::Cors(_) | Filter::ResponseHeaders(_) => {}
            }
        }
        ControlFlow::Continue(verdict)
    }
}

/// Applies to an answer what filters say about answers.
fn edit_answer(filters: &[Filter], verdict: Option<&cors::Verdict>, headers: &mut HeaderMap) {
    for filter in filters {
        match filter {
            Filter::ResponseHeaders(edits) => headers::edit(edits, headers),
            Filter::Cors(cors) => {
                if let Some(verdict) = verdict {
                    cors::allow(cors, verdict, headers);
                }
            }
            Filter::RequestHeaders(_) | Filter::Redirect(_) | Filter::Rewrite(_) | Filter::Mirror(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
