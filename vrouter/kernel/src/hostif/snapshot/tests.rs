//! Snapshots of dumps that are written by hand.

use super::*;

/// Numbers of interfaces in these tests; 9 is another one.
pub const ETH1: u32 = 5;
pub const TAP: u32 = 6;
const OTHER: u32 = 9;

const INET: u8 = 2;
const BOOT: u8 = 3;
const BGP: u8 = 186;

fn link() -> Message {
    let mut link = Message::new(
        kind::NEWLINK,
        vec![
            Attribute::text(attribute::IFLA_IFNAME, "eth1"),
            Attribute::new(attribute::IFLA_ADDRESS, [2, 0, 0, 0, 0, 1]),
            Attribute::new(attribute::IFLA_MTU, 1500u32.to_ne_bytes()),
            Attribute::nest(
                attribute::IFLA_PROP_LIST,
                &[Attribute::text(attribute::IFLA_ALT_IFNAME, "enp1s0")],
            ),
        ],
    );
    link.set_word(4, ETH1);
    link.set_word(8, IFF_UP | 0x1000);
    link
}

fn address(index: u32, ip: IpAddr, more: Vec<Attribute>) -> Message {
    let (family, bytes) = match ip {
        IpAddr::V4(ip) => (INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (INET6, ip.octets().to_vec()),
    };
    let mut attributes = vec![Attribute::new(attribute::IFA_ADDRESS, bytes)];
    attributes.extend(more);
    let mut address = Message::new(kind::NEWADDR, attributes);
    address.set_byte(0, family);
    address.set_byte(1, 24);
    address.set_word(4, index);
    address
}

fn lifetime(preferred: u32, valid: u32) -> Attribute {
    let words = [preferred, valid, 4711, 4712].map(u32::to_ne_bytes);
    Attribute::new(attribute::IFA_CACHEINFO, words.concat())
}

/// A route whose first attribute is the destination.
fn route(destination: [u8; 4], protocol: u8, more: Vec<Attribute>) -> Message {
    let mut attributes = vec![Attribute::new(1, destination)];
    attributes.extend(more);
    let mut route = Message::new(kind::NEWROUTE, attributes);
    route.set_byte(0, INET);
    route.set_byte(5, protocol);
    route.set_byte(7, UNICAST);
    route
}

fn by(index: u32) -> Attribute {
    Attribute::new(attribute::RTA_OIF, index.to_ne_bytes())
}

fn leg(index: u32) -> Vec<u8> {
    [&8u16.to_ne_bytes()[..], &[0, 0], &index.to_ne_bytes()].concat()
}

/// A multipath route over these interfaces.
pub fn with_legs(indices: &[u32]) -> Message {
    let legs: Vec<_> = indices.iter().flat_map(|index| leg(*index)).collect();
    route([10, 52, 0, 0], BOOT, vec![Attribute::new(attribute::RTA_MULTIPATH, legs)])
}

fn nexthop(id: u32, attribute: Attribute) -> Message {
    let id = Attribute::new(attribute::NHA_ID, id.to_ne_bytes());
    Message::new(kind::NEWNEXTHOP, vec![id, attribute])
}

fn group(members: &[u32]) -> Attribute {
    let members = members.iter().flat_map(|id| [id.to_ne_bytes(), [0; 4]].concat());
    Attribute::new(attribute::NHA_GROUP, members.collect::<Vec<_>>())
}

fn neighbour(index: u32, state: u8, flags: u8, ip: [u8; 4]) -> Message {
    let mut neighbour = Message::new(kind::NEWNEIGH, vec![Attribute::new(attribute::NDA_DST, ip)]);
    neighbour.set_byte(0, INET);
    neighbour.set_word(4, index);
    neighbour.set_byte(8, state);
    neighbour.set_byte(10, flags);
    neighbour
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn dump() -> Dump {
    let oif = |index: u32| Attribute::new(attribute::NHA_OIF, index.to_ne_bytes());
    let settings = [
        ("ipv4/conf//forwarding", "1"),
        ("ipv6/conf//accept_dad", "1"),
        ("ipv6/conf//addr_gen_mode", "0"),
        ("ipv6/conf//disable_ipv6", "0"),
    ];
    Dump {
        read_at: 100,
        addresses: vec![
            address(ETH1, ip("10.0.0.1"), Vec::new()),
            address(OTHER, ip("10.0.9.1"), Vec::new()),
            address(ETH1, ip("fd00::2"), Vec::new()),
            address(ETH1, ip("fd00::1"), Vec::new()),
        ],
        nexthops: vec![
            nexthop(12, oif(OTHER)),
            nexthop(20, group(&[12, 11])),
            nexthop(21, group(&[12])),
            nexthop(11, oif(ETH1)),
        ],
        routes: vec![
            route(
                [10, 1, 0, 0],
                BOOT,
                vec![by(ETH1), Attribute::new(attribute::RTA_GATEWAY, [10, 0, 0, 2])],
            ),
            route([10, 2, 0, 0], BOOT, vec![by(ETH1)]),
            route([10, 0, 0, 0], 2, vec![by(ETH1)]),
            route([10, 3, 0, 0], BOOT, vec![by(OTHER)]),
            route(
                [10, 4, 0, 0],
                BOOT,
                vec![by(OTHER), Attribute::new(attribute::RTA_PREFSRC, [10, 0, 0, 1])],
            ),
            with_legs(&[ETH1, OTHER]),
            route(
                [10, 5, 0, 0],
                BOOT,
                vec![Attribute::new(attribute::RTA_NH_ID, 20u32.to_ne_bytes()), by(OTHER)],
            ),
        ],
        neighbours: vec![
            neighbour(ETH1, 0x80, 0, [10, 0, 0, 7]),
            neighbour(ETH1, 0x02, 0, [10, 0, 0, 8]),
            neighbour(OTHER, 0x80, 0, [10, 0, 0, 9]),
            neighbour(ETH1, 0x00, 0x08, [10, 0, 0, 10]),
            neighbour(ETH1, 0x80, 0, [224, 0, 0, 1]),
        ],
        settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    }
}

/// An interface that has something of each kind.
pub fn furnished() -> Snapshot {
    Snapshot::new(&link(), None, dump()).unwrap()
}

fn destinations(snapshot: &Snapshot) -> Vec<u8> {
    snapshot.routes.iter().map(|route| route.attributes[0].value[1]).collect()
}

#[test]
fn what_is_the_interfaces_is_found_and_nothing_else() {
    let found = furnished();
    assert_eq!((found.name.as_str(), found.up, found.mtu), ("eth1", true, 1500));
    assert_eq!(found.alt_names, ["enp1s0"]);
    assert_eq!(found.addresses_as_text(), ["10.0.0.1/24", "fd00::1/24", "fd00::2/24"]);
    let numbers: Vec<_> =
        found.nexthops.iter().filter_map(|it| it.number(attribute::NHA_ID)).collect();
    assert_eq!(numbers, [11, 20], "the object, then the group it is in");
    // Those that need a gateway come last.
    assert_eq!(destinations(&found), [2, 4, 5, 1, 52]);
    assert_eq!(found.routes[2].number(attribute::RTA_OIF), None, "the object says it");
    let neighbours: Vec<_> = found.neighbours.iter().map(|it| it.attributes[0].value[3]).collect();
    assert_eq!(neighbours, [7, 10]);
}

#[test]
fn all_that_names_the_interface_names_the_other_one_then() {
    let moved = furnished().moved_to(TAP, 100);
    assert!(moved.addresses.iter().all(|address| address.word(4) == TAP));
    assert!(moved.neighbours.iter().all(|neighbour| neighbour.word(4) == TAP));
    assert_eq!(moved.nexthops[0].number(attribute::NHA_OIF), Some(TAP));
    assert_eq!(moved.routes.iter().filter(|route| leaves_by(route, TAP)).count(), 3);
    assert!(!moved.routes.iter().any(|route| leaves_by(route, ETH1)));
    assert_eq!(moved.routes.last(), Some(&with_legs(&[TAP, OTHER])));
    assert_eq!(moved.moved_to(ETH1, 100), furnished());
}

#[test]
fn a_snapshot_is_the_same_from_a_file() {
    let text = serde_json::to_string(&furnished()).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), furnished());
}

