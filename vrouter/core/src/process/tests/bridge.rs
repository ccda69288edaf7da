//! Bridged networks.

use super::hostile::Hostile;
use super::six::discovery;
use super::*;
use crate::{Flood, FloodLimiter, Ipv6Network};

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
    let tables = bridged(false);
    let mut limits = PortLimits { floods: FloodLimiter::new(1, 2), ..PortLimits::default() };
    let mut batch = [packet(&arp_request(B)); 4];
    process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limits);
    let (flood, limited) = (Verdict::Flood(Flood::All), Verdict::Drop(DropReason::FloodLimited));
    assert_eq!(batch.map(|packet| packet.verdict), [flood, flood, limited, limited]);
    // What goes to one port is not.
    let mut batch = [packet(&to(B_MAC, udp(B))); 4];
    process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limits);
    assert!(batch.iter().all(|packet| packet.verdict == Verdict::Forward(PORT_B)));
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
