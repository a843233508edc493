//! What the screen of a cluster says.

use super::super::tests::{now, report};
use super::*;

fn nodes<const COUNT: usize>(reports: [StatusReport; COUNT]) -> Reports {
    reports.into_iter().enumerate().map(|(i, report)| (format!("n{}", i + 1), report)).collect()
}

fn screen(answers: &Answers, reports: &Reports) -> String {
    render(answers, reports, &stand_out(answers, reports, now()), now(), false)
}

#[test]
fn each_node_is_a_line_and_that_all_is_well_is_said_once() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        screen(&Answers::default(), &nodes([report(|_| {}), report(|_| {})])),
        format!(
            "NODE  STATE  VERSION  PODS  CERTIFICATES  NEXT-ENDS-IN  CONNECTIONS  PROBLEMS\n\
             n1    ready  {version:<7}  1/1   2/2           20h58m        55           -\n\
             n2    ready  {version:<7}  1/1   2/2           20h58m        55           -\n\n\
             All is well.\n"
        )
    );
}

#[test]
fn agents_that_do_not_answer_are_named_and_need_attention() {
    let mut answers = Answers { missing: 1, ..Answers::default() };
    answers.silent.insert("n0".to_owned(), "connection refused".to_owned());
    let text = screen(&answers, &nodes([report(|_| {})]));
    assert!(text.contains("\nn0    no-answer  -"), "{text}");
    assert!(text.contains("Needs attention:\n  - The agent of n0 does not answer: connection refused\n"), "{text}");
    assert!(text.contains("  - 1 node without an agent yet.\n"), "{text}");
}

#[test]
fn what_differs_between_nodes_stands_out() {
    let newer = report(|report| {
        report.version = "9.9.9".to_owned();
        report.objects.policies = 5;
    });
    let reports = nodes([report(|_| {}), newer, report(|_| {})]);
    let text = screen(&Answers::default(), &reports);
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains(&format!("  - Versions differ: {version} on n1, n3; 9.9.9 on n2.\n")), "{text}");
    assert!(text.contains("  - Numbers of policies in force differ: 1 on n1, n3; 5 on n2.\n"), "{text}");
    assert_eq!(differences(&nodes([report(|_| {}), report(|_| {})])), []);
}

#[test]
fn what_several_nodes_have_to_say_is_said_once() {
    let relaxed = |report: &mut StatusReport| report.agent.relaxations = vec!["probes from everywhere".to_owned()];
    let text = screen(&Answers::default(), &nodes([report(relaxed), report(relaxed)]));
    assert!(text.contains("  - n1, n2: By choice: probes from everywhere\n"), "{text}");
}

#[test]
fn a_certificate_that_ends_soon_stands_out_with_its_node() {
    let soon = report(|report| {
        report.certificates.next_expiry = serde_json::from_value("2027-01-15T11:30:00Z".into()).ok();
    });
    let text = screen(&Answers::default(), &nodes([report(|_| {}), soon]));
    assert!(text.contains("n2: A certificate ends at 2027-01-15T11:30:00Z"), "{text}");
}

#[test]
fn an_answer_that_is_not_understood_is_none() {
    let mut answers = Answers::default();
    answers.answered.insert("n1".to_owned(), serde_json::json!({"version": 1}));
    assert!(understood(&mut answers).is_empty());
    assert!(answers.silent["n1"].contains("another version") && answers.answered.is_empty(), "{answers:?}");
}
