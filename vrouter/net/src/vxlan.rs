//! VXLAN over UDP over IPv4 or IPv6 (RFC 7348): the bytes in front of a frame that crosses between hosts.
//!
//! The outer header is written beside the frame, not into it: whoever sends has room in front, whoever receives
//! reads on behind it.

use crate::ethernet::{self, EtherType};
use crate::ipv4::{self, Protocol};
use crate::{Mac, Truncated, checksum, ipip, ipv6, mpls};
use core::fmt;
use core::net::IpAddr;

/// Bytes in front of the inner frame over IPv4: Ethernet, IPv4 without options, UDP, VXLAN.
pub const OUTER4_BYTES: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + TUNNEL_BYTES;
/// The same over IPv6.
pub const OUTER6_BYTES: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + TUNNEL_BYTES;
/// Room for either, in whole words.
pub const OUTER_ROOM: usize = 72;
/// Bytes of the UDP and the VXLAN header.
pub const TUNNEL_BYTES: usize = UDP_BYTES + 8;
/// Destination port of every VXLAN packet.
pub const PORT: u16 = 4789;

const _: () = assert!(OUTER4_BYTES == 50 && OUTER6_BYTES == 70 && OUTER6_BYTES <= OUTER_ROOM);

const UDP_BYTES: usize = 8;
/// [`TUNNEL_BYTES`] and the bytes of an IPv4 header, in the width of their length fields.
const TUNNEL: u16 = 16;
const IPV4: u16 = 20;
const _: () = assert!(TUNNEL as usize == TUNNEL_BYTES && IPV4 as usize == ipv4::HEADER_BYTES);
/// First of the source ports that entropy is put into (RFC 7348 section 5 recommends the dynamic ports).
const FIRST_SOURCE_PORT: u16 = 49_152;
/// The flag that says that there is a network identifier.
const FLAG_VNI: u8 = 0x08;

/// Where the outer IP header and, by family, the UDP header start.
const IP: usize = ethernet::HEADER_BYTES;
const UDP4: usize = OUTER4_BYTES - TUNNEL_BYTES;
const UDP6: usize = OUTER6_BYTES - TUNNEL_BYTES;

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

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One end of a tunnel, on the network between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where frames for it go: its own MAC address, or a router's on the way to it.
    pub mac: Mac,
    /// Its address.
    pub address: IpAddr,
}

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Bytes of the inner frame.
    pub frame_bytes: u32,
    /// What packets of a flow have in common ([`flow_hash`]), so that they get one source port and stay in order.
    pub flow: u16,
    /// The inner packet's congestion bits, which the outer one carries too (RFC 6040 section 4.1, normal mode).
    pub ecn: u8,
    /// Whether it is IPv6, for an outer header that says so ([`ipip`]).
    pub is_ipv6: bool,
}

/// The outer header of all packets of one network from one endpoint to another, but for what [`Inner`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation(Template);

impl Encapsulation {
    /// What does not change from packet to packet. `None`: the two ends are of different families.
    ///
    /// The UDP checksum is left out, as RFC 7348 section 4.1 asks; over IPv6 too, which RFC 6935 section 5 allows
    /// tunnels, as the inner packet has a checksum of its own and whoever terminates this one knows its senders.
    /// The packets may not be fragmented (RFC 7348 section 4.3).
    pub fn new(vni: Vni, from: Endpoint, to: Endpoint) -> Option<Self> {
        let mut template = Template::new(from, to, PORT)?;
        let start = template.end() + UDP_BYTES;
        template.bytes[start] = FLAG_VNI;
        let [_, vni @ ..] = vni.0.to_be_bytes();
        template.bytes[start + 4..start + 7].copy_from_slice(&vni);
        Some(Self(template))
    }

    /// Bytes of the outer header: [`OUTER4_BYTES`] or [`OUTER6_BYTES`].
    #[inline]
    pub fn bytes(&self) -> usize {
        self.0.end() + TUNNEL_BYTES
    }

    /// Writes the outer header for an inner frame; returns its bytes. `None`: the frame is too long for IP; what `out`
    /// holds then means nothing.
    #[inline]
    pub fn write(&self, out: &mut [u8; OUTER_ROOM], inner: Inner) -> Option<usize> {
        let udp = u16::try_from(inner.frame_bytes).ok()?.checked_add(TUNNEL)?;
        self.0.write(out, udp, inner).map(|()| self.bytes())
    }
}

/// What all packets from one end of a tunnel to the other begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pub bytes: [u8; OUTER_ROOM],
    /// One's complement sum of the IPv4 header, whose length and checksum are zero. Not used over IPv6.
    pub sum: u16,
    pub is_ipv6: bool,
}

