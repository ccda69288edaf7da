//! What pods sent, on its way to other pods.

use vrouter_core::{
    DropReason, Flood, ICMP_ERROR_BYTES, IcmpError, Packet, PortIndex, Timestamp, Verdict,
    icmp_error,
};
use vrouter_dpdk::Pool;
use vrouter_vhost::offload::Offload;
use vrouter_vhost::queue::{
    BURST, Body, Headed, PlainBurst, PushError, RxLease, RxScratch, TxLease,
};
use vrouter_vhost::queues::PortQueues;

use super::groups::{Groups, Way, places};
use super::{Mask, Origin, Sent, copies, headed, offload_behind, plainly, refused, sent_bytes};
use crate::counters::{PortTally, WorkerTally};
use crate::dataplane::{DataPort, Dataplane, Ends};
use crate::software::{Refusal, Software};

/// A burst whose verdicts are known.
pub(super) struct Output<'a> {
    pub plane: &'a Dataplane,
    pub from: PortIndex,
    pub queues: &'a PortQueues,
    pub pair: usize,
    pub lease: &'a TxLease<'a>,
    /// The same frames, if they are all plain; packets are then frames, one by one.
    pub plain: Option<PlainBurst<'a>>,
    pub packets: &'a [Packet],
    pub origins: &'a [Origin; BURST],
    pub pool: &'a Pool,
    pub now: Timestamp,
    /// The NUMA node of this vRouter, if it keeps to one.
    pub node: Option<u32>,
    pub counts: &'a PortTally,
    pub tally: &'a WorkerTally,
}

