//! What pods sent, on its way to a device: one copy, from the pod's buffer into the device's.

use vrouter_core::{DropReason, Packet, PortIndex, Verdict};
use vrouter_dpdk::{AllocError, TxWork};
use vrouter_net::vxlan;
use vrouter_vhost::offload::Offload;
use vrouter_vhost::queue::{Body, Headed};

use super::groups::places;
use super::output::Output;
use super::{Mask, Origin, Sent, headed, offload_behind};
use crate::counters::{PortTally, WorkerTally};
use crate::offload;
use crate::software::{Refusal, Software};
use crate::wire::{TxSide, Wire};

/// A lease of a device's send queue.
pub(super) struct Sending<'a> {
    pub tx: &'a mut TxSide,
    pub sent: Sent,
    /// Frames that the device did not take.
    pub lost: u64,
}

impl<'a> Sending<'a> {
    pub fn new(tx: &'a mut TxSide) -> Self {
        Self { tx, sent: Sent::default(), lost: 0 }
    }

    /// Hands over what there is.
    pub fn flush(&mut self) {
        let (lost, bytes) = self.tx.send();
        self.lost += lost;
        self.sent.packets = self.sent.packets.saturating_sub(lost);
        self.sent.bytes = self.sent.bytes.saturating_sub(bytes);
    }

    /// Makes room for one packet.
    #[inline]
    pub fn make_room(&mut self) {
        if self.tx.batch.len() == self.tx.batch.capacity() {
            self.flush();
        }
    }

    /// Adds a frame of these bytes.
    #[inline]
    pub fn push(&mut self, front: &[u8], head: &[u8], body: Body<'_>) -> Result<(), DropReason> {
        self.make_room();
        let heads = front.len() + head.len();
        let bytes = heads + body.len();
        let len = u16::try_from(bytes).map_err(|_| DropReason::TooBig)?;
        let room = self.tx.batch.push(len).map_err(no_buffer)?;
        let rest = write_heads(room, front, head)?;
        read_all(body, rest);
        self.sent.packets += 1;
        self.sent.bytes += bytes as u64;
        Ok(())
    }

    /// The same for a frame that leaves work to the device, in as many buffers as it takes.
    pub fn push_with(
        &mut self,
        front: &[u8],
        head: &[u8],
        mut body: Body<'_>,
        work: &TxWork,
    ) -> Result<(), DropReason> {
        self.make_room();
        let bytes = front.len() + head.len() + body.len();
        let len = u32::try_from(bytes).map_err(|_| DropReason::TooBig)?;
        let mut outer = [0; vxlan::OUTER_ROOM];
        let outer = outer.get_mut(..front.len()).ok_or(DropReason::TooBig)?;
        outer.copy_from_slice(front);
        if !front.is_empty() {
            // In front of what may be cut it has no lengths yet. Now it is the whole frame's, and the device makes it each piece's.
            vxlan::set_frame_bytes(outer, bytes - front.len()).ok_or(DropReason::TooBig)?;
        }
        let mut chain = self.tx.batch.push_chain(len).map_err(no_buffer)?;
        chain.leave(work);
        // The first buffer holds the heads: they are far shorter than any.
        let mut heads = Some((&*outer, head));
        while let Some(mut room) = chain.piece() {
            if let Some((front, head)) = heads.take() {
                room = write_heads(room, front, head)?;
            }
            read_all(body, room);
            body = body.skip(room.len());
        }
        self.tx.leaves_work();
        self.sent.packets += 1;
        self.sent.bytes += bytes as u64;
        Ok(())
    }

    /// What of a frame's offload the device does.
    fn plan(&self, wanted: &Offload, front: &[u8], head: &[u8], body: Body<'_>) -> Option<TxWork> {
        let (can, room) = (self.tx.offloads(), self.tx.batch.data_room());
        offload::plan(can, wanted, front, head, head.len() + body.len(), room.into())
    }

    /// Hands over the last, and counts: `from` sent them, `to` got them.
    pub fn finish(mut self, to: Option<&PortTally>, from: &PortTally, tally: &WorkerTally) {
        self.flush();
        for _ in 0..self.lost {
            tally.drop(from, DropReason::ReceiverRingFull);
        }
        if let Some(counts) = to {
            counts.tx(self.sent.packets, self.sent.bytes);
        }
        tally.forwarded.add(self.sent.forwarded.saturating_sub(self.lost));
        tally.replied.add(self.sent.replied);
        tally.originated.add(self.sent.originated);
    }
}

fn no_buffer(error: AllocError) -> DropReason {
    match error {
        AllocError::TooLong { .. } => DropReason::TooBig,
        AllocError::Exhausted { .. } | AllocError::Full { .. } => DropReason::NoMbuf,
    }
}

/// Writes what a frame begins with; returns the room behind it.
#[inline]
fn write_heads<'a>(
    room: &'a mut [u8],
    front: &[u8],
    head: &[u8],
) -> Result<&'a mut [u8], DropReason> {
    let (first, rest) = room.split_at_mut_checked(front.len()).ok_or(DropReason::TooBig)?;
    let (second, rest) = rest.split_at_mut_checked(head.len()).ok_or(DropReason::TooBig)?;
    first.copy_from_slice(front);
    second.copy_from_slice(head);
    Ok(rest)
}

/// Fills `room` with what a body begins with.
#[inline]
fn read_all(body: Body<'_>, room: &mut [u8]) {
    let read = body.read(room);
    // Never: a body has the bytes it says. The buffer may hold another pod's, so they would not go out.
    room.get_mut(read..).unwrap_or_default().fill(0);
}

impl Output<'_> {
    /// Delivers packets to a device.
    #[inline(never)]
    pub(super) fn deliver_to_wire(
        &self,
        to: PortIndex,
        wire: &Wire,
        group: Mask,
        software: &mut Software,
    ) {
        let mut side = wire.tx(self.pair);
        let Some(tx) = side.as_mut().and_then(|side| side.as_mut()) else {
            return self.lose(group);
        };
        let mut sending = Sending::new(tx);
        for at in places(group) {
            if let (Some(packet), Some(origin)) = (self.packets.get(at), self.origin(at)) {
                match self.send_one(packet, &origin, &mut sending, software) {
                    Ok(()) => {
                        sending.sent.arrived(packet.verdict);
                        if let Verdict::Punt(_, class) = packet.verdict {
                            self.counts.punted(class);
                        }
                    }
                    Err(reason) => self.drop(reason),
                }
            }
        }
        sending.finish(self.tally.port(to), self.counts, self.tally);
    }

    #[inline]
    fn send_one(
        &self,
        packet: &Packet,
        origin: &Origin,
        sending: &mut Sending<'_>,
        software: &mut Software,
    ) -> Result<(), DropReason> {
        let Headed { frame, front, head, skip, len } = headed(origin.frame, packet);
        let offload = offload_behind(origin, packet.removed());
        let offload = offload.ok_or(DropReason::UnsupportedOffload)?;
        let body = self.lease.body(frame, skip).first(len);
        if offload.is_none() {
            return sending.push(front, head, body);
        }
        if let Some(work) = sending.plan(&offload, front, head, body) {
            return sending.push_with(front, head, body, &work);
        }
        let cut = software.cut(front, head, body, &offload, |frame| {
            sending.push(frame, &[], Body::EMPTY).map_err(Refusal::Dropped)
        });
        cut.map_err(|refusal| match refusal {
            Refusal::Dropped(reason) => reason,
            Refusal::Refused(error) => super::refused(error),
        })
    }
}
