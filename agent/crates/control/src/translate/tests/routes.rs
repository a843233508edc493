use weft_route::{BackendTarget, Parent, ParentTarget, PathMatch, Route, RouteChange};

use super::*;
use crate::translate::routes::{Condition, Said, Verdict};

/// A route of the namespace `shop` unless it says otherwise.
fn route(name: &str, kind: &str, parents: &str, rules: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("a route has a namespace");
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{parentRefs: [{parents}], rules: [{rules}]}}\n"
    )
}

fn grant(namespace: &str, from: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: {namespace}}}\n\
         spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {from}}}], to: [{{group: '', kind: Service}}]}}\n"
    )
}

const WEB: &str = "{group: '', kind: Service, name: web}";
const TO_WEB: &str = "{backendRefs: [{name: web, port: 80}]}";

/// A condition of a route at its first parent.
fn condition<'v>(verdict: &'v Verdict, kind: &str) -> Option<&'v Condition> {
    verdict.parents().first()?.conditions.iter().find(|condition| condition.kind == kind)
}

/// Routes by name, as changes make them.
struct Router {
    mesh: Mesh,
    routes: BTreeMap<String, Arc<Route>>,
    statuses: BTreeMap<String, Arc<Verdict>>,
}

impl Router {
    fn new() -> Self {
        let mut router = Self { mesh: Mesh::new(), routes: BTreeMap::new(), statuses: BTreeMap::new() };
        router.put(&service("shop/web", "app: web", "10.1.0.1"));
        router
    }

    /// Puts the objects of a manifest. Returns the routes that changed.
    fn put(&mut self, yaml: &str) -> Vec<String> {
        self.mesh.put(yaml);
        self.flush()
    }

    fn remove(&mut self, id: &str) -> Vec<String> {
        self.mesh.remove(id);
        self.flush()
    }

    fn flush(&mut self) -> Vec<String> {
        let mut changed = Vec::new();
        for change in self.mesh.translator.flush_routes() {
            match change {
                RouteChange::Put(route) => {
                    changed.push(route.name.to_string());
                    self.routes.insert(route.key.to_string(), route);
                }
                RouteChange::Remove(key) => {
                    changed.push(format!("-{}", key.rsplit('/').next().unwrap_or_default()));
                    assert!(self.routes.remove(&*key).is_some(), "{key} was never there");
                }
            }
        }
        for StatusChange { object, verdict } in self.mesh.translator.flush_statuses() {
            match verdict {
                Some(verdict) => self.statuses.insert(object.to_string(), verdict),
                None => self.statuses.remove(&object.to_string()),
            };
        }
        changed
    }

    /// The conditions of the first parent of a route, as `Type=status Reason`.
    fn conditions(&self, id: &str) -> Vec<String> {
        let verdict = &self.statuses[id];
        ["Accepted", "ResolvedRefs", "PartiallyInvalid"]
            .into_iter()
            .filter_map(|kind| condition(verdict, kind))
            .map(|condition| format!("{}={} {}", condition.kind, condition.is_true, condition.reason))
            .collect()
    }

    fn target(&self, key: &str) -> BackendTarget {
        self.routes[key].rules[0].backends[0].target.clone()
    }
}

#[test]
fn a_route_is_attached_to_its_service_and_leads_to_services() {
    let mut router = Router::new();
    let rules =
        "{matches: [{path: {value: /a}}], backendRefs: [{name: web, port: 80, weight: 9}, {name: web, port: 80}]}";
    assert_eq!(router.put(&route("shop/r", "HTTPRoute", WEB, rules)), ["r"]);
    let found = &router.routes["HTTPRoute/shop/r"];
    let key: Arc<str> = "shop/web.shop.svc.cluster.local".into();
    assert_eq!(found.parents, [Parent { target: ParentTarget::Service(Arc::clone(&key)), port: None, consumer: None }]);
    assert_eq!(found.rules[0].matches[0].path, Some(PathMatch::Prefix("/a".into())));
    assert_eq!(found.rules[0].backends[0].target, BackendTarget::Service { key, port: 80 });
    assert_eq!(found.rules[0].backends[0].weight, 9);
    assert_eq!(router.conditions("HTTPRoute shop/r"), ["Accepted=true Accepted", "ResolvedRefs=true ResolvedRefs"]);
    assert_eq!(router.put(&route("shop/r", "HTTPRoute", WEB, rules)), [""; 0], "the same again is no change");
    assert_eq!(router.remove("HTTPRoute shop/r"), ["-r"]);
    assert!(router.statuses.is_empty());
    assert_eq!(router.mesh.translator.counts().http_routes, 0);
}

