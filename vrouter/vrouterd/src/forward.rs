//! One burst: from a pod's queue through the tables to other pods' queues.

use vrouter_core::{
    Counters, DropReason, ICMP_ERROR_BYTES, IcmpError, IcmpLimiter, Packet, PortIndex, Timestamp,
    Verdict, icmp_error, process,
};
use vrouter_dpdk::Pool;
use vrouter_vhost::queue::{
    BURST, Body, FrameFault, PushError, RxLease, RxScratch, TxBurst, TxLease,
};

use crate::counters::WorkerTally;
use crate::dataplane::{DataPort, Dataplane};

/// Room for a burst; one for each worker, allocated once.
pub struct Pipeline {
    burst: TxBurst,
    scratch: RxScratch,
    packets: Vec<Packet>,
    /// For each packet, which frame of the burst it is.
    frames: Vec<usize>,
    /// One for each port, so that no pod uses up the ICMP errors of another.
    limiters: Box<[IcmpLimiter]>,
    pool: Pool,
}

impl Pipeline {
    /// `pool`: for packets made here; each of its buffers holds an ICMP error. `ports`: how many there can be.
    pub fn new(pool: Pool, ports: usize) -> Self {
        Self {
            burst: TxBurst::new(),
            scratch: RxScratch::new(),
            packets: Vec::with_capacity(BURST),
            frames: Vec::with_capacity(BURST),
            limiters: vec![IcmpLimiter::default(); ports].into(),
            pool,
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
        let limiter = self.limiters.get_mut(usize::from(from.index.0));
        let Some(limiter) = limiter else { return 0 };
        let Some(mut lease) = from.queues.tx(pair).lease_tx(&mut self.burst) else { return 0 };
        let taken = lease.fetch();
        if taken == 0 {
            return 0;
        }
        let mut counted = Counters::ZERO;
        self.packets.clear();
        self.frames.clear();
        for frame in 0..taken {
            match lease.frame(frame) {
                Ok(len) => {
                    let mut packet = Packet { frame_len: len, ..Packet::EMPTY };
                    let have = lease.read_header(frame, &mut packet.header);
                    packet.header_len = u16::try_from(have).unwrap_or(0);
                    counted.received(len);
                    self.packets.push(packet);
                    self.frames.push(frame);
                }
                Err(fault) => {
                    counted.received(0);
                    counted.dropped(reason(fault));
                }
            }
        }
        process(&plane.tables, now, from.index, &mut self.packets, limiter);
        let mut output = Output {
            plane,
            from,
            pair,
            lease: &lease,
            packets: &self.packets,
            frames: &self.frames,
            pool: &self.pool,
            counted: &mut counted,
            tally,
        };
        output.deliver(&mut self.scratch);
        tally.add(from.index, &counted);
        tally.packets.add(taken as u64);
        tally.bursts.add(1);
        taken
    }
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
    frames: &'a [usize],
    pool: &'a Pool,
    counted: &'a mut Counters,
    tally: &'a WorkerTally,
}

impl Output<'_> {
    /// Delivers group by group: all packets for one port under one lease of its queue, in their order.
    fn deliver(&mut self, scratch: &mut RxScratch) {
        let mut waiting: u32 = 0;
        for (at, packet) in self.packets.iter().enumerate() {
            match packet.verdict {
                Verdict::Drop(reason) => self.counted.dropped(reason),
                _ => waiting |= 1 << at,
            }
        }
        while waiting != 0 {
            let to = self.target(waiting.trailing_zeros() as usize);
            let mut group = 0;
            let mut rest = waiting;
            while rest != 0 {
                let at = rest.trailing_zeros();
                rest &= rest - 1;
                if self.target(at as usize) == to {
                    group |= 1 << at;
                }
            }
            waiting &= !group;
            self.deliver_to(to, group, scratch);
        }
    }

    #[inline]
    fn target(&self, at: usize) -> PortIndex {
        match self.packets[at].verdict {
            Verdict::Forward(port) => port,
            _ => self.from.index,
        }
    }

    fn deliver_to(&mut self, to: PortIndex, mut group: u32, scratch: &mut RxScratch) {
        let queue = self.plane.port(to).map(|p| p.queues.rx(self.pair));
        let mut lease = queue.and_then(|q| q.lease_rx(scratch));
        let mut sent = Counters::ZERO;
        while group != 0 {
            let at = group.trailing_zeros() as usize;
            group &= group - 1;
            let packet = &self.packets[at];
            match lease.as_mut() {
                Some(lease) => self.deliver_one(at, packet, lease, &mut sent),
                None => self.counted.dropped(lost(packet.verdict, DropReason::ReceiverDown)),
            }
        }
        drop(lease);
        if to == self.from.index {
            self.counted.merge(&sent);
        } else {
            self.tally.add(to, &sent);
        }
    }

    #[inline]
    fn deliver_one(
        &mut self,
        at: usize,
        packet: &Packet,
        lease: &mut RxLease<'_>,
        sent: &mut Counters,
    ) {
        if let Verdict::Originate(error) = packet.verdict {
            self.counted.dropped(error.into());
            return self.originate(packet, error, lease, sent);
        }
        let head = packet.head();
        let body = self.lease.body(self.frames[at], u32::from(packet.header_len));
        match lease.push(head, body) {
            Ok(()) => {
                sent.sent(packet.frame_len);
                match packet.verdict {
                    Verdict::Reply => self.tally.replied.add(1),
                    _ => self.tally.forwarded.add(1),
                }
            }
            Err(error) => self.counted.dropped(refused(error)),
        }
    }

    /// Reports an error to the sender. If that fails too, its packet was counted already.
    #[cold]
    fn originate(
        &mut self,
        packet: &Packet,
        error: IcmpError,
        lease: &mut RxLease<'_>,
        sent: &mut Counters,
    ) {
        let Ok(mut mbuf) = self.pool.alloc() else { return };
        let bytes = u16::try_from(ICMP_ERROR_BYTES).unwrap_or(u16::MAX);
        let Ok(room) = mbuf.append(bytes) else { return };
        let Some(len) = icmp_error(&self.plane.tables, self.from.index, packet, error, room) else {
            return;
        };
        let frame = mbuf.data().get(..len).unwrap_or(&[]);
        if lease.push(frame, Body::EMPTY).is_ok() {
            sent.sent(u32::try_from(len).unwrap_or(0));
            self.tally.originated.add(1);
        }
    }
}

/// Why a packet that could not be handed over counts as dropped.
fn lost(verdict: Verdict, reason: DropReason) -> DropReason {
    match verdict {
        Verdict::Originate(error) => error.into(),
        _ => reason,
    }
}

fn refused(error: PushError) -> DropReason {
    match error {
        PushError::RingFull => DropReason::ReceiverRingFull,
        PushError::BufferTooSmall => DropReason::ReceiverBufferTooSmall,
        PushError::BadDescriptor => DropReason::ReceiverBadDescriptor,
    }
}
