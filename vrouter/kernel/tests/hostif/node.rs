//! A node and its peer on the other end of the wire, each a network namespace.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::Value;
use tempfile::TempDir;

/// An answer that has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is promised.
pub const PROMISED: Duration = Duration::from_secs(2);

/// Why these tests can't run here.
pub fn unfit() -> Option<&'static str> {
    if !Uid::effective().is_root() {
        return Some("needs root: network namespaces");
    }
    let ip = Command::new("ip").arg("-V").output();
    (!ip.is_ok_and(|ip| ip.status.success())).then_some("needs iproute2")
}

/// Two namespaces with a wire between `eth1` of the node and `p1` of the peer.
pub struct Net {
    tag: String,
    records: TempDir,
}

impl Net {
    /// `eth1` is 10.1.0.1/24 and fd01::1/64, `p1` the .2 of both.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("rw{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Self { tag, records: TempDir::new().unwrap() };
        for side in [net.node(), net.peer()] {
            run("ip", &["netns", "add", &side]);
            run("ip", &["-n", &side, "link", "set", "lo", "up"]);
        }
        let (node, peer) = (net.node(), net.peer());
        net.ip(&format!("link add eth1 type veth peer name p1 netns {peer}"));
        for (side, link, host) in [(&node, "eth1", 1), (&peer, "p1", 2)] {
            for words in [
                format!("addr add 10.1.0.{host}/24 dev {link}"),
                format!("addr add fd01::{host}/64 dev {link} nodad"),
                format!("link set {link} up"),
            ] {
                ip(side, &words);
            }
        }
        net.settled();
        net
    }

    pub fn node(&self) -> String {
        format!("{}-node", self.tag)
    }

    pub fn peer(&self) -> String {
        format!("{}-peer", self.tag)
    }

    pub fn records(&self) -> &Path {
        self.records.path()
    }

    /// `ip WORDS` on the node.
    pub fn ip(&self, words: &str) -> String {
        ip(&self.node(), words)
    }

    /// Waits until duplicate address detection has nothing left to do.
    pub fn settled(&self) {
        wait("addresses that are still tentative", || !self.ip("addr").contains("tentative"));
    }

    /// All that has to be the same again: addresses, routes, ..., and settings.
    pub fn state(&self, link: &str) -> BTreeMap<String, Value> {
        let mut state = BTreeMap::new();
        for what in [
            format!("addr show dev {link}"),
            "-4 route show table all".to_owned(),
            "-6 route show table all".to_owned(),
            "nexthop show".to_owned(),
            format!("neigh show dev {link} nud permanent"),
            format!("neigh show proxy dev {link}"),
            "rule show".to_owned(),
        ] {
            let text = self.ip(&format!("-j -d {what}"));
            let mut value: Value = if text.trim().is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&text).unwrap()
            };
            if let Some(list) = value.as_array_mut() {
                list.sort_by_key(ToString::to_string);
            }
            state.insert(what, value);
        }
        state.insert("settings".to_owned(), self.settings(link));
        state
    }

    /// Waits for what IPv6's own work queue has to do for the link-local address of `eth1`.
    pub fn wait_for_link_local(&self) {
        wait("a link-local address", || {
            let routes = self.ip("-6 route show table local dev eth1");
            routes.lines().any(|line| line.starts_with("local fe80:"))
        });
    }

    /// Waits until that is the state of `eth1` again, as IPv6's own work queue needs a moment for link-local routes.
    #[track_caller]
    pub fn wait_for_state(&self, wanted: &BTreeMap<String, Value>) {
        let deadline = Instant::now() + PROMISED;
        while self.state("eth1") != *wanted && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let state = self.state("eth1");
        for (what, value) in wanted {
            assert_same(what, &state[what], value);
        }
    }

    /// Every file below `/proc/sys/net` that is the link's.
    fn settings(&self, link: &str) -> Value {
        let folders = ["ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"];
        let read = folders.map(|folder| format!("/proc/sys/net/{folder}/{link}"));
        let output = Command::new("ip")
            .args(["netns", "exec", &self.node(), "grep", "-rs", ""])
            .args(read)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<_> = text.lines().map(Value::from).collect();
        lines.sort_by_key(ToString::to_string);
        assert!(lines.len() > 100, "{text}");
        lines.into()
    }

    /// Writes one of those files.
    pub fn set(&self, key: &str, value: &str) {
        let (file, value) = (format!("/proc/sys/net/{key}"), value.to_owned());
        self.in_node(move || fs::write(file, value).unwrap());
    }

    pub fn setting(&self, key: &str) -> String {
        let file = format!("/proc/sys/net/{key}");
        self.in_node(move || fs::read_to_string(file).unwrap().trim().to_owned())
    }

    /// Runs in a thread that is in the node.
    pub fn in_node<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        within(&self.node(), job)
    }

    /// Runs in a thread that is in the peer.
    pub fn in_peer<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        within(&self.peer(), job)
    }

    /// Whether the node answers the peer at that address: with a refusal, as nobody listens there.
    pub fn is_heard(&self, address: &str) -> bool {
        let address = SocketAddr::new(address.parse().unwrap(), 9);
        let answer = self.in_peer(move || {
            TcpStream::connect_timeout(&address, Duration::from_secs(3)).unwrap_err()
        });
        answer.kind() == ErrorKind::ConnectionRefused
    }

    /// A vRouter that has taken `eth1` and serves it.
    pub fn vrouter(&self, mode: &str) -> Router {
        let mut router = self.start_vrouter("eth1", mode);
        router.ready();
        router
    }

    pub fn start_vrouter(&self, interface: &str, mode: &str) -> Router {
        let records = self.records().to_str().unwrap();
        self.start(&["vrouter", interface, records, mode])
    }

    /// What a vRouter does first.
    pub fn repair(&self) -> String {
        self.start(&["repair", self.records().to_str().unwrap()]).line("repaired")
    }

    fn start(&self, arguments: &[&str]) -> Router {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.node()])
            .arg(std::env::current_exe().unwrap())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Router { child, stdin, lines, device: String::new(), keeper: 0 }
    }

    /// The record of `eth1`.
    pub fn record(&self) -> Option<String> {
        let mut files = fs::read_dir(self.records()).unwrap().flatten().map(|file| file.path());
        let record = files.find(|file| file.extension().is_some_and(|it| it == "json"))?;
        fs::read_to_string(record).ok()
    }

    /// Waits until `eth1` is the veth, and has its address.
    pub fn wait_until_back(&self) {
        wait("eth1 to come back", || self.is_back());
    }

    pub fn is_back(&self) -> bool {
        let text = try_ip(&self.node(), "-j -d addr show dev eth1").unwrap_or_default();
        // The record goes when all is done.
        text.contains("\"veth\"") && self.record().is_none()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for side in [self.node(), self.peer()] {
            let _ = Command::new("ip").args(["netns", "del", &side]).output();
        }
    }
}

