//! What other vhost-user backends were attacked with, tried on this one. The numbers are those of DPDK's librte_vhost
//! (2026-10-14, and older ones); where the mechanism does not exist here, the test is that it can't be asked for.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::fence::Fenced;
use crate::backend::FEATURES;
use crate::guard::message::Header;
use crate::guard::policy::{Decision, Policy, Violation};
use crate::guard::{descriptor, message};
use crate::memory::GuestMemory;
use crate::offload::{Offload, Offloads};
use crate::queue::{
    Activation, Body, HEAD_BYTES, PushError, Queue, RingFormat, RxScratch, TxBurst,
};
use crate::queues::PortQueues;
use crate::ring::{Direction, Layout, RingAddresses};
use crate::session::Session;
use crate::wake::{Token, Wake};

const NOTHING: Offloads = Offloads { checksum: false, tcp4: false, tcp6: false };
const PACKED: Layout = Layout::Packed { base: 1 << 15, in_order: false };
const IN_ORDER: Layout = Layout::Packed { base: 1 << 15, in_order: true };
const LAYOUTS: [Layout; 3] = [Layout::Split, PACKED, IN_ORDER];
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAILABLE: u16 = 1 << 7;
const DATA: u64 = 0x8000;
const AT: RingAddresses = RingAddresses { desc: 0x1000, avail: 0x2000, used: 0x3000, size: 8 };

fn judge(code: u32, payload: &[u8], kinds: &[descriptor::Kind]) -> Result<Decision, Violation> {
    let size = u32::try_from(payload.len()).unwrap();
    let mut policy = Policy::new(4, Duration::ZERO);
    policy.judge(Duration::ZERO, Header { code, flags: 1, size }, payload, kinds)
}

fn start(guest: &Fenced, layout: Layout, direction: Direction, mergeable: bool) -> Queue {
    let queue = Queue::new();
    let format = RingFormat { header: 12, mergeable, offloads: NOTHING };
    let with =
        Activation { memory: guest.memory(), addresses: AT, layout, direction, format, call: None };
    queue.start(with).unwrap();
    queue
}

/// Offers buffers, by address, length and flags, one descriptor each.
fn offer(guest: &Fenced, layout: Layout, buffers: &[(u64, u32, u16)]) {
    for (at, &(addr, len, flags)) in (0u16..).zip(buffers) {
        let place = AT.desc + 16 * u64::from(at);
        if layout == Layout::Split {
            guest.descriptor(place, addr, len, [flags, 0]);
            guest.write(AT.avail + 4 + 2 * u64::from(at), &at.to_le_bytes());
        } else {
            guest.descriptor(place, addr, len, [at, flags | AVAILABLE]);
        }
    }
    if layout == Layout::Split {
        guest.write(AT.avail + 2, &u16::try_from(buffers.len()).unwrap().to_le_bytes());
    }
}

#[test]
fn cve_2026_86561_a_size_is_checked_before_memory_is_mapped() {
    let file = memfd_create(c"pod", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&file, 0x3000).unwrap();
    let kind = descriptor::kind(file.as_fd());
    let table =
        |size: u64, offset: u64| [1, 0x1000, size, 0x1000, offset].map(u64::to_le_bytes).concat();
    assert_eq!(judge(5, &table(0x3000, 0), &[kind]), Ok(Decision::Forward));
    for (size, offset) in [
        (0, 0),
        (0x4000, 0),
        (0x3000, 0x1000),
        (0x1000, 0x3000),
        (1 << 47, 0),
        (u64::MAX, 0),
        (u64::MAX - 0xfff, 0x1000),
        (0x1000, u64::MAX - 0xfff),
    ] {
        for code in [5, 37] {
            let judged = judge(code, &table(size, offset), &[kind]);
            assert!(matches!(judged, Err(Violation::Region { .. })), "{size:#x}+{offset:#x}");
        }
    }
}

/// A control queue whose commands are read twice: there is none.
#[test]
fn cve_2026_86562_no_control_queue_is_offered() {
    assert_eq!(FEATURES & 1 << 17, 0);
}

/// Offsets into a log of dirty pages: nothing can be logged.
#[test]
fn cve_2026_86563_no_log_is_offered_or_taken() {
    assert_eq!(FEATURES & 1 << 26, 0, "VHOST_F_LOG_ALL");
    for code in [6, 7] {
        let judged = judge(code, &[0; 16], &[descriptor::Kind::Event]);
        assert_eq!(judged, Err(Violation::Unsupported(code)));
    }
    // CVE-2020-10722 is the same message.
}

