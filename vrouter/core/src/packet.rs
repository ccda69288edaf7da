//! The private copy of a packet's head.

use crate::{DropReason, Verdict};
use vrouter_net::ethernet;

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
    /// Valid bytes in `header`: the smaller of `frame_len` and [`HEADER_BYTES`].
    pub header_len: u16,
    /// Bytes of the Ethernet frame, without its frame check sequence.
    pub frame_len: u32,
    /// Written by [`crate::process`] for every packet.
    pub verdict: Verdict,
}

// A compiler that may reorder fields puts the head at offset 4.
const _: () = assert!(core::mem::offset_of!(Packet, header) == 0);

impl Packet {
    /// A frame of no bytes, to fill a batch with.
    pub const EMPTY: Self = Self {
        header: [0; HEADER_BYTES],
        header_len: 0,
        frame_len: 0,
        verdict: Verdict::Drop(DropReason::RuntFrame),
    };

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
