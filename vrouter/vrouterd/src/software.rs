//! What a pod left to its device and the receiver has not agreed to do: checksums and TCP segmentation, on a private
//! copy of the whole frame.

use vrouter_core::DropReason;
use vrouter_net::segment::{TcpPieces, complete_checksum};
use vrouter_net::vxlan;
use vrouter_vhost::offload::Offload;
use vrouter_vhost::queue::{Body, PushError, RxLease};

/// The largest frame a pod can leave to be cut up: 64 KiB of IP packet behind an Ethernet header.
const WHOLE_BYTES: usize = 65_536 + 14;
/// The largest piece of it.
const PIECE_BYTES: usize = 16 * 1024;
/// Room in front of either for the outer header of a tunnel.
const FRONT_BYTES: usize = vxlan::OUTER_ROOM;
/// Most pieces of one frame: 64 KiB in pieces of 128 bytes. TCP does not go below 536 bytes of payload but for tiny MTUs
/// (RFC 9293 section 3.7.1); a pod that asks for pieces of one byte would have the worker send 65,000 frames for one.
pub const MOST_PIECES: usize = 512;

/// Room for one frame and one piece of it; allocated once per worker.
pub struct Software {
    whole: Box<[u8]>,
    piece: Box<[u8]>,
}

/// What was delivered of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pieces {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Software {
    /// Allocates.
    pub fn new() -> Self {
        let room = |bytes: usize| vec![0; FRONT_BYTES + bytes].into();
        Self { whole: room(WHOLE_BYTES), piece: room(PIECE_BYTES) }
    }

    /// Does what `offload` asks for, and delivers what comes out of it, each piece behind `outer`, the header of a tunnel
    /// or nothing. Stops at the first piece that does not arrive; the sender's TCP sends the rest again.
    ///
    /// # Errors
    /// Why the frame, or the rest of it, was not delivered, beside what was.
    pub fn deliver(
        &mut self,
        outer: &[u8],
        head: &[u8],
        body: Body<'_>,
        offload: &Offload,
        lease: &mut RxLease<'_>,
    ) -> (Pieces, Result<(), Refusal>) {
        let mut sent = Pieces::default();
        let done = self.cut(outer, head, body, offload, |frame| {
            lease.push(frame, Body::EMPTY, &Offload::NONE)?;
            sent.frames += 1;
            sent.bytes += frame.len() as u64;
            Ok(())
        });
        (sent, done)
    }

    /// The same, with each piece given to `push`.
    ///
    /// # Errors
    /// Why the frame, or the rest of it, was not delivered.
    pub fn cut(
        &mut self,
        outer: &[u8],
        head: &[u8],
        body: Body<'_>,
        offload: &Offload,
        mut push: impl FnMut(&[u8]) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let bytes = head.len() + body.len();
        let whole =
            self.whole.get_mut(FRONT_BYTES..FRONT_BYTES + bytes).ok_or(DropReason::TooBig)?;
        let (first, rest) = whole.split_at_mut(head.len());
        first.copy_from_slice(head);
        if body.read(rest) != rest.len() {
            return Err(DropReason::BadDescriptor.into());
        }
        let Some((_, size)) = offload.segmentation() else {
            if let Some((start, at)) = offload.checksum() {
                complete_checksum(whole, start, at).ok_or(DropReason::UnsupportedOffload)?;
            }
            put_in_front(&mut self.whole, outer, bytes)?;
            return push(framed(&self.whole, outer, bytes));
        };
        let pieces = cut(whole, size).ok_or(DropReason::UnsupportedOffload)?;
        for n in 0..pieces.len() {
            let piece = self.piece.get_mut(FRONT_BYTES..).ok_or(DropReason::TooBig)?;
            let len = pieces.write(n, piece).ok_or(DropReason::TooBig)?;
            put_in_front(&mut self.piece, outer, len)?;
            push(framed(&self.piece, outer, len))?;
        }
        Ok(())
    }
}

/// Where the outer header of a frame starts in the room in front of it. One of MPLS or IP in IP ends where the frame's
/// Ethernet header does.
fn start(outer: &[u8]) -> usize {
    (FRONT_BYTES + vxlan::overlap(outer.len())).saturating_sub(outer.len())
}

/// Writes the outer header of a frame of so many bytes in front of it.
fn put_in_front(room: &mut [u8], outer: &[u8], frame_bytes: usize) -> Result<(), DropReason> {
    if outer.is_empty() {
        return Ok(());
    }
    let start = start(outer);
    let front = room.get_mut(start..start + outer.len()).ok_or(DropReason::TooBig)?;
    front.copy_from_slice(outer);
    vxlan::set_frame_bytes(front, frame_bytes).ok_or(DropReason::TooBig)
}