/// A ring's size that changes while a table of descriptors in flight has the old one.
#[test]
fn cve_2026_86565_no_inflight_table_and_a_running_ring_keeps_its_size() {
    for code in [31, 32] {
        assert_eq!(judge(code, &[0; 24], &[]), Err(Violation::Unsupported(code)));
    }
    // A ring of 4,096 would reach far behind this memory.
    let guest = Fenced::new(&[(0, 0x10000)]);
    let wake = Arc::new(Wake::new().unwrap());
    let queues = Arc::new(PortQueues::new(Token(0), |_| Arc::clone(&wake)));
    let session = Session::new(Arc::clone(&queues), Box::new(|| {}));
    session.set_features(1 << 32);
    session.set_memory(GuestMemory::new(Arc::clone(guest.map())).unwrap());
    session.change(1, |setup| {
        (setup.desc, setup.avail, setup.used) = (AT.desc, AT.avail, AT.used);
        (setup.addressed, setup.ready, setup.enabled, setup.size) = (true, true, true, AT.size);
    });
    offer(&guest, Layout::Split, &[(DATA, 64, 0); 8]);
    session.change(1, |setup| setup.size = 4096);
    let mut burst = TxBurst::new();
    for position in 1..=20u16 {
        guest.write(AT.avail + 2, &(8 * position).to_le_bytes());
        assert_eq!(queues.tx(0).lease_tx(&mut burst).map(|mut lease| lease.fetch()), Some(8));
        assert_eq!(guest.read(AT.used + 2, 2), (8 * position).to_le_bytes());
    }
    // Started again it would have the new size, which does not fit.
    session.change(1, |setup| setup.ready = false);
    session.change(1, |setup| setup.ready = true);
    assert!(!queues.tx(0).is_running());
    assert!(session.view().fault.unwrap().contains("outside the shared memory"));
}

/// Buffers that are shorter than the header that is written in front of each frame.
#[test]
fn cve_2026_86566_runt_receive_buffers_hold_what_they_can_and_no_more() {
    for (layout, mergeable) in LAYOUTS.into_iter().flat_map(|l| [(l, false), (l, true)]) {
        for len in 0..=13 {
            let guest = Fenced::new(&[(0, 0x10000)]);
            guest.write(DATA, &[0xcd; 0x1000]);
            let queue = start(&guest, layout, Direction::ToGuest, mergeable);
            let buffers: Vec<_> = (0..8).map(|i| (DATA + 0x40 * i, len, WRITE)).collect();
            offer(&guest, layout, &buffers);
            let mut scratch = RxScratch::new();
            let mut lease = queue.lease_rx(&mut scratch).unwrap();
            lease.prepare(1);
            let pushed = lease.push(&[0xab; 60], Body::EMPTY, &Offload::NONE);
            drop(lease);
            let fits = mergeable && 8 * len >= 72;
            let refused = if mergeable { PushError::RingFull } else { PushError::BufferTooSmall };
            assert_eq!(pushed, if fits { Ok(()) } else { Err(refused) }, "{len} {layout:?}");
            for i in 0..8 {
                let behind = guest.read(DATA + 0x40 * i + u64::from(len), 0x40 - len as usize);
                assert!(behind.iter().all(|byte| *byte == 0xcd), "written behind a buffer");
            }
        }
    }
}

/// Sent frames that are shorter than the header in front of them.
#[test]
fn cve_2026_86566_runt_sent_buffers_are_faults() {
    for layout in LAYOUTS {
        let guest = Fenced::new(&[(0, 0x10000)]);
        let queue = start(&guest, layout, Direction::FromGuest, false);
        let buffers = [0, 1, 11, 12, 13].map(|len| (0x10000 - u64::from(len), len, 0));
        // The empty one lies just outside.
        offer(&guest, layout, &buffers);
        let mut burst = TxBurst::new();
        let mut lease = queue.lease_tx(&mut burst).unwrap();
        assert_eq!(lease.fetch(), buffers.len());
        let lengths: Vec<_> = (0..lease.len())
            .map(|i| lease.head(i, &mut [0; HEAD_BYTES], |_| false).ok().map(|head| head.frame_len))
            .collect();
        assert_eq!(lengths, [None, None, None, Some(0), Some(1)], "{layout:?}");
        assert_eq!(lease.body(4, 1).len() + lease.body(3, 0).len() + lease.body(0, 0).len(), 0);
    }
}

