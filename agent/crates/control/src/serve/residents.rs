//! Which identities run on which node: what a node's agent may have certificates for.

use std::sync::Arc;

use hashbrown::HashMap;
use weft_model::{Identity, Workload};

use super::authenticate::Caller;
use crate::object::STATIC_POD;

/// Says who may have a certificate of whom.
pub trait Grants: Send + Sync {
    /// Whether `caller` may have a certificate of `identity`.
    ///
    /// # Errors
    /// Why not, for the caller and the audit log.
    fn may_have(&self, caller: &Caller, identity: &Identity) -> Result<(), String>;
}

/// Pods by node and identity.
#[derive(Debug, Default)]
pub(crate) struct Residents {
    homes: HashMap<Arc<str>, (Arc<str>, Identity)>,
    counts: HashMap<(Arc<str>, Identity), usize>,
}

impl Residents {
    /// Where a workload's identity lives. Nobody vouches for what is no pod: an address that somebody wrote into an
    /// EndpointSlice has no identity. Pods on the host's network are never enrolled, and need none. Mirrors of static pods are
    /// written by the kubelet, in whatever namespace it likes: a node could give itself any `default` account by them.
    pub fn resident(workload: &Workload) -> Option<(Arc<str>, Identity)> {
        let is_pod = workload.uid.split('/').nth(2) == Some("Pod");
        let is_admitted = is_pod && *workload.workload_type != *STATIC_POD;
        let is_resident = is_admitted && !workload.is_host_network && !workload.node.is_empty();
        is_resident.then(|| (Arc::clone(&workload.node), workload.identity.clone()))
    }

    /// Notes where a workload lives now.
    pub fn set(&mut self, uid: &Arc<str>, resident: Option<(Arc<str>, Identity)>) {
        if self.homes.get(uid) == resident.as_ref() {
            return;
        }
        let before = match &resident {
            Some(home) => self.homes.insert(Arc::clone(uid), home.clone()),
            None => self.homes.remove(uid),
        };
        if let Some(home) = before
            && let Some(count) = self.counts.get_mut(&home)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&home);
            }
        }
        if let Some(home) = resident {
            *self.counts.entry(home).or_default() += 1;
        }
    }
}

impl Grants for Residents {
    fn may_have(&self, caller: &Caller, identity: &Identity) -> Result<(), String> {
        if caller.node.is_empty() {
            return Err("it is not known on which node the caller runs".to_owned());
        }
        if self.counts.contains_key(&(Arc::clone(&caller.node), identity.clone())) {
            return Ok(());
        }
        Err(format!("no pod of {identity} runs on the node {}", caller.node))
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::istio::arbitrary;

    fn pod(name: &str, node: &str) -> Workload {
        let mut workload = arbitrary::workload(&mut Rng::with_seed(1));
        workload.uid = format!("c//Pod/a/{name}").into();
        workload.identity = Identity::new("cluster.local", "a", name).expect("valid parts");
        workload.node = node.into();
        workload.is_host_network = false;
        workload.workload_type = "pod".into();
        workload
    }

    fn set(residents: &mut Residents, workload: &Workload) {
        residents.set(&workload.uid, Residents::resident(workload));
    }

    #[test]
    fn a_node_may_have_the_identities_of_its_own_pods_for_as_long_as_they_run_there() {
        let mut residents = Residents::default();
        let (cart, twin) = (pod("cart", "n1"), Workload { uid: "c//Pod/a/twin".into(), ..pod("cart", "n1") });
        set(&mut residents, &cart);
        set(&mut residents, &cart);
        set(&mut residents, &twin);
        let caller = |node: &str| Caller { node: node.into(), ..Caller::default() };
        assert_eq!(residents.may_have(&caller("n1"), &cart.identity), Ok(()));
        let refusal = residents.may_have(&caller("n2"), &cart.identity).expect_err("it runs elsewhere");
        assert_eq!(refusal, "no pod of spiffe://cluster.local/ns/a/sa/cart runs on the node n2");
        assert!(residents.may_have(&caller(""), &cart.identity).is_err());
        residents.set(&cart.uid, None);
        assert_eq!(residents.may_have(&caller("n1"), &cart.identity), Ok(()), "its twin runs");
        set(&mut residents, &Workload { node: "n2".into(), ..twin });
        assert!(residents.may_have(&caller("n1"), &cart.identity).is_err());
        assert_eq!(residents.may_have(&caller("n2"), &cart.identity), Ok(()));
        assert_eq!((residents.homes.len(), residents.counts.len()), (1, 1));
    }

    #[test]
    fn what_is_no_enrollable_pod_vouches_for_nobody() {
        let host = Workload { is_host_network: true, ..pod("a", "n1") };
        let endpoint = Workload { uid: "c//EndpointSlice/a/10.0.0.1".into(), ..pod("a", "n1") };
        let mirror = Workload { workload_type: "static-pod".into(), ..pod("a", "n1") };
        for workload in [host, endpoint, mirror, pod("a", "")] {
            assert_eq!(Residents::resident(&workload), None, "{}", workload.uid);
        }
    }
}