#[test]
fn parents_are_accepted_only_where_they_are_there() {
    let cases = [
        ("{group: '', kind: Service, name: web, port: 80}", "true Accepted", Some(80)),
        ("{group: '', kind: Service, name: web, sectionName: web}", "true Accepted", Some(80)),
        ("{group: '', kind: Service, name: web, port: 81}", "false NoMatchingParent", None),
        ("{group: '', kind: Service, name: web, sectionName: grpc}", "false NoMatchingParent", None),
        ("{group: '', kind: Service, name: web, sectionName: web, port: 81}", "false NoMatchingParent", None),
        ("{group: '', kind: Service, name: none}", "false NoMatchingParent", None),
    ];
    for (parent, expected, port) in cases {
        let mut router = Router::new();
        router.put(&route("shop/r", "HTTPRoute", parent, TO_WEB));
        assert_eq!(router.conditions("HTTPRoute shop/r")[0], format!("Accepted={expected}"), "{parent}");
        let found = router.routes.get("HTTPRoute/shop/r");
        assert_eq!(
            found.map(|route| route.parents[0].port),
            (expected.starts_with("true")).then_some(port),
            "{parent}"
        );
    }
    // What another controller answers for is left alone.
    let mut router = Router::new();
    router.put(&route("shop/r", "HTTPRoute", "{name: edge}, {kind: Mesh, group: x.io, name: m}", TO_WEB));
    assert!(router.routes.is_empty());
    assert_eq!(router.conditions("HTTPRoute shop/r"), [""; 0]);
}

#[test]
fn a_route_beside_its_clients_is_for_them_alone() {
    let mut router = Router::new();
    let parent = "{group: '', kind: Service, name: web, namespace: shop}";
    router.put(&route("lab/r", "HTTPRoute", parent, ""));
    assert_eq!(router.routes["HTTPRoute/lab/r"].parents[0].consumer.as_deref(), Some("lab"));
    router.put(&route("shop/r", "HTTPRoute", parent, ""));
    assert_eq!(router.routes["HTTPRoute/shop/r"].parents[0].consumer, None);
}

#[test]
fn what_leads_nowhere_is_said_and_answers_until_it_leads_somewhere() {
    let cases = [
        ("{name: none, port: 80}", "BackendNotFound", "there is no Service shop/none"),
        ("{name: web, port: 81}", "BackendNotFound", "the Service shop/web has no TCP port 81"),
        (
            "{name: web, port: 80, kind: Bucket, group: x.io}",
            "InvalidKind",
            "a Bucket of the group 'x.io' cannot take requests here",
        ),
        (
            "{name: vault, namespace: bank, port: 80}",
            "RefNotPermitted",
            "no ReferenceGrant in bank lets a HTTPRoute of shop refer to the Service vault",
        ),
    ];
    for (backend, expected, words) in cases {
        let mut router = Router::new();
        router.put(&service("bank/vault", "app: vault", "10.1.0.9"));
        router.put(&route("shop/r", "HTTPRoute", WEB, &format!("{{backendRefs: [{backend}]}}")));
        assert_eq!(router.conditions("HTTPRoute shop/r")[1], format!("ResolvedRefs=false {expected}"), "{backend}");
        assert_eq!(router.target("HTTPRoute/shop/r"), BackendTarget::Invalid { reason: words.into() });
    }
    let mut router = Router::new();
    router.put(&route("shop/r", "HTTPRoute", WEB, "{backendRefs: [{name: vault, namespace: bank, port: 80}]}"));
    router.put(&grant("bank", "shop"));
    assert!(matches!(router.target("HTTPRoute/shop/r"), BackendTarget::Invalid { .. }), "there is no such service");
    assert_eq!(router.put(&service("bank/vault", "app: vault", "10.1.0.9")), ["r"]);
    let key = "bank/vault.bank.svc.cluster.local".into();
    assert_eq!(router.target("HTTPRoute/shop/r"), BackendTarget::Service { key, port: 80 });
    assert_eq!(router.remove("ReferenceGrant bank/g"), ["r"]);
    assert!(matches!(router.target("HTTPRoute/shop/r"), BackendTarget::Invalid { .. }));
    router.put(&grant("bank", "lab"));
    assert!(matches!(router.target("HTTPRoute/shop/r"), BackendTarget::Invalid { .. }), "it is for others");
}

