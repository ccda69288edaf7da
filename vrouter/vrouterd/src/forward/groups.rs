//! A burst whose verdicts are known, in groups: all packets for one port at once, in their order.

use vrouter_core::{DropReason, Flood, NetworkIndex, Packet, PortIndex, Verdict};
use vrouter_vhost::queue::BURST;

use super::Mask;

/// What is among the packets that are delivered to one port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Only frames that are passed on with a head of the same length.
    Plain,
    /// Also frames that go into a tunnel or come out of one.
    Tunnel,
    /// Also some that are no frames that are simply passed on.
    Special,
}

/// The groups of a burst.
pub(super) struct Groups {
    targets: [PortIndex; BURST],
    /// Packets that are not in a group yet.
    waiting: Mask,
    /// Those that are no frames that are simply passed on.
    special: Mask,
    tunnelled: Mask,
    floods: [Mask; 2],
    /// Those that are repeated to several ports of another network, out of a tunnel.
    inside: Mask,
}

impl Groups {
    /// Of packets that came from port `from`; `drop` is told of those that go nowhere.
    #[inline]
    pub fn of(packets: &[Packet], from: PortIndex, mut drop: impl FnMut(DropReason)) -> Self {
        let mut waiting: Mask = 0;
        let mut special: Mask = 0;
        let mut tunnelled: Mask = 0;
        let mut floods: [Mask; 2] = [0; 2];
        let mut inside: Mask = 0;
        let mut targets = [from; BURST];
        for (at, (packet, target)) in packets.iter().zip(&mut targets).enumerate() {
            match packet.verdict {
                Verdict::Drop(reason) => drop(reason),
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
                Verdict::FloodInside(..) => inside |= 1 << at,
            }
        }
        Self { targets, waiting, special, tunnelled, floods, inside }
    }

    /// Those that are repeated to several ports.
    pub fn floods(&self) -> [(Flood, Mask); 2] {
        [Flood::All, Flood::Trunks].map(|flood| (flood, self.floods[flood as usize]))
    }

    /// The next of those that are repeated in another network: that, and which of its ports get them.
    pub fn next_inside(&mut self, packets: &[Packet]) -> Option<(NetworkIndex, Flood, Mask)> {
        let verdict = packets.get(self.inside.trailing_zeros() as usize)?.verdict;
        let Verdict::FloodInside(network, flood) = verdict else { return None };
        let same = places(self.inside)
            .filter(|at| packets.get(*at).is_some_and(|packet| packet.verdict == verdict));
        let group = same.fold(0, |group: Mask, at| group | 1 << at);
        self.inside &= !group;
        Some((network, flood, group))
    }

    /// The next group, and what is among it.
    #[inline]
    pub fn next(&mut self) -> Option<(PortIndex, Mask, Way)> {
        let to = *self.targets.get(self.waiting.trailing_zeros() as usize)?;
        let mut group: Mask = 0;
        for (at, target) in self.targets.iter().enumerate() {
            group |= Mask::from(*target == to) << at;
        }
        group &= self.waiting;
        self.waiting &= !group;
        let way = match (group & self.special, group & self.tunnelled) {
            (0, 0) => Way::Plain,
            (0, _) => Way::Tunnel,
            _ => Way::Special,
        };
        Some((to, group, way))
    }
}

/// The places of the packets of a group, in order.
#[inline(always)]
pub(super) fn places(mut group: Mask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = group.trailing_zeros() as usize;
        group &= group.wrapping_sub(1);
        (at < BURST).then_some(at)
    })
}
