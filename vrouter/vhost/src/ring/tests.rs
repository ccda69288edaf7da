//! The rings against drivers written from the specification, well-behaved and not. Here: the split ring.

pub(crate) mod packed;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::chain::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use super::split::USED_F_NO_NOTIFY;
use super::*;
use crate::memory::Segment;

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x3000;
const USED: u64 = 0x4000;
const DATA: u64 = 0x10000;

/// The guest's side of a ring.
pub(crate) struct Driver {
    pub map: Arc<GuestMemoryMmap>,
    size: u16,
    avail: u16,
}

impl Driver {
    pub(crate) fn new(size: u16) -> Self {
        let map = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x40000)]).unwrap();
        Self { map: Arc::new(map), size, avail: 0 }
    }

    pub(crate) fn addresses(&self) -> RingAddresses {
        RingAddresses { desc: DESC, avail: AVAIL, used: USED, size: self.size }
    }

    pub(crate) fn memory(&self) -> Arc<GuestMemory> {
        Arc::new(GuestMemory::new(Arc::clone(&self.map)).unwrap())
    }

    fn put<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        self.map.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn get<T: vm_memory::ByteValued>(&self, at: u64) -> T {
        self.map.read_obj(GuestAddress(at)).unwrap()
    }

    pub(crate) fn desc_at(&self, table: u64, i: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = table + 16 * u64::from(i);
        self.put(at, addr);
        self.put(at + 8, len);
        self.put(at + 12, flags);
        self.put(at + 14, next);
    }

    pub(crate) fn desc(&self, i: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.desc_at(DESC, i, addr, len, flags, next);
    }

    /// Offers the chain at `head`.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.avail & (self.size - 1));
        self.put(AVAIL + 4 + 2 * slot, head);
        self.avail = self.avail.wrapping_add(1);
        self.put(AVAIL + 2, self.avail);
    }

    pub(crate) fn set_avail_index(&self, index: u16) {
        self.put(AVAIL + 2, index);
    }

    pub(crate) fn set_used_index(&self, index: u16) {
        self.put(USED + 2, index);
    }

    pub(crate) fn start_at(&mut self, index: u16) {
        self.avail = index;
        self.set_avail_index(index);
        self.set_used_index(index);
    }

    pub(crate) fn no_interrupt(&self, on: bool) {
        self.put(AVAIL, u16::from(on));
    }

    pub(crate) fn used_flags(&self) -> u16 {
        self.get(USED)
    }

    pub(crate) fn used_index(&self) -> u16 {
        self.get(USED + 2)
    }

    /// The used entry at a free-running position: head and length.
    pub(crate) fn used(&self, at: u16) -> (u32, u32) {
        let slot = u64::from(at & (self.size - 1));
        (self.get(USED + 4 + 8 * slot), self.get(USED + 8 + 8 * slot))
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.map.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.map.read_slice(&mut out, GuestAddress(at)).unwrap();
        out
    }

    pub(crate) fn ring(&self, direction: Direction) -> Ring {
        Ring::new(self.memory(), self.addresses(), Layout::Split, direction).unwrap()
    }
}

/// What one chain was found to be: its id, its bytes or what is wrong with it, the bytes of its segments.
type Found = (u16, Result<u32, ChainFault>, Vec<u32>);

/// Takes one chain and gives it back with `written` bytes, unpublished. `None`: nothing was waiting.
fn take(ring: &mut Ring, written: u32) -> Option<Found> {
    let mut out = Chains::new(4);
    assert!(ring.take(1, &mut out, |_| {}).unwrap() <= 1);
    let chain = *out.get(0)?;
    ring.complete(&chain, written);
    if let Some(fault) = chain.fault {
        return Some((chain.id, Err(fault), Vec::new()));
    }
    Some((chain.id, Ok(chain.bytes), out.segments(&chain).iter().map(|s| s.len()).collect()))
}

#[test]
fn a_chain_is_walked_and_given_back() {
    let mut guest = Driver::new(8);
    guest.desc(2, DATA, 12, DESC_F_NEXT, 5);
    guest.desc(5, DATA + 0x100, 60, 0, 0);
    let mut ring = guest.ring(Direction::FromGuest);
    assert!(!ring.is_waiting());
    assert_eq!(take(&mut ring, 0), None);
    guest.offer(2);
    assert!(ring.is_waiting());
    assert_eq!(take(&mut ring, 0), Some((2, Ok(72), vec![12, 60])));
    assert_eq!(guest.used_index(), 0, "published too early");
    assert!(ring.publish());
    assert!(!ring.publish(), "nothing new");
    assert_eq!((guest.used_index(), guest.used(0)), (1, (2, 0)));
    assert_eq!(take(&mut ring, 0), None);
}

