//! VXLAN over IPv4 (RFC 7348): what a port puts in front of its frames that plays a tunnel's far end, and wants to find in
//! front of those it receives.

use std::net::Ipv4Addr;

use vrouter_dpdk::Mac;

use crate::frame::checksum;

/// Bytes in front of the inner frame.
pub const OUTER: usize = 50;

const IP: usize = 14;
const UDP: usize = 34;
const VXLAN: usize = 42;
const TTL: u8 = 64;
/// First of the ports that flows are told apart by.
const FIRST_PORT: u16 = 0xc000;

/// A port's tunnel, as the command line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelSettings {
    /// The network's number.
    pub vni: u32,
    /// The port's own address in the underlay.
    pub from: Ipv4Addr,
    /// The other end's.
    pub to: Ipv4Addr,
    /// The Ethernet address that outer frames go to.
    pub to_mac: Mac,
}

/// The outer header of frames of one length.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// As sent, but for the source port.
    header: [u8; OUTER],
    /// The address of the port itself.
    mac: Mac,
    settings: TunnelSettings,
}

impl Tunnel {
    /// For inner frames of `len` bytes from the port with the address `mac`.
    pub fn new(settings: TunnelSettings, mac: Mac, len: u16) -> Self {
        let mut header = [0; OUTER];
        header[..6].copy_from_slice(&settings.to_mac.0);
        header[6..12].copy_from_slice(&mac.0);
        header[12..14].copy_from_slice(&[8, 0]);
        let [total_high, total_low] = (len + 36).to_be_bytes();
        let [udp_high, udp_low] = (len + 16).to_be_bytes();
        header[IP..IP + 12]
            .copy_from_slice(&[0x45, 0, total_high, total_low, 0, 0, 0x40, 0, TTL, 17, 0, 0]);
        header[IP + 12..IP + 16].copy_from_slice(&settings.from.octets());
        header[IP + 16..UDP].copy_from_slice(&settings.to.octets());
        let sum = checksum(&header[IP..UDP]);
        header[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
        header[UDP + 2..UDP + 6].copy_from_slice(&[0x12, 0xb5, udp_high, udp_low]);
        let [_, vni @ ..] = settings.vni.to_be_bytes();
        header[VXLAN] = 8;
        header[VXLAN + 4..VXLAN + 7].copy_from_slice(&vni);
        Self { header, mac, settings }
    }

    /// Writes the whole header.
    pub fn prepare(&self, outer: &mut [u8; OUTER]) {
        *outer = self.header;
    }

    /// Writes what differs between flows.
    #[inline]
    pub fn write(&self, outer: &mut [u8; OUTER], flow: usize) {
        let [low, high, ..] = flow.to_le_bytes();
        let port = FIRST_PORT | u16::from_le_bytes([low, high]) & 0x3fff;
        outer[UDP..UDP + 2].copy_from_slice(&port.to_be_bytes());
    }

    /// The inner frame of a received one; `None`: what is in front of it is not what the other end must write.
    pub fn open<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let (outer, inner) = frame.split_first_chunk::<OUTER>()?;
        let TunnelSettings { vni, from, to, .. } = self.settings;
        let [_, vni @ ..] = vni.to_be_bytes();
        let total = u16::try_from(inner.len() + 36).ok()?.to_be_bytes();
        let udp = u16::try_from(inner.len() + 16).ok()?.to_be_bytes();
        let ip = outer.get(IP..UDP)?;
        let right = outer[..6] == self.mac.0
            && outer[12..14] == [8, 0]
            && ip[..2] == [0x45, 0]
            && ip[2..4] == total
            && ip[4..8] == [0, 0, 0x40, 0]
            && (1..=TTL).contains(&ip[8])
            && ip[9] == 17
            && checksum(ip) == 0
            && ip[12..16] == to.octets()
            && ip[16..20] == from.octets()
            && outer[UDP] >= 0xc0
            && outer[UDP + 2..UDP + 4] == [0x12, 0xb5]
            && outer[UDP + 4..UDP + 6] == udp
            && outer[UDP + 6..VXLAN] == [0, 0]
            && outer[VXLAN..VXLAN + 4] == [8, 0, 0, 0]
            && outer[VXLAN + 4..VXLAN + 7] == vni
            && outer[VXLAN + 7] == 0;
        right.then_some(inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(from: u8, to: u8) -> Tunnel {
        let settings = TunnelSettings {
            vni: 0x01_0203,
            from: Ipv4Addr::new(192, 0, 2, from),
            to: Ipv4Addr::new(192, 0, 2, to),
            to_mac: Mac([2, 0, 0, 0, 0, to]),
        };
        Tunnel::new(settings, Mac([2, 0, 0, 0, 0, from]), 100)
    }

    #[test]
    fn what_one_end_writes_the_other_opens_and_nothing_else() {
        let (near, far) = (tunnel(1, 2), tunnel(2, 1));
        let mut frame = [7; 150];
        let outer = frame.first_chunk_mut().unwrap();
        near.prepare(outer);
        near.write(outer, 70_000);
        assert_eq!(far.open(&frame), Some(&[7; 100][..]));
        assert_eq!(near.open(&frame), None, "its own");
        assert_eq!(far.open(&frame[..149]), None);
        assert_eq!(far.open(&frame[..49]), None);
        for at in (0..50).filter(|at| !(6..12).contains(at)) {
            let mut damaged = frame;
            damaged[at] ^= 0x40;
            // The source port may be another dynamic one.
            assert_eq!(far.open(&damaged).is_some(), at == 35, "byte {at}");
        }
    }
}
