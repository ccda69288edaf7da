//! Bridged networks.

use super::hostile::Hostile;
use super::six::{discovery, from_to};
use super::*;
use crate::{Flood, Ipv6Network};

const TRUNK: PortIndex = PortIndex(20);
const TRUNK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x20];
/// A station behind the trunk.
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

fn bridged(trunk: bool) -> Tables {
    let mut policy = policy();
    let (prefix, gateway) = ("fd00:66::/64".parse().unwrap(), "fd00:66::1".parse().unwrap());
    policy.networks[0].mode = Mode::Bridged;
    policy.networks[0].ipv6 = Some(Ipv6Network { prefix, gateway });
    policy.ports[0].ipv6 = Some("fd00:66::a".parse().unwrap());
    policy.ports[1].ipv6 = Some("fd00:66::b".parse().unwrap());
    policy.ports[0].allowed = vec!["192.0.2.0/24".parse().unwrap()];
    policy.ports.push(PortPolicy {
        index: TRUNK,
        mac: Mac::new(TRUNK_MAC),
        ipv4: [10, 66, 0, 20].into(),
        ipv6: None,
        trunk,
        ..policy.ports[0].clone()
    });
    Tables::build(&policy).unwrap()
}

fn run_on(tables: &Tables, ingress: PortIndex, frame: &[u8]) -> Packet {
    let mut batch = [packet(frame)];
    process(tables, Timestamp::default(), ingress, &mut batch, &mut PortLimits::default());
    batch[0]
}

fn to(mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac);
    frame
}

fn from(mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac);
    frame
}

/// A frame of another kind than IP and ARP.
fn other() -> Vec<u8> {
    [&B_MAC[..], &A_MAC, &[0x88, 0xcc], &[7; 60]].concat()
}

#[test]
fn frames_go_by_their_mac_address_unchanged() {
    use DropReason::*;
    let drop = Verdict::Drop;
    let to_b = Verdict::Forward(PORT_B);
    let all = Verdict::Flood(Flood::All);
    let solicited =
        |source, mac| discovery(source, "ff02::1:ff00:b", 135, "fd00:66::b", Some((1, mac)));
    let mut spoofed = udp(B);
    spoofed[29] = 3;
    fix(&mut spoofed);
    let mut routed = udp(B);
    routed[29] = 9;
    routed[26..29].copy_from_slice(&[192, 0, 2]);
    fix(&mut routed);
    let mut tagged = to(B_MAC, udp(B));
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut reply = to(B_MAC, arp_request(B));
    reply[21] = 2;
    let mut probe = arp_request(B);
    probe[28..32].fill(0);
    let mut lie = arp_request(B);
    lie[27] = 0xb;
    let mut ttl = to(B_MAC, udp(B));
    ttl[22] = 1;
    let cases = [
        ("unicast", to(B_MAC, udp(B)), to_b),
        ("whatever the TTL", ttl, to_b),
        ("allowed source", to(B_MAC, routed), to_b),
        ("other kind", other(), to_b),
        ("VLAN", tagged, to_b),
        ("broadcast", to([0xff; 6], udp([255; 4])), all),
        ("group", to([1, 0, 0x5e, 0, 0, 1], udp([224, 0, 0, 1])), all),
        ("ARP", arp_request(B), all),
        ("ARP for nobody", arp_request(NOBODY), all),
        ("ARP probe", probe, all),
        ("ARP reply", reply, to_b),
        ("neighbor solicitation", solicited("fd00:66::a", A_MAC), all),
        ("itself", to(A_MAC, udp(A)), drop(Hairpin)),
        ("nobody", to(FAR_MAC, udp(B)), drop(UnknownMac)),
        ("source MAC of b", from(B_MAC, to(A_MAC, udp(B))), drop(SourceMac)),
        ("source MAC of nobody", from(FAR_MAC, to(B_MAC, udp(B))), drop(SourceMac)),
        ("source MAC a group", from([3; 6], to(B_MAC, udp(B))), drop(SourceMac)),
        ("source IP of b", to(B_MAC, spoofed), drop(SourceIp)),
        ("ARP with b's MAC", lie, drop(ArpSpoof)),
        ("solicitation from b", solicited("fd00:66::b", A_MAC), drop(NdSpoof)),
        ("solicitation with b's MAC", solicited("fd00:66::a", B_MAC), drop(NdSpoof)),
        ("router advertisement", discovery("fe80::a", "ff02::1", 134, "::", None), drop(NdSpoof)),
        ("cut off", to(B_MAC, udp(B))[..20].to_vec(), drop(RuntFrame)),
        ("too big", [other(), vec![0; 1441]].concat(), drop(TooBig)),
        ("as big as allowed", [other(), vec![0; 1440]].concat(), to_b),
    ];
    let tables = bridged(false);
    for (name, frame, verdict) in cases {
        let after = run_on(&tables, PORT_A, &frame);
        assert_eq!(after.verdict, verdict, "{name}");
        assert_eq!(after.header, packet(&frame).header, "{name}");
    }
}