#[test]
fn an_indirect_table_counts_like_a_chain() {
    let mut guest = Driver::new(8);
    let table = DATA + 0x1000;
    guest.desc_at(table, 0, DATA, 12, DESC_F_NEXT, 2);
    guest.desc_at(table, 2, DATA + 0x40, 100, 0, 0);
    guest.desc(1, table, 3 * 16, DESC_F_INDIRECT, 0);
    let mut ring = guest.ring(Direction::FromGuest);
    guest.offer(1);
    assert_eq!(take(&mut ring, 0), Some((1, Ok(112), vec![12, 100])));
}

#[test]
fn chains_that_are_put_back_come_again() {
    let mut guest = Driver::new(64);
    for i in 0..40 {
        guest.desc(i, DATA, u32::from(i) + 1, 0, 0);
        guest.offer(i);
    }
    let mut ring = guest.ring(Direction::FromGuest);
    let mut out = Chains::new(64);
    assert_eq!(ring.take(64, &mut out, |_| {}), Ok(40));
    ring.put_back(out.all().get(10..).unwrap());
    out.clear();
    assert_eq!(ring.take(64, &mut out, |_| {}), Ok(30));
    assert_eq!(out.get(0).map(|c| (c.id, c.bytes)), Some((10, 11)));
}

#[test]
fn the_longest_chains_find_room_whatever_came_before() {
    let mut guest = Driver::new(256);
    for i in 0..255 {
        guest.desc(i, DATA, 1, DESC_F_NEXT, (i + 1) % 64);
    }
    guest.desc(63, DATA, 1, 0, 0);
    for _ in 0..32 {
        guest.offer(0);
    }
    let mut ring = guest.ring(Direction::FromGuest);
    let mut out = Chains::new(32);
    assert_eq!(ring.take(64, &mut out, |_| {}), Ok(32));
    for chain in out.all() {
        assert_eq!((chain.fault, chain.bytes), (None, 64));
        assert_eq!(out.segments(chain).len(), 64);
    }
}

#[test]
fn what_a_hostile_driver_writes_is_a_fault_of_that_chain() {
    type Spoil = fn(&mut Driver);
    let cases: [(&str, Spoil, ChainFault); 12] = [
        ("head outside the table", |g| g.offer(8), ChainFault::Bad),
        (
            "next outside the table",
            |g| {
                g.desc(0, DATA, 1, DESC_F_NEXT, 9);
                g.offer(0);
            },
            ChainFault::Bad,
        ),
        (
            "a loop",
            |g| {
                g.desc(0, DATA, 1, DESC_F_NEXT, 0);
                g.offer(0);
            },
            ChainFault::TooLong,
        ),
        (
            "an address outside memory",
            |g| {
                g.desc(0, 0x40000 - 4, 8, 0, 0);
                g.offer(0);
            },
            ChainFault::Bad,
        ),
        (
            "an address that wraps",
            |g| {
                g.desc(0, u64::MAX - 3, 8, 0, 0);
                g.offer(0);
            },
            ChainFault::Bad,
        ),
        (
            "lengths that wrap",
            |g| {
                g.desc(0, 0, u32::MAX, DESC_F_NEXT, 1);
                g.desc(1, 0, u32::MAX, 0, 0);
                g.offer(0);
            },
            ChainFault::Bad,
        ),
        (
            "the wrong direction",
            |g| {
                g.desc(0, DATA, 8, DESC_F_WRITE, 0);
                g.offer(0);
            },
            ChainFault::Bad,
        ),
        (
            "a table inside a table",
            |g| {
                g.desc_at(DATA, 0, DATA, 16, DESC_F_INDIRECT, 0);
                g.desc(0, DATA, 16, DESC_F_INDIRECT, 0);
                g.offer(0);
            },
            ChainFault::Bad,
        ),
        (
            "a table with a next",
            |g| {
                g.desc(0, DATA, 16, DESC_F_INDIRECT | DESC_F_NEXT, 1);
                g.offer(0);
            },
            ChainFault::Bad,
        ),
        (
            "a table of half a descriptor",
            |g| {
                g.desc(0, DATA, 24, DESC_F_INDIRECT, 0);
                g.offer(0);
            },
            ChainFault::Bad,
        ),
        (
            "a table larger than the ring",
            |g| {
                g.desc(0, DATA, 16 * 9, DESC_F_INDIRECT, 0);
                g.offer(0);
            },
            ChainFault::TooLong,
        ),
        (
            "a table whose next leaves it",
            |g| {
                g.desc_at(DATA, 0, DATA, 1, DESC_F_NEXT, 1);
                g.desc(0, DATA, 16, DESC_F_INDIRECT, 0);
                g.offer(0);
            },
            ChainFault::Bad,
        ),
    ];
    for (name, spoil, fault) in cases {
        let mut guest = Driver::new(8);
        let mut ring = guest.ring(Direction::FromGuest);
        spoil(&mut guest);
        assert_eq!(take(&mut ring, 0).unwrap().1, Err(fault), "{name}");
        // The ring goes on.
        guest.desc(3, DATA, 64, 0, 0);
        guest.offer(3);
        assert_eq!(take(&mut ring, 0).unwrap().1, Ok(64), "{name}");
    }
}