#[test]
fn lifetimes_run_on_meanwhile() {
    let mut dump = dump();
    dump.addresses = vec![
        address(ETH1, ip("fd00::3"), vec![lifetime(10, 30)]),
        address(ETH1, ip("fd00::4"), vec![lifetime(FOREVER, FOREVER)]),
        address(ETH1, ip("fd00::5"), vec![lifetime(0, 0)]),
    ];
    let mut announced = route([10, 6, 0, 0], 9, vec![by(ETH1)]);
    let ticks = [0, 0, 50 * TICKS, 0, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
    announced.attributes.push(Attribute::new(attribute::RTA_CACHEINFO, ticks));
    dump.routes = vec![announced];
    let read = Snapshot::new(&link(), None, dump).unwrap();
    assert_eq!(read.addresses_as_text(), ["fd00::4/24", "fd00::3/24"]);
    let routes = |snapshot: &Snapshot| -> Vec<_> {
        snapshot.routes.iter().map(|route| route.number(attribute::RTA_EXPIRES)).collect()
    };
    assert_eq!(routes(&read), [Some(50)]);

    let later = read.moved_to(TAP, 120);
    assert_eq!(lifetimes(&later.addresses[0]), None);
    assert_eq!(lifetimes(&later.addresses[1]), Some((0, 10)));
    assert_eq!(routes(&later), [Some(30)]);
    let last = later.moved_to(ETH1, 151);
    assert_eq!(last.addresses_as_text(), ["fd00::4/24"]);
    assert_eq!(routes(&last), []);
}

#[test]
fn what_the_kernel_found_is_no_wish() {
    let mut dump = dump();
    // Temporary, tentative, permanent; made by mngtmpaddr, without a prefix route.
    let flags = 0x01 | 0x40 | 0x80 | 0x100 | 0x200u32;
    let flags = Attribute::new(attribute::IFA_FLAGS, flags.to_ne_bytes());
    dump.addresses = vec![address(ETH1, ip("fd00::3"), vec![flags])];
    let mut dead = route([10, 7, 0, 0], BOOT, vec![by(ETH1)]);
    dead.set_word(8, 1 | 16 | u32::from(ONLINK));
    dump.routes = vec![dead];
    let read = Snapshot::new(&link(), None, dump).unwrap();
    assert_eq!(read.addresses[0].number(attribute::IFA_FLAGS), Some(0x300));
    assert_eq!(read.addresses[0].byte(2), 0);
    assert_eq!(read.routes[0].word(8), u32::from(ONLINK));
}

#[test]
fn a_full_table_is_left_to_its_daemon() {
    for (routes, carried) in [(DAEMON_ROUTES, DAEMON_ROUTES + 1), (DAEMON_ROUTES + 1, 1)] {
        let mut dump = dump();
        let daemons = (0u32..).take(routes);
        dump.routes = daemons.map(|n| route(n.to_be_bytes(), BGP, vec![by(ETH1)])).collect();
        dump.routes.push(route([10, 8, 0, 0], BOOT, vec![by(ETH1)]));
        assert_eq!(Snapshot::new(&link(), None, dump).unwrap().routes.len(), carried);
    }
}

#[test]
fn routes_of_others_stay_known_while_their_source_is_there() {
    let earlier = furnished();
    let mut later = furnished().moved_to(TAP, 100);
    let of_another = |snapshot: &Snapshot| destinations(snapshot).contains(&4);
    later.routes.retain(|route| leaves_by(route, TAP));
    later.keep_routes_of_others(&earlier);
    assert!(of_another(&later));
    assert_eq!(later.routes.iter().filter(|route| leaves_by(route, ETH1)).count(), 0);

    later.routes.retain(|route| leaves_by(route, TAP));
    later.addresses.clear();
    later.keep_routes_of_others(&earlier);
    assert!(!of_another(&later), "the kernel has taken it away with the address");
}

#[test]
fn what_is_no_ethernet_has_no_snapshot() {
    let mut loopback = link();
    loopback.remove(&[attribute::IFLA_ADDRESS]);
    assert_eq!(Snapshot::new(&loopback, None, dump()), None);
}
