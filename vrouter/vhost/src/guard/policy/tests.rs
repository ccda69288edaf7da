use super::*;

const QUEUES: usize = 4;
const EVENT: Kind = Kind::Event;
const MEMORY: Kind = Kind::Memory { size: 0x40_0000, page: 0x20_0000 };

fn header(code: u32) -> Header {
    Header { code, flags: 1, size: 0 }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|l| l.to_le_bytes()).collect()
}

fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut out = words(&[u32::try_from(regions.len()).unwrap(), 0]);
    for region in regions {
        out.extend(longs(region));
    }
    out
}

/// Judges one message after `before`, which must all be accepted.
fn judge(before: &[u32], code: u32, payload: &[u8], kinds: &[Kind]) -> Result<Decision, Violation> {
    let mut policy = Policy::new(QUEUES, Duration::ZERO);
    for &code in before {
        let payload: &[u8] = if code == 2 { &[0; 8] } else { &[] };
        policy.judge(Duration::ZERO, header(code), payload, &[]).unwrap();
    }
    policy.judge(Duration::ZERO, header(code), payload, kinds)
}

#[test]
fn a_handshake_of_virtio_user_passes() {
    // As DPDK 22.11 sends it.
    let region = [0x1_0000_0000, 0x40_0000, 0x1_0000_0000, 0];
    for (code, payload, kinds, expected) in [
        (3, vec![], vec![], Decision::Forward),
        (1, vec![], vec![], Decision::Forward),
        (15, vec![], vec![], Decision::Forward),
        (16, longs(&[9]), vec![], Decision::Forward),
        (13, longs(&[0]), vec![EVENT], Decision::ReplaceCall { queue: 0 }),
        (13, longs(&[1]), vec![EVENT], Decision::ReplaceCall { queue: 1 }),
        (2, longs(&[0x9_5000_8000]), vec![], Decision::Forward),
        (5, table(&[region]), vec![MEMORY], Decision::Forward),
        (8, words(&[0, 1024]), vec![], Decision::Forward),
        (10, words(&[0, 0]), vec![], Decision::Forward),
        (9, [words(&[0, 0]), longs(&[1, 2, 3, 4])].concat(), vec![], Decision::Forward),
        (12, longs(&[0]), vec![EVENT], Decision::Forward),
        (18, words(&[0, 1]), vec![], Decision::Forward),
        (11, words(&[0, 0]), vec![], Decision::Forward),
    ] {
        assert_eq!(judge(&[3, 2], code, &payload, &kinds), {
            // The second SET_OWNER is swallowed; everything else passes as it is.
            if code == 3 { Ok(Decision::Acknowledge) } else { Ok(expected) }
        });
    }
    assert_eq!(judge(&[], 3, &[], &[]), Ok(Decision::Forward));
}

#[test]
fn a_listening_virtio_user_may_reset_its_rings_first() {
    assert_eq!(judge(&[], 18, &words(&[1, 0]), &[]), Ok(Decision::Acknowledge));
    assert_eq!(judge(&[], 11, &words(&[3, 77]), &[]), Ok(Decision::Answer(words(&[3, 0]))));
    assert_eq!(judge(&[3, 2], 11, &words(&[3, 77]), &[]), Ok(Decision::Forward));
}

/// As QEMU 7.2 does while the guest boots, and again when it starts anew.
#[test]
fn queues_enabled_before_the_features_are_enabled_after_them() {
    let mut policy = Policy::new(QUEUES, Duration::ZERO);
    let mut ask = |code, payload: &[u8]| policy.judge(Duration::ZERO, header(code), payload, &[]);
    const QEMU: u64 = 0x1_4000_0000;
    for (queue, on) in [(0, 1), (1, 1), (2, 1), (3, 0), (2, 0)] {
        assert_eq!(ask(18, &words(&[queue, on])), Ok(Decision::Acknowledge));
    }
    let late = Decision::ThenEnable { queues: vec![0, 1] };
    assert_eq!(ask(2, &longs(&[QEMU])), Ok(late));
    assert_eq!(ask(2, &longs(&[QEMU])), Ok(Decision::Forward), "once is enough");
    assert_eq!(ask(18, &words(&[3, 1])), Ok(Decision::Forward));
    // A device that is reset has no queue enabled.
    assert_eq!(ask(34, &[]), Ok(Decision::Forward));
    assert_eq!(ask(18, &words(&[1, 1])), Ok(Decision::Acknowledge));
    assert_eq!(ask(34, &[]), Ok(Decision::Forward));
    assert_eq!(ask(2, &longs(&[QEMU])), Ok(Decision::Forward));
    // Without the protocol features all queues are enabled anyway, and the crate takes no SET_VRING_ENABLE.
    assert_eq!(ask(4, &[]), Ok(Decision::Forward));
    assert_eq!(ask(18, &words(&[1, 1])), Ok(Decision::Acknowledge));
    assert_eq!(ask(2, &longs(&[1 << 32])), Ok(Decision::Forward));
}