/// What most frames are is decided in a stage for a whole batch, by the same rules.
#[test]
fn neighbours_are_told_the_same_together_as_one_by_one() {
    let tables = bridged(false);
    let sized = |bytes| {
        let mut packet = packet(&to(B_MAC, udp(B)));
        packet.frame_len = bytes;
        packet
    };
    let cut = |segment_bytes| Packet { segment_bytes, ..sized(9000) };
    let b = packet(&to(B_MAC, udp(B)));
    let b6 = packet(&to(B_MAC, from_to("fd00:66::a", "fd00:66::b", 1)));
    let mut short6 = to(B_MAC, from_to("fd00:66::a", "fd00:66::b", 1));
    short6[19] += 1;
    let mut routed = udp(B);
    routed[26..30].copy_from_slice(&[192, 0, 2, 9]);
    fix(&mut routed);
    let drop = Verdict::Drop;
    let cases = [
        (b, Verdict::Forward(PORT_B)),
        (b6, Verdict::Forward(PORT_B)),
        (sized(1514), Verdict::Forward(PORT_B)),
        (sized(1515), drop(DropReason::TooBig)),
        (cut(1460), Verdict::Forward(PORT_B)),
        (cut(1461), drop(DropReason::TooBig)),
        (packet(&to(TRUNK_MAC, udp(C))), Verdict::Forward(TRUNK)),
        (packet(&to(B_MAC, routed)), Verdict::Forward(PORT_B)),
        (packet(&to(A_MAC, udp(A))), drop(DropReason::Hairpin)),
        (packet(&to(FAR_MAC, udp(B))), drop(DropReason::UnknownMac)),
        (packet(&from(B_MAC, to(TRUNK_MAC, udp(B)))), drop(DropReason::SourceMac)),
        (packet(&short6), drop(DropReason::MalformedIpv6)),
        (packet(&to(B_MAC, from_to("fd00:66::b", "fd00:66::b", 9))), drop(DropReason::SourceIp)),
        // From here to the gateway: routed, and one hop less.
        (packet(&udp(B)), Verdict::Forward(PORT_B)),
    ];
    let mut batch: Vec<_> = cases.iter().cycle().take(150).map(|(packet, _)| *packet).collect();
    let mut limits = PortLimits::default();
    let outcome = process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limits);
    assert_eq!(outcome, Outcome::default());
    for (i, (after, (before, verdict))) in batch.iter().zip(cases.iter().cycle()).enumerate() {
        let is_routed = before.header[..6] == GATEWAY_MAC;
        assert_eq!(after.verdict, *verdict, "packet {i}");
        assert_eq!(after.header == before.header, !is_routed, "packet {i}");
    }
    let together = |packets: &[Packet]| {
        let mut batch: Vec<_> = packets.iter().cycle().take(100).copied().collect();
        process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut PortLimits::default())
    };
    let to_b = Outcome { all_to: Some(PORT_B), tunnelled: false };
    assert_eq!(together(&[b]), to_b);
    assert_eq!(together(&[b, b6]), to_b);
    assert_eq!(together(&[b, cases[6].0]), Outcome::default());
    assert_eq!(together(&[b, packet(&other())]), Outcome::default());
}

