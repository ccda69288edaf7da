//! One burst: from a pod's queue through the tables to other pods' queues.

use vrouter_core::{
    DropReason, Flood, ICMP_ERROR_BYTES, IcmpError, Packet, PortIndex, PortLimits, Timestamp,
    Verdict, icmp_error, process,
};
use vrouter_dpdk::Pool;
use vrouter_vhost::offload::Offload;
use vrouter_vhost::queue::{
    BURST, Body, FrameFault, PushError, Rest, RxLease, RxScratch, TxBurst, TxLease,
};

use crate::counters::{PortTally, WorkerTally};
use crate::dataplane::{DataPort, Dataplane};
use crate::software::{Refusal, Software};

/// One bit for each packet of a burst.
type Mask = u32;
const _: () = assert!(BURST <= Mask::BITS as usize);

/// Room for a burst; one for each worker, allocated once.
pub struct Pipeline {
    burst: TxBurst,
    scratch: RxScratch,
    packets: Box<[Packet; BURST]>,
    /// For each packet, which frame of the burst it is, and what its sender left to be done.
    origins: [Origin; BURST],
    /// One for each port, so that no pod uses up what another may.
    limits: Box<[PortLimits]>,
    pool: Pool,
    software: Software,
}

#[derive(Clone, Copy)]
struct Origin {
    frame: usize,
    offload: Offload,
}

impl Pipeline {
    /// `pool`: for packets made here; each of its buffers holds an ICMP error. `ports`: how many there can be.
    pub fn new(pool: Pool, ports: usize) -> Self {
        Self {
            burst: TxBurst::new(),
            scratch: RxScratch::new(),
            packets: Box::new([Packet::EMPTY; BURST]),
            origins: [Origin { frame: 0, offload: Offload::NONE }; BURST],
            limits: vec![PortLimits::default(); ports].into(),
            pool,
            software: Software::new(),
        }
    }

    /// Moves one burst of what `from`'s pod sent on queue pair `pair`; returns its packets.
    #[inline]
    pub fn run(
        &mut self,
        plane: &Dataplane,
        from: &DataPort,
        pair: usize,
        now: Timestamp,
        tally: &WorkerTally,
    ) -> usize {
        let at = usize::from(from.index.0);
        let (Some(limits), Some(counts)) = (self.limits.get_mut(at), tally.port(from.index)) else {
            return 0;
        };
        let Some(mut lease) = from.queues.tx(pair).lease_tx(&mut self.burst) else { return 0 };
        let taken = lease.fetch();
        if taken == 0 {
            return 0;
        }
        let mut used = 0;
        let mut bytes = 0;
        for frame in 0..taken {
            let Some(packet) = self.packets.get_mut(used) else { break };
            match lease.head(frame, &mut packet.header, Packet::enough) {
                Ok(head) => {
                    packet.header_len = head.copied;
                    packet.frame_len = head.frame_len;
                    packet.segment_bytes = segment_bytes(&head.offload);
                    bytes += u64::from(head.frame_len);
                    if let Some(origin) = self.origins.get_mut(used) {
                        *origin = Origin { frame, offload: head.offload };
                    }
                    used += 1;
                }
                Err(fault) => tally.drop(counts, reason(fault)),
            }
        }
        let packets = self.packets.get_mut(..used).unwrap_or(&mut []);
        let outcome = process(&plane.tables, now, from.index, packets, limits);
        let output = Output {
            plane,
            from,
            pair,
            lease: &lease,
            packets,
            origins: &self.origins,
            pool: &self.pool,
            now,
            counts,
            tally,
        };
        match outcome.all_to {
            Some(to) if !packets.is_empty() => {
                let all = Mask::MAX >> (Mask::BITS - u32::try_from(packets.len()).unwrap_or(1));
                output.deliver_to(to, all, &mut self.scratch, &mut self.software);
            }
            _ => output.deliver(&mut self.scratch, &mut self.software),
        }
        counts.rx(taken as u64, bytes);
        tally.packets.add(taken as u64);
        tally.bursts.add(1);
        taken
    }
}

/// What of the sender's frame follows its head that is sent.
#[inline(always)]
fn rest_behind(packet: &Packet, head: &[u8]) -> Rest {
    let bytes = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let skip = bytes(packet.removed() + head.len());
    Rest { skip, len: packet.frame_len.saturating_sub(bytes(head.len())) }
}

/// What is left to do of a frame without its first bytes.
#[inline(always)]
fn offload_behind(origin: &Origin, removed: usize) -> Option<Offload> {
    if origin.offload.is_none() { Some(Offload::NONE) } else { origin.offload.behind(removed) }
}

/// The MTU counts for each piece of a frame that is to be cut.
#[inline(always)]
fn segment_bytes(offload: &Offload) -> u16 {
    if offload.is_none() {
        return 0;
    }
    offload.segmentation().map_or(0, |(_, size)| u16::try_from(size).unwrap_or(u16::MAX))
}

fn reason(fault: FrameFault) -> DropReason {
    match fault {
        FrameFault::BadDescriptor => DropReason::BadDescriptor,
        FrameFault::ChainTooLong => DropReason::ChainTooLong,
        FrameFault::UnsupportedOffload => DropReason::UnsupportedOffload,
    }
}

/// A burst whose verdicts are known.
struct Output<'a> {
    plane: &'a Dataplane,
    from: &'a DataPort,
    pair: usize,
    lease: &'a TxLease<'a>,
    packets: &'a [Packet],
    origins: &'a [Origin; BURST],
    pool: &'a Pool,
    now: Timestamp,
    counts: &'a PortTally,
    tally: &'a WorkerTally,
}

