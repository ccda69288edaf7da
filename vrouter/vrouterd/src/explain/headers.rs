//! What the headers of a packet say, for people.

use std::net::IpAddr;

use vrouter_api::v1;
use vrouter_core::Packet;
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::ipv4::{self, Protocol};
use vrouter_net::ipv6;

/// What the headers of a packet say; what is not visible is left out.
pub fn read(packet: &Packet) -> v1::PacketHeaders {
    let mut headers =
        v1::PacketHeaders { frame_bytes: packet.frame_len, ..v1::PacketHeaders::default() };
    let Ok((link, bytes)) = ethernet::Header::split(packet.head()) else { return headers };
    headers.source_mac = link.source().to_string();
    headers.destination_mac = link.destination().to_string();
    let room = (packet.frame_len as usize).saturating_sub(ethernet::HEADER_BYTES);
    let ip = match link.ether_type() {
        EtherType::IPV4 => ipv4::Header::check(bytes, room).ok().map(|header| Ip {
            protocol: header.protocol(),
            addresses: [header.source().into(), header.destination().into()],
            ttl: header.ttl(),
            bytes: header.total_length().into(),
            upper: (!header.is_later_fragment()).then_some(header.header_bytes().into()),
        }),
        EtherType::IPV6 => ipv6::Header::check(bytes, room).ok().map(|header| {
            let upper = ipv6::upper_layer(bytes);
            let seen = upper.filter(|upper| !upper.is_later_fragment);
            Ip {
                protocol: upper.map_or(header.next_header(), |upper| upper.protocol),
                addresses: [header.source().into(), header.destination().into()],
                ttl: header.hop_limit(),
                bytes: u32::try_from(header.total_bytes()).unwrap_or(u32::MAX),
                upper: seen.map(|upper| upper.offset),
            }
        }),
        _ => None,
    };
    let Some(ip) = ip else {
        headers.protocol = match link.ether_type() {
            EtherType::ARP => "arp".to_owned(),
            EtherType(other) => format!("0x{other:04x}"),
        };
        return headers;
    };
    headers.protocol = match ip.protocol {
        Protocol::UDP => "udp".to_owned(),
        Protocol::TCP => "tcp".to_owned(),
        Protocol::ICMP | Protocol::ICMPV6 => "icmp".to_owned(),
        Protocol(other) => other.to_string(),
    };
    let [source, destination] = ip.addresses.map(|address| address.to_string());
    (headers.source, headers.destination) = (source, destination);
    (headers.ttl, headers.bytes) = (ip.ttl.into(), ip.bytes);
    let ports = ip.upper.and_then(|at| bytes.get(at..)?.first_chunk::<4>());
    if let (Protocol::UDP | Protocol::TCP, Some([a, b, c, d])) = (ip.protocol, ports) {
        headers.source_port = u16::from_be_bytes([*a, *b]).into();
        headers.destination_port = u16::from_be_bytes([*c, *d]).into();
    }
    headers
}

struct Ip {
    protocol: Protocol,
    addresses: [IpAddr; 2],
    ttl: u8,
    bytes: u32,
    /// Where the header above it starts, if that is there.
    upper: Option<usize>,
}