/// Frames for the gateway are treated as in a routed network.
#[test]
fn the_gateway_is_a_station_that_routes() {
    let tables = bridged(false);
    assert_eq!(run_on(&tables, PORT_A, &arp_request(GATEWAY)).verdict, Verdict::Reply);
    assert_eq!(run_on(&tables, PORT_A, &echo(GATEWAY, &[1; 9])).verdict, Verdict::Reply);
    let solicitation =
        discovery("fd00:66::a", "ff02::1:ff00:1", 135, "fd00:66::1", Some((1, A_MAC)));
    assert_eq!(run_on(&tables, PORT_A, &solicitation).verdict, Verdict::Reply);
    let after = run_on(&tables, PORT_A, &udp(B));
    assert_eq!((after.verdict, after.header[22]), (Verdict::Forward(PORT_B), 63));
}

#[test]
fn trunks_lead_to_stations_that_are_no_ports() {
    use DropReason::*;
    let tables = bridged(true);
    let drop = Verdict::Drop;
    let far_ip = |frame: Vec<u8>| {
        let mut frame = frame;
        frame[29] = 99;
        fix(&mut frame);
        frame
    };
    let mut far_arp = from(FAR_MAC, arp_request(B));
    far_arp[22..28].copy_from_slice(&FAR_MAC);
    far_arp[31] = 99;
    let mut gateway_arp = far_arp.clone();
    gateway_arp[31] = 1;
    for (name, ingress, frame, verdict) in [
        ("to nobody", PORT_A, to(FAR_MAC, udp(B)), Verdict::Flood(Flood::Trunks)),
        ("to nobody from the trunk", TRUNK, from(FAR_MAC, to([2; 6], udp(B))), drop(UnknownMac)),
        (
            "from a station",
            TRUNK,
            far_ip(from(FAR_MAC, to(B_MAC, udp(B)))),
            Verdict::Forward(PORT_B),
        ),
        ("from a station to all", TRUNK, far_arp, Verdict::Flood(Flood::All)),
        ("from a station as gateway", TRUNK, gateway_arp, drop(ArpSpoof)),
        ("with a port's MAC", TRUNK, from(A_MAC, to(B_MAC, udp(B))), drop(SourceMac)),
        ("with the gateway's MAC", TRUNK, from(GATEWAY_MAC, to(B_MAC, udp(B))), drop(SourceMac)),
        ("with a group's MAC", TRUNK, from([0xff; 6], to(B_MAC, udp(B))), drop(SourceMac)),
        ("a station to the gateway", TRUNK, from(FAR_MAC, udp(B)), drop(SourceMac)),
    ] {
        assert_eq!(run_on(&tables, ingress, &frame).verdict, verdict, "{name}");
    }
    let flood = |ingress, flood| {
        let mut ports: Vec<_> = tables.flood(ingress, flood).map(|port| port.0).collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(flood(PORT_A, Flood::All), [PORT_B.0, TRUNK.0]);
    assert_eq!(flood(TRUNK, Flood::All), [PORT_B.0, PORT_A.0]);
    assert_eq!(flood(PORT_A, Flood::Trunks), [TRUNK.0]);
    assert_eq!(flood(TRUNK, Flood::Trunks), [0; 0]);
    // Not those of the other network, which is routed.
    assert_eq!(flood(PortIndex(2), Flood::All), [0; 0]);
    assert_eq!(flood(PortIndex(99), Flood::All), [0; 0]);
}

#[test]
fn floods_are_limited() {
    let mut policy = policy();
    policy.networks[0].mode = Mode::Bridged;
    policy.networks[0].floods = FloodLimit { per_second: 1, burst: 2 };
    let tables = Tables::build(&policy).unwrap();
    let mut limits = PortLimits::default();
    let mut batch = [packet(&arp_request(B)); 4];
    process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limits);
    let (flood, limited) = (Verdict::Flood(Flood::All), Verdict::Drop(DropReason::FloodLimited));
    assert_eq!(batch.map(|packet| packet.verdict), [flood, flood, limited, limited]);
    // What goes to one port is not.
    let mut batch = [packet(&to(B_MAC, udp(B))); 4];
    process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limits);
    assert!(batch.iter().all(|packet| packet.verdict == Verdict::Forward(PORT_B)));
}

