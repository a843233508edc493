//! What is to be said of Gateways and their classes.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_route::RouteKind;

use super::super::Translator;
use super::verdict::{Condition, ListenerVerdict, Said, Verdict};
use crate::object::{
    CONTROLLER_NAME, GATEWAY_GROUP, GATEWAY_NAME, Gateway, HBONE, HBONE_PORT, Kind, Listener, ObjectId, RouteObject,
};

/// The kinds of routes that a waypoint takes.
const KINDS: [RouteKind; 4] = [RouteKind::Http, RouteKind::Grpc, RouteKind::Tls, RouteKind::Tcp];

impl Translator {
    /// What is to be said of all Gateways that are waypoints of Weft, and of their classes.
    pub(super) fn judge_gateways(&self) -> BTreeMap<ObjectId, Arc<Verdict>> {
        let mut verdicts = BTreeMap::new();
        for class in self.gateways.classes.values().filter(|class| *class.controller == *CONTROLLER_NAME) {
            let id = ObjectId { kind: Kind::GatewayClass, namespace: Arc::default(), name: Arc::clone(&class.name) };
            let message = "its Gateways are waypoints of Weft";
            let said = Said::Class(vec![Condition::new("Accepted", true, "Accepted", message)]);
            verdicts.insert(id, Arc::new(Verdict { generation: class.generation, said }));
        }
        for gateway in self.gateways.iter().filter(|gateway| self.gateways.is_ours(&gateway.class)) {
            let (namespace, name) = (Arc::clone(&gateway.namespace), Arc::clone(&gateway.name));
            let id = ObjectId { kind: Kind::Gateway, namespace, name };
            verdicts.insert(id, Arc::new(self.judge_gateway(gateway)));
        }
        verdicts
    }

    fn judge_gateway(&self, gateway: &Gateway) -> Verdict {
        let listeners: Vec<ListenerVerdict> =
            gateway.listeners.iter().map(|listener| self.judge_listener(gateway, listener)).collect();
        let is_good = |listener: &&ListenerVerdict| listener.conditions.iter().all(|condition| condition.is_true);
        let good = listeners.iter().filter(is_good).count();
        let accepted = match (good, listeners.len()) {
            (0, _) => Condition::new(
                "Accepted",
                false,
                "ListenersNotValid",
                format!("a waypoint needs a listener of the protocol {HBONE} on port {HBONE_PORT}"),
            ),
            (good, all) if good < all => {
                Condition::new("Accepted", true, "ListenersNotValid", "not every listener can be served")
            }
            _ => Condition::new("Accepted", true, "Accepted", "it is a waypoint of Weft"),
        };
        let namespace = self.namespaces.find(&gateway.namespace);
        let service = namespace.and_then(|id| self.namespaces[id].services.get(&gateway.name));
        let addresses: Vec<Arc<str>> = service.map_or_else(Vec::new, |id| {
            self.services[*id].service.addresses.iter().map(|address| address.to_string().into()).collect()
        });
        let ready = self.ready_pods(gateway);
        let programmed = match (accepted.is_true, addresses.is_empty(), ready) {
            (false, ..) => Condition::new("Programmed", false, "Invalid", Arc::clone(&accepted.message)),
            (true, true, _) => {
                Condition::new("Programmed", false, "AddressNotAssigned", "its Service has no address yet")
            }
            (true, false, 0) => Condition::new("Programmed", false, "Pending", "none of its pods is ready"),
            (true, false, ready) => {
                let message = format!("{ready} of its pods {} ready", if ready == 1 { "is" } else { "are" });
                Condition::new("Programmed", true, "Programmed", message)
            }
        };
        let said = Said::Gateway { conditions: vec![accepted, programmed], listeners, addresses };
        Verdict { generation: gateway.generation, said }
    }

    /// How many pods of a waypoint are ready.
    pub(crate) fn ready_pods(&self, gateway: &Gateway) -> usize {
        let Some(namespace) = self.namespaces.find(&gateway.namespace) else { return 0 };
        let templates = self.namespaces[namespace].templates.values().map(|id| &self.namespaces.templates[*id]);
        let own = templates.filter(|state| {
            state.template.is_waypoint
                && state.template.labels.get(GATEWAY_NAME).is_some_and(|name| *name == gateway.name)
        });
        let pods = own.flat_map(|state| &state.pods).map(|id| &self.pods.get(*id).pod);
        pods.filter(|pod| pod.is_live() && pod.is_ready() && !pod.is_terminating).count()
    }

    fn judge_listener(&self, gateway: &Gateway, listener: &Listener) -> ListenerVerdict {
        let is_unknown = |(group, kind): &(Arc<str>, Arc<str>)| {
            **group != *GATEWAY_GROUP || !KINDS.iter().any(|known| *RouteObject::object_kind(*known).name() == **kind)
        };
        let kinds = KINDS.map(|kind| RouteObject::object_kind(kind).name());
        let kinds = kinds.into_iter().filter(|kind| {
            let is_it = |(group, name): &(Arc<str>, Arc<str>)| **group == *GATEWAY_GROUP && **name == **kind;
            listener.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(is_it))
        });
        let kinds: Vec<Arc<str>> = kinds.map(Arc::from).collect();
        let accepted = if *listener.protocol != *HBONE {
            let message = format!("a waypoint takes connections by {HBONE} alone");
            Condition::new("Accepted", false, "UnsupportedProtocol", message)
        } else if listener.port != HBONE_PORT {
            let message = format!("a waypoint listens on port {HBONE_PORT} alone");
            Condition::new("Accepted", false, "PortUnavailable", message)
        } else {
            Condition::new("Accepted", true, "Accepted", "")
        };
        let has_unknown = listener.kinds.as_ref().is_some_and(|kinds| kinds.iter().any(is_unknown));
        let resolved = match has_unknown {
            true => Condition::new("ResolvedRefs", false, "InvalidRouteKinds", "some kinds of routes are not served"),
            false => Condition::new("ResolvedRefs", true, "ResolvedRefs", ""),
        };
        let programmed = match accepted.is_true {
            true => Condition::new("Programmed", true, "Programmed", ""),
            false => Condition::new("Programmed", false, "Invalid", Arc::clone(&accepted.message)),
        };
        let attached = self.routes.iter().filter(|(_, state)| self.is_attached(gateway, listener, &state.object));
        ListenerVerdict {
            name: Arc::clone(&listener.name),
            kinds,
            attached: attached.count(),
            conditions: vec![accepted, programmed, resolved],
        }
    }
}
