//! The packed ring.

use super::super::chain::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use super::{DATA, Driver, Found, read_everything, take};
use crate::ring::{ChainFault, Chains, Direction, Layout, Ring, RingAddresses, RingError};

const RING: u64 = 0x1000;
const DRIVER_EVENT: u64 = 0x3000;
const DEVICE_EVENT: u64 = 0x4000;
const START: u16 = 1 << 15;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// The guest's side of a packed ring, in the memory of a split one.
pub(crate) struct PackedDriver {
    pub memory: Driver,
    size: u16,
    at: u16,
    wrap: bool,
}

impl PackedDriver {
    pub(crate) fn new(size: u16) -> Self {
        Self { memory: Driver::new(8), size, at: 0, wrap: true }
    }

    pub(crate) fn addresses(&self) -> RingAddresses {
        RingAddresses { desc: RING, avail: DRIVER_EVENT, used: DEVICE_EVENT, size: self.size }
    }

    fn ring_at(&self, base: u16, direction: Direction) -> Result<Ring, RingError> {
        let layout = Layout::Packed { base, in_order: false };
        Ring::new(self.memory.memory(), self.addresses(), layout, direction)
    }

    fn ring_in_order(&self, direction: Direction) -> Ring {
        let layout = Layout::Packed { base: START, in_order: true };
        Ring::new(self.memory.memory(), self.addresses(), layout, direction).unwrap()
    }

    fn ring(&self, direction: Direction) -> Ring {
        self.ring_at(START, direction).unwrap()
    }

    fn place(&self, at: u16) -> u64 {
        RING + 16 * u64::from(at)
    }

    /// Writes one descriptor; the ring's flags say that it is offered.
    pub(crate) fn put(&mut self, addr: u64, len: u32, id: u16, flags: u16) {
        let lap = if self.wrap { AVAIL } else { USED };
        self.memory.desc_at(RING, self.at, addr, len, id, flags | lap);
        self.at += 1;
        if self.at == self.size {
            (self.at, self.wrap) = (0, !self.wrap);
        }
    }

    /// Id, bytes and flags of the descriptor at a place.
    pub(crate) fn get(&self, at: u16) -> (u16, u32, u16) {
        let bytes = self.memory.read(self.place(at), 16);
        let word = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        (word(12), u32::from_le_bytes(bytes[8..12].try_into().unwrap()), word(14))
    }

    /// Whether a place was given back in the lap in which it was offered.
    fn is_used(&self, at: u16, wrap: bool) -> bool {
        let (_, _, flags) = self.get(at);
        (flags & AVAIL != 0) == wrap && (flags & USED != 0) == wrap
    }
}

/// Where a driver looks for what it gets back (2.8.2, 2.8.8).
struct Returns {
    at: u16,
    wrap: bool,
}

impl Returns {
    /// What came back: ids and lengths. `places`: of each chain that is out, its id and how many places it takes, in the
    /// order of their offer; what comes back is removed.
    fn collect(
        &mut self,
        guest: &PackedDriver,
        places: &mut Vec<(u16, u16)>,
        in_order: bool,
    ) -> Vec<(u16, u32)> {
        let mut back = Vec::new();
        while guest.is_used(self.at, self.wrap) {
            let (id, len, _) = guest.get(self.at);
            // In order, one may stand for several: all up to the one it names.
            let ends = places.iter().position(|&(it, _)| it == id).expect("an id that is out");
            assert!(in_order || ends == 0, "this ring gives back in order, and each on its own");
            for (_, slots) in places.drain(..=ends) {
                self.at += slots;
                if self.at >= guest.size {
                    (self.at, self.wrap) = (self.at - guest.size, !self.wrap);
                }
            }
            back.push((id, len));
        }
        back
    }
}

fn take_one(ring: &mut Ring) -> Option<Found> {
    take(ring, 0)
}

