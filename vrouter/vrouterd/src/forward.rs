//! One burst: from a pod's queue through the tables to other pods' queues.

use vrouter_core::{
    DropReason, Flood, ICMP_ERROR_BYTES, IcmpError, Packet, PortIndex, PortLimits, Timestamp,
    Verdict, icmp_error, process,
};
use vrouter_dpdk::Pool;
use vrouter_vhost::offload::Offload;
use vrouter_vhost::queue::{
    BURST, Body, FrameFault, Headed, PlainBurst, PushError, Rest, RxLease, RxScratch, TxBurst,
    TxLease,
};

use crate::counters::{PortTally, WorkerTally};
use crate::dataplane::{DataPort, Dataplane};
use crate::software::{Refusal, Software};

/// One bit for each packet of a burst.
type Mask = u32;
const _: () = assert!(BURST <= Mask::BITS as usize);

/// Lines of a frame behind its head that are fetched while headers are looked at. Where pods write their payload, 8 took 3 % from
/// a frame of 1,518 bytes and 24 no more; where they do not, and for short frames, neither shows.
const BODY_LINES: u32 = 8;

/// Room for a burst; one for each worker, allocated once.
pub struct Pipeline {
    burst: TxBurst,
    scratch: RxScratch,
    packets: Box<[Packet; BURST]>,
    /// For each port, where its last burst went: the next one may well go there too.
    likely: Box<[Option<PortIndex>]>,
    /// For each packet, which frame of the burst it is, and what its sender left to be done.
    origins: [Origin; BURST],
    /// One for each port, so that no pod uses up what another may.
    limits: Box<[PortLimits]>,
    pool: Pool,
    software: Software,
    /// A queue was left alone although it has packets.
    rested: bool,
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
            likely: vec![None; ports].into(),
            limits: vec![PortLimits::default(); ports].into(),
            pool,
            software: Software::new(),
            rested: false,
        }
    }

    /// Whether a queue was left alone since the last question although it has packets.
    pub fn take_rested(&mut self) -> bool {
        std::mem::take(&mut self.rested)
    }

    /// Moves one burst of what `from`'s pod sent on queue pair `pair`; returns its packets. `rest` has the time.
    #[inline]
    pub fn run(
        &mut self,
        plane: &Dataplane,
        from: &DataPort,
        pair: usize,
        rest: Rest,
        tally: &WorkerTally,
    ) -> usize {
        let now = Timestamp::from_nanoseconds(rest.now);
        let at = usize::from(from.index.0);
        let (Some(limits), Some(likely), Some(counts)) =
            (self.limits.get_mut(at), self.likely.get_mut(at), tally.port(from.index))
        else {
            return 0;
        };
        let Some(mut lease) = from.queues.tx(pair).lease_tx(&mut self.burst) else { return 0 };
        if rest.limit > 0 && lease.rests(rest) {
            self.rested = true;
            return 0;
        }
        let taken = lease.fetch();
        if taken == 0 {
            return 0;
        }
        // The receiver's buffers are on their way to the cache while the headers are looked at.
        let early = likely.and_then(|to| {
            let queues = &plane.port(to)?.queues;
            let mut lease = queues.rx(pair).try_lease_rx(&mut self.scratch)?;
            lease.prepare(taken);
            Some((to, lease))
        });
        let mut used = 0;
        let mut bytes = 0;
        let plain = lease.plain();
        if let Some(burst) = plain {
            for (packet, frame) in self.packets.iter_mut().zip(burst.frames()) {
                frame.look_ahead(BODY_LINES);
                packet.header_len = frame.head(&mut packet.header, Packet::enough);
                packet.frame_len = frame.bytes();
                packet.segment_bytes = 0;
                bytes += u64::from(packet.frame_len);
                used += 1;
            }
        } else {
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
        }
        let packets = self.packets.get_mut(..used).unwrap_or(&mut []);
        let outcome = process(&plane.tables, now, from.index, packets, limits);
        let output = Output {
            plane,
            from,
            pair,
            lease: &lease,
            plain,
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
                *likely = Some(to);
                let way = if outcome.tunnelled { Way::Tunnel } else { Way::Plain };
                match early {
                    Some((foreseen, lease)) if foreseen == to => {
                        output.deliver_under(lease, to, all, way, &mut self.software);
                    }
                    other => {
                        drop(other);
                        output.deliver_to(to, all, way, &mut self.scratch, &mut self.software);
                    }
                }
            }
            _ => {
                drop(early);
                output.deliver(&mut self.scratch, &mut self.software);
            }
        }
        if rest.limit > 0 {
            lease.note(rest, bytes);
        }
        drop(lease);
        counts.rx(taken as u64, bytes);
        tally.packets.add(taken as u64);
        tally.bursts.add(1);
        taken
    }
}