#[test]
fn what_breaks_the_rules_is_refused_with_the_reason() {
    let memory = |r: [u64; 4]| (5, table(&[r]), vec![MEMORY]);
    let good = [0x1000, 0x20_0000, 0x1000, 0];
    for ((code, payload, kinds), reason) in [
        ((6, vec![], vec![]), "request 6 is not supported"),
        ((31, vec![], vec![]), "request 31 is not supported"),
        ((3, vec![0], vec![]), "SetOwner has 1 bytes, expected 0"),
        ((2, vec![0; 4], vec![]), "SetFeatures has 4 bytes, expected 8"),
        ((1, vec![], vec![EVENT]), "GetFeatures carries 1 descriptors, expected 0"),
        ((8, words(&[4, 256]), vec![]), "queue 4 does not exist, the port has 4"),
        ((8, words(&[0, 0]), vec![]), "queue size 0 is not a power of two up to 4096"),
        ((8, words(&[0, 100]), vec![]), "queue size 100 is not a power of two up to 4096"),
        ((8, words(&[0, 8192]), vec![]), "queue size 8192 is not a power of two up to 4096"),
        ((18, words(&[0, 2]), vec![]), "enable value 2 is neither 0 nor 1"),
        ((18, words(&[9, 0]), vec![]), "queue 9 does not exist, the port has 4"),
        ((12, longs(&[0]), vec![]), "SetVringKick carries 0 descriptors, expected 1"),
        ((12, longs(&[0x100]), vec![EVENT]), "SetVringKick carries 1 descriptors, expected 0"),
        (
            (12, longs(&[0]), vec![Kind::Other]),
            "SetVringKick carries something that is not an eventfd",
        ),
        ((13, longs(&[0]), vec![MEMORY]), "SetVringCall carries something that is not an eventfd"),
        ((5, words(&[0, 0]), vec![]), "0 memory regions, at most 32 are possible in one table"),
        ((5, words(&[33, 0]), vec![]), "33 memory regions, at most 32 are possible in one table"),
        ((5, words(&[1, 0]), vec![MEMORY]), "SetMemTable has 8 bytes, expected 40"),
        ((5, table(&[good]), vec![]), "SetMemTable carries 0 descriptors, expected 1"),
        (
            (5, table(&[good]), vec![Kind::Other]),
            "memory region 0 is not backed by a memfd, tmpfs or hugetlbfs file",
        ),
        (memory([0x1000, 0, 0x1000, 0]), "memory region 0 is empty"),
        (memory([u64::MAX, 2, 0, 0]), "memory region 0 wraps around the address space"),
        (memory([0, 2, u64::MAX, 0]), "memory region 0 wraps around the address space"),
        (memory([0, 2, 0, u64::MAX]), "memory region 0 wraps around the address space"),
        (memory([0, 0x1000, 0, 0x1000]), "memory region 0 does not start at a page of its file"),
        (memory([0, 0x40_0001, 0, 0]), "memory region 0 reaches beyond the end of its file"),
        (
            memory([0, 0x20_0001, 0, 0x20_0000]),
            "memory region 0 reaches beyond the end of its file",
        ),
        (
            (
                5,
                table(&[[0, 0x20_0000, 0, 0], [0x10_0000, 0x20_0000, 0x9000_0000, 0]]),
                vec![MEMORY, MEMORY],
            ),
            "memory region 1 overlaps another",
        ),
        (
            (
                5,
                table(&[[0, 0x20_0000, 0, 0], [0x9000_0000, 0x20_0000, 0x10_0000, 0]]),
                vec![MEMORY, MEMORY],
            ),
            "memory region 1 overlaps another",
        ),
        (
            (37, [longs(&[0]), longs(&good)].concat(), vec![Kind::Other]),
            "memory region 0 is not backed by a memfd, tmpfs or hugetlbfs file",
        ),
    ] {
        let violation = judge(&[2], code, &payload, &kinds).unwrap_err();
        assert_eq!(violation.to_string(), reason);
    }
}