/// A vRouter's process.
pub struct Router {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What the interface is called now.
    pub device: String,
    /// Its keeper's process.
    pub keeper: i32,
}

impl Router {
    /// Waits for a line that begins so; returns the rest.
    pub fn line(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the vRouter did not say {wanted:?}, but {seen:?}");
            };
            if let Some(rest) = line.strip_prefix(wanted) {
                return rest.trim().to_owned();
            }
            seen.push(line);
        }
    }

    pub fn ready(&mut self) {
        let line = self.line("ready");
        let (device, keeper) = line.split_once(' ').unwrap();
        (self.device, self.keeper) = (device.to_owned(), keeper.parse().unwrap());
    }

    /// Asks it to give the interface back, and waits until it has.
    pub fn release(&mut self) -> u64 {
        self.stdin.as_mut().unwrap().write_all(b"release\n").unwrap();
        let heard = self.line("heard").parse().unwrap();
        self.line("restored");
        heard
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says what there is more, and what less, than wanted.
#[track_caller]
pub fn assert_same(what: &str, found: &Value, wanted: &Value) {
    let lines = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(ToString::to_string).collect()
    };
    let (there, expected) = (lines(found), lines(wanted));
    let more: Vec<_> = there.iter().filter(|line| !expected.contains(line)).collect();
    let less: Vec<_> = expected.iter().filter(|line| !there.contains(line)).collect();
    assert!(found == wanted, "{what}: more {more:#?}, less {less:#?}");
}

/// Waits until something is so.
#[track_caller]
pub fn wait(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub fn kill_process(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

pub fn ip(side: &str, words: &str) -> String {
    try_ip(side, words).unwrap_or_else(|error| panic!("ip {words}: {error}"))
}

fn try_ip(side: &str, words: &str) -> Result<String, String> {
    let output = Command::new("ip")
        .args(["-n", side])
        .args(words.split_whitespace())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

fn within<T: Send + 'static>(side: &str, job: impl FnOnce() -> T + Send + 'static) -> T {
    let file = File::open(PathBuf::from("/run/netns").join(side)).unwrap();
    let thread = thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        job()
    });
    thread.join().unwrap()
}