impl Template {
    /// Over UDP, up to the ports; the rest is zero. `None`: the two ends are of different families.
    pub fn new(from: Endpoint, to: Endpoint, port: u16) -> Option<Self> {
        let mut template = Self::of_ip(from, to, Protocol::UDP)?;
        let udp = template.end();
        template.bytes[udp + 2..udp + 4].copy_from_slice(&port.to_be_bytes());
        Some(template)
    }

    /// Up to the end of the IP header; the rest is zero. `None`: the two ends are of different families.
    pub fn of_ip(from: Endpoint, to: Endpoint, protocol: Protocol) -> Option<Self> {
        let mut bytes = [0; OUTER_ROOM];
        bytes[..6].copy_from_slice(&to.mac.octets());
        bytes[6..12].copy_from_slice(&from.mac.octets());
        let (ether_type, is_ipv6) = match (from.address, to.address) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes[IP] = 0x45;
                bytes[IP + 6] = 0x40;
                bytes[IP + 8] = ipv4::DEFAULT_TTL;
                bytes[IP + 9] = protocol.0;
                bytes[IP + 12..IP + 16].copy_from_slice(&from.octets());
                bytes[IP + 16..IP + 20].copy_from_slice(&to.octets());
                (EtherType::IPV4, false)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes[IP] = 0x60;
                bytes[IP + 6] = protocol.0;
                bytes[IP + 7] = ipv6::DEFAULT_HOP_LIMIT;
                bytes[IP + 8..IP + 24].copy_from_slice(&from.octets());
                bytes[IP + 24..IP + 40].copy_from_slice(&to.octets());
                (EtherType::IPV6, true)
            }
            _ => return None,
        };
        bytes[12..14].copy_from_slice(&ether_type.0.to_be_bytes());
        let sum = checksum::sum(&bytes[IP..UDP4]);
        Some(Self { bytes, sum, is_ipv6 })
    }

    /// Where the IP header ends, and over UDP that header starts.
    #[inline(always)]
    pub fn end(&self) -> usize {
        if self.is_ipv6 { UDP6 } else { UDP4 }
    }

    /// Writes itself, over UDP, with what differs from packet to packet. `udp`: the UDP length. `None`: the packet is too long for IP.
    #[inline(always)]
    pub fn write(&self, out: &mut [u8; OUTER_ROOM], udp: u16, inner: Inner) -> Option<()> {
        *out = self.bytes;
        let port = FIRST_SOURCE_PORT | inner.flow & 0x3fff;
        if self.is_ipv6 {
            write_ip6(out, udp, inner);
            put(out, UDP6, port);
            put(out, UDP6 + 4, udp);
            return Some(());
        }
        write_ip4(out, self.sum.into(), udp, inner)?;
        put(out, UDP4, port);
        put(out, UDP4 + 4, udp);
        Some(())
    }
}

/// Writes into a copy of a template what differs from packet to packet in an IPv6 header. `payload`: bytes behind it.
#[inline(always)]
pub(crate) fn write_ip6(out: &mut [u8; OUTER_ROOM], payload: u16, inner: Inner) {
    // RFC 6438: the flow label has entropy too, for routers that do not look at ports.
    out[IP + 1] = (inner.ecn & 3) << 4;
    put(out, IP + 2, inner.flow);
    put(out, IP + 4, payload);
}

/// The same for IPv4. `sum`: of the template's header, and of what it has not.
#[inline(always)]
pub(crate) fn write_ip4(
    out: &mut [u8; OUTER_ROOM],
    sum: u32,
    payload: u16,
    inner: Inner,
) -> Option<()> {
    let ecn = inner.ecn & 3;
    let total = payload.checked_add(IPV4)?;
    out[IP + 1] = ecn;
    put(out, IP + 2, total);
    put(out, IP + 10, !fold(sum + u32::from(total) + u32::from(ecn)));
    Some(())
}

