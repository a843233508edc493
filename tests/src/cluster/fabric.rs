//! The network between the machines: a bridge in the control plane's namespace, and a link from each node to it.

use anyhow::Result;

use super::plan::{Plan, fabric_addresses, node_name, pod_ranges};
use crate::ip::Batch;
use crate::netns::Netns;

/// Makes the machines' network namespaces with links, addresses and routes, also to the pods. They stay until the
/// cluster is removed.
pub(super) fn lay(plan: &Plan) -> Result<()> {
    let control = Netns::create(&plan.netns(&plan.control_plane()))?;
    let (v4, v6) = fabric_addresses(0);
    let mut batch = Batch::default();
    batch.line("link add fabric address 0a:58:0a:64:00:01 type bridge mcast_snooping 0");
    batch.line(format_args!("addr add {v4}/24 dev fabric"));
    batch.line(format_args!("addr add {v6}/64 dev fabric nodad"));
    batch.line("link set fabric up");
    for number in plan.numbers() {
        route_to_pods(&mut batch, number);
    }
    batch.run(&control)?;
    forward(&control)?;

    let nodes = plan.numbers().map(|number| Ok((number, Netns::create(&plan.netns(&node_name(number)))?)));
    let nodes: Vec<(usize, Netns)> = nodes.collect::<Result<_>>()?;
    for (number, node) in &nodes {
        let name = node_name(*number);
        let mut batch = Batch::default();
        batch.line(format_args!("link add {name} type veth peer name eth0 netns {}", node.path().display()));
        batch.line(format_args!("link set {name} master fabric up"));
        batch.run(&control)?;
        let (own_v4, own_v6) = fabric_addresses(*number);
        let mut batch = Batch::default();
        batch.line(format_args!("addr add {own_v4}/24 dev eth0"));
        batch.line(format_args!("addr add {own_v6}/64 dev eth0 nodad"));
        batch.line("link set eth0 up");
        batch.line(format_args!("route add default via {v4}"));
        batch.line(format_args!("route add default via {v6}"));
        for other in plan.numbers().filter(|other| other != number) {
            route_to_pods(&mut batch, other);
        }
        batch.run(node)?;
        forward(node)?;
    }
    // They outlive this process if the cluster is kept, and are removed by name.
    std::mem::forget(control);
    std::mem::forget(nodes);
    Ok(())
}

fn route_to_pods(batch: &mut Batch, number: usize) {
    let (v4, v6) = fabric_addresses(number);
    let [range_v4, range_v6] = pod_ranges(number);
    batch.line(format_args!("route add {range_v4} via {v4}"));
    batch.line(format_args!("route add {range_v6} via {v6}"));
}

fn forward(netns: &Netns) -> Result<()> {
    netns.sysctl("ipv4/ip_forward", "1")?;
    netns.sysctl("ipv6/conf/all/forwarding", "1")
}
