//! How long it takes to judge 1,000 nodes for one pod, with thirty pods on each.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use node_tuner_cluster::demand::{Demand, Want};
use node_tuner_cluster::ledger::{Ledger, Placed, Verdict};
use node_tuner_cluster::offer::{NumaOffer, Offer, Pool, VrouterOffer};

const NODES: usize = 1000;
const PODS: usize = 30;
const GIB: u64 = 1 << 30;

fn offer() -> Offer {
    let numa = |id| NumaOffer {
        id,
        cpus: 48,
        hugepages: BTreeMap::from([
            (2 << 20, Pool { total: 8 * GIB, free: 8 * GIB }),
            (GIB, Pool { total: 64 * GIB, free: 64 * GIB }),
        ]),
    };
    let vrouter = |numa| VrouterOffer {
        mode: "dpdk".into(),
        numa: Some(numa),
        ports: 0,
        ports_max: 256,
        networks: (0..16).map(|network| format!("net-{network}")).collect(),
    };
    Offer { numa: vec![numa(0), numa(1)], vrouters: vec![vrouter(0), vrouter(1)] }
}

fn demand(exclusive: u32, numa: Want) -> Demand {
    Demand {
        exclusive,
        hugepages: BTreeMap::from([(GIB, 2 * GIB)]),
        ports: 2,
        networks: ["net-3".to_owned(), "net-9".to_owned()].into(),
        numa,
        ..Demand::default()
    }
}

fn placement(criterion: &mut Criterion) {
    let mut ledger = Ledger::default();
    let names: Vec<String> = (0..NODES).map(|index| format!("node-{index:04}")).collect();
    for name in &names {
        ledger.set_node(name, Some(offer()));
        for pod in 0..PODS {
            let numa = Some(u32::from(pod % 2 == 0));
            let demand = demand(3, Want::Strict);
            ledger.set_pod(
                &format!("{name}-{pod}"),
                Placed { node: name.clone(), numa, demand, running: true },
            );
        }
    }
    let judge = |demand: &Demand| {
        names
            .iter()
            .filter(|name| matches!(ledger.judge(name, demand), Verdict::Fits { .. }))
            .count()
    };
    for (name, demand, fitting) in [
        ("1000 nodes, all fit", demand(3, Want::Strict), NODES),
        ("1000 nodes, none fits", demand(4, Want::Strict), 0),
        ("1000 nodes, spread", demand(5, Want::Preferred), NODES),
    ] {
        assert_eq!(judge(&demand), fitting, "{name}");
        criterion.bench_function(name, |bencher| bencher.iter(|| judge(black_box(&demand))));
    }
}

criterion_group!(benches, placement);
criterion_main!(benches);