/// Makes a written outer header, of VXLAN, of MPLS ([`mpls`]) or of IP alone ([`ipip`]), that of a frame of another length:
/// for the pieces of a frame that was cut up. The beginning of one whose end is in the frame already is right as it is: such
/// a frame is not cut. `None`: it is no such header, or the frame is too short or too long; nothing is changed.
pub fn set_frame_bytes(outer: &mut [u8], frame_bytes: usize) -> Option<()> {
    // Where the IP header ends, and what follows it before the inner packet.
    let (end, shim) = match outer.len() {
        mpls::FRONT4_BYTES | mpls::FRONT6_BYTES | ipip::FRONT4_BYTES | ipip::FRONT6_BYTES => {
            return Some(());
        }
        OUTER4_BYTES => (UDP4, TUNNEL_BYTES),
        OUTER6_BYTES => (UDP6, TUNNEL_BYTES),
        mpls::OUTER4_BYTES => (UDP4, mpls::TUNNEL_BYTES),
        mpls::OUTER6_BYTES => (UDP6, mpls::TUNNEL_BYTES),
        ipip::OUTER4_BYTES => (UDP4, 0),
        ipip::OUTER6_BYTES => (UDP6, 0),
        _ => return None,
    };
    let inner = frame_bytes.checked_sub(overlap(outer.len()))?;
    let payload = u16::try_from(inner.checked_add(shim)?).ok()?;
    if end == UDP4 {
        let total = payload.checked_add(IPV4)?;
        let word = |at: usize| u16::from_be_bytes([outer[at], outer[at + 1]]);
        let sum = checksum::update(word(IP + 10), word(IP + 2), total);
        put(outer, IP + 2, total);
        put(outer, IP + 10, sum);
    } else {
        put(outer, IP + 4, payload);
    }
    if shim != 0 {
        put(outer, end + 4, payload);
    }
    Some(())
}

/// How many bytes at the start of an inner frame an outer header of so many bytes takes the place of: the Ethernet
/// header under a whole header of MPLS or of IP alone, else none.
pub const fn overlap(outer_bytes: usize) -> usize {
    match outer_bytes {
        mpls::OUTER4_BYTES | mpls::OUTER6_BYTES | ipip::OUTER4_BYTES | ipip::OUTER6_BYTES => {
            ethernet::HEADER_BYTES
        }
        _ => 0,
    }
}

#[inline(always)]
fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// The one's complement sum of two 16-bit words and a few bits more.
#[inline]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (((sum & 0xffff) + (sum >> 16)) & 0xffff) as u16
}

/// A number that packets of a flow have in common: from addresses, protocol and, where they are at their usual place
/// and the packet is whole, ports. Fragments go by addresses alone, so that they stay with each other.
#[inline]
pub fn flow_hash(head: &[u8; 64]) -> u16 {
    let word = |at: usize| {
        let bytes = head.get(at..).and_then(|rest| rest.first_chunk()).copied();
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    let four = |at: usize| word(at) & 0xffff_ffff;
    let has_ports = |protocol: u8| protocol == Protocol::TCP.0 || protocol == Protocol::UDP.0;
    let (addresses, ports) = match (head[12], head[13], head[14]) {
        (0x08, 0x00, 0x45..=0x4f) => {
            let whole = head[14] == 0x45 && head[20] & 0x3f == 0 && head[21] == 0;
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

/// What an outer UDP datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes end before the VXLAN header does.
    Truncated(Truncated),
    /// It goes to another port: no VXLAN.
    OtherPort,
    /// Length or flags are not as they must be.
    Malformed,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(truncated) => truncated.fmt(f),
            Self::OtherPort => f.write_str("the datagram goes to another port than VXLAN's"),
            Self::Malformed => f.write_str("the UDP or VXLAN header is not sound"),
        }
    }
}

impl core::error::Error for Error {}

/// What came through a tunnel. The caller decides whether it knows the sender and the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The network of the inner frame.
    pub vni: Vni,
    /// Bytes of the inner frame, which starts behind the VXLAN header. What follows it is padding.
    pub frame_bytes: u32,
}

/// Reads the UDP and the VXLAN header at the start of `datagram`, behind an IP header that leaves so many bytes to it.
///
/// A UDP checksum other than zero is not verified, as RFC 7348 section 4.1 allows; the inner packet has its own.
/// Reserved bits are ignored (section 5).
///
/// # Errors
/// See [`enum@Error`].
#[inline]
pub fn open(datagram: &[u8], bytes: usize) -> Result<Opened, Error> {
    let truncated = Truncated { needed: TUNNEL_BYTES, got: datagram.len() };
    let header = datagram.first_chunk::<TUNNEL_BYTES>().ok_or(Error::Truncated(truncated))?;
    let [_, _, p0, p1, l0, l1, _, _, flags, _, _, _, a, b, c, _] = *header;
    if u16::from_be_bytes([p0, p1]) != PORT {
        return Err(Error::OtherPort);
    }
    let udp = u16::from_be_bytes([l0, l1]);
    let inner = udp.checked_sub(TUNNEL).ok_or(Error::Malformed)?;
    if usize::from(udp) > bytes || flags & FLAG_VNI == 0 {
        return Err(Error::Malformed);
    }
    Ok(Opened { vni: Vni(u32::from_be_bytes([0, a, b, c])), frame_bytes: inner.into() })
}

#[cfg(test)]
pub(crate) mod tests;
