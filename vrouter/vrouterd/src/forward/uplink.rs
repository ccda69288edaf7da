//! What a device received, on its way: to a pod with one copy, to another device without any (if both have one pool).

use vrouter_core::{
    DropReason, Flood, ICMP_ERROR_BYTES, IcmpError, Packet, PortIndex, Timestamp, Verdict,
    icmp_error, process,
};
use vrouter_dpdk::{Pool, Spread};
use vrouter_vhost::offload::Offload;
use vrouter_vhost::queue::{BURST, Body, Headed, PushError, RxScratch};
use vrouter_vhost::queues::PortQueues;

use super::groups::{Groups, places};
use super::send::Sending;
use super::{LINE, Mask, Origin, Pipeline, Sent, copies, headed, refused, sent_bytes};
use crate::counters::{PortTally, WorkerTally};
use crate::dataplane::{Dataplane, Ends};
use crate::offload::is_vouched_for;
use crate::wire::{RxSide, Wire};

impl Pipeline {
    /// Moves one burst of what a device received on one of its queues; returns its packets. `now`: nanoseconds.
    pub fn run_wire(
        &mut self,
        plane: &Dataplane,
        from: PortIndex,
        wire: &Wire,
        pair: usize,
        now: u64,
        tally: &WorkerTally,
    ) -> usize {
        let now = Timestamp::from_nanoseconds(now);
        let (Some(limits), Some(counts)) =
            (self.limits.get_mut(usize::from(from.0)), tally.port(from))
        else {
            return 0;
        };
        let mut side = wire.rx(pair);
        let Some(side) = side.as_mut().and_then(|side| side.as_mut()) else { return 0 };
        let taken = side.receive();
        if taken == 0 {
            return 0;
        }
        let RxSide { batch, .. } = side;
        batch.prefetch(0);
        let mut frames = batch.spread();
        let mut used = 0;
        let mut bytes = 0;
        for frame in 0..frames.len() {
            let (Some(packet), Some(origin), Some(arrived)) =
                (self.packets.get_mut(used), self.origins.get_mut(used), frames.packet(frame))
            else {
                break;
            };
            bytes += arrived.data().len() as u64;
            if !arrived.is_whole() {
                // A device that was not asked to delivers it in pieces.
                tally.drop(counts, DropReason::UnsupportedOffload);
                continue;
            }
            copy_head(arrived.data(), packet);
            // What goes to a pod comes out of a tunnel.
            let good = arrived.inner_checksum_is_good();
            let offload = if good { Offload::VALID } else { Offload::NONE };
            *origin = Origin { frame, offload };
            used += 1;
        }
        let packets = self.packets.get_mut(..used).unwrap_or(&mut []);
        process(&plane.tables, now, from, packets, limits);
        let mut arrived = Arrived {
            plane,
            from,
            pair,
            packets,
            origins: &self.origins,
            frames,
            pool: &self.pool,
            now,
            counts,
            tally,
        };
        arrived.deliver(&mut self.scratch);
        drop(arrived);
        batch.clear();
        counts.rx(taken as u64, bytes);
        tally.packets.add(taken as u64);
        tally.bursts.add(1);
        taken
    }
}

/// Copies what is looked at of a frame.
#[inline]
fn copy_head(frame: &[u8], packet: &mut Packet) {
    packet.frame_len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    packet.segment_bytes = 0;
    let enough = frame.first_chunk::<LINE>().is_some_and(Packet::enough);
    let most = if enough { LINE } else { packet.header.len() };
    let bytes = frame.len().min(most);
    if let (Some(to), Some(from)) = (packet.header.get_mut(..bytes), frame.get(..bytes)) {
        to.copy_from_slice(from);
    }
    packet.header_len = u16::try_from(bytes).unwrap_or(0);
}

/// A burst from a device whose verdicts are known.
struct Arrived<'a, 'b> {
    plane: &'a Dataplane,
    from: PortIndex,
    pair: usize,
    packets: &'a [Packet],
    origins: &'a [Origin; BURST],
    frames: Spread<'b>,
    pool: &'a Pool,
    now: Timestamp,
    counts: &'a PortTally,
    tally: &'a WorkerTally,
}

/// Some packets of a burst, and where they come from.
#[derive(Clone, Copy)]
struct Chosen<'p> {
    packets: &'p [Packet],
    origins: &'p [Origin; BURST],
    group: Mask,
}