impl Output<'_> {
    /// Delivers group by group: all packets for one port under one lease of its queue, in their order.
    #[inline]
    pub fn deliver(&self, scratch: &mut RxScratch, software: &mut Software) {
        let mut groups = Groups::of(self.packets, self.from, |reason| self.drop(reason));
        for (flood, group) in groups.floods() {
            self.flood(flood, group, scratch, software);
        }
        while let Some((network, flood, group)) = groups.next_inside(self.packets) {
            self.tally.flooded.add(group.count_ones().into());
            for to in self.plane.tables.flood_inside(network, flood) {
                self.deliver_to(to, group, Way::Tunnel, scratch, software);
            }
        }
        while let Some((to, group, way)) = groups.next() {
            self.deliver_to(to, group, way, scratch, software);
        }
    }

    /// Repeats frames to all ports that are to have them, port by port.
    fn flood(&self, flood: Flood, group: Mask, scratch: &mut RxScratch, software: &mut Software) {
        if group == 0 {
            return;
        }
        self.tally.flooded.add(group.count_ones().into());
        for to in self.plane.tables.flood(self.from, flood) {
            self.deliver_to(to, group, Way::Plain, scratch, software);
        }
        self.flood_into_tunnels(group, scratch, software);
    }

    /// Repeats frames to the other hosts that their network stretches to, one copy after the other.
    fn flood_into_tunnels(&self, group: Mask, scratch: &mut RxScratch, software: &mut Software) {
        for at in places(group) {
            let (Some(packet), Some(origin)) = (self.packets.get(at), self.origin(at)) else {
                continue;
            };
            let origins = [origin; BURST];
            for copy in copies(self.plane, self.from, packet) {
                let (to, copy) = match copy {
                    Ok(copy) => copy,
                    Err(reason) => {
                        self.drop(reason);
                        continue;
                    }
                };
                self.tally.flooded_into_tunnels.add(1);
                let packets = std::slice::from_ref(&copy);
                let one = Output { plain: None, packets, origins: &origins, ..*self };
                one.deliver_to(to, 1, Way::Tunnel, scratch, software);
            }
        }
    }

    /// Delivers packets to one port.
    #[inline]
    pub fn deliver_to(
        &self,
        to: PortIndex,
        group: Mask,
        way: Way,
        scratch: &mut RxScratch,
        software: &mut Software,
    ) {
        let queues = match self.plane.port(to).map(|port| &port.ends) {
            Some(Ends::Pod(queues)) => queues,
            Some(Ends::Wire(wire)) => return self.deliver_to_wire(to, wire, group, software),
            None => return self.lose(group),
        };
        let Some(mut lease) = queues.rx(self.pair).lease_rx(scratch) else {
            return self.lose(group);
        };
        lease.prepare(group.count_ones() as usize);
        self.deliver_under(lease, to, group, way, software);
    }

    #[inline]
    pub fn deliver_under(
        &self,
        mut lease: RxLease<'_>,
        to: PortIndex,
        mut group: Mask,
        way: Way,
        software: &mut Software,
    ) {
        let mut sent = Sent::default();
        match (self.plain, way) {
            (Some(plain), Way::Plain) => {
                group = self.deliver_plain(&mut lease, plain, group, plainly, &mut sent);
            }
            (Some(plain), Way::Tunnel) => {
                group = self.deliver_plain(&mut lease, plain, group, headed, &mut sent);
            }
            _ => {}
        }
        while group != 0 {
            let at = group.trailing_zeros() as usize;
            group &= group - 1;
            if let (Some(packet), Some(origin)) = (self.packets.get(at), self.origin(at)) {
                self.deliver_one(packet, &origin, &mut lease, software, &mut sent);
            }
        }
        drop(lease);
        if let Some(counts) = self.tally.port(to) {
            counts.tx(sent.packets, sent.bytes);
            if sent.full { counts.refused(self.now) } else { counts.accepted(self.now) }
        }
        if sent.packets != 0
            && let Some(queues) = self.plane.port(to).and_then(DataPort::pod)
            && self.queues.crosses(self.node, queues.node())
        {
            self.counts.crossed(sent.packets);
        }
        self.tally.forwarded.add(sent.forwarded);
        self.tally.replied.add(sent.replied);
        self.tally.originated.add(sent.originated);
    }

    /// Delivers as many of the packets as need no special care, in their order; returns the others.
    #[inline(always)]
    fn deliver_plain(
        &self,
        lease: &mut RxLease<'_>,
        plain: PlainBurst<'_>,
        group: Mask,
        headed: impl for<'p> Fn(usize, &'p Packet) -> Headed<'p>,
        sent: &mut Sent,
    ) -> Mask {
        let mut left = group;
        let wanted = std::iter::from_fn(|| {
            let at = left.trailing_zeros() as usize;
            let packet = self.packets.get(at)?;
            left &= left.wrapping_sub(1);
            Some(headed(at, packet))
        });
        let done = lease.forward_plain(plain, wanted);
        sent.packets += done.frames as u64;
        sent.forwarded += done.frames as u64;
        sent.bytes += done.bytes;
        // Not the packets again: the copy of a burst of large frames has displaced them from the first cache.
        (0..done.frames).fold(group, |rest, _| rest & rest.wrapping_sub(1))
    }

    /// Where packet `at` comes from.
    #[inline(always)]
    pub fn origin(&self, at: usize) -> Option<Origin> {
        match self.plain {
            Some(_) => Some(Origin { frame: at, offload: Offload::NONE }),
            None => self.origins.get(at).copied(),
        }
    }

    #[inline(always)]
    fn deliver_one(
        &self,
        packet: &Packet,
        origin: &Origin,
        lease: &mut RxLease<'_>,
        software: &mut Software,
        sent: &mut Sent,
    ) {
        match packet.verdict {
            Verdict::Originate(error) => {
                self.drop(error.into());
                return self.originate(packet, error, lease, sent);
            }
            Verdict::Encapsulate(_) | Verdict::Decapsulate(_) | Verdict::FloodInside(..) => {
                return self.deliver_tunnelled(packet, origin, lease, software, sent);
            }
            _ => {}
        }
        match lease.forward(self.lease, origin.frame, packet.head(), &origin.offload) {
            Ok(()) => {
                sent.packets += 1;
                sent.bytes += u64::from(packet.frame_len);
                sent.arrived(packet.verdict);
            }
            Err(PushError::Offload) => self.in_software(packet, origin, lease, software, sent),
            Err(error) => {
                sent.full |= error == PushError::RingFull;
                self.drop(refused(error));
            }
        }
    }

    /// A frame that goes into a tunnel or comes out of one: its head is longer or shorter than what it stands for.
    #[inline]
    fn deliver_tunnelled(
        &self,
        packet: &Packet,
        origin: &Origin,
        lease: &mut RxLease<'_>,
        software: &mut Software,
        sent: &mut Sent,
    ) {
        let Headed { frame, front, head, skip, len } = headed(origin.frame, packet);
        let Some(offload) = offload_behind(origin, packet.removed()) else {
            return self.drop(DropReason::UnsupportedOffload);
        };
        let body = self.lease.body(frame, skip).first(len);
        // What the sender left to be done cannot be said of a packet inside another.
        let done = if offload.is_none() || front.is_empty() {
            lease.push_behind(front, head, body, &offload)
        } else {
            Err(PushError::Offload)
        };
        match done {
            Ok(()) => {
                sent.packets += 1;
                sent.bytes += sent_bytes(packet);
                sent.arrived(packet.verdict);
            }
            Err(PushError::Offload) => self.in_software(packet, origin, lease, software, sent),
            Err(error) => {
                sent.full |= error == PushError::RingFull;
                self.drop(refused(error));
            }
        }
    }

    /// The receiver has not agreed to do what the sender left.
    #[cold]
    fn in_software(
        &self,
        packet: &Packet,
        origin: &Origin,
        lease: &mut RxLease<'_>,
        software: &mut Software,
        sent: &mut Sent,
    ) {
        let Headed { frame, front, head, skip, len } = headed(origin.frame, packet);
        let Some(offload) = offload_behind(origin, packet.removed()) else {
            return self.drop(DropReason::UnsupportedOffload);
        };
        let body = self.lease.body(frame, skip).first(len);
        let (pieces, done) = software.deliver(front, head, body, &offload, lease);
        sent.packets += pieces.frames;
        sent.bytes += pieces.bytes;
        match done {
            Ok(()) => sent.arrived(packet.verdict),
            Err(Refusal::Dropped(reason)) => self.drop(reason),
            Err(Refusal::Refused(error)) => self.drop(refused(error)),
        }
    }

    /// Reports an error to the sender. If that fails too, its packet was counted already.
    #[cold]
    fn originate(
        &self,
        packet: &Packet,
        error: IcmpError,
        lease: &mut RxLease<'_>,
        sent: &mut Sent,
    ) {
        let Ok(mut mbuf) = self.pool.alloc() else { return };
        let bytes = u16::try_from(ICMP_ERROR_BYTES).unwrap_or(u16::MAX);
        let Ok(room) = mbuf.append(bytes) else { return };
        let Some(len) = icmp_error(&self.plane.tables, self.from, packet, error, room) else {
            return;
        };
        let frame = mbuf.data().get(..len).unwrap_or(&[]);
        if lease.push(frame, Body::EMPTY, &Offload::NONE).is_ok() {
            sent.packets += 1;
            sent.bytes += u64::try_from(len).unwrap_or(0);
            sent.originated += 1;
        }
    }

    #[cold]
    pub fn drop(&self, reason: DropReason) {
        self.tally.drop(self.counts, reason);
    }

    /// The port they are for is not there, or its queue is off.
    #[cold]
    pub fn lose(&self, mut group: Mask) {
        while group != 0 {
            let at = group.trailing_zeros() as usize;
            group &= group - 1;
            match self.packets.get(at).map(|p| p.verdict) {
                Some(Verdict::Originate(error)) => self.drop(error.into()),
                _ => self.drop(DropReason::ReceiverDown),
            }
        }
    }
}