/// A second trunk beside that of [`bridged`].
const TRUNK_2: PortIndex = PortIndex(21);
/// What a station behind a trunk sends, and what is sent to it.
fn far(to_mac: [u8; 6]) -> Vec<u8> {
    from(FAR_MAC, to(to_mac, other()))
}

fn two_trunks() -> Policy {
    let mut policy = policy();
    policy.networks[0].mode = Mode::Bridged;
    for (index, last) in [(TRUNK, 20), (TRUNK_2, 21)] {
        policy.ports.push(PortPolicy {
            index,
            mac: Mac::new([2, 0, 0, 0, 1, last]),
            ipv4: [10, 66, 0, last].into(),
            trunk: true,
            ..policy.ports[0].clone()
        });
    }
    policy
}

const SECOND: u64 = 1_000_000_000;

fn run_at(tables: &Tables, second: u64, ingress: PortIndex, frame: &[u8]) -> Verdict {
    let mut batch = [packet(frame)];
    let now = Timestamp::from_nanoseconds(second * SECOND);
    process(tables, now, ingress, &mut batch, &mut PortLimits::default());
    batch[0].verdict
}

#[test]
fn stations_behind_trunks_are_learned() {
    use DropReason::*;
    let tables = Tables::build(&two_trunks()).unwrap();
    let to_far = to(FAR_MAC, other());
    let flood = Verdict::Flood(Flood::Trunks);
    let heard = |now| tables.network(NetworkIndex(0)).unwrap().stations(now);
    let at = |second| Timestamp::from_nanoseconds(second * SECOND);
    assert_eq!(run_at(&tables, 1, PORT_A, &to_far), flood);
    // What is not let in teaches nothing.
    let spoofed = from(A_MAC, to(B_MAC, other()));
    assert_eq!(run_at(&tables, 1, TRUNK, &spoofed), Verdict::Drop(SourceMac));
    assert_eq!(run_at(&tables, 1, PORT_A, &far(B_MAC)), Verdict::Drop(SourceMac));
    assert_eq!((run_at(&tables, 1, PORT_A, &to_far), heard(at(1))), (flood, 0));
    // A frame to anybody teaches all.
    assert_eq!(run_at(&tables, 1, TRUNK, &far([0xff; 6])), Verdict::Flood(Flood::All));
    assert_eq!(run_at(&tables, 1, PORT_A, &to_far), Verdict::Forward(TRUNK));
    assert_eq!(run_at(&tables, 1, PORT_B, &from(B_MAC, to_far.clone())), Verdict::Forward(TRUNK));
    assert_eq!(heard(at(1)), 1);
    // Two stations behind one trunk do not need us; one behind the other trunk does.
    let near = from([2, 0, 0, 0, 0, 0x98], to_far.clone());
    assert_eq!(run_at(&tables, 1, TRUNK, &near), Verdict::Drop(Hairpin));
    assert_eq!(run_at(&tables, 2, TRUNK_2, &near), Verdict::Forward(TRUNK));
    // It moves.
    assert_eq!(run_at(&tables, 2, TRUNK_2, &far(B_MAC)), Verdict::Forward(PORT_B));
    assert_eq!(run_at(&tables, 2, PORT_A, &to_far), Verdict::Forward(TRUNK_2));
    // It is forgotten, 300 s after it was heard last.
    assert_eq!(run_at(&tables, 301, PORT_A, &to_far), Verdict::Forward(TRUNK_2));
    assert_eq!((run_at(&tables, 303, PORT_A, &to_far), heard(at(303))), (flood, 0));
}

#[test]
fn frames_to_stations_that_were_heard_are_not_limited() {
    let mut policy = two_trunks();
    policy.networks[0].floods = FloodLimit { per_second: 0, burst: 0 };
    let tables = Tables::build(&policy).unwrap();
    let limited = Verdict::Drop(DropReason::FloodLimited);
    assert_eq!(run_at(&tables, 1, PORT_A, &to(FAR_MAC, other())), limited);
    run_at(&tables, 1, TRUNK, &far(B_MAC));
    for _ in 0..1000 {
        let forward = Verdict::Forward(TRUNK);
        assert_eq!(run_at(&tables, 1, PORT_A, &to(FAR_MAC, other())), forward);
    }
}