impl<'p> Chosen<'p> {
    fn each(self) -> impl Iterator<Item = (&'p Packet, &'p Origin)> {
        places(self.group)
            .filter_map(move |at| Some((self.packets.get(at)?, self.origins.get(at)?)))
    }
}

impl<'a> Arrived<'a, '_> {
    fn chosen(&self, group: Mask) -> Chosen<'a> {
        Chosen { packets: self.packets, origins: self.origins, group }
    }

    fn deliver(&mut self, scratch: &mut RxScratch) {
        let (tally, counts) = (self.tally, self.counts);
        let mut groups = Groups::of(self.packets, self.from, |reason| tally.drop(counts, reason));
        for (flood, group) in groups.floods() {
            self.flood(flood, group, scratch);
        }
        while let Some((network, flood, group)) = groups.next_inside(self.packets) {
            tally.flooded.add(group.count_ones().into());
            for to in self.plane.tables.flood_inside(network, flood) {
                self.deliver_to(to, self.chosen(group), false, scratch);
            }
        }
        while let Some((to, group, _)) = groups.next() {
            self.deliver_to(to, self.chosen(group), true, scratch);
        }
    }

    fn flood(&mut self, flood: Flood, group: Mask, scratch: &mut RxScratch) {
        if group == 0 {
            return;
        }
        self.tally.flooded.add(group.count_ones().into());
        for to in self.plane.tables.flood(self.from, flood) {
            self.deliver_to(to, self.chosen(group), false, scratch);
        }
        self.flood_into_tunnels(self.chosen(group), scratch);
    }

    /// As for what pods send by queues of their own.
    fn flood_into_tunnels(&mut self, flooded: Chosen<'_>, scratch: &mut RxScratch) {
        for (packet, origin) in flooded.each() {
            let origins = [*origin; BURST];
            for copy in copies(self.plane, self.from, packet) {
                let (to, copy) = match copy {
                    Ok(copy) => copy,
                    Err(reason) => {
                        self.tally.drop(self.counts, reason);
                        continue;
                    }
                };
                self.tally.flooded_into_tunnels.add(1);
                let packets = std::slice::from_ref(&copy);
                let one = Chosen { packets, origins: &origins, group: 1 };
                self.deliver_to(to, one, false, scratch);
            }
        }
    }

    /// Delivers packets to one port. `last`: nobody else gets them.
    fn deliver_to(
        &mut self,
        to: PortIndex,
        chosen: Chosen<'_>,
        last: bool,
        scratch: &mut RxScratch,
    ) {
        match self.plane.port(to).map(|port| &port.ends) {
            Some(Ends::Pod(queues)) => self.give_to_pod(to, queues, chosen, scratch),
            Some(Ends::Wire(wire)) => self.give_to_wire(to, wire, chosen, last),
            None => self.lose(chosen),
        }
    }

    fn give_to_pod(
        &mut self,
        to: PortIndex,
        queues: &PortQueues,
        chosen: Chosen<'_>,
        scratch: &mut RxScratch,
    ) {
        let Some(mut lease) = queues.rx(self.pair).lease_rx(scratch) else {
            return self.lose(chosen);
        };
        lease.prepare(chosen.group.count_ones() as usize);
        let takes_word = lease.takes_word();
        let mut sent = Sent::default();
        for (packet, origin) in chosen.each() {
            let Headed { frame, front, head, skip, len } = headed(origin.frame, packet);
            let Some(arrived) = self.frames.packet(frame) else { continue };
            let rest = arrived.data().get(skip as usize..).unwrap_or(&[]);
            let body = Body::of_private(rest).first(len);
            let is_inner = packet.removed() > 0 && front.is_empty();
            let told = takes_word && is_inner && is_vouched_for(head);
            let offload = if told { origin.offload } else { Offload::NONE };
            match lease.push_behind(front, head, body, &offload) {
                Ok(()) => {
                    sent.packets += 1;
                    sent.bytes += sent_bytes(packet);
                    sent.arrived(packet.verdict);
                }
                Err(error) => {
                    sent.full |= error == PushError::RingFull;
                    self.tally.drop(self.counts, refused(error));
                }
            }
        }
        drop(lease);
        if let Some(counts) = self.tally.port(to) {
            counts.tx(sent.packets, sent.bytes);
            if sent.full { counts.refused(self.now) } else { counts.accepted(self.now) }
        }
        self.tally.forwarded.add(sent.forwarded);
        self.tally.replied.add(sent.replied);
    }

    fn give_to_wire(&mut self, to: PortIndex, wire: &Wire, chosen: Chosen<'_>, last: bool) {
        let mut side = wire.tx(self.pair);
        let Some(tx) = side.as_mut().and_then(|side| side.as_mut()) else {
            return self.lose(chosen);
        };
        // Packets stay in buffers of one pool.
        let moves = last && self.frames.can_go_to(&tx.batch);
        let mut sending = Sending::new(tx);
        for (packet, origin) in chosen.each() {
            let done = match packet.verdict {
                Verdict::Originate(error) => {
                    self.tally.drop(self.counts, error.into());
                    self.originate(packet, error, &mut sending);
                    continue;
                }
                _ if moves => move_one(packet, &mut self.frames, origin.frame, &mut sending),
                _ => copy_one(packet, &mut self.frames, origin.frame, &mut sending),
            };
            match done {
                Ok(()) => {
                    sending.sent.arrived(packet.verdict);
                    if let Verdict::Punt(_, class) = packet.verdict {
                        self.counts.punted(class);
                    }
                }
                Err(reason) => self.tally.drop(self.counts, reason),
            }
        }
        sending.finish(self.tally.port(to), self.counts, self.tally);
    }

    /// Reports an error to the sender. If that fails too, its packet was counted already.
    #[cold]
    fn originate(&self, packet: &Packet, error: IcmpError, sending: &mut Sending<'_>) {
        let Ok(mut mbuf) = self.pool.alloc() else { return };
        let bytes = u16::try_from(ICMP_ERROR_BYTES).unwrap_or(u16::MAX);
        let Ok(room) = mbuf.append(bytes) else { return };
        let Some(len) = icmp_error(&self.plane.tables, self.from, packet, error, room) else {
            return;
        };
        let frame = mbuf.data().get(..len).unwrap_or(&[]);
        if sending.push(frame, &[], Body::EMPTY).is_ok() {
            sending.sent.originated += 1;
        }
    }

    /// The port they are for is not there, or its queue is off.
    #[cold]
    fn lose(&self, chosen: Chosen<'_>) {
        for (packet, _) in chosen.each() {
            let reason = match packet.verdict {
                Verdict::Originate(error) => error.into(),
                _ => DropReason::ReceiverDown,
            };
            self.tally.drop(self.counts, reason);
        }
    }
}

