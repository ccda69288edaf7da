//! What pods sent, on its way to a device: one copy, from the pod's buffer into the device's.

use vrouter_core::{DropReason, Packet, PortIndex, Verdict};
use vrouter_dpdk::AllocError;
use vrouter_vhost::queue::{Body, Headed};

use super::groups::places;
use super::output::Output;
use super::{Mask, Origin, Sent, headed, offload_behind};
use crate::counters::{PortTally, WorkerTally};
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
        let room = self.tx.batch.push(len).map_err(|error| match error {
            AllocError::TooLong { .. } => DropReason::TooBig,
            AllocError::Exhausted { .. } | AllocError::Full { .. } => DropReason::NoMbuf,
        })?;
        let (first, rest) = room.split_at_mut_checked(heads).ok_or(DropReason::TooBig)?;
        let (a, b) = first.split_at_mut_checked(front.len()).ok_or(DropReason::TooBig)?;
        a.copy_from_slice(front);
        b.copy_from_slice(head);
        let missing = body.read(rest);
        // Never: a body has the bytes it says. The buffer may hold another pod's, so they would not go out.
        rest.get_mut(missing..).unwrap_or_default().fill(0);
        self.sent.packets += 1;
        self.sent.bytes += bytes as u64;
        Ok(())
    }

    /// Hands over the last, and counts: `from` sent them, `to` got them. Says how many that were.
    pub fn finish(mut self, to: Option<&PortTally>, from: &PortTally, tally: &WorkerTally) -> u64 {
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
        self.sent.packets
    }
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
        let sent = sending.finish(self.tally.port(to), self.counts, self.tally);
        if sent != 0 && self.queues.crosses(self.node, wire.node()) {
            self.counts.crossed(sent);
        }
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
        let cut = software.cut(front, head, body, &offload, |frame| {
            sending.push(frame, &[], Body::EMPTY).map_err(Refusal::Dropped)
        });
        cut.map_err(|refusal| match refusal {
            Refusal::Dropped(reason) => reason,
            Refusal::Refused(error) => super::refused(error),
        })
    }
}
