//! Frames that cross a tunnel as they are.

use vrouter_core::{PortLimits, StationChange, process};
use vrouter_net::vxlan::{Encapsulation, Endpoint, Inner, OUTER_ROOM};

use super::*;

const STATION: Mac = Mac::new([2, 0, 0, 0, 0, 0x99]);
const BROADCAST: Mac = Mac::new([0xff; 6]);

fn frame(to: Mac, from: Mac) -> Vec<u8> {
    [&to.octets()[..], &from.octets(), &[0x88, 0xcc], &[7; 50]].concat()
}

/// The frame in a packet from the tunnel's other end, as an uplink gets it.
fn arriving(inner: &[u8]) -> Packet {
    let end = |mac, last| Endpoint { mac, address: [192, 0, 2, last].into() };
    let outer = Encapsulation::new(Vni::new(77).unwrap(), end(mac(0x20), 2), end(mac(7), 1));
    let mut front = [0; OUTER_ROOM];
    let frame_bytes = u32::try_from(inner.len()).unwrap();
    let bytes =
        outer.unwrap().write(&mut front, Inner { frame_bytes, flow: 1, ecn: 0, is_ipv6: false });
    let whole = [&front[..bytes.unwrap()], inner].concat();
    received(&whole, whole.len())
}

#[test]
fn bridged_frames_in_words() {
    let ends = [[192, 0, 2, 2].into(), [192, 0, 2, 3].into()];
    let tables = tables_of(Mode::Bridged).with_flood_ends(RED, &ends).unwrap();
    let pods = |to| {
        let frame = frame(to, mac(2));
        received(&frame, frame.len())
    };
    let learn = |frame: &[u8]| {
        let mut limits = PortLimits::default();
        process(&tables, Timestamp::default(), UP, &mut [arriving(frame)], &mut limits);
    };
    let both = "One each is bridged into the tunnel to 192.0.2.2, 192.0.2.3.";
    let unknown = pods(STATION);
    for (ingress, packet, verdict, words) in [
        (POD, pods(BROADCAST), "flood", both),
        (POD, unknown, "flood", both),
        (UP, arriving(&frame(BROADCAST, STATION)), "flood", "but no other end of the tunnel"),
        (UP, arriving(&frame(mac(3), STATION)), "decapsulate", "goes as it is to the port"),
        (UP, arriving(&frame(mac(3), mac(2))), "drop", "counted as source_mac"),
        // Nothing was remembered of any question.
        (POD, unknown, "flood", "nobody in it was heard of"),
    ] {
        let told = ask_on(&tables, ingress, &packet);
        assert_eq!(told.verdict, verdict, "{told:#?}");
        assert!(told.why.iter().any(|why| why.contains(words)), "{words}: {told:#?}");
        assert!(told.lookups.iter().all(|lookup| lookup.asked != "inside"), "{told:#?}");
    }
    learn(&frame(BROADCAST, STATION));
    let told = ask_on(&tables, POD, &unknown);
    assert_eq!((told.verdict.as_str(), told.path.as_str()), ("encapsulate", "dpdk"));
    let words = "is bridged into the tunnel to 192.0.2.2 as it is";
    assert!(told.why.iter().any(|why| why.contains(words)), "{told:#?}");
    assert_eq!(told.to.unwrap().name, "up0");
    assert_eq!(told.outer.unwrap().destination, "192.0.2.2");
    let heard = "because a station with its MAC address was heard from there";
    assert!(told.why.iter().any(|why| why.contains(heard)), "{:?}", told.why);
    // The kernel names it, whatever was heard.
    let named = [StationChange { mac: STATION, end: Some(ends[0]) }];
    let told = ask_on(&tables.with_stations(RED, &named).unwrap(), POD, &unknown);
    let said = "because the kernel's forwarding database says that a station";
    assert!(told.why.iter().any(|why| why.contains(said)), "{:?}", told.why);
}