/// What was delivered under one lease.
#[derive(Default)]
struct Sent {
    packets: u64,
    bytes: u64,
    forwarded: u64,
    replied: u64,
    originated: u64,
    /// The receiver's ring was full at least once.
    full: bool,
}

impl Sent {
    /// Counts a packet of a pod, of however many frames, that was delivered whole.
    #[inline(always)]
    fn arrived(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Reply => self.replied += 1,
            _ => self.forwarded += 1,
        }
    }
}

impl Output<'_> {
    /// Delivers group by group: all packets for one port under one lease of its queue, in their order.
    #[inline]
    fn deliver(&self, scratch: &mut RxScratch, software: &mut Software) {
        let mut waiting: Mask = 0;
        let mut floods: [Mask; 2] = [0; 2];
        let mut targets = [self.from.index; BURST];
        for (at, (packet, target)) in self.packets.iter().zip(&mut targets).enumerate() {
            match packet.verdict {
                Verdict::Drop(reason) => self.drop(reason),
                Verdict::Forward(port)
                | Verdict::Encapsulate(port)
                | Verdict::Decapsulate(port) => {
                    *target = port;
                    waiting |= 1 << at;
                }
                Verdict::Reply | Verdict::Originate(_) => waiting |= 1 << at,
                Verdict::Flood(flood) => floods[flood as usize] |= 1 << at,
            }
        }
        for flood in [Flood::All, Flood::Trunks] {
            self.flood(flood, floods[flood as usize], scratch, software);
        }
        while let Some(&to) = targets.get(waiting.trailing_zeros() as usize) {
            let mut group: Mask = 0;
            for (at, target) in targets.iter().enumerate() {
                group |= Mask::from(*target == to) << at;
            }
            group &= waiting;
            waiting &= !group;
            self.deliver_to(to, group, scratch, software);
        }
    }

    /// Repeats frames to all ports that are to have them, port by port.
    fn flood(&self, flood: Flood, group: Mask, scratch: &mut RxScratch, software: &mut Software) {
        if group == 0 {
            return;
        }
        self.tally.flooded.add(group.count_ones().into());
        for to in self.plane.tables.flood(self.from.index, flood) {
            self.deliver_to(to, group, scratch, software);
        }
    }

    #[inline]
    fn deliver_to(
        &self,
        to: PortIndex,
        mut group: Mask,
        scratch: &mut RxScratch,
        software: &mut Software,
    ) {
        let receiver = self.plane.port(to).map(|p| &p.queues);
        let lease = receiver.and_then(|queues| queues.rx(self.pair).lease_rx(scratch));
        let (Some(receiver), Some(mut lease)) = (receiver, lease) else {
            return self.lose(group);
        };
        lease.prepare(group.count_ones() as usize);
        let mut sent = Sent::default();
        for (packet, origin) in self.packets.iter().zip(self.origins) {
            if group & 1 != 0 {
                self.deliver_one(packet, origin, &mut lease, software, &mut sent);
            }
            group >>= 1;
        }
        drop(lease);
        if let Some(counts) = self.tally.port(to) {
            counts.tx(sent.packets, sent.bytes);
            if sent.full { counts.refused(self.now) } else { counts.accepted(self.now) }
        }
        if sent.packets != 0 && self.from.queues.crosses_to(receiver) {
            self.counts.crossed(sent.packets);
        }
        self.tally.forwarded.add(sent.forwarded);
        self.tally.replied.add(sent.replied);
        self.tally.originated.add(sent.originated);
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
            Verdict::Encapsulate(_) | Verdict::Decapsulate(_) => {
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
        let (outer, head) = (packet.outer(), packet.sent_head());
        let Some(offload) = offload_behind(origin, packet.removed()) else {
            return self.drop(DropReason::UnsupportedOffload);
        };
        let rest = rest_behind(packet, head);
        // What the sender left to be done cannot be said of a packet inside another.
        let done = if offload.is_none() || outer.is_empty() {
            lease.forward_reheaded(self.lease, origin.frame, outer, head, rest, &offload)
        } else {
            Err(PushError::Offload)
        };
        match done {
            Ok(()) => {
                sent.packets += 1;
                sent.bytes += outer.len() as u64 + u64::from(packet.frame_len);
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
        let (outer, head) = (packet.outer(), packet.sent_head());
        let Some(offload) = offload_behind(origin, packet.removed()) else {
            return self.drop(DropReason::UnsupportedOffload);
        };
        let rest = rest_behind(packet, head);
        let body = self.lease.body(origin.frame, rest.skip).first(rest.len);
        let (pieces, done) = software.deliver(outer, head, body, &offload, lease);
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
        let Some(len) = icmp_error(&self.plane.tables, self.from.index, packet, error, room) else {
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
    fn drop(&self, reason: DropReason) {
        self.tally.drop(self.counts, reason);
    }

    /// The port they are for is not there, or its queue is off.
    #[cold]
    fn lose(&self, mut group: Mask) {
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

fn refused(error: PushError) -> DropReason {
    match error {
        PushError::RingFull => DropReason::ReceiverRingFull,
        PushError::BufferTooSmall => DropReason::ReceiverBufferTooSmall,
        PushError::BadDescriptor => DropReason::ReceiverBadDescriptor,
        PushError::Offload => DropReason::UnsupportedOffload,
    }
}