#[test]
fn chains_are_taken_and_given_back_lap_after_lap() {
    let mut guest = PackedDriver::new(4);
    let mut ring = guest.ring(Direction::FromGuest);
    let mut at = 0;
    for n in 0..10u16 {
        assert!(!ring.is_waiting());
        assert_eq!(take_one(&mut ring), None);
        let wrap = guest.wrap;
        guest.put(DATA, 12, 0, DESC_F_NEXT);
        guest.put(DATA + 0x100, 60, 7 + n, 0);
        assert!(ring.is_waiting());
        assert_eq!(take_one(&mut ring), Some((7 + n, Ok(72), vec![12, 60])));
        assert!(!guest.is_used(at, wrap), "published too early");
        assert!(ring.publish());
        assert!(!ring.publish(), "nothing new");
        assert!(guest.is_used(at, wrap));
        assert_eq!((guest.get(at).0, guest.get(at).1), (7 + n, 0));
        at = (at + 2) % 4;
    }
    // 20 descriptors: five laps, the sixth begins.
    assert_eq!(ring.position(), 0);
}

#[test]
fn nothing_of_a_burst_is_seen_before_all_of_it() {
    let mut guest = PackedDriver::new(8);
    let mut ring = guest.ring(Direction::ToGuest);
    for id in 0..5 {
        guest.put(DATA, 2048, id, DESC_F_WRITE);
    }
    let mut out = Chains::new(8);
    assert_eq!(ring.take(8, &mut out, |_| {}), Ok(5));
    for chain in &out.all()[..3] {
        ring.complete(chain, 100);
    }
    ring.put_back(&out.all()[3..]);
    assert!(!guest.is_used(0, true));
    ring.publish();
    for at in 0..3 {
        assert!(guest.is_used(at, true));
        let (id, len, flags) = guest.get(at);
        assert_eq!((id, len, flags & DESC_F_WRITE), (at, 100, DESC_F_WRITE));
    }
    assert!(!guest.is_used(3, true));
    out.clear();
    assert_eq!(ring.take(8, &mut out, |_| {}), Ok(2));
    assert_eq!(out.get(0).map(|c| c.id), Some(3));
}

#[test]
fn bursts_of_every_size_come_back_lap_after_lap() {
    for in_order in [false, true] {
        for direction in [Direction::FromGuest, Direction::ToGuest] {
            let mut guest = PackedDriver::new(128);
            let mut ring =
                if in_order { guest.ring_in_order(direction) } else { guest.ring(direction) };
            let write = if direction == Direction::ToGuest { DESC_F_WRITE } else { 0 };
            let mut returns = Returns { at: 0, wrap: true };
            let mut id = 0;
            for burst in (1..=32_u16).cycle().take(200) {
                // Every fifth has two descriptors, and some are offered that are put back.
                let mut out = Vec::new();
                for n in 0..burst + 3 {
                    id = (id + 1) % 1000;
                    let slots = if n % 5 == 4 { 2 } else { 1 };
                    if slots == 2 {
                        guest.put(DATA, 20, id, write | DESC_F_NEXT);
                    }
                    guest.put(DATA + 64, 100 + u32::from(id), id, write);
                    out.push((id, slots));
                }
                let offered = out.clone();
                let mut chains = Chains::new(64);
                assert_eq!(ring.take(64, &mut chains, |_| {}), Ok(offered.len()));
                ring.put_back(chains.all());
                chains.clear();
                for most in [usize::from(burst), 3] {
                    chains.clear();
                    assert_eq!(ring.take(most, &mut chains, |_| {}), Ok(most));
                    ring.look_ahead();
                    if direction == Direction::ToGuest {
                        let written: Vec<_> = chains.all().iter().map(|c| c.bytes).collect();
                        ring.complete_written(chains.all(), &written);
                    } else {
                        ring.complete_read(chains.all());
                    }
                }
                assert!(!guest.is_used(returns.at, returns.wrap), "published too early");
                assert!(ring.publish());
                let back = returns.collect(&guest, &mut out, in_order);
                assert!(out.is_empty(), "all of them are back");
                if direction == Direction::ToGuest {
                    let long = |&(id, slots): &(u16, u16)| {
                        (id, 80 + u32::from(id) + 20 * u32::from(slots))
                    };
                    assert_eq!(back, offered.iter().map(long).collect::<Vec<_>>());
                } else if in_order {
                    let last = |n: usize| (offered[n - 1].0, 0);
                    assert_eq!(back, [last(burst.into()), last(offered.len())]);
                } else {
                    assert_eq!(back, offered.iter().map(|&(id, _)| (id, 0)).collect::<Vec<_>>());
                }
            }
        }
    }
}