#[test]
fn an_index_that_runs_away_stops_the_ring() {
    let guest = Driver::new(8);
    let mut ring = guest.ring(Direction::FromGuest);
    guest.set_avail_index(9);
    assert_eq!(ring.take(1, &mut Chains::new(1), |_| {}), Err(RingError::AvailableIndex(9)));
}

#[test]
fn a_ring_goes_on_where_the_used_index_stands_and_wraps() {
    let mut guest = Driver::new(4);
    guest.start_at(u16::MAX - 1);
    guest.desc(0, DATA, 64, 0, 0);
    let mut ring = guest.ring(Direction::FromGuest);
    for n in 0..6u16 {
        assert_eq!(take(&mut ring, 0), None);
        guest.offer(0);
        assert_eq!(take(&mut ring, u32::from(n)), Some((0, Ok(64), vec![64])));
        assert!(ring.publish());
        let at = (u16::MAX - 1).wrapping_add(n);
        assert_eq!(guest.used_index(), at.wrapping_add(1));
        assert_eq!(guest.used(at), (0, u32::from(n)));
    }
    assert_eq!(ring.position(), 4);
}

#[test]
fn notification_flags_are_ours_to_set_and_theirs_to_be_read() {
    let guest = Driver::new(4);
    let ring = guest.ring(Direction::FromGuest);
    ring.set_notify(false);
    assert_eq!(guest.used_flags(), USED_F_NO_NOTIFY);
    ring.set_notify(true);
    assert_eq!(guest.used_flags(), 0);
    assert!(ring.wants_interrupt());
    guest.no_interrupt(true);
    assert!(!ring.wants_interrupt());
}

#[test]
fn a_ring_that_does_not_fit_is_refused() {
    let guest = Driver::new(8);
    let new = |at| Ring::new(guest.memory(), at, Layout::Split, Direction::ToGuest).err();
    let good = guest.addresses();
    assert_eq!(new(good), None);
    assert_eq!(new(RingAddresses { size: 0, ..good }), Some(RingError::Size(0)));
    assert_eq!(new(RingAddresses { size: 12, ..good }), Some(RingError::Size(12)));
    assert_eq!(new(RingAddresses { size: 8192, ..good }), Some(RingError::Size(8192)));
    for (at, part) in [
        (RingAddresses { desc: 0x40000 - 64, ..good }, "descriptor table"),
        (RingAddresses { desc: DESC + 8, ..good }, "descriptor table"),
        (RingAddresses { avail: AVAIL + 1, ..good }, "available ring"),
        (RingAddresses { used: 0x40000 - 8, ..good }, "used ring"),
        (RingAddresses { used: USED + 2, ..good }, "used ring"),
    ] {
        let error = new(at).unwrap().to_string();
        assert!(error.starts_with(&format!("the {part}")), "{error}");
    }
}

/// Whatever bytes a guest puts into its rings, walking them ends, and stays inside its memory.
#[test]
fn no_bytes_of_a_guest_lead_astray() {
    bolero::check!().with_type::<(Vec<u8>, u16)>().for_each(|(bytes, index)| {
        let guest = Driver::new(8);
        let table = bytes.get(..bytes.len().min(128)).unwrap_or(&[]);
        guest.write(DESC, table);
        guest.write(AVAIL + 4, bytes.get(bytes.len().saturating_sub(16)..).unwrap_or(&[]));
        let mut ring = guest.ring(Direction::FromGuest);
        guest.set_avail_index(*index);
        read_everything(&mut ring);
    });
}

/// Takes chains until there are none, or more than any guest can have offered, and touches all of their bytes.
fn read_everything(ring: &mut Ring) {
    let mut out = Chains::new(16);
    for _ in 0..usize::from(u16::MAX) / 8 {
        out.clear();
        if !ring.take(16, &mut out, |_| {}).is_ok_and(|n| n > 0) {
            break;
        }
        for chain in out.all() {
            let segments = out.segments(chain);
            if chain.fault.is_none() {
                let sum: u64 = segments.iter().map(|s| u64::from(s.len())).sum();
                assert_eq!(sum, u64::from(chain.bytes));
            }
            let mut copy = vec![0; 64];
            for segment in segments.iter().filter(|s: &&Segment| s.len() > 0) {
                // SAFETY: `ring` holds the memory.
                unsafe { segment.read(&mut copy) };
            }
            ring.complete(chain, 0);
        }
        ring.publish();
    }
}
