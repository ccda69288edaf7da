//! What devices do with packets that are to be sent: checksums, and cutting TCP packets into pieces.

use vrouter_dpdk_sys as sys;

/// What a device can do with packets to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Fill in the checksum of an IPv4 header.
    pub ipv4_checksum: bool,
    /// Fill in that of UDP.
    pub udp_checksum: bool,
    /// Fill in that of TCP.
    pub tcp_checksum: bool,
    /// Cut a TCP packet over IPv4 into pieces.
    pub tcp4_segmentation: bool,
    /// The same over IPv6.
    pub tcp6_segmentation: bool,
    /// The same, of either kind that it cuts, inside VXLAN.
    pub vxlan_segmentation: bool,
    /// Fill in the checksum of the IPv4 header outside.
    pub outer_checksum: bool,
    /// Most pieces of one packet.
    pub pieces: u16,
    /// Most bytes of a piece, its Ethernet header included, as far as the device cares: the link's MTU is another matter.
    pub piece_bytes: u16,
    /// Most buffers that a packet can be in.
    pub buffers: u16,
}

impl Offloads {
    /// Nothing.
    pub const NONE: Self = Self {
        ipv4_checksum: false,
        udp_checksum: false,
        tcp_checksum: false,
        tcp4_segmentation: false,
        tcp6_segmentation: false,
        vxlan_segmentation: false,
        outer_checksum: false,
        pieces: 0,
        piece_bytes: 0,
        buffers: 1,
    };

    /// What a device says it can do, without what its driver can't although it says so.
    pub(super) fn of(info: &sys::ringway_ethdev_info, driver: &str, mtu: u16) -> Self {
        let segmentation = info.tx_tcp_segmentation != 0;
        let said = Self {
            ipv4_checksum: info.tx_ipv4_checksum != 0,
            udp_checksum: info.tx_udp_checksum != 0,
            tcp_checksum: info.tx_tcp_checksum != 0,
            tcp4_segmentation: segmentation,
            tcp6_segmentation: segmentation,
            vxlan_segmentation: info.tx_vxlan_segmentation != 0,
            outer_checksum: info.tx_outer_checksum != 0,
            pieces: u16::MAX,
            piece_bytes: u16::MAX,
            buffers: info.tx_buffers,
        };
        match driver {
            // It cuts packets itself, by a library that knows IPv4 alone and has room for 64 pieces, and counts the Ethernet
            // header towards the MTU. What it can't cut ends a burst or goes out whole, without a word.
            "net_tap" => Self { tcp6_segmentation: false, pieces: 64, piece_bytes: mtu, ..said },
            _ => said,
        }
    }

    /// Whether there is anything.
    #[inline]
    pub fn any(&self) -> bool {
        self.udp_checksum || self.tcp_checksum
    }
}

/// Whether to ask a driver for its word on the checksums of received packets. Not those between two ends that know each
/// other: asked, they hand over packets that have no checksum yet. And not the one that sums up packets itself, which a pod
/// can do as well, and outside tunnels only.
pub(super) fn vouches(driver: &str) -> bool {
    !["net_virtio", "net_vhost", "net_tap"].iter().any(|known| driver.starts_with(known))
}

/// What the device that a packet is sent by is to do with it: fill in the checksum of its TCP or UDP header, and more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxWork {
    /// Bytes in front of the IP header.
    pub link_bytes: u16,
    /// Bytes of the IP header.
    pub ip_bytes: u16,
    /// Bytes of the TCP or UDP header behind it.
    pub transport_bytes: u16,
    /// The IP header is one of IPv6, or of IPv4.
    pub is_ipv6: bool,
    /// The transport is UDP, or TCP.
    pub is_udp: bool,
    /// Payload bytes of each piece that TCP is to be cut into; zero: it is not to be cut.
    pub segment_bytes: u16,
    /// Fill in the IPv4 header's checksum, too.
    pub ip_checksum: bool,
    /// For a packet inside VXLAN that is to be cut: whether the outer IP header is one of IPv6. The outer Ethernet header and
    /// that one, without options, are not part of `link_bytes` then. Its checksum is filled in.
    pub outer_is_ipv6: Option<bool>,
}

impl TxWork {
    pub(crate) fn raw(&self) -> sys::ringway_mbuf_offload {
        sys::ringway_mbuf_offload {
            link_bytes: self.link_bytes,
            ip_bytes: self.ip_bytes,
            transport_bytes: self.transport_bytes,
            segment_bytes: self.segment_bytes,
            ipv6: u8::from(self.is_ipv6),
            udp: u8::from(self.is_udp),
            ip_checksum: u8::from(self.ip_checksum),
            outer_ip_bytes: self.outer_is_ipv6.map_or(0, |is_ipv6| if is_ipv6 { 40 } else { 20 }),
            outer_ipv6: u8::from(self.outer_is_ipv6 == Some(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_not_believed_all_it_says() {
        let info = sys::ringway_ethdev_info {
            tx_udp_checksum: 1,
            tx_tcp_checksum: 1,
            tx_tcp_segmentation: 1,
            tx_buffers: 40,
            ..sys::ringway_ethdev_info::default()
        };
        let nic = Offloads::of(&info, "net_ice", 1500);
        assert!(nic.any() && nic.tcp4_segmentation && nic.tcp6_segmentation && !nic.ipv4_checksum);
        assert_eq!((nic.pieces, nic.piece_bytes, nic.buffers), (u16::MAX, u16::MAX, 40));
        let tap = Offloads::of(&info, "net_tap", 1500);
        assert!(tap.tcp4_segmentation && !tap.tcp6_segmentation);
        assert_eq!((tap.pieces, tap.piece_bytes), (64, 1500));
        assert!(!Offloads::NONE.any());
        assert!(!Offloads::of(&sys::ringway_ethdev_info::default(), "net_null", 1500).any());
        assert!(vouches("net_ice") && !vouches("net_tap"));
        assert!(!vouches("net_virtio") && !vouches("net_virtio_user"));
    }
}
