use std::io::Write;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use super::*;

/// The read end of a pipe whose write end went to the other side `count` times with one message of `bytes`.
fn send_with_descriptors(to: &UnixStream, bytes: &[u8], count: usize) -> OwnedFd {
    let (read, write) = nix::unistd::pipe().unwrap();
    let rights = vec![write.as_raw_fd(); count];
    let parts = [io::IoSlice::new(bytes)];
    let control = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(to.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).unwrap();
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    read
}

/// Whether anybody still has the write end.
fn is_open(read: &OwnedFd) -> bool {
    nix::unistd::read(read, &mut [0; 1]) == Err(nix::errno::Errno::EAGAIN)
}

#[test]
fn descriptors_arrive_with_their_message() {
    let (pod, guard) = UnixStream::pair().unwrap();
    let read = send_with_descriptors(&pod, b"twelve bytes", MAX_DESCRIPTORS);
    let (mut head, mut descriptors) = ([0; HEADER_BYTES], Vec::new());
    assert!(receive(&guard, &mut head, &mut descriptors).unwrap());
    assert_eq!((&head, descriptors.len()), (b"twelve bytes", MAX_DESCRIPTORS));
    assert!(is_open(&read));
    drop(descriptors);
    assert!(!is_open(&read), "a descriptor was counted twice or not at all");
}

/// As CVE-2019-14818 and CVE-2020-10726 of librte_vhost: descriptors that come with a message nobody wants stay open in
/// the switch until it has none left.
#[test]
fn cve_2019_14818_descriptors_of_a_refused_message_are_closed() {
    for count in [1, MAX_DESCRIPTORS, MAX_DESCRIPTORS + 1, 200] {
        let (pod, guard) = UnixStream::pair().unwrap();
        let (daemon, _daemons_end) = UnixStream::pair().unwrap();
        let mut relay = Relay::new(guard, daemon, 4).unwrap();
        let header = Header { code: 1, flags: 1, size: 0 };
        let read = send_with_descriptors(&pod, &header.bytes(), count);
        assert!(relay.serve_pod().is_err(), "GET_FEATURES carries no descriptors");
        assert!(!is_open(&read), "{count} descriptors are still open");
    }
}

#[test]
fn a_message_in_pieces_is_put_together_and_an_oversize_one_ends_it() {
    let (mut pod, guard) = UnixStream::pair().unwrap();
    let (daemon, mut daemons_end) = UnixStream::pair().unwrap();
    let mut relay = Relay::new(guard, daemon, 4).unwrap();
    let message = [&Header { code: 2, flags: 1, size: 8 }.bytes()[..], &[7; 8]].concat();
    std::thread::scope(|scope| {
        scope.spawn(|| message.chunks(3).for_each(|piece| pod.write_all(piece).unwrap()));
        relay.serve_pod().unwrap();
    });
    let mut got = [0; 20];
    daemons_end.read_exact(&mut got).unwrap();
    assert_eq!(got[..], message[..]);
    let size = u32::try_from(MAX_PAYLOAD).unwrap() + 1;
    pod.write_all(&Header { code: 2, flags: 1, size }.bytes()).unwrap();
    assert!(matches!(relay.serve_pod(), Err(End::Oversize(_))));
}

/// A region of huge pages that ends inside one of them can be mapped and not unmapped: munmap(2) refuses.
#[test]
fn a_part_of_a_huge_page_is_no_region() {
    let huge = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    // Needs no page to be reserved: nothing is mapped.
    let (size, page) = (4 << 20, 2u64 << 20);
    let file = memfd_create(c"pod", huge).unwrap();
    ftruncate(&file, size).unwrap();
    for (bytes, good) in [(page, true), (2 * page, true), (page + 1, false), (page + 4096, false)] {
        let region = [1u64, 0x1000_0000, bytes, 0x1000_0000, 0];
        let payload: Vec<u8> = region.iter().flat_map(|word| word.to_le_bytes()).collect();
        let header = Header { code: 5, flags: 1, size: 40 };
        let mut policy = Policy::new(4, Duration::ZERO);
        let judged = policy.judge(Duration::ZERO, header, &payload, &[kind(file.as_fd())]);
        assert_eq!(judged == Ok(Decision::Forward), good, "{bytes:#x}: {judged:?}");
    }
}