#[test]
fn mirrors_are_references_as_well() {
    let mut router = Router::new();
    let rules = "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}], \
                 backendRefs: [{name: web, port: 80}]}";
    router.put(&route("shop/r", "HTTPRoute", WEB, rules));
    assert_eq!(router.conditions("HTTPRoute shop/r")[1], "ResolvedRefs=false BackendNotFound");
    assert_eq!(router.put(&service("shop/copy", "app: copy", "10.1.0.2")), ["r"]);
    assert_eq!(router.conditions("HTTPRoute shop/r")[1], "ResolvedRefs=true ResolvedRefs");
}

#[test]
fn a_rule_with_a_mistake_does_not_take_the_others_with_it() {
    let mut router = Router::new();
    let dropped = "{matches: [{path: {type: RegularExpression, value: '('}}], backendRefs: [{name: web, port: 80}]}";
    let broken = "{filters: [{type: ExternalAuth}], backendRefs: [{name: web, port: 80}]}";
    router.put(&route("shop/r", "HTTPRoute", WEB, &[dropped, broken, TO_WEB].join(", ")));
    assert_eq!(
        router.conditions("HTTPRoute shop/r"),
        ["Accepted=true Accepted", "ResolvedRefs=true ResolvedRefs", "PartiallyInvalid=true UnsupportedValue"]
    );
    let rules = &router.routes["HTTPRoute/shop/r"].rules;
    assert_eq!(rules.len(), 2);
    assert!(matches!(&rules[0].backends[0].target, BackendTarget::Invalid { .. }), "it answers with 500");
    assert!(matches!(&rules[1].backends[0].target, BackendTarget::Service { .. }));
    let verdict = &router.statuses["HTTPRoute shop/r"];
    let message = &condition(verdict, "PartiallyInvalid").expect("it is partly invalid").message;
    assert!(message.starts_with("Dropped Rule: rule 0 (left out): "), "{message}");
    assert!(message.contains("; rule 1 (answers with 500): "), "{message}");
    // With nothing of it in force, it is not accepted; what it guards is not let through.
    router.put(&route("shop/r", "HTTPRoute", WEB, broken));
    assert_eq!(router.conditions("HTTPRoute shop/r")[0], "Accepted=false UnsupportedValue");
    assert!(matches!(router.target("HTTPRoute/shop/r"), BackendTarget::Invalid { .. }));
    assert_eq!(router.put(&route("shop/r", "HTTPRoute", WEB, dropped)), ["-r"]);
}

#[test]
fn routes_follow_their_services() {
    let mut router = Router::new();
    router.put(&route("shop/r", "HTTPRoute", WEB, TO_WEB));
    router.put(&route("shop/other", "TCPRoute", WEB, TO_WEB));
    assert_eq!(router.remove("Service shop/web"), ["-r", "-other"]);
    assert_eq!(router.conditions("HTTPRoute shop/r")[0], "Accepted=false NoMatchingParent");
    assert_eq!(router.put(&service("shop/unrelated", "app: x", "10.1.0.3")), [""; 0]);
    assert_eq!(router.put(&service("shop/web", "app: web", "10.1.0.1")), ["r", "other"]);
}

