//! Which message of a pod reaches the daemon, in what form, and why not. Pure: no socket, no clock.
//!
//! Three kinds of rules: what the specification demands and the daemon's crate does not check; what the crate
//! gets wrong for a well-behaved frontend (answered here in its place); and limits on what a hostile one can ask for.

use std::collections::BTreeSet;
use std::time::Duration;

use super::descriptor::Kind;
use super::message::{Header, MAX_DESCRIPTORS, REGION_BYTES, Region, Request, long, word};
use crate::ring::MAX_QUEUE_SIZE;

/// Messages a pod may send at once, and how many it gets back per second. A session with 16 queue pairs starts
/// with about 200; memory hotplug of DPDK adds three for each step.
const BUDGET: u32 = 4096;
const BUDGET_PER_SECOND: u32 = 256;

/// VHOST_USER_F_PROTOCOL_FEATURES, a feature bit.
const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// What to do with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Relay as it is.
    Forward,
    /// Relay with this payload and the descriptors in this order.
    Reordered { payload: Vec<u8>, order: Vec<usize> },
    /// Relay with a descriptor of our own in place of the pod's.
    ReplaceCall { queue: usize },
    /// Relay as it is, then enable these queues.
    ThenEnable { queues: Vec<u32> },
    /// Relay without the descriptors.
    WithoutDescriptors,
    /// Do not relay; acknowledge if a reply was asked for.
    Acknowledge,
    /// Do not relay; reply with this payload.
    Answer(Vec<u8>),
}