#[test]
fn chains_of_more_places_than_a_lap_has_do_no_harm() {
    // A guest that offers a descriptor anew before it was given back.
    for in_order in [false, true] {
        let mut guest = PackedDriver::new(4);
        let mut ring = if in_order {
            guest.ring_in_order(Direction::FromGuest)
        } else {
            guest.ring(Direction::FromGuest)
        };
        let mut out = Chains::new(32);
        for n in 0..32 {
            guest.put(DATA, 12, 0, DESC_F_NEXT);
            guest.put(DATA, 12, 0, DESC_F_NEXT);
            guest.put(DATA, 12, n, 0);
            assert_eq!(ring.take(1, &mut out, |_| {}), Ok(1));
        }
        ring.complete_read(out.all());
        assert!(ring.publish());
        assert_eq!(guest.get(0).0, if in_order { 31 } else { 0 }, "the first is written last");
        // 96 places later: 24 laps.
        assert_eq!(ring.position(), START);
        guest.put(DATA, 64, 7, 0);
        assert_eq!(take_one(&mut ring), Some((7, Ok(64), vec![64])));
    }
}

#[test]
fn putting_back_goes_over_the_end_of_a_lap() {
    let mut guest = PackedDriver::new(4);
    let mut ring = guest.ring(Direction::FromGuest);
    for id in 0..3 {
        guest.put(DATA, 10, id, 0);
        assert_eq!(take_one(&mut ring), Some((id, Ok(10), vec![10])));
        ring.publish();
    }
    guest.put(DATA, 10, 3, DESC_F_NEXT);
    guest.put(DATA, 11, 3, 0);
    guest.put(DATA, 12, 4, 0);
    let mut out = Chains::new(8);
    let before = ring.position();
    assert_eq!(ring.take(8, &mut out, |_| {}), Ok(2));
    ring.put_back(out.all());
    assert_eq!(ring.position(), before);
    assert_eq!(take_one(&mut ring), Some((3, Ok(21), vec![10, 11])));
    assert_eq!(take_one(&mut ring), Some((4, Ok(12), vec![12])));
}

#[test]
fn an_indirect_table_is_a_chain() {
    let mut guest = PackedDriver::new(8);
    let table = DATA + 0x1000;
    guest.memory.desc_at(table, 0, DATA, 12, 0, 0);
    guest.memory.desc_at(table, 1, DATA + 0x40, 100, 0, 0);
    let mut ring = guest.ring(Direction::FromGuest);
    guest.put(table, 32, 5, DESC_F_INDIRECT);
    guest.put(table, 0, 6, DESC_F_INDIRECT);
    guest.put(table, 16 * 9, 7, DESC_F_INDIRECT);
    guest.put(table, 16, 8, DESC_F_INDIRECT | DESC_F_NEXT);
    guest.put(DATA, 16, 8, 0);
    guest.put(DATA, 64, 9, 0);
    assert_eq!(take_one(&mut ring), Some((5, Ok(112), vec![12, 100])));
    assert_eq!(take_one(&mut ring).unwrap().1, Err(ChainFault::Bad));
    assert_eq!(take_one(&mut ring).unwrap().1, Err(ChainFault::TooLong));
    assert_eq!(take_one(&mut ring).unwrap(), (8, Err(ChainFault::Bad), vec![]));
    assert_eq!(take_one(&mut ring), Some((9, Ok(64), vec![64])));
}