#[test]
fn a_gateway_takes_the_routes_that_it_allows() {
    let gateway = |listeners: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: infra}}\n\
             spec: {{gatewayClassName: weft-waypoint, listeners: [{listeners}]}}\n"
        )
    };
    let mesh = "name: mesh, port: 15008, protocol: HBONE";
    let edge = "{name: edge, namespace: infra}";
    let cases = [
        (format!("{{{mesh}, allowedRoutes: {{namespaces: {{from: All}}}}}}"), edge, "true Accepted"),
        (format!("{{{mesh}}}"), edge, "false NotAllowedByListeners"),
        (
            format!("{{{mesh}, allowedRoutes: {{namespaces: {{from: All}}, kinds: [{{kind: GRPCRoute}}]}}}}"),
            edge,
            "false NotAllowedByListeners",
        ),
        (
            format!(
                "{{{mesh}, allowedRoutes: {{namespaces: {{from: Selector, selector: {{matchLabels: {{team: a}}}}}}}}}}"
            ),
            edge,
            "true Accepted",
        ),
        (
            format!("{{{mesh}, allowedRoutes: {{namespaces: {{from: All}}}}}}"),
            "{name: edge, namespace: infra, sectionName: other}",
            "false NoMatchingParent",
        ),
        (
            format!("{{{mesh}, hostname: a.example.com, allowedRoutes: {{namespaces: {{from: All}}}}}}"),
            edge,
            "false NoMatchingListenerHostname",
        ),
    ];
    for (listener, parent, expected) in cases {
        let mut router = Router::new();
        router.put(&namespace("shop", "team: a"));
        let with_host =
            route("shop/r", "HTTPRoute", parent, TO_WEB).replace("rules:", "hostnames: ['*.example.org'], rules:");
        router.put(&with_host);
        assert_eq!(router.conditions("HTTPRoute shop/r"), [""; 0], "nobody knows whose Gateway it is");
        router.put(&gateway(&listener));
        assert_eq!(router.conditions("HTTPRoute shop/r")[0], format!("Accepted={expected}"), "{listener}");
        let is_accepted = expected.starts_with("true");
        assert_eq!(router.routes.contains_key("HTTPRoute/shop/r"), is_accepted);
        if is_accepted {
            let target = ParentTarget::Gateway("infra/edge".into());
            assert_eq!(router.routes["HTTPRoute/shop/r"].parents, [Parent { target, port: None, consumer: None }]);
        }
        let Verdict { said: Said::Gateway { listeners, .. }, .. } = &*router.statuses["Gateway infra/edge"] else {
            panic!("a Gateway's");
        };
        let attached = usize::from(is_accepted);
        assert_eq!(listeners[0].attached, attached, "{listener}");
    }
}

#[test]
fn a_gateway_is_programmed_when_a_pod_of_it_is_ready() {
    let mut router = Router::new();
    let conditions = |router: &Router| match &router.statuses["Gateway shop/edge"].said {
        Said::Gateway { conditions, addresses, .. } => {
            let conditions: Vec<String> =
                conditions.iter().map(|found| format!("{}={} {}", found.kind, found.is_true, found.reason)).collect();
            (conditions.join(", "), addresses.join(","))
        }
        other => panic!("{other:?}"),
    };
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\n\
                   spec: {gatewayClassName: weft-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n";
    router.put(gateway);
    let accepted = "Accepted=true Accepted, Programmed=";
    assert_eq!(conditions(&router), (format!("{accepted}false AddressNotAssigned"), String::new()));
    router.put(&service("shop/edge", "gateway.networking.k8s.io/gateway-name: edge", "10.1.0.5"));
    assert_eq!(conditions(&router), (format!("{accepted}false Pending"), "10.1.0.5".to_owned()));
    let labels =
        "gateway.networking.k8s.io/gateway-name: edge, gateway.networking.k8s.io/gateway-class-name: weft-waypoint";
    router.put(&pod("shop/edge-1", labels, "10.0.0.7"));
    assert_eq!(conditions(&router), (format!("{accepted}true Programmed"), "10.1.0.5".to_owned()));
    router.remove("Pod shop/edge-1");
    assert_eq!(conditions(&router).0, format!("{accepted}false Pending"));
    router.put(&gateway.replace("port: 15008", "port: 80"));
    assert_eq!(conditions(&router).0, "Accepted=false ListenersNotValid, Programmed=false Invalid");
    router.remove("Gateway shop/edge");
    assert!(!router.statuses.contains_key("Gateway shop/edge"));
}
