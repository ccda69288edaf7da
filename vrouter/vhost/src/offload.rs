//! Checksum and segmentation that one pod leaves to another: `struct virtio_net_hdr` (virtio 1.2, 5.1.6).

/// Bytes of the header in front of `num_buffers`.
pub(crate) const NET_HEADER_FIELDS: usize = 10;

const FLAG_NEEDS_CSUM: u8 = 1;
/// Only from a device to its driver.
const FLAG_DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// What a frame leaves to be done: at most one checksum, at most one kind of segmentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload([u8; NET_HEADER_FIELDS]);

/// Kind of segmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

impl Offload {
    /// Nothing is left to do.
    pub const NONE: Self = Self([0; NET_HEADER_FIELDS]);

    /// Nothing is left to do, and the transport checksum has been found right. For receivers that have checksums left to them
    /// ([`crate::queue::RxLease::takes_word`]).
    pub const VALID: Self = Self([FLAG_DATA_VALID, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

    /// The first fields of a virtio-net header as they are: flags, kind of segmentation, bytes of all headers, of each piece's
    /// payload, where the checksum starts, and from there where it goes. Nothing is checked.
    pub fn of_fields(fields: [u8; 10]) -> Self {
        Self(fields)
    }

    /// Whether nothing is left to do.
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Where the checksum starts and where it goes, both as bytes from the start of the frame.
    pub fn checksum(&self) -> Option<(usize, usize)> {
        let [flags, _, _, _, _, _, s0, s1, o0, o1] = self.0;
        let start = usize::from(u16::from_le_bytes([s0, s1]));
        let offset = usize::from(u16::from_le_bytes([o0, o1]));
        (flags & FLAG_NEEDS_CSUM != 0).then_some((start, start + offset))
    }

    /// How the frame is to be cut up, with the payload bytes of each piece.
    pub fn segmentation(&self) -> Option<(Segmentation, usize)> {
        let [_, kind, _, _, g0, g1, ..] = self.0;
        let size = usize::from(u16::from_le_bytes([g0, g1]));
        match kind & !GSO_ECN {
            GSO_TCPV4 => Some((Segmentation::Tcp4, size)),
            GSO_TCPV6 => Some((Segmentation::Tcp6, size)),
            _ => None,
        }
    }

    /// The same for the frame without its first `bytes` bytes, such as the outer headers of a tunnel. A checksum that
    /// starts inside them goes with them. `None`: that cannot be said of a frame that is to be cut up.
    pub fn behind(&self, bytes: usize) -> Option<Self> {
        if bytes == 0 || self.segmentation().is_some() {
            return (bytes == 0).then_some(*self);
        }
        let Some((start, _)) = self.checksum() else { return Some(*self) };
        let Some(start) = start.checked_sub(bytes) else { return Some(Self::NONE) };
        let mut behind = *self;
        behind.0[6..8].copy_from_slice(&u16::try_from(start).ok()?.to_le_bytes());
        Some(behind)
    }

    pub(crate) fn fields(&self) -> [u8; NET_HEADER_FIELDS] {
        self.0
    }
}

/// What a pod agreed on: to leave to us (its sending queues) or to have left to it (its receiving queues).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offloads {
    pub checksum: bool,
    pub tcp4: bool,
    pub tcp6: bool,
}

impl Offloads {
    /// Without any, the virtio-net header says nothing and is not looked at.
    #[inline(always)]
    pub(crate) fn any(self) -> bool {
        self.checksum || self.tcp4 || self.tcp6
    }

    /// Whether a pod with these takes such a frame.
    pub(crate) fn accepts(self, offload: &Offload) -> bool {
        let segmentation = match offload.segmentation() {
            Some((Segmentation::Tcp4, _)) => self.tcp4,
            Some((Segmentation::Tcp6, _)) => self.tcp6,
            None => true,
        };
        segmentation && (self.checksum || offload.checksum().is_none())
    }