/// A frame of so many bytes with its outer header.
fn framed<'a>(room: &'a [u8], outer: &[u8], frame_bytes: usize) -> &'a [u8] {
    room.get(start(outer)..FRONT_BYTES + frame_bytes).unwrap_or(&[])
}

/// A frame in pieces, if it can be cut and they are not too many.
fn cut(whole: &[u8], size: usize) -> Option<TcpPieces<'_>> {
    TcpPieces::new(whole, size).filter(|pieces| pieces.len() <= MOST_PIECES)
}

/// Why a frame was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// For what it is.
    Dropped(DropReason),
    /// By the receiver's queue.
    Refused(PushError),
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::Dropped(reason)
    }
}

impl From<PushError> for Refusal {
    fn from(error: PushError) -> Self {
        Self::Refused(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vrouter_net::Mac;
    use vrouter_net::ipip;
    use vrouter_net::mpls::{self, Label};
    use vrouter_net::vxlan::{Encapsulation, Endpoint, Inner, OUTER_ROOM, Vni};

    /// Of a tunnel over IPv4 or IPv6, for a frame of so many bytes: in VXLAN, in MPLS, in IP.
    fn outers(six: bool, frame_bytes: u32) -> [Vec<u8>; 3] {
        let end = |last: u8| {
            let mac = Mac::new([2, 0, 0, 0, 0, last]);
            let words = [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)];
            let address = if six { words.into() } else { [192, 0, 2, last].into() };
            Endpoint { mac, address }
        };
        let inner = Inner { frame_bytes, flow: 5, ecn: 0, is_ipv6: false };
        let [mut vxlan, mut mpls, mut ip] = [[0; OUTER_ROOM]; 3];
        let by_vni = Encapsulation::new(Vni::new(9).unwrap(), end(1), end(2)).unwrap();
        let by_label = mpls::Encapsulation::new(Label::new(99).unwrap(), end(1), end(2)).unwrap();
        let by_address = ipip::Encapsulation::new(end(1), end(2)).unwrap();
        let bytes = by_vni.write(&mut vxlan, inner).unwrap();
        let vxlan = vxlan[..bytes].to_vec();
        let bytes = by_label.write(&mut mpls, inner).unwrap();
        let mpls = mpls[..bytes].to_vec();
        let bytes = by_address.write(&mut ip, inner).unwrap();
        [vxlan, mpls, ip[..bytes].to_vec()]
    }

    /// MPLS and IP in IP take the place of a piece's Ethernet header, and what was cut before nothing more.
    #[test]
    fn pieces_get_the_outer_header_of_any_tunnel() {
        let piece: Vec<u8> = (0..100).collect();
        for six in [false, true] {
            let [vxlan, mpls, ip] = outers(six, 64);
            let [vxlan_of_piece, mpls_of_piece, ip_of_piece] = outers(six, 100);
            let front = mpls_of_piece[..mpls.len() - 14].to_vec();
            let ip_front = ip_of_piece[..ip.len() - 14].to_vec();
            for (outer, expected) in [
                (vec![], piece.clone()),
                (vxlan, [&vxlan_of_piece[..], &piece].concat()),
                (mpls, [&mpls_of_piece[..], &piece[14..]].concat()),
                (front.clone(), [&front[..], &piece].concat()),
                (ip, [&ip_of_piece[..], &piece[14..]].concat()),
                (ip_front.clone(), [&ip_front[..], &piece].concat()),
            ] {
                let mut room = vec![0xdb; FRONT_BYTES + 200];
                room[FRONT_BYTES..FRONT_BYTES + 100].copy_from_slice(&piece);
                put_in_front(&mut room, &outer, piece.len()).unwrap();
                assert_eq!(framed(&room, &outer, piece.len()), expected);
            }
        }
    }

    #[test]
    fn one_frame_is_not_cut_into_thousands() {
        let payload = 60_000;
        let mut frame = vec![0; 54 + payload];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&u16::try_from(40 + payload).unwrap().to_be_bytes());
        frame[23] = 6;
        frame[46] = 0x50;
        assert_eq!(cut(&frame, 1460).map(|pieces| pieces.len()), Some(42));
        assert_eq!(cut(&frame, 118).map(|pieces| pieces.len()), Some(509));
        for size in [1, 8, 64, 117] {
            assert!(cut(&frame, size).is_none(), "{size}");
        }
    }
}
