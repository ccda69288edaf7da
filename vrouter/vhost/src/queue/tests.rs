//! Queues with a driver at each end: what one pod sends, the other receives.

mod handed_over;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::*;
use crate::offload::{Offload, Offloads};
use crate::ring::tests::Driver;

const BUF: u64 = 0x10000;
const NOTHING: Offloads = Offloads { checksum: false, tcp4: false, tcp6: false };
const PLAIN: RingFormat = RingFormat { header: 12, mergeable: false, offloads: NOTHING };
const MERGEABLE: RingFormat = RingFormat { mergeable: true, ..PLAIN };
const CHECKSUM: RingFormat =
    RingFormat { offloads: Offloads { checksum: true, ..NOTHING }, ..PLAIN };

fn start(
    driver: &Driver,
    direction: Direction,
    format: RingFormat,
    call: Option<OwnedFd>,
) -> Queue {
    let queue = Queue::new();
    queue
        .start(Activation {
            memory: driver.memory(),
            addresses: driver.addresses(),
            layout: Layout::Split,
            direction,
            format,
            call,
        })
        .unwrap();
    queue
}

/// Offers `frame` behind an empty virtio-net header, cut into descriptors at `cuts`.
fn send(driver: &mut Driver, first: u16, frame: &[u8], cuts: &[usize]) {
    let mut bytes = vec![0; 12];
    bytes.extend_from_slice(frame);
    let base = BUF + u64::from(first) * 0x1000;
    driver.write(base, &bytes);
    let mut edges = vec![0];
    edges.extend_from_slice(cuts);
    edges.push(bytes.len());
    let last = edges.len() - 2;
    for (i, pair) in edges.windows(2).enumerate() {
        let &[from, to] = pair else { unreachable!("windows of two") };
        let index = first + u16::try_from(i).unwrap();
        let flags = u16::from(i != last);
        driver.desc(index, base + from as u64, u32::try_from(to - from).unwrap(), flags, index + 1);
    }
    driver.offer(first);
}

/// Offers receive buffers of these sizes; returns where each starts.
fn receive(driver: &mut Driver, sizes: &[u32]) -> Vec<u64> {
    sizes
        .iter()
        .zip(0u16..)
        .map(|(&size, i)| {
            let at = BUF + u64::from(i) * 0x1000;
            driver.desc(i, at, size, 2, 0);
            driver.offer(i);
            at
        })
        .collect()
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 7 + 3) % 256).unwrap()).collect()
}

/// Moves one burst from `tx` to `rx` the way a worker does, with 64 or 128 bytes of each through private memory.
fn forward(tx: &Queue, rx: &Queue, most: usize) -> Vec<Result<(), PushError>> {
    let (mut burst, mut scratch) = (TxBurst::new(), RxScratch::new());
    let mut from = tx.lease_tx(&mut burst).unwrap();
    from.fetch();
    let mut to = rx.lease_rx(&mut scratch).unwrap();
    to.prepare(from.len());
    (0..from.len())
        .map(|i| {
            let mut private = [0xee; HEAD_BYTES];
            let head = from.head(i, &mut private, |_| most == 64).unwrap();
            let body = from.body(i, u32::from(head.copied));
            to.push(&private[..usize::from(head.copied)], body, &head.offload)
        })
        .collect()
}

