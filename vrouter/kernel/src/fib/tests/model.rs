//! Any sequence of changes: what the mirror says adds up to what a slow lookup in the kernel finds and to what a mirror
//! says that was started after them.

use super::kernel::{Kernel, LINKS, gateway, joins};
use super::reference;
use crate::fib::{
    Change, Doubt, Encap, Event, Hop, How, Kind, LOCAL, MAIN, Mac, Mirror, NetworkSpec, Object,
    Path, Prefix, Source, Target, Via,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

type Table = BTreeMap<Prefix, Target>;
/// What to do, and what with.
type Step = (u8, u8, u8, u8);

const PREFIXES: [&str; 16] = [
    "0.0.0.0/0",
    "10.0.0.0/16",
    "10.0.2.0/24",
    "10.0.2.0/29",
    "10.0.2.2/32",
    "10.0.3.0/24",
    "10.0.3.3/32",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "192.0.2.129/32",
    "::/0",
    "2001:db8:2::/64",
    "2001:db8:2::2/128",
    "2001:db8:3::/64",
    "2001:db8:f::/48",
    "2001:db8:f::1/128",
];

fn mirror() -> Mirror {
    let spec = NetworkSpec { source: Source::Main, tunnel: None, device: None };
    Mirror::new([("main".to_owned(), spec)], ["u0", "u1"].map(str::to_owned))
}

fn add_up(table: &mut Table, changes: Vec<(String, Vec<Change>)>) {
    for Change { prefix, target } in changes.into_iter().flat_map(|(_, changes)| changes) {
        let target = target.map(|target| (*target).clone());
        assert_ne!(table.get(&prefix), target.as_ref(), "{prefix}: no change");
        match target {
            Some(target) => table.insert(prefix, target),
            None => table.remove(&prefix),
        };
    }
}

/// The longest prefix decides.
fn find(table: &Table, address: IpAddr) -> Option<&Target> {
    let longest = table.iter().filter(|(prefix, _)| prefix.contains(address));
    longest.max_by_key(|(prefix, _)| prefix.length()).map(|(_, target)| target)
}

fn path(v6: bool, kind: Kind, via: Via) -> Path {
    Path {
        v6,
        kind,
        on_host: kind == Kind::Local,
        advertised: false,
        from: None,
        source: None,
        via,
    }
}

fn link(number: u8) -> u32 {
    LINKS[usize::from(number) % LINKS.len()].0
}

fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number % 3])
}

fn hop(v6: bool, number: u8) -> Hop {
    let link = link(number);
    let gateway = (number & 0x40 == 0).then(|| gateway(v6, link, 2 + (number >> 2) % 3));
    Hop { link, gateway, encap: Encap::None }
}

fn act(kernel: &mut Kernel, (what, a, b, c): Step) {
    let prefix: Prefix = PREFIXES[usize::from(a) % PREFIXES.len()].parse().unwrap();
    let v6 = prefix.is_v6();
    let how = [How::Added, How::Appended, How::Replaced][usize::from(b) % 3];
    // Flags in `b` that the kind of change does not use.
    let metric = u32::from(b / 3 % 3);
    let tos = if b & 0xe0 == 0xe0 && !v6 { 0x10 } else { 0 };
    match what % 12 {
        0 | 1 => kernel.add(
            MAIN,
            prefix,
            tos,
            metric,
            path(v6, Kind::Unicast, Via::Hop(hop(v6, c))),
            how,
        ),
        2 => {
            let [one, two] = [hop(v6, c & 0x3f), hop(v6, c.rotate_left(3) & 0x3f)];
            if one != two {
                let mut hops = vec![(one, 1 + u32::from(c & 1)), (two, 1)];
                if v6 {
                    hops.iter_mut().for_each(|(_, weight)| *weight = 1);
                    hops.sort();
                }
                kernel.add(
                    MAIN,
                    prefix,
                    tos,
                    metric,
                    path(v6, Kind::Unicast, Via::Hops(hops.into())),
                    how,
                );
            }
        }
        3 => kernel.add(MAIN, prefix, tos, metric, path(v6, Kind::Blackhole, Via::Nothing), how),
        4 => {
            let hop = Hop { link: link(c), gateway: None, encap: Encap::None };
            kernel.add(LOCAL, prefix, 0, 0, path(v6, Kind::Local, Via::Hop(hop)), How::Added);
        }
        5 => {
            let id = 1 + u32::from(c % 5);
            kernel.add(MAIN, prefix, tos, metric, path(v6, Kind::Unicast, Via::Object(id)), how);
        }
        6 => {
            // Any of the routes there are; what is local goes less often.
            let keys = kernel
                .routes
                .iter()
                .flat_map(|(key, entries)| (0..entries.len()).map(|at| (*key, at)));
            let keys: Vec<_> = keys.collect();
            if let Some(((table, prefix), at)) = keys.get(usize::from(a) * keys.len() / 256) {
                let path = &kernel.routes[&(*table, *prefix)][*at].path;
                let whole = joins(path) && b & 1 == 0;
                // Those of addresses go with them.
                if path.source.is_none() {
                    kernel.remove(*table, *prefix, *at, whole);
                }
            }
        }
        7 => kernel.set_up(link(a), b & 1 == 0),
        8 => kernel.set_address(
            gateway(false, link(a), [1, 7][usize::from(c & 1)]),
            link(a),
            b & 1 == 0,
        ),
        9 => {
            let id = 1 + u32::from(a % 5);
            let object = if id < 4 {
                // Of one family only, as routes of either may have it: through a gateway.
                Object::Hop(hop(false, c & 0x3f))
            } else {
                Object::Group(vec![
                    (1 + u32::from(b % 3), 1 + u32::from(c % 4)),
                    (1 + u32::from(b.wrapping_add(1) % 3), 2),
                ])
            };
            kernel.set_object(id, object);
        }
        10 => kernel.object_gone(1 + u32::from(a % 5), true),
        _ => {
            let (link, v6) = (link(a), b & 1 == 0);
            if kernel.up[&link] {
                let mac = (b & 6 != 0).then(|| mac(c));
                kernel.set_neighbour(link, gateway(v6, link, 2 + c % 4), mac);
            }
        }
    }
}

