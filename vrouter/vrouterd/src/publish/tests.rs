use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use vrouter_core::{
    NetworkIndex, NetworkPolicy, Policy, PortPolicy, PortRole, Rates, RouteChange, RouteTarget,
};
use vrouter_net::Mac;

use super::*;
use crate::device::NO_ADDRESS;

const FABRIC: NetworkIndex = NetworkIndex(0);
const PORTS: [PortIndex; 2] = [PortIndex(3), PortIndex(5)];
const PATIENCE: Duration = Duration::from_secs(20);

fn tables() -> Tables {
    let port = |index: PortIndex| PortPolicy {
        index,
        network: FABRIC,
        role: PortRole::Uplink { host: None },
        mac: Mac::new([2, 0, 0, 0, 0, u8::try_from(index.0).unwrap()]),
        ipv4: NO_ADDRESS,
        ipv6: None,
        allowed: Vec::new(),
        trunk: false,
        rates: Rates::default(),
        mtu: None,
    };
    let networks = vec![NetworkPolicy::external(FABRIC, 1500)];
    Tables::build(&Policy { networks, ports: PORTS.map(port).into() }).unwrap()
}

fn plane(tables: &Tables) -> Dataplane {
    Dataplane { tables: tables.clone(), layout: Arc::default() }
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The control side is in the middle of a change that takes its time, and knows nothing of it: the link is seen all the same,
/// and what the change ends in does not bring it back.
#[test]
fn a_lost_link_waits_for_no_change() {
    let tables = tables();
    let slot: Slot = Arc::new(ArcSwap::from_pointee(plane(&tables)));
    let published = Arc::new(Published::new(Arc::clone(&slot)));
    let wire = Arc::new(AtomicBool::new(true));
    let wires = [Arc::clone(&wire), Arc::new(AtomicBool::new(true))];
    for (port, wire) in PORTS.into_iter().zip(wires) {
        published.watch(port, true, Box::new(move || wire.load(Ordering::Relaxed)));
    }
    let has = |port: usize| slot.load().tables.has_link(PORTS[port]);
    let watch = Watch::start(Arc::clone(&published), Duration::from_millis(1)).unwrap();

    // A change begins.
    let before = tables.clone();
    wire.store(false, Ordering::Relaxed);
    wait("the lost link is seen", || !has(0));
    assert!(has(1), "the other is as it was");
    // It ends.
    let prefix = "10.0.0.0/8".parse().unwrap();
    let change = RouteChange { prefix, target: Some(RouteTarget::Local) };
    let after = before.with_routes(FABRIC, &[change]).unwrap();
    assert!(after.has_link(PORTS[0]), "it began before");
    published.replace(plane(&after));
    assert!(!has(0) && has(1));

    wire.store(true, Ordering::Relaxed);
    wait("the link is back", || has(0));
    // A port that is not looked at any more is as the control side says.
    wire.store(false, Ordering::Relaxed);
    wait("the link is lost again", || !has(0));
    published.forget(PORTS[0]);
    assert_eq!(Arc::strong_count(&wire), 1, "nothing is kept of it");
    published.replace(plane(&after));
    assert!(has(0));
    drop(watch);
    published.bury();
    assert_eq!(published.retired(), 0);
}

#[test]
fn a_snapshot_is_kept_until_workers_have_let_go_of_it() {
    let tables = tables();
    let slot: Slot = Arc::new(ArcSwap::from_pointee(plane(&tables)));
    let published = Published::new(Arc::clone(&slot));
    let held = slot.load_full();
    published.replace(plane(&tables));
    published.replace(plane(&tables));
    assert_eq!((published.retired(), Arc::strong_count(&held)), (1, 2));
    drop(held);
    published.bury();
    assert_eq!(published.retired(), 0);
}
