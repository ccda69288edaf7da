//! VXLAN over IPv4 and UDP (RFC 7348): the 50 bytes in front of a frame that crosses between hosts.
//!
//! The outer header is written beside the frame, not into it: whoever sends has room in front, whoever receives
//! reads on behind it.

use crate::ethernet::{self, EtherType};
use crate::ipv4::{self, Protocol};
use crate::{Mac, Truncated, checksum};
use core::fmt;
use core::net::Ipv4Addr;

/// Bytes in front of the inner frame: Ethernet, IPv4 without options, UDP, VXLAN.
pub const OUTER_BYTES: usize =
    ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + UDP_BYTES + VXLAN_BYTES;
/// Destination port of every VXLAN packet.
pub const PORT: u16 = 4789;

const UDP_BYTES: usize = 8;
const VXLAN_BYTES: usize = 8;
/// First of the source ports that entropy is put into (RFC 7348 section 5 recommends the dynamic ports).
const FIRST_SOURCE_PORT: u16 = 49_152;
/// The flag that says that there is a network identifier.
const FLAG_VNI: u8 = 0x08;

const IP: usize = ethernet::HEADER_BYTES;
const UDP: usize = IP + ipv4::HEADER_BYTES;
const VXLAN: usize = UDP + UDP_BYTES;

