//! The least that can be called a vRouter: it copies frames between the interface it took and the TAP.

use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use caps::{CapSet, Capability};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use tappers::{Interface, Tap};
use vrouter_kernel::hostif::{self, Event, HostInterface, Options};

/// The subcommand by which [`Options::keeper`] runs this binary.
pub fn keeper() -> ExitCode {
    log();
    match hostif::keeper::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn log() {
    let filter = std::env::var("KEEPER_LOG").unwrap_or_else(|_| "warn".to_owned());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

/// Options with records at `folder`.
pub fn options(folder: &Path) -> Options {
    Options {
        keeper: vec!["/proc/self/exe".into(), "keeper".into()],
        records: folder.to_owned(),
        owner: format!("test {}", std::process::id()),
    }
}

/// `repair RECORDS`: prints what was put back.
pub fn repair(arguments: &[String]) -> ExitCode {
    let names = hostif::repair(&options(Path::new(&arguments[0]))).unwrap();
    println!("repaired {}", names.join(" "));
    ExitCode::SUCCESS
}

/// `vrouter NAME RECORDS [deaf|again|bound]`: takes, serves, and says on standard output what happens. A line on standard input
/// asks it to give back. With `deaf`, frames are counted instead of copied; with `again`, a TAP that is gone is made anew;
/// with `bound`, nobody it starts can take anything out of the bounding set.
pub fn run(arguments: &[String]) -> ExitCode {
    log();
    let [name, records, mode @ ..] = arguments else { panic!("vrouter NAME RECORDS") };
    let mode = mode.first().map_or("", String::as_str).to_owned();
    if mode == "bound" {
        caps::drop(None, CapSet::Bounding, Capability::CAP_SETPCAP).unwrap();
    }
    let (asked, requests) = channel();
    let lost = asked.clone();
    let events = move |event| {
        say(&format!("event {event:?}"));
        if event == Event::TapLost {
            let _ = lost.send(false);
        }
    };
    let fail = |error| {
        say(&format!("error {error}"));
        ExitCode::FAILURE
    };
    let host = match HostInterface::take(name, &options(Path::new(records)), events) {
        Ok(host) => host,
        Err(error) => return fail(error),
    };
    thread::spawn(move || {
        let mut line = String::new();
        let _ = io::stdin().lock().read_line(&mut line);
        let _ = asked.send(true);
    });
    let heard = Arc::new(AtomicU64::new(0));
    loop {
        let devices = Devices::start(&host, mode == "deaf", &heard);
        match host.install(name) {
            Ok(missing) => missing.iter().for_each(|line| say(&format!("missing {line}"))),
            Err(error) => return fail(error),
        }
        say(&format!("ready {} {}", host.device(), host.keeper()));
        let is_end = requests.recv().unwrap() || mode != "again" && requests.recv().unwrap();
        if is_end {
            say(&format!("heard {}", heard.load(Ordering::Relaxed)));
            let releasing = host.release().unwrap();
            devices.close();
            releasing.wait().unwrap();
            say("restored");
            return ExitCode::SUCCESS;
        }
        devices.close();
    }
}

/// The two devices, and the thread that copies between them.
struct Devices {
    stopped: io::PipeWriter,
    pump: thread::JoinHandle<()>,
}

impl Devices {
    fn start(host: &HostInterface, deaf: bool, heard: &Arc<AtomicU64>) -> Self {
        let wire = packet_socket(host.device());
        let tap = Tap::new_named(Interface::new(host.name()).unwrap()).unwrap();
        // As DPDK opens it: a child that does not take care keeps it.
        fcntl(tap.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let (stop, stopped) = io::pipe().unwrap();
        let heard = Arc::clone(heard);
        let pump = thread::spawn(move || pump(&wire, &tap, &stop.into(), deaf, &heard));
        Self { stopped, pump }
    }

    fn close(self) {
        drop(self.stopped);
        self.pump.join().unwrap();
    }
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A socket that gets all that arrives on the interface.
fn packet_socket(interface: &str) -> OwnedFd {
    let all = SockProtocol::EthAll;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all).unwrap();
    let addresses = getifaddrs().unwrap().filter(|it| it.interface_name == interface);
    let link = addresses.filter_map(|it| it.address?.as_link_addr().copied()).next().unwrap();
    bind(socket.as_raw_fd(), &link).unwrap();
    socket
}

fn pump(wire: &OwnedFd, tap: &Tap, stop: &OwnedFd, deaf: bool, heard: &AtomicU64) {
    let mut frame = vec![0; 128 << 10];
    loop {
        let readable = PollFlags::POLLIN;
        let mut fds = [wire.as_fd(), tap.as_fd(), stop.as_fd()].map(|fd| PollFd::new(fd, readable));
        poll(&mut fds, PollTimeout::NONE).unwrap();
        let [from_wire, from_tap, stopped] = fds.map(|fd| fd.any().unwrap());
        if stopped {
            return;
        }
        if from_wire && let Ok(length) = recv(wire.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            heard.fetch_add(1, Ordering::Relaxed);
            if !deaf {
                complete_checksum(&mut frame[..length]);
                // A TAP that is gone takes nothing.
                let _ = tap.send(&frame[..length]);
            }
        }
        if from_tap {
            match tap.recv(&mut frame) {
                Ok(length) if !deaf => {
                    let _ = send(wire.as_raw_fd(), &frame[..length], MsgFlags::empty());
                }
                Ok(_) => {}
                // Deleted by hand: nothing comes from it any more.
                Err(_) => thread::park_timeout(std::time::Duration::from_millis(10)),
            }
        }
    }
}

/// A veth leaves TCP's checksum to the card it has not.
fn complete_checksum(frame: &mut [u8]) {
    const ETHERNET: usize = 14;
    let Some(packet) = frame.get_mut(ETHERNET..) else { return };
    let word =
        |at: usize, packet: &[u8]| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    // Neither options nor extension headers are sent here, nor segments that are too long for their head to say so.
    let (addresses, start, length) = match packet {
        [0x45, .., _] if packet.len() >= 40 && packet[9] == 6 => (12..20, 20, word(2, packet) - 20),
        [first, ..] if *first >> 4 == 6 && packet.len() >= 60 && packet[6] == 6 => {
            (8..40, 40, word(4, packet))
        }
        _ => return,
    };
    packet[start + 16..start + 18].fill(0);
    let words = |bytes: &[u8]| -> u32 {
        let pairs = bytes.chunks(2);
        pairs.map(|it| u32::from(it[0]) << 8 | u32::from(*it.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = 6 + u32::try_from(length).unwrap() + words(&packet[addresses]);
    sum += words(&packet[start..start + length]);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    packet[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
}