#[test]
fn every_layout_of_a_frame_arrives_whole() {
    for len in [1, 14, 59, 60, 127, 128, 129, 1514] {
        for cuts in [vec![], vec![12], vec![5], vec![5, 12, 20], vec![13, 100, 141]] {
            let cuts: Vec<_> = cuts.into_iter().filter(|&c| c < len + 12).collect();
            for sizes in [vec![2048], vec![12 + 40, 60, 2048], vec![1, 1, 30, 2000]] {
                let (mut a, mut b) = (Driver::new(64), Driver::new(64));
                let tx = start(&a, Direction::FromGuest, MERGEABLE, None);
                let rx = start(&b, Direction::ToGuest, MERGEABLE, None);
                let sent = frame(len);
                send(&mut a, 0, &sent, &cuts);
                let at = receive(&mut b, &sizes);
                let most = if len % 2 == 0 { 64 } else { 128 };
                assert_eq!(forward(&tx, &rx, most), [Ok(())], "{len} {cuts:?} {sizes:?}");
                assert_eq!((a.used_index(), a.used(0)), (1, (0, 0)));

                let mut got = Vec::new();
                for (i, at) in (0..b.used_index()).zip(&at) {
                    let (head, written) = b.used(i);
                    assert_eq!(head, u32::from(i), "in order");
                    got.extend(b.read(*at, written as usize));
                }
                let (net, got) = got.split_at(12);
                assert_eq!(got, sent, "{len} {cuts:?} {sizes:?}");
                assert_eq!(net[..10], [0; 10]);
                assert_eq!(net[10..], b.used_index().to_le_bytes(), "num_buffers");
            }
        }
    }
}

/// Moves one burst of plain frames; returns what arrived.
fn forward_plain(from: &TxLease<'_>, rx: &Queue, replace: Option<&[u8]>) -> Delivered {
    let mut scratch = RxScratch::new();
    let plain = from.plain().expect("every frame is one piece");
    let heads: Vec<_> = plain
        .frames()
        .map(|frame| {
            frame.look_ahead(8);
            let mut private = [0xee; HEAD_BYTES];
            let copied = frame.head(&mut private, |_| true);
            assert!(u32::from(copied) == frame.bytes().min(64));
            private[..usize::from(copied)].to_vec()
        })
        .collect();
    let mut to = rx.try_lease_rx(&mut scratch).unwrap();
    to.prepare(from.len());
    let wanted = heads.iter().enumerate().map(|(i, head)| {
        let skip = u32::try_from(head.len()).unwrap();
        Headed { frame: i, front: &[], head: replace.unwrap_or(head), skip, len: u32::MAX }
    });
    to.forward_plain(plain, wanted)
}

#[test]
fn plain_frames_arrive_whole_until_one_does_not_fit() {
    let sizes = [1, 14, 59, 60, 64, 65, 127, 1514, 1514];
    let (mut a, mut b) = (Driver::new(64), Driver::new(64));
    let tx = start(&a, Direction::FromGuest, MERGEABLE, None);
    let rx = start(&b, Direction::ToGuest, MERGEABLE, None);
    for (i, len) in (0..).zip(sizes) {
        send(&mut a, i, &frame(len), &[]);
    }
    // The last one needs two, which is no plain case.
    let at = receive(&mut b, &[2048, 2048, 2048, 72, 76, 2048, 2048, 1526, 1525, 2048]);
    let mut burst = TxBurst::new();
    let mut from = tx.lease_tx(&mut burst).unwrap();
    assert_eq!(from.fetch(), sizes.len());
    let [fit @ .., _] = sizes;
    let bytes = fit.iter().sum::<usize>() as u64;
    assert_eq!(forward_plain(&from, &rx, None), Delivered { frames: fit.len(), bytes });
    drop(from);
    assert_eq!(usize::from(a.used_index()), sizes.len(), "all buffers of the sender come back");
    assert_eq!(usize::from(b.used_index()), sizes.len() - 1);
    for ((i, len), at) in (0..).zip(sizes).zip(&at).take(sizes.len() - 1) {
        let total = u32::try_from(len + 12).unwrap();
        assert_eq!(b.used(i), (u32::from(i), total));
        let bytes = b.read(*at, len + 12);
        assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(bytes[12..], frame(len), "{len}");
    }
    // What was taken and not used is there for the next burst.
    send(&mut a, 20, &frame(100), &[]);
    let mut from = tx.lease_tx(&mut burst).unwrap();
    from.fetch();
    assert_eq!(forward_plain(&from, &rx, Some(&[7; 50])), Delivered { frames: 1, bytes: 86 });
    let bytes = b.read(at[8], 12 + 50 + 36);
    assert_eq!((&bytes[12..62], &bytes[62..]), (&[7; 50][..], &frame(100)[64..]));
}

