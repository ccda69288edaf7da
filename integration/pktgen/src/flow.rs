//! Flows: which addresses and ports they use, and which queue they belong to.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::frame::{self, Variable};

/// UDP source port of flow 0, and how many different ones there are.
const FIRST_SOURCE_PORT: u16 = 1024;
const SOURCE_PORTS: u32 = 50_000;

/// UDP destination port of every flow: the "discard" service.
const DESTINATION_PORT: u16 = 9;

/// What tells flows of one sending port apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flows {
    /// How many.
    pub count: u32,
    /// How many destination addresses they are spread over.
    pub addresses: u32,
}

impl Flows {
    /// Flows that can be told apart with these addresses: after the least common multiple of addresses and source
    /// ports the pairs repeat.
    pub fn distinct(addresses: u32) -> u64 {
        let (mut a, mut b) = (addresses, SOURCE_PORTS);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        u64::from(addresses) * u64::from(SOURCE_PORTS) / u64::from(a.max(1))
    }
}

/// The flows that one queue sends: every `queues`-th, so that no flow is in two queues. Packet number n of the
/// queue belongs to the n-th of them, over and over.
#[derive(Debug, Clone)]
pub struct Share {
    variables: Arc<[Variable]>,
    queue: usize,
    queues: usize,
}

impl Share {
    /// The part of `queue` out of `queues`, sent from `ip` to `to` and the addresses after it in frames of `len`
    /// bytes.
    pub fn new(
        flows: Flows,
        queue: u16,
        queues: u16,
        ip: Ipv4Addr,
        to: Ipv4Addr,
        len: u16,
    ) -> Self {
        let mine = (0..flows.count).skip(usize::from(queue)).step_by(usize::from(queues.max(1)));
        let variable = |flow: u32| {
            let to = Ipv4Addr::from_bits(to.to_bits().wrapping_add(flow % flows.addresses.max(1)));
            let source = u16::try_from(flow % SOURCE_PORTS).unwrap_or(0) + FIRST_SOURCE_PORT;
            frame::variable(len, ip, to, source, DESTINATION_PORT)
        };
        let variables = mine.map(variable).collect();
        Self { variables, queue: usize::from(queue), queues: usize::from(queues.max(1)) }
    }

    /// Flows in it.
    pub fn len(&self) -> usize {
        self.variables.len()
    }

    /// The header bytes of its `at`-th flow.
    #[inline]
    pub fn variable(&self, at: usize) -> Option<&Variable> {
        self.variables.get(at)
    }

    /// Number and header bytes of the flow that packet `seq` of this queue belongs to.
    pub fn of(&self, seq: u64) -> Option<(usize, &Variable)> {
        let at = seq.checked_rem(u64::try_from(self.len()).ok()?)?;
        let at = usize::try_from(at).ok()?;
        Some((self.queue + at * self.queues, self.variable(at)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const IP: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
    const TO: Ipv4Addr = Ipv4Addr::new(10, 67, 0, 0);

    #[test]
    fn flows_are_distinct_and_spread_over_addresses_and_queues() {
        for (count, addresses, queues) in
            [(1, 1, 1), (1024, 1024, 1), (1000, 7, 3), (60_000, 4096, 2), (2, 1, 4)]
        {
            let flows = Flows { count, addresses };
            assert!(Flows::distinct(addresses) >= u64::from(count));
            let shares: Vec<_> =
                (0..queues).map(|queue| Share::new(flows, queue, queues, IP, TO, 60)).collect();
            let all: Vec<_> =
                shares.iter().flat_map(|share| share.variables.iter().copied()).collect();
            assert_eq!(all.len(), usize::try_from(count).unwrap());
            assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "{count} flows");
            let to: HashSet<_> = all.iter().map(|variable| &variable[6..10]).collect();
            assert_eq!(to.len(), usize::try_from(count.min(addresses)).unwrap());
            let mut numbers = HashSet::new();
            for share in &shares {
                for seq in 0..u64::try_from(share.len()).unwrap() {
                    let (flow, variable) = share.of(seq).unwrap();
                    assert!(numbers.insert(flow));
                    assert_eq!(
                        share.of(seq + u64::try_from(share.len()).unwrap()).unwrap(),
                        (flow, variable)
                    );
                }
            }
            assert_eq!(numbers, (0..all.len()).collect(), "each flow is in one queue");
        }
    }

    #[test]
    fn repeating_flows_are_foreseen() {
        assert_eq!(Flows::distinct(1), 50_000);
        assert_eq!(Flows::distinct(1024), 3_200_000);
        assert_eq!(Flows::distinct(50_000), 50_000);
    }

    #[test]
    fn a_queue_without_flows_has_no_packets() {
        let share = Share::new(Flows { count: 1, addresses: 1 }, 1, 2, IP, TO, 60);
        assert_eq!((share.len(), share.of(0)), (0, None));
    }
}
