//! One burst: from a pod's queue or a device's through the tables to other pods' and devices' queues.

mod groups;
mod output;
mod send;
mod uplink;

use vrouter_core::{DropReason, Packet, PortIndex, PortLimits, Timestamp, Verdict, process};
use vrouter_dpdk::Pool;
use vrouter_vhost::offload::Offload;
use vrouter_vhost::queue::{BURST, FrameFault, Headed, PushError, Rest, RxScratch, TxBurst};
use vrouter_vhost::queues::PortQueues;

use crate::counters::WorkerTally;
use crate::dataplane::Dataplane;
use crate::software::Software;
use groups::Way;
use output::Output;

/// One bit for each packet of a burst.
type Mask = u32;
const _: () = assert!(BURST <= Mask::BITS as usize);

/// Bytes of a frame that are looked at in any case.
const LINE: usize = 64;

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
    /// The NUMA node of this vRouter, if it keeps to one.
    node: Option<u32>,
}

/// Which frame of a burst a packet stands for, and what its sender left to be done.
#[derive(Clone, Copy)]
struct Origin {
    frame: usize,
    offload: Offload,
}

impl Pipeline {
    /// `pool`: for packets made here; each of its buffers holds an ICMP error. `ports`: how many there can be. `node`: the NUMA
    /// node that this vRouter keeps to, if it does.
    pub fn new(pool: Pool, ports: usize, node: Option<u32>) -> Self {
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
            node,
        }
    }

    /// Whether a queue was left alone since the last question although it has packets.
    pub fn take_rested(&mut self) -> bool {
        std::mem::take(&mut self.rested)
    }

    /// Moves one burst of what the pod of port `from` sent on queue pair `pair`; returns its packets. `rest` has the time.
    #[inline]
    pub fn run(
        &mut self,
        plane: &Dataplane,
        from: PortIndex,
        queues: &PortQueues,
        pair: usize,
        rest: Rest,
        tally: &WorkerTally,
    ) -> usize {
        let now = Timestamp::from_nanoseconds(rest.now);
        let at = usize::from(from.0);
        let (Some(limits), Some(likely), Some(counts)) =
            (self.limits.get_mut(at), self.likely.get_mut(at), tally.port(from))
        else {
            return 0;
        };
        let Some(mut lease) = queues.tx(pair).lease_tx(&mut self.burst) else { return 0 };
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
            let queues = plane.port(to)?.pod()?;
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
        let outcome = process(&plane.tables, now, from, packets, limits);
        let output = Output {
            plane,
            from,
            queues,
            pair,
            lease: &lease,
            plain,
            packets,
            origins: &self.origins,
            pool: &self.pool,
            now,
            node: self.node,
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

/// The copies of a flooded frame that go into tunnels to the other hosts that its network stretches to, each with the port it leaves by and
/// an outer header of its own; or why there is none.
fn copies<'a>(
    plane: &'a Dataplane,
    from: PortIndex,
    packet: &'a Packet,
) -> impl Iterator<Item = Result<(PortIndex, Packet), DropReason>> {
    plane.tables.flood_into_tunnels(from, packet).filter_map(|copy| match copy.verdict {
        Verdict::Encapsulate(to) => Some(Ok((to, copy))),
        Verdict::Drop(reason) => Some(Err(reason)),
        _ => None,
    })
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

fn refused(error: PushError) -> DropReason {
    match error {
        PushError::RingFull => DropReason::ReceiverRingFull,
        PushError::BufferTooSmall => DropReason::ReceiverBufferTooSmall,
        PushError::BadDescriptor => DropReason::ReceiverBadDescriptor,
        PushError::Offload => DropReason::UnsupportedOffload,
    }
}
