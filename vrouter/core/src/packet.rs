//! The private copy of a packet's head.

use crate::{DropReason, Verdict};
use vrouter_net::ipv4::Protocol;
use vrouter_net::{ethernet, mpls, vxlan};

/// Most bytes of a frame that are copied into the scratch: Ethernet, IPv4 with all options, and 54 bytes
/// of payload for the quote of an ICMP error.
pub const HEADER_BYTES: usize = 128;

/// One packet of a batch: the copied head of a frame and what is decided about it.
///
/// Aligned so that the head fills exactly two cache lines and is loaded and stored without splits.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Packet {
    /// The first bytes of the Ethernet frame.
    pub header: [u8; HEADER_BYTES],
    /// Valid bytes in `header`: the smaller of `frame_len` and [`HEADER_BYTES`], or 64 where [`Packet::enough`]
    /// says so. What follows them in `header` may be anything, such as bytes of an older frame.
    pub header_len: u16,
    /// Bytes of the Ethernet frame, without its frame check sequence. What comes out of a tunnel
    /// ([`Verdict::Decapsulate`], [`Verdict::FloodInside`]) has those of the inner frame.
    pub frame_len: u32,
    /// For a TCP packet that its sender wants cut into segments: payload bytes of each. The MTU then counts for the
    /// segments. Zero: the frame is what it is.
    pub segment_bytes: u16,
    /// Written by [`crate::process`] for every packet.
    pub verdict: Verdict,
    /// Bytes of the outer header that is put in front of a frame or taken away from it, if the verdict is that.
    pub(crate) outer_len: u8,
    /// What [`Packet::outer`] is the start of.
    pub(crate) outer: [u8; vxlan::OUTER_ROOM],
}

// A compiler that may reorder fields puts the head at offset 4.
const _: () = assert!(core::mem::offset_of!(Packet, header) == 0);
const _: () = assert!(size_of::<Packet>() == 256);
// The outer header and an inner one up to the end of IPv6 are seen.
const _: () = assert!(vxlan::OUTER6_BYTES + ethernet::HEADER_BYTES + 40 <= HEADER_BYTES);

/// TCP and UDP have one of these bits in the protocol of an IPv4 header, and a packet inside has none: one look instead of
/// two. ICMP has none either, and is copied further for nothing.
const CARRIED_AS_IT_IS: u8 = 0x12;
const _: () = assert!(Protocol::TCP.0 & CARRIED_AS_IT_IS != 0);
const _: () = assert!(Protocol::UDP.0 & CARRIED_AS_IT_IS != 0);
const _: () = assert!((Protocol::IPV4.0 | Protocol::IPV6.0) & CARRIED_AS_IT_IS == 0);

impl Packet {
    /// A frame of no bytes, to fill a batch with.
    pub const EMPTY: Self = Self {
        header: [0; HEADER_BYTES],
        header_len: 0,
        frame_len: 0,
        segment_bytes: 0,
        verdict: Verdict::Drop(DropReason::RuntFrame),
        outer_len: 0,
        outer: [0; vxlan::OUTER_ROOM],
    };

    /// Whether the first 64 bytes of a frame are all that [`crate::process`], a reply or the quote of an ICMP error
    /// can want of it. If not, copy up to [`HEADER_BYTES`].
    ///
    /// So it is for IPv4 without options, ICMP excepted, and for TCP and UDP over IPv6: headers and at least 8 bytes more, as RFC
    /// 792 asks of a quote. (RFC 1812 and RFC 4443 wish for longer quotes, of frames nobody wants to copy twice.)
    /// But not for what goes to a tunnel's port or carries an IP packet, and may have another head inside.
    /// A wrong answer costs no safety: headers that are not there make [`crate::DropReason::RuntFrame`].
    #[inline]
    pub fn enough(head: &[u8; 64]) -> bool {
        let (words, _) = head.as_chunks::<8>();
        // Ethertype, version and header length.
        let kind = u64::from_le_bytes(words[1]) >> 32;
        let next_header = words[2][4];
        // The destination ports of TCP and UDP, behind either header.
        let to4 = u16::from_be_bytes([words[4][4], words[4][5]]);
        let to6 = u16::from_be_bytes([words[7][0], words[7][1]]);
        // Without a branch for each port and protocol.
        let plain = |port: u16| (port != vxlan::PORT) & (port != mpls::PORT);
        if kind & 0xff_ffff == 0x45_0008 {
            return plain(to4) & (words[2][7] & CARRIED_AS_IT_IS != 0);
        }
        kind & 0xf0_ffff == 0x60_dd86 && matches!(next_header, 6 | 17) && plain(to6)
    }

    /// The first five words of the head, little-endian. Nothing says how many of them are valid.
    #[inline]
    pub(crate) fn words(&self) -> [u64; 5] {
        // Written out: a closure over an array becomes a function call here.
        let (words, _) = self.header.as_chunks::<8>();
        let [a, b, c, d, e, ..] = *words else { unreachable!("a head of {HEADER_BYTES} bytes") };
        [
            u64::from_le_bytes(a),
            u64::from_le_bytes(b),
            u64::from_le_bytes(c),
            u64::from_le_bytes(d),
            u64::from_le_bytes(e),
        ]
    }