#[test]
fn a_reply_or_another_version_is_no_request() {
    let mut policy = Policy::new(QUEUES, Duration::ZERO);
    for flags in [0, 2, 5] {
        let header = Header { code: 1, flags, size: 0 };
        let violation = policy.judge(Duration::ZERO, header, &[], &[]).unwrap_err();
        assert_eq!(violation, Violation::NotARequest { code: 1, flags });
    }
}

#[test]
fn regions_are_sorted_by_guest_address_with_their_descriptors() {
    let (a, b, c) = (
        [0x9000_0000, 0x20_0000, 0x100_0000_0000, 0],
        [0x1000_0000, 0x20_0000, 0x300_0000_0000, 0],
        [0x5000_0000, 0x20_0000, 0x200_0000_0000, 0x20_0000],
    );
    let kinds = [MEMORY; 3];
    let decision = judge(&[2], 5, &table(&[a, b, c]), &kinds).unwrap();
    assert_eq!(decision, Decision::Reordered { payload: table(&[b, c, a]), order: vec![1, 2, 0] });
    assert_eq!(judge(&[2], 5, &table(&[b, c, a]), &kinds), Ok(Decision::Forward));
}

/// As QEMU 7.2 does for a device with several queue pairs.
#[test]
fn a_region_told_of_twice_is_added_and_removed_once() {
    let mut policy = Policy::new(QUEUES, Duration::ZERO);
    let region = [0x1000, 0x20_0000, 0x9000_0000, 0x20_0000];
    let other = [0x40_0000, 0x20_0000, 0xa000_0000, 0];
    let mut ask = |code, region: [u64; 4], kinds: &[Kind]| {
        let payload = [longs(&[0]), longs(&region)].concat();
        policy.judge(Duration::ZERO, header(code), &payload, kinds).unwrap()
    };
    assert_eq!(ask(37, region, &[MEMORY]), Decision::Forward);
    assert_eq!(ask(37, region, &[MEMORY]), Decision::Acknowledge);
    assert_eq!(ask(37, other, &[MEMORY]), Decision::Forward);
    let without_offset = [region[0], region[1], region[2], 0];
    assert_eq!(ask(38, without_offset, &[]), Decision::WithoutDescriptors);
    assert_eq!(ask(38, region, &[]), Decision::Acknowledge);
    assert_eq!(ask(37, region, &[MEMORY]), Decision::Forward, "it may come back");
    assert_eq!(ask(38, other, &[MEMORY]), Decision::WithoutDescriptors);

    let table = table(&[other]);
    assert_eq!(policy.judge(Duration::ZERO, header(5), &table, &[MEMORY]), Ok(Decision::Forward));
    let payload = [longs(&[0]), longs(&other)].concat();
    let again = policy.judge(Duration::ZERO, header(37), &payload, &[MEMORY]);
    assert_eq!(again, Ok(Decision::Acknowledge), "a table says the same");
    // A region like another but elsewhere in its file is a different one, and the crate's to refuse.
    let elsewhere = [other[0], other[1], other[2], 0x20_0000];
    let payload = [longs(&[0]), longs(&elsewhere)].concat();
    let new = policy.judge(Duration::ZERO, header(37), &payload, &[MEMORY]);
    assert_eq!(new, Ok(Decision::Forward));
}

#[test]
fn a_flood_ends_and_time_gives_back() {
    let mut policy = Policy::new(QUEUES, Duration::ZERO);
    let mut ask = |seconds| policy.judge(Duration::from_secs(seconds), header(1), &[], &[]);
    for _ in 0..BUDGET {
        ask(0).unwrap();
    }
    assert_eq!(ask(0), Err(Violation::Flood));
    for _ in 0..BUDGET_PER_SECOND {
        ask(1).unwrap();
    }
    assert_eq!(ask(1), Err(Violation::Flood));
    assert!(ask(1_000_000).is_ok());
}

/// No message, whatever it says, gets a memory region past the audit that its file does not hold.
#[test]
fn no_region_beyond_its_file_is_forwarded() {
    bolero::check!().with_type::<([u64; 4], u64)>().for_each(|(region, size)| {
        let kind = Kind::Memory { size: *size, page: 4096 };
        if judge(&[2], 5, &table(&[*region]), &[kind]).is_ok() {
            let [gpa, len, user, offset] = *region;
            assert!(u128::from(offset) + u128::from(len) <= u128::from(*size));
            assert!(gpa.checked_add(len).is_some() && user.checked_add(len).is_some());
        }
    });
}