/// Sessions of a crypto device are none of ours.
#[test]
fn cve_2026_86846_to_86848_no_crypto_session_can_be_made() {
    for code in [26, 27] {
        assert_eq!(judge(code, &[0; 64], &[]), Err(Violation::Unsupported(code)));
    }
}

/// The length of an indirect table, or an entry of it, changes between check and use.
#[test]
fn cve_2026_93683_an_indirect_table_that_changes_while_it_is_read() {
    // The table ends where the memory does, and the buffers too.
    let guest = Fenced::new(&[(0, 0x10000)]);
    let table = 0x10000 - 32;
    guest.write(table, &[0; 32]);
    for layout in LAYOUTS {
        guest.write(0x1000, &[0; 0x3000]);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let lengths = [32u32, 0xffff_fff0, 16, 48, 0, 0x1000];
                let places = [0x10000 - 64, 0x10000 - 8, u64::MAX - 15, 0];
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let next = if layout == Layout::Split { [1, 1] } else { [0, 1] };
                    guest.descriptor(table, places[n % 4], 64, next);
                    guest.descriptor(table + 16, places[n / 4 % 4], lengths[n % 6], [0, 0]);
                    for slot in 0..8 {
                        let at = AT.desc + 16 * slot;
                        guest.write(at, &table.to_le_bytes());
                        guest.write(at + 8, &lengths[n / 3 % 6].to_le_bytes());
                    }
                }
            });
            for _ in 0..2000 {
                let queue = start(&guest, layout, Direction::FromGuest, false);
                let buffers = [(table, 32, INDIRECT); 8];
                offer(&guest, layout, &buffers);
                let mut burst = TxBurst::new();
                let mut lease = queue.lease_tx(&mut burst).unwrap();
                for i in 0..lease.fetch() {
                    let mut private = [0; HEAD_BYTES];
                    if let Ok(head) = lease.head(i, &mut private, |_| false) {
                        let mut rest = vec![0; 256];
                        lease.body(i, u32::from(head.copied)).read(&mut rest);
                    }
                }
                drop(lease);
                queue.stop(None);
                guest.write(0x1000, &[0; 0x3000]);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

/// A buffer whose guest addresses go on where a region ends, while its addresses here do not.
#[test]
fn cve_2018_1059_a_buffer_over_two_regions_is_two_pieces() {
    for layout in LAYOUTS {
        let guest = Fenced::new(&[(0x10000, 0x1000), (0, 0x10000)]);
        let at = 0x10000 - 30;
        let frame: Vec<u8> = (0..100).collect();
        guest.write(at, &[&[0; 12], &frame[..]].concat());
        let queue = start(&guest, layout, Direction::FromGuest, false);
        offer(&guest, layout, &[(at, 112, 0)]);
        let mut burst = TxBurst::new();
        let mut lease = queue.lease_tx(&mut burst).unwrap();
        assert_eq!(lease.fetch(), 1);
        let mut got = vec![0; 100];
        assert_eq!(lease.body(0, 0).read(&mut got), 100);
        assert_eq!(got, frame);
    }
}

/// A queue's index is cut to fewer bits than the pod has written.
#[test]
fn cve_2020_10723_an_index_is_compared_whole() {
    for index in [4, 0x100, 0x1_0000, 0x1_0001, u32::MAX] {
        let payload = [index.to_le_bytes(), 8u32.to_le_bytes()].concat();
        for code in [8, 10, 11, 18] {
            let judged = judge(code, &payload, &[]);
            let refused = Violation::Queue { queue: index, queues: 4 };
            assert_eq!(judged, Err(refused), "{code}");
        }
    }
}

/// Messages without end, each of which costs us more than the pod.
#[test]
fn cve_2020_10726_a_flood_of_messages_ends() {
    let mut policy = Policy::new(4, Duration::ZERO);
    let header = Header { code: 1, flags: 1, size: 0 };
    let refused = (0..100_000).find_map(|_| policy.judge(Duration::ZERO, header, &[], &[]).err());
    assert_eq!(refused, Some(Violation::Flood));
    const { assert!(message::MAX_PAYLOAD <= 4096) };
}
