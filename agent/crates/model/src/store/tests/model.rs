//! The store against one that forgets nothing and recomputes everything.

use std::collections::BTreeMap;

use super::*;
use crate::workload::TunnelProtocol;

/// Everything that was put, with the time since when each address has been claimed.
#[derive(Default)]
struct Naive {
    workloads: BTreeMap<Arc<str>, (Workload, BTreeMap<IpAddr, u64>)>,
    services: BTreeMap<Arc<str>, (Service, BTreeMap<IpAddr, u64>)>,
    time: u64,
}

impl Naive {
    fn apply(&mut self, change: &Change) {
        self.time += 1;
        let time = self.time;
        let claims = |addresses: &[IpAddr], old: Option<&BTreeMap<IpAddr, u64>>| {
            let since = |address| old.and_then(|old| old.get(address)).copied().unwrap_or(time);
            addresses.iter().map(|address| (*address, since(address))).collect::<BTreeMap<_, _>>()
        };
        match change {
            Change::PutWorkload(new) => {
                let old = self.workloads.get(&new.uid);
                let old = old.filter(|(old, _)| old.instance == new.instance).map(|(_, claims)| claims);
                let addresses = if new.is_host_network { &[][..] } else { &new.addresses };
                let claims = claims(addresses, old);
                self.workloads.insert(Arc::clone(&new.uid), (new.clone(), claims));
            }
            Change::PutService(new) => {
                let claims = claims(&new.addresses, self.services.get(&new.key).map(|(_, claims)| claims));
                self.services.insert(Arc::clone(&new.key), (new.clone(), claims));
            }
            Change::RemoveWorkload(uid) => {
                self.workloads.remove(uid);
            }
            Change::RemoveService(key) => {
                self.services.remove(key);
            }
            Change::PutPolicy(_) | Change::RemovePolicy(_) => {
                unreachable!("policies are tested elsewhere")
            }
        }
    }

    fn workload_at(&self, address: IpAddr) -> Option<&Workload> {
        let claims = self.workloads.values().filter_map(|(w, claims)| Some((claims.get(&address)?, w)));
        claims.max_by_key(|(since, _)| **since).map(|(_, workload)| workload)
    }

    fn service_at(&self, address: IpAddr) -> Option<&Service> {
        let claims = self.services.values().filter_map(|(s, claims)| Some((claims.get(&address)?, s)));
        claims.max_by_key(|(since, _)| **since).map(|(_, service)| service)
    }

    fn members(&self, key: &str) -> Vec<&Workload> {
        let is_member = |w: &&Workload| w.services.iter().any(|membership| *membership.service == *key);
        self.workloads.values().map(|(workload, _)| workload).filter(is_member).collect()
    }

    /// All that resolution may depend on for one address.
    fn resolution(&self, address: IpAddr) -> String {
        match (self.service_at(address), self.workload_at(address)) {
            (Some(service), _) => format!("{service:?} {:?}", self.members(&service.key)),
            (None, workload) => format!("{workload:?}"),
        }
    }

    fn is_mesh(&self, address: IpAddr) -> bool {
        match self.service_at(address) {
            Some(service) => self.members(&service.key).iter().any(|workload| workload.is_hbone()),
            None => self.workload_at(address).is_some_and(Workload::is_hbone),
        }
    }
}

fn random_change(random: &mut fastrand::Rng) -> Change {
    let address = |random: &mut fastrand::Rng| ip(&format!("10.0.0.{}", random.u8(..12)));
    let name = |random: &mut fastrand::Rng| format!("pod-{}", random.u8(..10));
    let service_name = |random: &mut fastrand::Rng| format!("service-{}", random.u8(..5));
    match random.u8(..10) {
        0..5 => {
            let mut workload = pod(&name(random), &[]);
            workload.instance = random.u8(..2).to_string().into();
            workload.is_host_network = random.u8(..8) == 0;
            if random.bool() {
                workload.protocol = TunnelProtocol::None;
            }
            for _ in 0..random.u8(..3) {
                let address = address(random);
                if !workload.addresses.contains(&address) {
                    workload.addresses.push(address);
                }
            }
            for number in 0..5 {
                let condition = match random.u8(..6) {
                    0 => EndpointCondition::Ready,
                    1 => EndpointCondition::Terminating,
                    2 => EndpointCondition::NotReady,
                    _ => continue,
                };
                workload = workload.of(&format!("service-{number}"), condition);
            }
            Change::PutWorkload(workload)
        }
        5..7 => Change::RemoveWorkload(uid(&name(random))),
        7..9 => {
            let addresses: Vec<IpAddr> = (0..random.u8(..2)).map(|_| address(random)).collect();
            let publish_not_ready_addresses = random.bool();
            Change::PutService(Service {
                addresses,
                publish_not_ready_addresses,
                ..service(&service_name(random), &[])
            })
        }
        _ => Change::RemoveService(key(&service_name(random))),
    }
}

#[test]
fn any_batches_lead_to_what_a_naive_store_holds() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..60 {
        let (mut store, mut naive) = (store(), Naive::default());
        for _ in 0..60 {
            let changes: Vec<Change> = (0..random.usize(1..6)).map(|_| random_change(&mut random)).collect();
            let addresses = (0..12).map(|last| ip(&format!("10.0.0.{last}")));
            let before: Vec<String> = addresses.clone().map(|address| naive.resolution(address)).collect();
            changes.iter().for_each(|change| naive.apply(change));
            let Applied { snapshot, touched } = store.apply(changes);
            for (address, before) in addresses.zip(before) {
                assert_eq!(snapshot.workload_by_address(address).map(|w| &**w), naive.workload_at(address));
                assert_eq!(snapshot.service_by_address(address).map(|s| &**s), naive.service_at(address));
                assert_eq!(snapshot.is_mesh(address), naive.is_mesh(address), "{address}");
                let has_changed = naive.resolution(address) != before;
                assert!(!has_changed || touched.contains(&address), "{address} is not among {touched:?}");
            }
            for number in 0..5 {
                let service = format!("service-{number}");
                let mut wanted: Vec<String> =
                    naive.members(&key(&service)).iter().map(|workload| workload.name.to_string()).collect();
                wanted.sort();
                assert_eq!(endpoint_names(&snapshot, &service), wanted);
                assert_eq!(snapshot.endpoint_count(&key(&service)), wanted.len());
            }
            assert_eq!(snapshot.workload_count(), naive.workloads.len());
            assert_eq!(snapshot.services().count(), naive.services.len());
        }
    }
}