/// A virtual network's number on the wire: 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// `None` above 24 bits.
    pub const fn new(number: u32) -> Option<Self> {
        if number >> 24 == 0 { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// One end of a tunnel, on the network between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where frames for it go: its own MAC address, or a router's on the way to it.
    pub mac: Mac,
    /// Its address.
    pub ipv4: Ipv4Addr,
}

/// The outer header of all packets of one network from one endpoint to another, but for lengths and source port.
#[derive(Clone, Copy, Debug)]
pub struct Encapsulation {
    template: [u8; OUTER_BYTES],
    /// One's complement sum of the template's IPv4 header, whose length and checksum are zero.
    sum: u16,
}

impl Encapsulation {
    /// What does not change from packet to packet. The UDP checksum is left out, as RFC 7348 section 5 asks; the
    /// packets may not be fragmented (section 4.3).
    pub fn new(vni: Vni, from: Endpoint, to: Endpoint) -> Self {
        let mut template = [0; OUTER_BYTES];
        template[..6].copy_from_slice(&to.mac.octets());
        template[6..12].copy_from_slice(&from.mac.octets());
        template[12..14].copy_from_slice(&EtherType::IPV4.0.to_be_bytes());
        template[IP] = 0x45;
        template[IP + 6] = 0x40;
        template[IP + 8] = ipv4::DEFAULT_TTL;
        template[IP + 9] = Protocol::UDP.0;
        template[IP + 12..IP + 16].copy_from_slice(&from.ipv4.octets());
        template[IP + 16..IP + 20].copy_from_slice(&to.ipv4.octets());
        template[UDP + 2..UDP + 4].copy_from_slice(&PORT.to_be_bytes());
        template[VXLAN] = FLAG_VNI;
        template[VXLAN + 4..].copy_from_slice(&(vni.0 << 8).to_be_bytes());
        let sum = checksum::sum(&template[IP..UDP]);
        Self { template, sum }
    }

    /// The outer header for an inner frame of so many bytes, which starts with `head`. Packets of one flow get one
    /// source port, so that they stay in order. `None`: the frame is too long.
    #[inline]
    pub fn outer(&self, head: &[u8; 64], frame_bytes: u32) -> Option<[u8; OUTER_BYTES]> {
        let udp = UDP_BYTES + VXLAN_BYTES + frame_bytes as usize;
        let total = u16::try_from(ipv4::HEADER_BYTES + udp).ok()?;
        let udp = u16::try_from(udp).ok()?;
        let mut outer = self.template;
        outer[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
        let sum = checksum::update(!self.sum, 0, total);
        outer[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
        let port = FIRST_SOURCE_PORT | (flow_hash(head) & 0x3fff);
        outer[UDP..UDP + 2].copy_from_slice(&port.to_be_bytes());
        outer[UDP + 4..UDP + 6].copy_from_slice(&udp.to_be_bytes());
        Some(outer)
    }
}

/// A number that packets of a flow have in common: from addresses, protocol and, where they are at their usual place
/// and the packet is whole, ports. Fragments go by addresses alone, so that they stay with each other.
#[inline]
fn flow_hash(head: &[u8; 64]) -> u16 {
    let word = |at: usize| {
        let bytes = head.get(at..).and_then(|rest| rest.first_chunk()).copied();
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    let four = |at: usize| word(at) & 0xffff_ffff;
    let has_ports = |protocol: u8| protocol == Protocol::TCP.0 || protocol == Protocol::UDP.0;
    let (addresses, ports) = match (head[12], head[13], head[14]) {
        (0x08, 0x00, 0x45) => {
            let whole = head[20] & 0x3f == 0 && head[21] == 0;
            (word(26), if whole && has_ports(head[23]) { four(34) } else { 0 })
        }
        (0x86, 0xdd, 0x60..=0x6f) => {
            let addresses = word(22) ^ word(30).rotate_left(16) ^ word(38).rotate_left(32);
            let addresses = addresses ^ word(46).rotate_left(48);
            (addresses, if has_ports(head[20]) { four(54) } else { 0 })
        }
        // All else by its MAC addresses.
        _ => (word(0), four(8)),
    };
    let mixed = (addresses ^ ports.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as u16
}

/// An outer header is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The frame ends before the outer header does.
    Truncated(Truncated),
    /// It is not for this endpoint's MAC and IPv4 address, or no VXLAN over UDP over IPv4 at all. Another receiver
    /// may want it.
    NotForUs,
    /// Length, checksum, options, fragmentation or flags are not as they must be.
    Malformed,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(truncated) => truncated.fmt(f),
            Self::NotForUs => f.write_str("the frame is no VXLAN packet for this endpoint"),
            Self::Malformed => f.write_str("the VXLAN packet's outer header is not sound"),
        }
    }
}

impl core::error::Error for Error {}

/// A packet that came through a tunnel. The caller decides whether it knows the sender and the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decapsulated {
    /// The network of the inner frame.
    pub vni: Vni,
    /// Address of the endpoint that sent it.
    pub from: Ipv4Addr,
    /// Bytes of the inner frame, which starts [`OUTER_BYTES`] into the outer one. What follows it is padding.
    pub frame_bytes: u32,
}

/// Checks the outer header of a frame of so many bytes, of which `outer` is the start.
///
/// IPv4 options and fragments of outer packets are refused: no endpoint sends them (RFC 7348 section 4.3). A UDP
/// checksum other than zero is not verified, as section 4.1 allows; the inner packet has its own.
///
/// # Errors
/// See [`enum@Error`].
#[inline]
pub fn decapsulate(outer: &[u8], frame_bytes: u32, to: Endpoint) -> Result<Decapsulated, Error> {
    let truncated = Error::Truncated(Truncated { needed: OUTER_BYTES, got: outer.len() });
    let outer = outer.first_chunk::<OUTER_BYTES>().ok_or(truncated)?;
    let ours = outer[..6] == to.mac.octets()
        && outer[12..14] == EtherType::IPV4.0.to_be_bytes()
        && outer[IP] >> 4 == 4
        && outer[IP + 9] == Protocol::UDP.0
        && outer[IP + 16..IP + 20] == to.ipv4.octets();
    if !ours {
        return Err(Error::NotForUs);
    }
    let header: &[u8; ipv4::HEADER_BYTES] = outer[IP..].first_chunk().ok_or(Error::Malformed)?;
    let ip = ipv4::Header::of(header);
    if ip.header_bytes() != 20 || ip.is_fragment() {
        return Err(Error::Malformed);
    }
    if outer[UDP + 2..UDP + 4] != PORT.to_be_bytes() {
        return Err(Error::NotForUs);
    }
    let total = usize::from(ip.total_length());
    let udp = usize::from(u16::from_be_bytes([outer[UDP + 4], outer[UDP + 5]]));
    let inner = udp.checked_sub(UDP_BYTES + VXLAN_BYTES).ok_or(Error::Malformed)?;
    let sound = total + IP <= frame_bytes as usize
        && udp + ipv4::HEADER_BYTES <= total
        && checksum::verify(header)
        && outer[VXLAN] & FLAG_VNI != 0;
    if !sound {
        return Err(Error::Malformed);
    }
    let [.., a, b, c, _] = *outer;
    Ok(Decapsulated {
        vni: Vni(u32::from_be_bytes([0, a, b, c])),
        from: ip.source(),
        frame_bytes: u32::try_from(inner).map_err(|_| Error::Malformed)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use std::collections::BTreeSet;
    use std::vec::Vec;

    const LEFT: Endpoint =
        Endpoint { mac: Mac::new([2, 0, 0, 0, 1, 1]), ipv4: Ipv4Addr::new(192, 0, 2, 1) };
    const RIGHT: Endpoint =
        Endpoint { mac: Mac::new([2, 0, 0, 0, 1, 2]), ipv4: Ipv4Addr::new(192, 0, 2, 2) };

    fn vni() -> Vni {
        Vni::new(0x12_3456).unwrap()
    }

    fn udp(port: u16, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 66, 0, 2], [10, 66, 0, 3], 64)
            .udp(port, 2000)
            .write(&mut frame, &std::vec![7; payload])
            .unwrap();
        frame
    }

    fn head(frame: &[u8]) -> [u8; 64] {
        core::array::from_fn(|i| frame.get(i).copied().unwrap_or(0))
    }

    fn encapsulated(frame: &[u8]) -> Vec<u8> {
        let bytes = u32::try_from(frame.len()).unwrap();
        let outer = Encapsulation::new(vni(), LEFT, RIGHT).outer(&head(frame), bytes).unwrap();
        [&outer[..], frame].concat()
    }

    #[test]
    fn etherparse_reads_what_we_write_and_so_do_we() {
        for payload in [0, 1, 22, 1000, 8958] {
            let inner = udp(1000, payload);
            let frame = encapsulated(&inner);
            let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::LinkSlice::Ethernet2(link)) = sliced.link else {
                panic!("no link")
            };
            assert_eq!(link.destination(), RIGHT.mac.octets());
            assert_eq!(link.source(), LEFT.mac.octets());
            let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
            let ip = ip.header().to_header();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!((ip.source, ip.destination), (LEFT.ipv4.octets(), RIGHT.ipv4.octets()));
            assert!(ip.dont_fragment && ip.time_to_live == 64);
            let Some(TransportSlice::Udp(datagram)) = sliced.transport else { panic!("not UDP") };
            assert_eq!((datagram.destination_port(), datagram.checksum()), (4789, 0));
            assert!(datagram.source_port() >= 49152);
            assert_eq!(datagram.payload()[..8], [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
            assert_eq!(datagram.payload()[8..], inner);

            let bytes = u32::try_from(frame.len()).unwrap();
            let expected = Decapsulated { vni: vni(), from: LEFT.ipv4, frame_bytes: bytes - 50 };
            // With padding behind it and without.
            assert_eq!(decapsulate(&frame, bytes, RIGHT), Ok(expected));
            assert_eq!(decapsulate(&frame[..50], bytes + 9, RIGHT), Ok(expected));
            assert_eq!(decapsulate(&frame, bytes - 1, RIGHT), Err(Error::Malformed));
        }
        assert_eq!(Vni::new(1 << 24), None);
        assert_eq!(Vni::new(0xff_ffff).map(Vni::number), Some(0xff_ffff));
        let encapsulation = Encapsulation::new(vni(), LEFT, RIGHT);
        assert!(encapsulation.outer(&[0; 64], 65_535 - 36).is_some());
        assert!(encapsulation.outer(&[0; 64], 65_536 - 36).is_none());
    }

    #[test]
    fn refuses() {
        type Change = fn(&mut [u8]);
        let cases: [(&str, Change, Error); 14] = [
            ("other MAC", |f| f[5] ^= 1, Error::NotForUs),
            ("ethertype", |f| f[13] = 6, Error::NotForUs),
            ("version", |f| f[14] = 0x65, Error::NotForUs),
            ("protocol", |f| f[23] = 6, Error::NotForUs),
            ("other address", |f| f[33] ^= 1, Error::NotForUs),
            ("UDP port", |f| f[37] ^= 1, Error::NotForUs),
            ("options", |f| f[14] = 0x46, Error::Malformed),
            ("first fragment", |f| f[20] = 0x20, Error::Malformed),
            ("later fragment", |f| f[21] = 1, Error::Malformed),
            ("checksum", |f| f[24] ^= 1, Error::Malformed),
            ("no identifier", |f| f[42] = 0, Error::Malformed),
            ("UDP too long", |f| f[38] = 0x40, Error::Malformed),
            ("UDP too short", |f| f[38..40].copy_from_slice(&[0, 15]), Error::Malformed),
            ("total too long", |f| f[16] = 0x40, Error::Malformed),
        ];
        let good = encapsulated(&udp(1000, 100));
        let bytes = u32::try_from(good.len()).unwrap();
        for (name, change, error) in cases {
            let mut frame = good.clone();
            change(&mut frame);
            assert_eq!(decapsulate(&frame, bytes, RIGHT), Err(error), "{name}");
        }
        let truncated = Truncated { needed: 50, got: 49 };
        assert_eq!(decapsulate(&good[..49], bytes, RIGHT), Err(Error::Truncated(truncated)));
    }

    #[test]
    fn any_bytes_are_safe() {
        let good = encapsulated(&udp(1000, 100));
        bolero::check!().with_type().for_each(|(changes, frame_bytes): &(Vec<(u8, u8)>, u16)| {
            let mut frame = good.clone();
            for (at, byte) in changes {
                frame[usize::from(at % 50)] = *byte;
            }
            let frame_bytes = u32::from(*frame_bytes);
            if let Ok(inner) = decapsulate(&frame, frame_bytes, RIGHT) {
                assert!(inner.frame_bytes + 50 <= frame_bytes);
            }
        });
    }

    #[test]
    fn flows_have_a_port_of_their_own_and_fragments_stay_together() {
        let port = |frame: &[u8]| flow_hash(&head(frame)) & 0x3fff;
        let ports: BTreeSet<_> = (0..1000).map(|i| port(&udp(1024 + i, 50))).collect();
        assert!(ports.len() > 950, "{} of 1000 flows", ports.len());
        let mut other = udp(5, 50);
        other[22] = 3;
        other[18] = 99;
        assert_eq!(port(&other), port(&udp(5, 50)));
        let fragment = |source: u16, offset: u8| {
            let mut frame = udp(source, 50);
            frame[20..22].copy_from_slice(&[if offset == 0 { 0x20 } else { 0 }, offset]);
            port(&frame)
        };
        assert_eq!(fragment(5, 0), fragment(6, 7));

        let six = |source: u16, last: u8| {
            let mut frame = Vec::new();
            let to = core::array::from_fn(|i| if i == 15 { last } else { 1 });
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv6([1; 16], to, 64)
                .udp(source, 2000)
                .write(&mut frame, &[7; 20])
                .unwrap();
            port(&frame)
        };
        let ports: BTreeSet<_> = (0..1000).map(|i| six(1024 + i, 9)).collect();
        assert!(ports.len() > 950, "{} of 1000 flows", ports.len());
        assert_ne!(six(1, 1), six(1, 2));
        let mac = |last: u8| {
            port(&[&[2, 2, 2, 2, 2, last][..], &[4; 6], &[0x88, 0xcc], &[0; 60]].concat())
        };
        assert_ne!(mac(1), mac(2));
    }
}