/// Rewrites a frame where it lies and moves it.
#[inline]
fn move_one(
    packet: &Packet,
    frames: &mut Spread<'_>,
    frame: usize,
    sending: &mut Sending<'_>,
) -> Result<(), DropReason> {
    let mut arrived = frames.packet(frame).ok_or(DropReason::NoMbuf)?;
    let short = |n: usize| u16::try_from(n).map_err(|_| DropReason::TooBig);
    let removed = packet.removed();
    if removed > 0 {
        // What comes out of a tunnel may be followed by padding.
        let end = removed + packet.frame_len as usize;
        let padding = short(arrived.data().len().saturating_sub(end))?;
        if !arrived.trim_front(short(removed)?) || !arrived.trim_end(padding) {
            return Err(DropReason::RuntFrame);
        }
    }
    let head = packet.sent_head();
    let start = arrived.data_mut().get_mut(..head.len()).ok_or(DropReason::RuntFrame)?;
    start.copy_from_slice(head);
    let outer = packet.outer();
    if !outer.is_empty() {
        let room = arrived.prepend(short(outer.len())?).map_err(|_| DropReason::TooBig)?;
        room.copy_from_slice(outer);
    }
    let bytes = arrived.data().len() as u64;
    sending.make_room();
    match frames.take(frame, &mut sending.tx.batch) {
        Ok(true) => {
            sending.sent.packets += 1;
            sending.sent.bytes += bytes;
            Ok(())
        }
        // It was asked whether they have one pool, and there was room.
        Ok(false) | Err(_) => Err(DropReason::NoMbuf),
    }
}

/// Copies a frame that others get, too, or whose buffer has to stay.
fn copy_one(
    packet: &Packet,
    frames: &mut Spread<'_>,
    frame: usize,
    sending: &mut Sending<'_>,
) -> Result<(), DropReason> {
    let Headed { front, head, skip, len, .. } = headed(frame, packet);
    let arrived = frames.packet(frame).ok_or(DropReason::NoMbuf)?;
    let rest = arrived.data().get(skip as usize..).unwrap_or(&[]);
    sending.push(front, head, Body::of_private(rest).first(len))
}