    /// What a private copy of a sender's header asks for, brought into one form: fields that mean nothing are zero.
    /// `None`: not agreed on, or impossible for a frame of `frame_len` bytes.
    pub(crate) fn check(self, fields: &[u8; NET_HEADER_FIELDS], frame_len: u32) -> Option<Offload> {
        let mut wanted = Offload(*fields);
        // Only NEEDS_CSUM means anything from a driver (5.1.6.2.1).
        wanted.0[0] &= FLAG_NEEDS_CSUM;
        if wanted.0[0] == 0 {
            wanted.0[6..].fill(0);
        }
        let [_, kind, ..] = wanted.0;
        match (kind, wanted.segmentation()) {
            (0, _) => wanted.0[1..6].fill(0),
            (_, None) => return None,
            // A segment's checksum differs from the whole's, so it must be left to us as well (5.1.6.2.1).
            (_, Some((_, size))) if size == 0 || wanted.checksum().is_none() => return None,
            (_, Some(_)) => {}
        }
        if let Some((_, at)) = wanted.checksum()
            && at + 2 > frame_len as usize
        {
            return None;
        }
        self.accepts(&wanted).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offloads = Offloads { checksum: true, tcp4: true, tcp6: true };
    const CHECKSUM: Offloads = Offloads { checksum: true, tcp4: false, tcp6: false };

    #[test]
    fn what_is_left_to_do_behind_an_outer_header() {
        let checksum = |start: u8| Offload([1, 0, 0, 0, 0, 0, start, 0, 16, 0]);
        let tso = Offload([1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0]);
        assert_eq!(Offload::NONE.behind(50), Some(Offload::NONE));
        assert_eq!(checksum(34).behind(50), Some(Offload::NONE));
        assert_eq!(checksum(50).behind(50), Some(checksum(0)));
        assert_eq!(checksum(84).behind(50), Some(checksum(34)));
        assert_eq!((tso.behind(50), tso.behind(0)), (None, Some(tso)));
    }

    #[test]
    fn a_header_is_read_checked_and_brought_into_one_form() {
        let checksum = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0];
        let tso = [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0];
        type Case = (&'static str, Offloads, [u8; 10], Option<[u8; 10]>);
        let cases: [Case; 10] = [
            ("nothing", ALL, [0; 10], Some([0; 10])),
            ("a checksum", CHECKSUM, checksum, Some(checksum)),
            ("segmentation", ALL, tso, Some(tso)),
            ("segmentation, not agreed on", CHECKSUM, tso, None),
            (
                "a checksum, not agreed on",
                Offloads { tcp4: true, ..Offloads::default() },
                checksum,
                None,
            ),
            ("fields without a flag", ALL, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8], Some([0; 10])),
            ("DATA_VALID from a driver", ALL, [2, 0, 0, 0, 0, 0, 0, 0, 0, 0], Some([0; 10])),
            ("segmentation without a checksum", ALL, [0, 1, 54, 0, 0xb4, 5, 0, 0, 0, 0], None),
            ("pieces of no bytes", ALL, [1, 1, 54, 0, 0, 0, 34, 0, 16, 0], None),
            ("UDP fragmentation", ALL, [1, 3, 54, 0, 0xb4, 5, 34, 0, 16, 0], None),
        ];
        for (name, agreed, fields, result) in cases {
            assert_eq!(agreed.check(&fields, 1514).map(|o| o.fields()), result, "{name}");
        }
        assert_eq!(ALL.check(&checksum, 51), None, "a checksum outside the frame");
        assert_eq!(ALL.check(&checksum, 52).unwrap().checksum(), Some((34, 50)));
        let tso = ALL.check(&tso, 9000).unwrap();
        assert_eq!(tso.segmentation(), Some((Segmentation::Tcp4, 1460)));
        assert!(ALL.accepts(&tso) && !CHECKSUM.accepts(&tso));
        assert!(Offloads::default().accepts(&Offload::NONE) && !Offloads::default().any());
    }
}