/// What is sent of frame `frame` of a burst.
#[inline(always)]
fn headed(frame: usize, packet: &Packet) -> Headed<'_> {
    let bytes = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let head = packet.sent_head();
    Headed {
        frame,
        front: packet.outer(),
        head,
        skip: bytes(packet.removed() + head.len()),
        len: packet.frame_len.saturating_sub(bytes(head.len())),
    }
}

/// The same for a packet whose head is as long as what it stands for.
#[inline(always)]
fn plainly(frame: usize, packet: &Packet) -> Headed<'_> {
    let head = packet.head();
    let skip = u32::try_from(head.len()).unwrap_or(u32::MAX);
    Headed { frame, front: &[], head, skip, len: u32::MAX }
}

/// Bytes of the frame that is sent for a packet.
#[inline(always)]
fn sent_bytes(packet: &Packet) -> u64 {
    packet.outer().len() as u64 + u64::from(packet.frame_len)
}

/// What is among the packets that are delivered to one port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Only frames that are passed on with a head of the same length.
    Plain,
    /// Also frames that go into a tunnel or come out of one.
    Tunnel,
    /// Also some that are no frames that are simply passed on.
    Special,
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
    /// The same frames, if they are all plain; packets are then frames, one by one.
    plain: Option<PlainBurst<'a>>,
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
        let mut special: Mask = 0;
        let mut tunnelled: Mask = 0;
        let mut floods: [Mask; 2] = [0; 2];
        let mut targets = [self.from.index; BURST];
        for (at, (packet, target)) in self.packets.iter().zip(&mut targets).enumerate() {
            match packet.verdict {
                Verdict::Drop(reason) => self.drop(reason),
                Verdict::Forward(port) | Verdict::Punt(port, _) => {
                    *target = port;
                    waiting |= 1 << at;
                }
                Verdict::Encapsulate(port) | Verdict::Decapsulate(port) => {
                    *target = port;
                    waiting |= 1 << at;
                    tunnelled |= 1 << at;
                }
                Verdict::Reply | Verdict::Originate(_) => {
                    waiting |= 1 << at;
                    special |= 1 << at;
                }
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
            let way = match (group & special, group & tunnelled) {
                (0, 0) => Way::Plain,
                (0, _) => Way::Tunnel,
                _ => Way::Special,
            };
            self.deliver_to(to, group, way, scratch, software);
        }
    }

    /// Repeats frames to all ports that are to have them, port by port.
    fn flood(&self, flood: Flood, group: Mask, scratch: &mut RxScratch, software: &mut Software) {
        if group == 0 {
            return;
        }
        self.tally.flooded.add(group.count_ones().into());
        for to in self.plane.tables.flood(self.from.index, flood) {
            self.deliver_to(to, group, Way::Plain, scratch, software);
        }
    }

    /// Delivers packets to one port.
    #[inline]
    fn deliver_to(
        &self,
        to: PortIndex,
        group: Mask,
        way: Way,
        scratch: &mut RxScratch,
        software: &mut Software,
    ) {
        let receiver = self.plane.port(to).map(|p| &p.queues);
        let lease = receiver.and_then(|queues| queues.rx(self.pair).lease_rx(scratch));
        let Some(mut lease) = lease else {
            return self.lose(group);
        };
        lease.prepare(group.count_ones() as usize);
        self.deliver_under(lease, to, group, way, software);
    }

    #[inline]
    fn deliver_under(
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
                let bytes = |packet: &Packet| u64::from(packet.frame_len);
                group = self.deliver_plain(&mut lease, plain, group, plainly, bytes, &mut sent);
            }
            (Some(plain), Way::Tunnel) => {
                group = self.deliver_plain(&mut lease, plain, group, headed, sent_bytes, &mut sent);
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
            && let Some(port) = self.plane.port(to)
            && self.from.queues.crosses_to(&port.queues)
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
        bytes_of: impl Fn(&Packet) -> u64,
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
        let (mut rest, mut bytes) = (group, 0);
        for _ in 0..done {
            let at = rest.trailing_zeros() as usize;
            rest &= rest.wrapping_sub(1);
            bytes += self.packets.get(at).map_or(0, &bytes_of);
        }
        sent.packets += done as u64;
        sent.forwarded += done as u64;
        sent.bytes += bytes;
        rest
    }

    /// Where packet `at` comes from.
    #[inline(always)]
    fn origin(&self, at: usize) -> Option<Origin> {
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