fn addresses() -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (link, _) in LINKS {
        for host in [0, 1, 2, 3, 4, 5, 7, 9, 255] {
            addresses.extend([false, true].map(|v6| gateway(v6, link, host)));
        }
    }
    for text in [
        "192.0.2.1",
        "192.0.2.128",
        "192.0.2.129",
        "8.8.8.8",
        "2001:db8:f::1",
        "2001:db8:f::2",
        "2001:db8:e::",
        "::1",
    ] {
        addresses.push(text.parse().unwrap());
    }
    addresses
}

fn check(steps: &[Step]) {
    let addresses = addresses();
    let mut kernel = Kernel::new();
    let mut mirror = mirror();
    let mut table = Table::new();
    for (number, step) in steps.iter().enumerate() {
        act(&mut kernel, *step);
        let said = std::mem::take(&mut kernel.said);
        for event in said {
            mirror.apply(event.clone());
            // What a dump has taken in already may be said again. With twins it can't be told from one more; those in doubt
            // are dumped again.
            let (Event::Route(route, _) | Event::RouteGone(route)) = &event else { continue };
            let alike = kernel.alike(route);
            let twins = alike > 1 || (alike == 1 && matches!(event, Event::RouteGone(_)));
            if twins {
                assert_eq!(mirror.take_doubt(), Doubt::Check);
            } else if step.3 & 7 == 0 {
                mirror.apply(event);
            }
        }
        // Several changes may be said as one.
        if step.3 % 3 == 0 && number + 1 < steps.len() {
            continue;
        }
        add_up(&mut table, mirror.flush());
        assert!(!mirror.is_dirty());
        for address in &addresses {
            let due = reference::lookup(&kernel, *address);
            assert_eq!(
                find(&table, *address),
                due.as_ref(),
                "{address} after step {number}: {step:?}"
            );
        }
        // A mirror that is started now.
        let mut new = mirror.anew();
        kernel.dump().into_iter().for_each(|event| new.apply(event));
        let mut fresh = Table::new();
        add_up(&mut fresh, new.flush());
        assert_eq!(table, fresh, "after step {number}: {step:?}");
        let known: Table = mirror
            .table("main")
            .unwrap()
            .map(|(prefix, target)| (prefix, (**target).clone()))
            .collect();
        assert_eq!(known, table);
        // One that takes the old one's place has nothing to add, and goes on.
        if step.2 % 5 == 0 {
            let mut new = mirror.anew();
            kernel.dump().into_iter().for_each(|event| new.apply(event));
            new.continue_from(std::mem::replace(&mut mirror, self::mirror()));
            assert_eq!(new.flush(), []);
            mirror = new;
        }
    }
}

#[test]
fn changes_add_up_to_what_is_there() {
    bolero::check!().with_type::<Vec<Step>>().for_each(|steps| check(steps));
}

/// Longer sequences than a fuzzer finds by itself in a second.
#[test]
fn long_sequences_too() {
    for seed in 0..150_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        let steps: Vec<Step> = (0..150).map(|_| (next(), next(), next(), next())).collect();
        check(&steps);
    }
}