/// The pod broke a rule; the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("message {code} is not a request of protocol version 1 (flags {flags:#x})")]
    NotARequest { code: u32, flags: u32 },
    #[error("request {0} is not supported")]
    Unsupported(u32),
    #[error("{request:?} has {size} bytes, expected {expected}")]
    Size { request: Request, size: usize, expected: usize },
    #[error("{request:?} carries {count} descriptors, expected {expected}")]
    Descriptors { request: Request, count: usize, expected: usize },
    #[error("{request:?} carries something that is not {expected}")]
    DescriptorKind { request: Request, expected: &'static str },
    #[error("queue {queue} does not exist, the port has {queues}")]
    Queue { queue: u32, queues: usize },
    #[error("queue size {0} is not a power of two up to {MAX_QUEUE_SIZE}")]
    QueueSize(u32),
    #[error("enable value {0} is neither 0 nor 1")]
    EnableValue(u32),
    #[error("memory region {index} {what}")]
    Region { index: usize, what: &'static str },
    #[error("{0} memory regions, at most {MAX_DESCRIPTORS} are possible in one table")]
    RegionCount(u32),
    #[error("too many messages: {BUDGET} at once and {BUDGET_PER_SECOND} per second are allowed")]
    Flood,
}

/// What the guard remembers of one connection.
pub(crate) struct Policy {
    queues: usize,
    owned: bool,
    features_set: bool,
    /// Queues that were enabled before there were features.
    early: BTreeSet<u32>,
    /// Memory regions that the daemon knows.
    regions: Vec<Region>,
    tokens: u32,
    refilled: Duration,
}

impl Policy {
    /// `queues`: virtqueues of the port. `now`: any steady time.
    pub(crate) fn new(queues: usize, now: Duration) -> Self {
        Self {
            queues,
            owned: false,
            features_set: false,
            early: BTreeSet::new(),
            regions: Vec::new(),
            tokens: BUDGET,
            refilled: now,
        }
    }

    fn spend(&mut self, now: Duration) -> Result<(), Violation> {
        let seconds = now.saturating_sub(self.refilled).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(BUDGET_PER_SECOND);
            self.tokens = self.tokens.saturating_add(more).min(BUDGET);
            self.refilled = now;
        }
        self.tokens = self.tokens.checked_sub(1).ok_or(Violation::Flood)?;
        Ok(())
    }

    /// Judges one message. `kinds`: what each attached descriptor is.
    pub(crate) fn judge(
        &mut self,
        now: Duration,
        header: Header,
        payload: &[u8],
        kinds: &[Kind],
    ) -> Result<Decision, Violation> {
        self.spend(now)?;
        if !header.is_request() {
            return Err(Violation::NotARequest { code: header.code, flags: header.flags });
        }
        let request = Request::from_code(header.code).ok_or(Violation::Unsupported(header.code))?;
        let decision = self.judge_request(request, payload, kinds)?;
        match request {
            Request::SetOwner => self.owned = true,
            Request::SetFeatures => {
                self.features_set = true;
                self.early.clear();
            }
            Request::ResetOwner | Request::ResetDevice => {
                self.features_set = false;
                self.early.clear();
            }
            Request::SetMemTable => {
                let body = payload.get(8..).unwrap_or(&[]);
                self.regions = body.chunks_exact(REGION_BYTES).filter_map(Region::parse).collect();
            }
            Request::AddMemRegion if decision == Decision::Forward => {
                self.regions.extend(single_region(payload));
            }
            Request::RemMemRegion => {
                let gone = single_region(payload);
                self.regions.retain(|region| gone.is_none_or(|it| !it.is_same_place(region)));
            }
            Request::SetVringEnable if !self.features_set => {
                let queue = word(payload, 0).unwrap_or(0);
                if word(payload, 1) == Some(1) {
                    self.early.insert(queue);
                } else {
                    self.early.remove(&queue);
                }
            }
            _ => {}
        }
        Ok(decision)
    }

    fn judge_request(
        &self,
        request: Request,
        payload: &[u8],
        kinds: &[Kind],
    ) -> Result<Decision, Violation> {
        let size = |expected: usize| match payload.len() {
            size if size == expected => Ok(()),
            size => Err(Violation::Size { request, size, expected }),
        };
        let descriptors = |expected: usize| match kinds.len() {
            count if count == expected => Ok(()),
            count => Err(Violation::Descriptors { request, count, expected }),
        };
        match request {
            Request::SetMemTable => return memory_table(payload, kinds),
            Request::AddMemRegion => {
                size(8 + REGION_BYTES)?;
                descriptors(1)?;
                let region = audit(0, single_region(payload), kinds.first())?;
                // QEMU 7.2 tells of a region once for each queue pair, all on one connection. The crate would find that it
                // overlaps itself.
                let is_known = self.regions.contains(&region);
                return Ok(if is_known { Decision::Acknowledge } else { Decision::Forward });
            }
            Request::RemMemRegion => {
                size(8 + REGION_BYTES)?;
                // Also once for each queue pair.
                let gone = single_region(payload);
                let is_known = |it: &Region| gone.is_some_and(|gone| gone.is_same_place(it));
                if !self.regions.iter().any(is_known) {
                    return Ok(Decision::Acknowledge);
                }
                // A descriptor is allowed and useless (specification, REM_MEM_REG); the crate does not take one.
                return Ok(Decision::WithoutDescriptors);
            }
            Request::SetVringKick | Request::SetVringCall | Request::SetVringErr => {
                size(8)?;
                return self.vring_descriptor(request, payload, kinds);
            }
            _ => descriptors(0)?,
        }
        match request {
            Request::SetOwner if self.owned => {
                // The crate would end the connection; claiming twice changes nothing.
                size(0)?;
                Ok(Decision::Acknowledge)
            }
            Request::GetFeatures
            | Request::SetOwner
            | Request::ResetOwner
            | Request::GetProtocolFeatures
            | Request::GetQueueNum
            | Request::ResetDevice
            | Request::GetMaxMemSlots => size(0).map(|()| Decision::Forward),
            Request::SetFeatures => {
                size(8)?;
                // Without the protocol features every queue is enabled by this very request.
                let is_late = long(payload, 0).unwrap_or(0) & F_PROTOCOL_FEATURES != 0;
                if is_late && !self.early.is_empty() {
                    return Ok(Decision::ThenEnable {
                        queues: self.early.iter().copied().collect(),
                    });
                }
                Ok(Decision::Forward)
            }
            Request::SetProtocolFeatures => size(8).map(|()| Decision::Forward),
            Request::SetVringAddr => {
                size(40)?;
                self.queue(word(payload, 0))?;
                Ok(Decision::Forward)
            }
            Request::SetVringNum => {
                size(8)?;
                self.queue(word(payload, 0))?;
                match word(payload, 1).unwrap_or(0) {
                    n if n.is_power_of_two() && n <= u32::from(MAX_QUEUE_SIZE) => {
                        Ok(Decision::Forward)
                    }
                    n => Err(Violation::QueueSize(n)),
                }
            }
            Request::SetVringBase => {
                size(8)?;
                self.queue(word(payload, 0))?;
                Ok(Decision::Forward)
            }
            Request::GetVringBase => {
                size(8)?;
                let queue = self.queue(word(payload, 0))?;
                if self.features_set {
                    return Ok(Decision::Forward);
                }
                // A virtio-user frontend that listens resets its old rings on a new connection before any
                // negotiation (virtio_user_server_reconnect in DPDK). Nothing runs yet: position 0.
                let index = u32::try_from(queue).unwrap_or(0);
                Ok(Decision::Answer([index.to_le_bytes(), [0; 4]].concat()))
            }
            Request::SetVringEnable => {
                size(8)?;
                self.queue(word(payload, 0))?;
                match word(payload, 1) {
                    Some(0 | 1) if self.features_set => Ok(Decision::Forward),
                    // The crate would end the connection, as nothing is negotiated. A virtio-user that listens disables
                    // its old rings, see above; QEMU enables rings of a guest that has not chosen features yet, and
                    // does not say so again when it has.
                    Some(0 | 1) => Ok(Decision::Acknowledge),
                    other => Err(Violation::EnableValue(other.unwrap_or(u32::MAX))),
                }
            }
            // Returned above.
            Request::SetMemTable
            | Request::AddMemRegion
            | Request::RemMemRegion
            | Request::SetVringKick
            | Request::SetVringCall
            | Request::SetVringErr => Ok(Decision::Forward),
        }
    }

    fn queue(&self, index: Option<u32>) -> Result<usize, Violation> {
        let queue = index.unwrap_or(u32::MAX);
        usize::try_from(queue)
            .ok()
            .filter(|&q| q < self.queues)
            .ok_or(Violation::Queue { queue, queues: self.queues })
    }

    fn vring_descriptor(
        &self,
        request: Request,
        payload: &[u8],
        kinds: &[Kind],
    ) -> Result<Decision, Violation> {
        const NO_DESCRIPTOR: u64 = 0x100;
        let value = long(payload, 0).unwrap_or(0);
        let queue = self.queue(u32::try_from(value & 0xff).ok())?;
        let expected = usize::from(value & NO_DESCRIPTOR == 0);
        if kinds.len() != expected {
            return Err(Violation::Descriptors { request, count: kinds.len(), expected });
        }
        match kinds.first() {
            None => Ok(Decision::Forward),
            Some(Kind::Event) if request == Request::SetVringCall => {
                Ok(Decision::ReplaceCall { queue })
            }
            Some(Kind::Event) => Ok(Decision::Forward),
            Some(_) => Err(Violation::DescriptorKind { request, expected: "an eventfd" }),
        }
    }
}