    /// Writes the first four words.
    #[inline]
    pub(crate) fn set_words(&mut self, new: [u64; 4]) {
        let (words, _) = self.header.as_chunks_mut::<8>();
        let [a, b, c, d, ..] = words else { unreachable!("a head of {HEADER_BYTES} bytes") };
        *a = new[0].to_le_bytes();
        *b = new[1].to_le_bytes();
        *c = new[2].to_le_bytes();
        *d = new[3].to_le_bytes();
    }

    /// The valid bytes of the head. Never more than there are, whatever the lengths say.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.header[..self.head_bytes()]
    }

    /// The valid bytes of the head, to write.
    #[inline]
    pub(crate) fn head_mut(&mut self) -> &mut [u8] {
        let bytes = self.head_bytes();
        &mut self.header[..bytes]
    }

    /// What is to be sent in front of the frame. Empty unless the verdict is [`Verdict::Encapsulate`].
    #[inline]
    pub fn outer(&self) -> &[u8] {
        match self.verdict {
            Verdict::Encapsulate(_) => self.outer.get(..self.outer_len.into()).unwrap_or(&[]),
            _ => &[],
        }
    }

    /// How many bytes at the start of the frame are not to be sent. None unless the verdict is
    /// [`Verdict::Decapsulate`] or [`Verdict::FloodInside`].
    #[inline]
    pub fn removed(&self) -> usize {
        match self.verdict {
            Verdict::Decapsulate(_) | Verdict::FloodInside(..) => self.outer_len.into(),
            _ => 0,
        }
    }

    /// Bytes of the frame as it was received, without padding behind what comes out of a tunnel.
    #[inline]
    pub(crate) fn received_bytes(&self) -> u32 {
        self.frame_len.saturating_add(u32::try_from(self.removed()).unwrap_or(u32::MAX))
    }

    /// The head of the frame that is to be sent. It starts where [`Packet::removed`] says, and the rest of the frame
    /// follows where it ends.
    #[inline]
    pub fn sent_head(&self) -> &[u8] {
        match self.verdict {
            // One line: nothing behind it was looked at.
            Verdict::Decapsulate(_) | Verdict::FloodInside(..) => {
                let end = usize::from(self.header_len).min(HEADER_BYTES);
                let head = self.header.get(self.removed()..end).unwrap_or(&[]);
                let bytes = head.len().min(self.frame_len as usize).min(64);
                head.get(..bytes).unwrap_or(&[])
            }
            _ => self.head(),
        }
    }

    /// Bytes the frame has behind its Ethernet header.
    #[inline]
    pub(crate) fn payload_bytes(&self) -> usize {
        (self.frame_len as usize).saturating_sub(ethernet::HEADER_BYTES)
    }

    #[inline]
    fn head_bytes(&self) -> usize {
        usize::from(self.header_len).min(self.frame_len as usize).min(HEADER_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_for_the_common_kinds() {
        let frame = |bytes: &[(usize, u8)]| {
            let mut head = [0xee; 64];
            for (at, byte) in bytes {
                head[*at] = *byte;
            }
            Packet::enough(&head)
        };
        let four = [(12, 8), (13, 0), (14, 0x45)];
        let six = |next| [(12, 0x86), (13, 0xdd), (14, 0x6e), (20, next)];
        assert!(frame(&four));
        assert!(frame(&six(6)) && frame(&six(17)));
        for next in (0..=255).filter(|next| ![6, 17].contains(next)) {
            assert!(!frame(&six(next)));
        }
        for other in [[(12, 8), (13, 0), (14, 0x46)], [(12, 8), (13, 6), (14, 0x45)]] {
            assert!(!frame(&other));
        }
        // IP in IPv4, and what nearly all packets carry.
        for (protocol, enough) in [(6, true), (17, true), (4, false), (41, false)] {
            let bytes = [&four[..], &[(23, protocol)]].concat();
            assert_eq!(frame(&bytes), enough);
        }
        // The ports of VXLAN and MPLS, behind either header.
        for (head, at) in [(four.as_slice(), 36), (&six(17), 56)] {
            let port = |high, low| [head, &[(at, high), (at + 1, low)]].concat();
            assert!(!frame(&port(0x12, 0xb5)) && frame(&port(0x12, 0xb6)));
            assert!(!frame(&port(0x19, 0xeb)) && frame(&port(0x19, 0xea)));
            assert!(frame(&port(0x12, 0xeb)) && frame(&port(0x19, 0xb5)));
        }
        for at in 0..3 {
            let mut bad = [(12, 0x86), (13, 0xdd), (14, 0x60), (20, 17)];
            bad[at].1 ^= 0x10;
            assert!(!frame(&bad));
        }
    }

    #[test]
    fn head_is_the_smallest_of_the_three_lengths() {
        for (header_len, frame_len, head) in [
            (0, 0, 0),
            (60, 60, 60),
            (128, 1518, 128),
            (60, 1518, 60),
            (128, 60, 60),
            (u16::MAX, u32::MAX, 128),
        ] {
            let mut packet = Packet { header_len, frame_len, ..Packet::EMPTY };
            assert_eq!(packet.head().len(), head);
            assert_eq!(packet.head_mut().len(), head);
        }
    }
}
