//! The ring against a driver written from the specification, well-behaved and not.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

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

    pub(crate) fn ring(&self, direction: Direction) -> SplitRing {
        SplitRing::new(self.memory(), self.addresses(), direction).unwrap()
    }
}

fn walk(ring: &SplitRing) -> (u16, Result<u32, ChainFault>, Vec<u32>) {
    let mut out = Vec::with_capacity(256);
    let (head, chain) = ring.walk(0, &mut out);
    (head, chain, out.iter().map(Segment::len).collect())
}

#[test]
fn a_chain_is_walked_and_given_back() {
    let mut guest = Driver::new(8);
    guest.desc(2, DATA, 12, DESC_F_NEXT, 5);
    guest.desc(5, DATA + 0x100, 60, 0, 0);
    let mut ring = guest.ring(Direction::FromGuest);
    assert_eq!(ring.available(1), Ok(0));
    guest.offer(2);
    assert_eq!(ring.available(1), Ok(1));
    assert_eq!(walk(&ring), (2, Ok(72), vec![12, 60]));
    ring.give_back(2, 0);
    assert_eq!(guest.used_index(), 0, "published too early");
    assert!(ring.publish());
    assert!(!ring.publish(), "nothing new");
    assert_eq!((guest.used_index(), guest.used(0)), (1, (2, 0)));
    assert_eq!(ring.available(1), Ok(0));
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
    assert_eq!(ring.available(1), Ok(1));
    assert_eq!(walk(&ring), (1, Ok(112), vec![12, 100]));
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
        assert_eq!(ring.available(1), Ok(1), "{name}");
        assert_eq!(walk(&ring).1, Err(fault), "{name}");
        // The ring goes on.
        guest.desc(3, DATA, 64, 0, 0);
        guest.offer(3);
        ring.give_back(0, 0);
        assert_eq!(ring.available(1), Ok(1), "{name}");
        assert_eq!(walk(&ring).1, Ok(64), "{name}");
    }
}

#[test]
fn an_index_that_runs_away_stops_the_ring() {
    let guest = Driver::new(8);
    let mut ring = guest.ring(Direction::FromGuest);
    guest.set_avail_index(9);
    assert_eq!(ring.available(1), Err(RingError::AvailableIndex(9)));
}

#[test]
fn a_ring_goes_on_where_the_used_index_stands_and_wraps() {
    let mut guest = Driver::new(4);
    guest.start_at(u16::MAX - 1);
    guest.desc(0, DATA, 64, 0, 0);
    let mut ring = guest.ring(Direction::FromGuest);
    for n in 0..6u16 {
        assert_eq!(ring.available(1), Ok(0));
        guest.offer(0);
        assert_eq!(ring.available(1), Ok(1));
        ring.give_back(0, u32::from(n));
        assert!(ring.publish());
        let at = (u16::MAX - 1).wrapping_add(n);
        assert_eq!(guest.used_index(), at.wrapping_add(1));
        assert_eq!(guest.used(at), (0, u32::from(n)));
    }
    assert_eq!(ring.next_available(), 4);
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
    let new = |at| SplitRing::new(guest.memory(), at, Direction::ToGuest).err();
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
        let mut out = Vec::with_capacity(256);
        while let Ok(n) = ring.available(1) {
            if n == 0 {
                break;
            }
            out.clear();
            let (head, chain) = ring.walk(0, &mut out);
            if let Ok(bytes) = chain {
                let sum: u64 = out.iter().map(|s| u64::from(s.len())).sum();
                assert_eq!(sum, u64::from(bytes));
                let mut copy = vec![0; 64];
                for segment in &out {
                    // SAFETY: `ring` holds the memory.
                    unsafe { segment.read(&mut copy) };
                }
            }
            ring.give_back(head, 0);
        }
    });
}