#[test]
fn what_was_learned_counts_while_its_port_is_a_trunk_of_the_network() {
    let policy = two_trunks();
    let to_far = to(FAR_MAC, other());
    let first = Tables::build(&policy).unwrap();
    run_at(&first, 1, TRUNK, &far(B_MAC));
    // Later versions know it, too, and what is learned in one is known in the other.
    let mut changed = policy.clone();
    changed.ports.retain(|port| port.index != PORT_B);
    let second = first.update(&changed).unwrap();
    assert_eq!(run_at(&second, 1, PORT_A, &to_far), Verdict::Forward(TRUNK));
    run_at(&second, 2, TRUNK_2, &far(A_MAC));
    assert_eq!(run_at(&first, 2, PORT_A, &to_far), Verdict::Forward(TRUNK_2));
    // A port in the place of the trunk, of this network or another.
    let flood = Verdict::Flood(Flood::Trunks);
    for network in [0, 1] {
        let mut other = changed.clone();
        let at = other.ports.iter().position(|port| port.index == TRUNK_2).unwrap();
        other.ports[at].trunk = false;
        other.ports[at].network = NetworkIndex(network);
        let third = second.update(&other).unwrap();
        // A worker that still has the old tables teaches on.
        run_at(&second, 3, TRUNK_2, &far(A_MAC));
        assert_eq!(run_at(&third, 3, PORT_A, &to_far), flood);
    }
    changed.ports.retain(|port| !port.trunk);
    let none = second.update(&changed).unwrap();
    let unknown = Verdict::Drop(DropReason::UnknownMac);
    assert_eq!(run_at(&none, 3, PORT_A, &to_far), unknown);
}

#[test]
fn ports_that_change_are_followed() {
    let mut policy = policy();
    policy.networks[0].mode = Mode::Bridged;
    let tables = Tables::build(&policy).unwrap();
    let network = |tables: &Tables| tables.network(NetworkIndex(0)).unwrap().clone();
    assert_eq!(network(&tables).port_of(Mac::new(B_MAC)), Some(PORT_B));
    // The two swap their MAC addresses.
    (policy.ports[0].mac, policy.ports[1].mac) = (Mac::new(B_MAC), Mac::new(A_MAC));
    let tables = tables.update(&policy).unwrap();
    assert_eq!(network(&tables).port_of(Mac::new(B_MAC)), Some(PORT_A));
    assert_eq!(network(&tables).port_of(Mac::new(A_MAC)), Some(PORT_B));
    policy.networks[0].mode = Mode::Routed;
    let routed = tables.update(&policy).unwrap();
    assert_eq!(network(&routed).port_of(Mac::new(A_MAC)), None);
    assert_eq!(routed.flood(PORT_A, Flood::All).count(), 0);
    policy.networks[0].mode = Mode::Bridged;
    let again = routed.update(&policy).unwrap();
    assert_eq!(network(&again).port_of(Mac::new(A_MAC)), Some(PORT_B));
    policy.ports.remove(1);
    let without = again.update(&policy).unwrap();
    assert_eq!(network(&without).port_of(Mac::new(A_MAC)), None);
    assert_eq!(without.flood(PORT_A, Flood::All).count(), 0);
}

#[test]
fn any_bytes_are_safe_and_never_spoof() {
    let tables = bridged(true);
    bolero::check!().with_type().for_each(|hostile: &[Hostile; 3]| {
        let before = [0, 1, 2].map(|i| hostile[i].packet());
        for mode in [0, 1] {
            let mut batch = before;
            if mode == 1 {
                for packet in &mut batch {
                    packet.header[..6].copy_from_slice(&B_MAC);
                }
            }
            let sent = batch;
            process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut PortLimits::default());
            for (before, after) in sent.iter().zip(&batch) {
                let sends = matches!(after.verdict, Verdict::Forward(_) | Verdict::Flood(_));
                assert!(!sends || before.header[6..12] == A_MAC);
                if sends && before.header[12..14] == [8, 0] {
                    let source = &before.header[26..30];
                    assert!(source == A || source.starts_with(&[192, 0, 2]));
                }
                if sends && before.header[12..14] == [8, 6] {
                    assert_eq!(before.header[22..28], A_MAC);
                }
            }
        }
    });
}