/// The region that ADD_MEM_REG and REM_MEM_REG are about.
fn single_region(payload: &[u8]) -> Option<Region> {
    payload.get(8..).and_then(Region::parse)
}

/// SET_MEM_TABLE: every region audited against its descriptor, regions sorted as the crate wants them.
fn memory_table(payload: &[u8], kinds: &[Kind]) -> Result<Decision, Violation> {
    let request = Request::SetMemTable;
    let count = word(payload, 0).unwrap_or(0);
    let regions = usize::try_from(count)
        .ok()
        .filter(|&n| (1..=MAX_DESCRIPTORS).contains(&n))
        .ok_or(Violation::RegionCount(count))?;
    let expected = 8 + regions * REGION_BYTES;
    let body = payload.get(8..).filter(|_| payload.len() == expected).ok_or(Violation::Size {
        request,
        size: payload.len(),
        expected,
    })?;
    if kinds.len() != regions {
        return Err(Violation::Descriptors { request, count: kinds.len(), expected: regions });
    }
    let mut table = Vec::with_capacity(regions);
    for (index, raw) in body.chunks_exact(REGION_BYTES).enumerate() {
        table.push((index, audit(index, Region::parse(raw), kinds.get(index))?));
    }
    for by in [|r: &Region| r.user, |r: &Region| r.gpa] {
        // Sorted by guest address last: that is the order the crate's memory map asks for.
        table.sort_by_key(|(_, region)| by(region));
        for pair in table.windows(2) {
            if let [(_, a), (index, b)] = pair
                && by(a) + a.size > by(b)
            {
                return Err(Violation::Region { index: *index, what: "overlaps another" });
            }
        }
    }
    let order: Vec<usize> = table.iter().map(|(index, _)| *index).collect();
    if order.is_sorted() {
        return Ok(Decision::Forward);
    }
    let mut sorted = payload.get(..8).unwrap_or(&[]).to_vec();
    for index in &order {
        sorted.extend_from_slice(body.chunks_exact(REGION_BYTES).nth(*index).unwrap_or(&[]));
    }
    Ok(Decision::Reordered { payload: sorted, order })
}

/// Checks one region against the file behind it, before anything is mapped.
fn audit(index: usize, region: Option<Region>, kind: Option<&Kind>) -> Result<Region, Violation> {
    let bad = |what| Err(Violation::Region { index, what });
    let Some(region) = region else { return bad("is cut short") };
    let Some(&Kind::Memory { size: file, page }) = kind else {
        return bad("is not backed by a memfd, tmpfs or hugetlbfs file");
    };
    if region.size == 0 {
        return bad("is empty");
    }
    for start in [region.gpa, region.user, region.offset] {
        if start.checked_add(region.size).is_none() {
            return bad("wraps around the address space");
        }
    }
    if !region.offset.is_multiple_of(page) {
        return bad("does not start at a page of its file");
    }
    if region.offset + region.size > file {
        return bad("reaches beyond the end of its file");
    }
    // What mmap(2) rounds up, munmap(2) of huge pages does not: they would stay with us for ever.
    if !region.size.is_multiple_of(page) {
        return bad("does not end at a page of its file");
    }
    Ok(region)
}

#[cfg(test)]
mod tests;