#[test]
fn a_bad_chain_goes_back_whole_and_the_ring_goes_on() {
    let mut guest = PackedDriver::new(8);
    let mut ring = guest.ring(Direction::FromGuest);
    guest.put(0x4_0000, 8, 1, DESC_F_NEXT); // outside memory
    guest.put(DATA, 8, 1, 0);
    guest.put(DATA, 8, 2, DESC_F_WRITE); // the wrong way
    guest.put(DATA, 64, 3, 0);
    assert_eq!(take_one(&mut ring).unwrap(), (1, Err(ChainFault::Bad), vec![]));
    assert_eq!(take_one(&mut ring).unwrap(), (2, Err(ChainFault::Bad), vec![]));
    assert_eq!(take_one(&mut ring), Some((3, Ok(64), vec![64])));
}

#[test]
fn a_chain_without_an_end_stops_the_ring() {
    let mut guest = PackedDriver::new(4);
    let mut ring = guest.ring(Direction::FromGuest);
    for _ in 0..4 {
        guest.put(DATA, 1, 0, DESC_F_NEXT);
    }
    assert_eq!(ring.take(1, &mut Chains::new(1), |_| {}), Err(RingError::Endless));
}

#[test]
fn a_position_goes_with_its_lap() {
    let mut guest = PackedDriver::new(4);
    (guest.at, guest.wrap) = (3, false);
    let mut ring = guest.ring_at(3, Direction::FromGuest).unwrap();
    guest.put(DATA, 64, 1, 0);
    assert_eq!(take_one(&mut ring), Some((1, Ok(64), vec![64])));
    assert_eq!(ring.position(), START);
    assert_eq!(guest.ring_at(4, Direction::FromGuest).err(), Some(RingError::Position(4)));
}

#[test]
fn event_suppression_goes_both_ways() {
    let guest = PackedDriver::new(4);
    let ring = guest.ring(Direction::FromGuest);
    for (wanted, flags) in [(false, [1, 0]), (true, [0, 0])] {
        ring.set_notify(wanted);
        assert_eq!(guest.memory.read(DEVICE_EVENT + 2, 2), flags);
    }
    assert!(ring.wants_interrupt());
    guest.memory.write(DRIVER_EVENT + 2, &[1, 0]);
    assert!(!ring.wants_interrupt());
}

#[test]
fn a_ring_that_does_not_fit_is_refused() {
    let guest = PackedDriver::new(8);
    let layout = Layout::Packed { base: START, in_order: false };
    let new = |at| Ring::new(guest.memory.memory(), at, layout, Direction::ToGuest).err();
    let good = guest.addresses();
    assert_eq!(new(good), None);
    assert_eq!(new(RingAddresses { size: 12, ..good }), Some(RingError::Size(12)));
    for (at, part) in [
        (RingAddresses { desc: 0x40000 - 64, ..good }, "descriptor ring"),
        (RingAddresses { avail: DRIVER_EVENT + 2, ..good }, "driver event"),
        (RingAddresses { used: 0x40000, ..good }, "device event"),
    ] {
        let error = new(at).unwrap().to_string();
        assert!(error.starts_with(&format!("the {part}")), "{error}");
    }
}

/// Whatever bytes a guest puts into its ring, walking it ends, and stays inside its memory.
#[test]
fn no_bytes_of_a_guest_lead_astray() {
    bolero::check!().with_type::<(Vec<u8>, u16)>().for_each(|(bytes, base)| {
        let guest = PackedDriver::new(8);
        guest.memory.write(RING, bytes.get(..bytes.len().min(128)).unwrap_or(&[]));
        let Ok(mut ring) = guest.ring_at(base & (START | 7), Direction::FromGuest) else {
            unreachable!("a position inside the ring")
        };
        read_everything(&mut ring);
    });
}