#[test]
fn one_odd_frame_makes_a_burst_odd() {
    let mut a = Driver::new(64);
    let tx = start(&a, Direction::FromGuest, MERGEABLE, None);
    let mut burst = TxBurst::new();
    for (cuts, plain) in [(&[][..], true), (&[30], false), (&[], true)] {
        send(&mut a, 0, &frame(60), &[]);
        send(&mut a, 1, &frame(60), cuts);
        let mut from = tx.lease_tx(&mut burst).unwrap();
        assert_eq!(from.fetch(), 2);
        assert_eq!(from.plain().is_some(), plain, "{cuts:?}");
    }
    // What may leave work to be done has to be asked for it.
    let asks = start(&a, Direction::FromGuest, CHECKSUM, None);
    send(&mut a, 0, &frame(60), &[]);
    let mut from = asks.lease_tx(&mut burst).unwrap();
    assert_eq!(from.fetch(), 1);
    assert!(from.plain().is_none());
    // Too short for its header: not plain, and refused.
    drop(from);
    a.desc(3, BUF, 11, 0, 0);
    a.offer(3);
    let mut from = tx.lease_tx(&mut burst).unwrap();
    from.fetch();
    assert!(from.plain().is_none());
}

#[test]
fn a_frame_without_room_is_refused_and_costs_no_buffer() {
    let (mut a, mut b) = (Driver::new(64), Driver::new(64));
    let tx = start(&a, Direction::FromGuest, PLAIN, None);
    let plain = start(&b, Direction::ToGuest, PLAIN, None);
    send(&mut a, 0, &frame(100), &[]);
    assert_eq!(forward(&tx, &plain, 128), [Err(PushError::RingFull)]);
    receive(&mut b, &[111, 2048]);
    send(&mut a, 1, &frame(100), &[]);
    assert_eq!(forward(&tx, &plain, 128), [Err(PushError::BufferTooSmall)]);
    assert_eq!(b.used_index(), 0);
    plain.stop(None);

    let mergeable = start(&b, Direction::ToGuest, MERGEABLE, None);
    send(&mut a, 2, &frame(3000), &[]);
    assert_eq!(forward(&tx, &mergeable, 128), [Err(PushError::RingFull)], "111 + 2048 < 3012");
    send(&mut a, 3, &frame(2000), &[]);
    assert_eq!(forward(&tx, &mergeable, 128), [Ok(())]);
    assert_eq!(b.used_index(), 2);
}

#[test]
fn a_sender_that_breaks_rules_loses_its_frames_only() {
    let (mut a, mut b) = (Driver::new(64), Driver::new(64));
    let tx = start(&a, Direction::FromGuest, CHECKSUM, None);
    let rx = start(&b, Direction::ToGuest, PLAIN, None);
    receive(&mut b, &[2048]);
    a.desc(40, 0xffff_0000, 64, 0, 0); // outside memory
    a.offer(40);
    a.desc(41, BUF, 11, 0, 0); // shorter than the header
    a.offer(41);
    a.write(0x30000, &[0, 1]); // asks for segmentation
    a.desc(42, 0x30000, 80, 0, 0);
    a.offer(42);
    a.desc(43, BUF, 1, 1, 43); // a loop
    a.offer(43);
    send(&mut a, 0, &frame(60), &[]);

    let (mut burst, mut scratch) = (TxBurst::new(), RxScratch::new());
    let mut from = tx.lease_tx(&mut burst).unwrap();
    assert_eq!(from.fetch(), 5);
    let head = |i| {
        let mut private = [0; HEAD_BYTES];
        from.head(i, &mut private, |_| true).map(|head| (head.frame_len, head.copied))
    };
    assert_eq!(head(0), Err(FrameFault::BadDescriptor));
    assert_eq!(head(1), Err(FrameFault::BadDescriptor));
    assert_eq!(head(2), Err(FrameFault::UnsupportedOffload));
    assert_eq!(head(3), Err(FrameFault::ChainTooLong));
    assert_eq!(head(4), Ok((60, 60)));
    assert_eq!(head(5), Err(FrameFault::BadDescriptor));
    let mut to = rx.lease_rx(&mut scratch).unwrap();
    assert_eq!(to.push(&[], from.body(4, 0), &Offload::NONE), Ok(()));
    drop(to);
    drop(from);
    assert_eq!(a.used_index(), 5, "all buffers come back");
    assert_eq!(b.read(BUF + 12, 60), frame(60));
}

