//! VRF devices, which not every kernel has.

use crate::fib::{
    Doubt, Encap, Event, Hop, How, Kind, Link, LinkKind, Mac, Mirror, NetworkSpec, Path, Route,
    Source, Target, Via,
};
use std::sync::Arc;

fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> Event {
    Event::Link(Link { index, name: name.to_owned(), up: true, running: true, master, kind })
}

fn route() -> Route {
    let gateway = Some("10.0.0.2".parse().unwrap());
    let via = Via::Hop(Hop { link: 2, gateway, encap: Encap::None });
    let (prefix, metric, tos) = ("192.0.2.0/24".parse().unwrap(), 0, 0);
    let path = Path {
        v6: false,
        kind: Kind::Unicast,
        on_host: false,
        advertised: false,
        from: None,
        source: None,
        via,
    };
    Route { table: 100, prefix, tos, metric, path, dead: Vec::new() }
}

#[test]
fn a_network_has_the_table_of_its_vrf_device() {
    let spec = NetworkSpec { source: Source::Vrf("red".to_owned()), tunnel: None, device: None };
    let mut mirror = Mirror::new([("red".to_owned(), spec)], ["u0".to_owned()]);
    mirror.apply(link(2, "u0", LinkKind::Other, None));
    let mac = Mac([2, 0, 0, 0, 0, 2]);
    mirror.apply(Event::Neighbour {
        link: 2,
        address: "10.0.0.2".parse().unwrap(),
        mac: Some(mac),
    });
    mirror.apply(Event::Route(route(), How::Dumped));
    assert_eq!(mirror.flush(), []);
    assert_eq!(mirror.take_doubt(), Doubt::None);

    // There is more to listen to now.
    mirror.apply(link(9, "red", LinkKind::Vrf { table: 100 }, None));
    assert_eq!(mirror.take_doubt(), Doubt::Dump);
    mirror.apply(Event::Route(route(), How::Dumped));
    let changes = mirror.flush();
    assert_eq!(changes[0].0, "red");
    assert_eq!(changes[0].1[0].target, Some(Arc::new(Target::Link { uplink: 2, mac })));

    // A link that joins the VRF loses its IPv4 routes for a moment, and nobody says so.
    mirror.apply(link(2, "u0", LinkKind::Other, Some(9)));
    assert_eq!(mirror.take_doubt(), Doubt::Check);
    assert_eq!(mirror.flush()[0].1[0].target, None);
    mirror.apply(Event::Route(route(), How::Added));
    assert_eq!(mirror.flush().len(), 1);

    mirror.apply(Event::LinkGone(9));
    assert_eq!(mirror.take_doubt(), Doubt::Dump);
    assert_eq!(mirror.flush()[0].1[0].target, None);
    assert_eq!(mirror.size("red"), Some((0, 0)));
}
