use std::time::UNIX_EPOCH;

use serde_json::json;

use super::*;

fn render(list: &List, value: Value) -> String {
    (list.table)(value).unwrap().render(false)
}

#[test]
fn pods() {
    let table = render(
        &PODS,
        json!([
            {"namespace": "shop", "name": "curl-1", "identity": "spiffe://cluster.local/ns/shop/sa/curl",
             "addresses": ["10.0.0.1", "fd00::1"], "state": "captured", "older_connections": 2},
            {"namespace": "shop", "name": "web-1", "identity": "spiffe://cluster.local/ns/shop/sa/web",
             "addresses": [], "state": "failed", "detail": "no such network namespace"},
        ]),
    );
    assert_eq!(
        table,
        "NAMESPACE  NAME    STATE     ADDRESSES         IDENTITY                                DETAIL\n\
         shop       curl-1  captured  10.0.0.1,fd00::1  spiffe://cluster.local/ns/shop/sa/curl  2 connections from before, outside the mesh\n\
         shop       web-1   failed    -                 spiffe://cluster.local/ns/shop/sa/web   no such network namespace\n"
    );
}

#[test]
fn services_show_how_many_endpoints_are_ready() {
    let endpoint =
        |condition: &str| json!({"namespace": "shop", "workload": "w", "addresses": [], "condition": condition});
    let service = |name: &str, addresses: Value, endpoints: Value, all_count: bool| {
        json!({
            "namespace": "shop", "name": name, "hostname": format!("{name}.shop.svc.cluster.local"),
            "addresses": addresses, "ports": [{"port": 80, "name": "", "protocol": "http"}], "endpoints": endpoints,
            "internal_traffic_policy": "Cluster", "publish_not_ready_addresses": all_count,
        })
    };
    let table = render(
        &SERVICES,
        json!([
            service("db", json!([]), json!([endpoint("not_ready"), endpoint("terminating")]), true),
            service("web", json!(["10.1.0.1"]), json!([endpoint("ready"), endpoint("not_ready")]), false),
        ]),
    );
    assert_eq!(
        table,
        "NAMESPACE  NAME  ADDRESSES  PORTS    READY  HOSTNAME\n\
         shop       db    headless   80/http  2/2    db.shop.svc.cluster.local\n\
         shop       web   10.1.0.1   80/http  1/2    web.shop.svc.cluster.local\n"
    );
}

#[test]
fn policies() {
    let policy = |name: &str, scope: &str, selected_by: Option<usize>, dry_run: bool| {
        let mut policy = json!({
            "namespace": "shop", "name": name, "action": "deny", "scope": scope, "dry_run": dry_run, "rules": [[]],
        });
        if let Some(count) = selected_by {
            policy["selected_by"] = count.into();
        }
        policy
    };
    let table = render(
        &POLICIES,
        json!([
            policy("a", "workload", Some(1), false),
            policy("b", "namespace", None, true),
            policy("c", "mesh", None, false)
        ]),
    );
    assert_eq!(
        table,
        "NAMESPACE  NAME  ACTION  APPLIES-TO     RULES  ENFORCED\n\
         shop       a     DENY    1 workload     1      yes\n\
         shop       b     DENY    its namespace  1      no, dry run\n\
         shop       c     DENY    the mesh       1      yes\n"
    );
}

#[test]
fn certificates_show_how_long_they_last() {
    let later = SystemTime::now() + Duration::from_secs(3 * 3600 + 90);
    let earlier = SystemTime::now() - Duration::from_secs(120);
    let table = render(
        &CERTIFICATES,
        json!([
            {"identity": "spiffe://a/ns/b/sa/c", "state": "valid", "serial": "0a",
             "not_after": crate::admin::Timestamp::from(later).to_string(), "workloads": 2},
            {"identity": "spiffe://a/ns/b/sa/d", "state": "renewal_failing", "workloads": 1,
             "not_after": crate::admin::Timestamp::from(earlier).to_string(), "error": "the authority is away"},
        ]),
    );
    let rows: Vec<_> = table.lines().skip(1).collect();
    assert!(rows[0].contains("valid") && rows[0].contains("3h1m"), "{table}");
    assert!(rows[1].contains("renewal failing") && rows[1].contains("2m"), "{table}");
    assert!(rows[1].contains(" ago") && rows[1].ends_with("the authority is away"), "{table}");
    assert!(UNIX_EPOCH < earlier);
}

#[test]
fn connections() {
    let table = render(
        &CONNECTIONS,
        json!([{
            "direction": "outbound", "state": "half_closed",
            "source": {"address": "10.0.0.1:1000", "namespace": "shop", "workload": "curl-1"},
            "destination": {"address": "[fd00::2]:8080"},
            "tunnel": "10.0.0.2:15008", "bytes_from_client": 1, "bytes_to_client": 2048, "age_milliseconds": 61_000,
        }]),
    );
    assert_eq!(
        table,
        "DIRECTION  SOURCE                     DESTINATION     SERVICE  SECURITY  STATE        FROM-CLIENT  TO-CLIENT  AGE\n\
         outbound   shop/curl-1@10.0.0.1:1000  [fd00::2]:8080  -        mTLS      half closed  1B           2.0KiB     1m1s\n"
    );
}

#[test]
fn older_connections() {
    let table = render(
        &OLDER_CONNECTIONS,
        json!([{
            "direction": "inbound", "source": {"address": "[fd00::2]:40000"},
            "destination": {"address": "10.0.0.1:8080", "namespace": "shop", "workload": "web-1"},
        }]),
    );
    assert_eq!(
        table,
        "DIRECTION  SOURCE           DESTINATION\n\
         inbound    [fd00::2]:40000  shop/web-1@10.0.0.1:8080\n"
    );
}

#[test]
fn an_answer_of_another_version_is_said_to_be_one() {
    let error = (WORKLOADS.table)(json!([{"name": "x"}])).unwrap_err();
    assert!(error.to_string().contains("another version"), "{error:#}");
}