#[test]
fn what_is_left_to_do_goes_to_a_receiver_that_agreed() {
    let (mut a, mut b) = (Driver::new(64), Driver::new(64));
    let tx = start(&a, Direction::FromGuest, CHECKSUM, None);
    let rx = start(&b, Direction::ToGuest, CHECKSUM, None);
    let buffers = receive(&mut b, &[2048, 2048]);
    send(&mut a, 0, &frame(100), &[]);
    a.write(BUF, &[1, 0, 7, 7, 7, 7, 34, 0, 6, 0]);
    send(&mut a, 1, &frame(60), &[]);
    assert_eq!(forward(&tx, &rx, 64), [Ok(()), Ok(())]);
    assert_eq!(b.read(buffers[0], 12), [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 1, 0]);
    assert_eq!(b.read(buffers[0] + 12, 100), frame(100));
    assert_eq!(b.read(buffers[1], 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);

    rx.stop(None);
    let plain = start(&b, Direction::ToGuest, PLAIN, None);
    b.offer(0);
    send(&mut a, 2, &frame(100), &[]);
    a.write(BUF + 0x2000, &[1, 0, 0, 0, 0, 0, 34, 0, 6, 0]);
    assert_eq!(forward(&tx, &plain, 64), [Err(PushError::Offload)]);
    assert_eq!(b.used_index(), 2, "no buffer was used");
}

#[test]
fn an_unusable_receive_buffer_is_given_back_empty() {
    let (mut a, mut b) = (Driver::new(64), Driver::new(64));
    let tx = start(&a, Direction::FromGuest, PLAIN, None);
    let rx = start(&b, Direction::ToGuest, PLAIN, None);
    b.desc(9, BUF, 2048, 0, 0); // not writable
    b.offer(9);
    send(&mut a, 0, &frame(60), &[]);
    assert_eq!(forward(&tx, &rx, 128), [Err(PushError::BadDescriptor)]);
    assert_eq!((b.used_index(), b.used(0)), (1, (9, 0)));
    receive(&mut b, &[2048]);
    send(&mut a, 1, &frame(60), &[]);
    assert_eq!(forward(&tx, &rx, 128), [Ok(())]);
}

#[test]
fn a_burst_is_bounded_and_the_rest_comes_next() {
    let (mut a, mut b) = (Driver::new(64), Driver::new(64));
    let tx = start(&a, Direction::FromGuest, PLAIN, None);
    let rx = start(&b, Direction::ToGuest, PLAIN, None);
    for i in 0..40 {
        a.desc(i, BUF, 72, 0, 0);
        a.offer(i);
        b.desc(i, BUF, 2048, 2, 0);
        b.offer(i);
    }
    assert_eq!(forward(&tx, &rx, 128).len(), BURST);
    assert_eq!(forward(&tx, &rx, 128).len(), 40 - BURST);
    assert_eq!((a.used_index(), b.used_index()), (40, 40));
    assert_eq!(b.used(39), (39, 72));
}

#[test]
fn an_interrupt_is_sent_only_when_wanted() {
    let (mut a, mut b) = (Driver::new(8), Driver::new(8));
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    let call = event.as_fd().try_clone_to_owned().unwrap();
    let tx = start(&a, Direction::FromGuest, PLAIN, None);
    let rx = start(&b, Direction::ToGuest, PLAIN, Some(call));
    receive(&mut b, &[2048, 2048]);
    b.no_interrupt(true);
    send(&mut a, 0, &frame(60), &[]);
    forward(&tx, &rx, 128);
    assert!(event.read().is_err(), "interrupted although not wanted");
    b.no_interrupt(false);
    send(&mut a, 1, &frame(60), &[]);
    forward(&tx, &rx, 128);
    assert_eq!(event.read(), Ok(1));
}

/// Into a tunnel and out of one: a head that is longer or shorter than what it stands for.
#[test]
fn a_head_of_another_length_goes_in_front_of_the_rest() {
    let frame: Vec<u8> = (0..400u16).map(|i| i.to_le_bytes()[0]).collect();
    let [front, longer, head, long] =
        [vec![0xf0; 50], vec![0xf6; 70], vec![0xd0; 60], vec![0xd1; 100]];
    let cases: [(&[u8], &[u8], u32, u32); 8] = [
        (&front, &head, 60, 340),
        (&longer, &head, 60, 340),
        (&front, &long, 100, 300),
        (&longer, &long, 100, 300),
        (&[], &head, 110, 290),
        // Less than there is, and more.
        (&[], &head, 110, 7),
        (&[], &head, 110, 1000),
        (&front, &head, 400, 0),
    ];
    for (front, head, skip, len) in cases {
        for (cuts, sizes) in [
            (&[][..], &[1024][..]),
            (&[12, 40, 200], &[1024]),
            (&[12, 40, 200], &[128, 128, 128, 128, 128]),
        ] {
            let (mut sender, mut receiver) = (Driver::new(16), Driver::new(16));
            let tx = start(&sender, Direction::FromGuest, MERGEABLE, None);
            let rx = start(&receiver, Direction::ToGuest, MERGEABLE, None);
            send(&mut sender, 0, &frame, cuts);
            let buffers = receive(&mut receiver, sizes);
            let (mut burst, mut scratch) = (TxBurst::new(), RxScratch::new());
            let mut from = tx.lease_tx(&mut burst).unwrap();
            assert_eq!(from.fetch(), 1);
            let mut to = rx.lease_rx(&mut scratch).unwrap();
            to.prepare(1);
            let headed = Headed { frame: 0, front, head, skip, len };
            let end = frame.len().min(skip as usize + len as usize);
            let expected = [front, head, &frame[skip as usize..end]].concat();
            let done = from.plain().map(|plain| to.forward_plain(plain, [headed].into_iter()));
            let done = done.unwrap_or_default();
            let frames = usize::from(cuts.is_empty() && sizes.len() == 1);
            let bytes = if frames == 1 { expected.len() as u64 } else { 0 };
            assert_eq!(done, Delivered { frames, bytes });
            if frames == 0 {
                let body = from.body(0, skip).first(len);
                to.push_behind(front, head, body, &Offload::NONE).unwrap();
            }
            drop((to, from));
            let mut got = Vec::new();
            for (i, at) in (0..receiver.used_index()).zip(&buffers) {
                got.extend(receiver.read(*at, receiver.used(i).1 as usize));
            }
            assert_eq!(got.split_off(12), expected, "{cuts:?} {sizes:?}");
        }
    }
    // More than the buffer holds.
    let (mut sender, mut receiver) = (Driver::new(16), Driver::new(16));
    let tx = start(&sender, Direction::FromGuest, PLAIN, None);
    let rx = start(&receiver, Direction::ToGuest, PLAIN, None);
    send(&mut sender, 0, &frame, &[]);
    let (mut burst, mut scratch) = (TxBurst::new(), RxScratch::new());
    let mut from = tx.lease_tx(&mut burst).unwrap();
    from.fetch();
    let at = receive(&mut receiver, &[12 + 70 + 60 + 339]);
    let mut to = rx.lease_rx(&mut scratch).unwrap();
    to.prepare(1);
    let headed = Headed { frame: 0, front: &longer, head: &head, skip: 60, len: 340 };
    assert_eq!(to.forward_plain(from.plain().unwrap(), [headed].into_iter()).frames, 0);
    let body = |len| from.body(0, 60).first(len);
    let refused = to.push_behind(&longer, &head, body(340), &Offload::NONE);
    assert_eq!(refused, Err(PushError::BufferTooSmall));
    to.push_behind(&longer, &head, body(339), &Offload::NONE).unwrap();
    drop(to);
    let got = receiver.read(at[0], 12 + 70 + 60 + 339);
    assert_eq!(got[12..], [&longer, &head, &frame[60..399]].concat());
}

#[test]
fn a_body_is_read_from_anywhere() {
    for cuts in [vec![], vec![30], vec![12, 40, 41, 100]] {
        let mut a = Driver::new(64);
        let tx = start(&a, Direction::FromGuest, PLAIN, None);
        let sent = frame(200);
        send(&mut a, 0, &sent, &cuts);
        let mut burst = TxBurst::new();
        let mut from = tx.lease_tx(&mut burst).unwrap();
        from.fetch();
        for skip in [0, 1, 18, 28, 29, 88, 149, 150, 199] {
            let body = from.body(0, 1).first(150).skip(skip);
            let mut got = vec![0; 200];
            assert_eq!(body.read(&mut got), 150_usize.saturating_sub(skip), "{cuts:?} {skip}");
            assert_eq!(got[..body.len()], sent[1..][..150][skip.min(150)..], "{cuts:?} {skip}");
        }
    }
}

#[test]
fn a_receiver_is_told_that_a_checksum_is_right_if_it_listens() {
    for (format, listens) in [(PLAIN, false), (CHECKSUM, true)] {
        let mut b = Driver::new(64);
        let rx = start(&b, Direction::ToGuest, format, None);
        let at = receive(&mut b, &[2048]);
        let mut scratch = RxScratch::new();
        let mut lease = rx.lease_rx(&mut scratch).unwrap();
        assert_eq!(lease.takes_word(), listens);
        let word = if listens { Offload::VALID } else { Offload::NONE };
        assert!(word.checksum().is_none() && word.segmentation().is_none());
        lease.push(&frame(60), Body::EMPTY, &word).unwrap();
        drop(lease);
        assert_eq!(b.read(at[0], 10), [if listens { 2 } else { 0 }, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}

/// The short way for ordinary frames, to the byte.
#[test]
fn a_frame_that_just_fits_arrives_and_a_longer_one_does_not() {
    let (mut a, mut b) = (Driver::new(64), Driver::new(64));
    let tx = start(&a, Direction::FromGuest, PLAIN, None);
    let rx = start(&b, Direction::ToGuest, PLAIN, None);
    let at = receive(&mut b, &[112, 112]);
    send(&mut a, 0, &frame(100), &[]);
    send(&mut a, 1, &frame(101), &[]);
    let (mut burst, mut scratch) = (TxBurst::new(), RxScratch::new());
    let mut from = tx.lease_tx(&mut burst).unwrap();
    assert_eq!(from.fetch(), 2);
    let mut to = rx.lease_rx(&mut scratch).unwrap();
    to.prepare(2);
    assert_eq!(to.forward(&from, 0, &frame(64), &Offload::NONE), Ok(()));
    let error = to.forward(&from, 1, &frame(64), &Offload::NONE);
    assert_eq!(error, Err(PushError::BufferTooSmall));
    drop(to);
    assert_eq!((b.used_index(), b.used(0)), (1, (0, 112)));
    assert_eq!(b.read(at[0] + 12, 100), frame(100));
}
