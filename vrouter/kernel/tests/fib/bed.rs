//! A namespace, what is in it, and a mirror of it.

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use vrouter_kernel::fib::reader::{Config, Counters, Limits, Reader, Update};
use vrouter_kernel::fib::{BridgeState, Change, Mac, NetworkSpec, Prefix, Source, Target};

/// How long anything may take that the kernel and a thread do at once.
const PATIENCE: Duration = Duration::from_secs(20);

pub type Table = BTreeMap<Prefix, Target>;

/// What was said of a bridged network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridged {
    pub state: Option<BridgeState>,
    pub flood: BTreeSet<IpAddr>,
    pub stations: BTreeMap<Mac, IpAddr>,
    pub left_out: usize,
}

/// Runs a test in a namespace that ends with it.
pub fn in_namespace(test: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("no new network namespace")?;
        ip("link set lo up")?;
        test()
    });
    thread.join().map_err(|_| anyhow!("the test has panicked"))?
}

/// Runs `ip ARGUMENTS` here.
pub fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split_whitespace()), arguments)
}

/// Runs `bridge ARGUMENTS` here.
pub fn bridge(arguments: &str) -> Result<()> {
    run(Command::new("bridge").args(arguments.split_whitespace()), arguments)
}

fn run(command: &mut Command, text: &str) -> Result<()> {
    let output = command.output().context("iproute2 is not there")?;
    ensure!(output.status.success(), "`{text}`: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Runs many lines through one `ip -batch`.
pub fn batch(lines: &str) -> Result<()> {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(lines.as_bytes())?;
    ensure!(child.wait()?.success(), "a batch has failed");
    Ok(())
}

pub fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).with_context(|| path)
}

/// Another namespace, as a host behind a link.
pub struct Peer(Child);

impl Peer {
    pub fn start() -> Result<Self> {
        let child = Command::new("unshare").args(["-n", "sleep", "600"]).spawn()?;
        let peer = Self(child);
        let ours = std::fs::read_link("/proc/thread-self/ns/net")?;
        let theirs = format!("/proc/{}/ns/net", peer.pid());
        let started = Instant::now();
        while std::fs::read_link(&theirs).is_ok_and(|theirs| theirs == ours) {
            ensure!(started.elapsed() < PATIENCE, "no namespace for a peer");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(peer)
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn ip(&self, arguments: &str) -> Result<()> {
        let pid = self.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n", "ip"]).args(arguments.split_whitespace());
        run(&mut command, arguments)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A veth pair `name`, `name-far`, set up, with an address.
pub fn uplink(name: &str, address: &str) -> Result<()> {
    ip(&format!("link add {name} type veth peer name {name}-far"))?;
    ip(&format!("link set {name}-far up"))?;
    ip(&format!("link set {name} up"))?;
    ip(&format!("addr add {address} dev {name}"))
}

pub fn index(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("no link {name}"))
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

pub fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

pub fn link(name: &str, last: u8) -> Result<Target> {
    Ok(Target::Link { uplink: index(name)?, mac: mac(last) })
}

pub fn multipath(mut paths: Vec<(Target, u32)>) -> Target {
    paths.sort_unstable();
    Target::Multipath(paths)
}

/// The node's own network, on the uplinks `u0` and `u1`.
pub fn main_config() -> Config {
    let spec = NetworkSpec { source: Source::Main, tunnel: None, device: None };
    let networks = [("main".to_owned(), spec)].into();
    let uplinks = vec!["u0".to_owned(), "u1".to_owned()];
    Config { networks, uplinks, ..Config::default() }
}

pub fn limits() -> Limits {
    Limits { check_after: Duration::from_secs(3600), ..Limits::default() }
}

/// How long a new mirror takes to say all there is, and how much more `memory` there is in use while it has it.
pub fn first_update(config: Config, memory: fn() -> Result<u64>) -> Result<(Duration, u64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (before, began) = (memory()?, Instant::now());
        let (sink, mut updates) = mpsc::channel(1);
        let (_configs, changes) = mpsc::channel(1);
        let reader = Reader::new(config, limits(), changes, sink)?;
        tokio::select! {
            ended = reader.run() => bail!("the reader ends: {ended:?}"),
            update = async {
                let update = updates.recv().await;
                (began.elapsed(), update, memory())
            } => {
                let (took, update, after) = update;
                drop(update.context("no update")?);
                Ok((took, after?.saturating_sub(before)))
            }
        }
    })
}

/// A reader in a thread, and what its updates add up to.
pub struct Watch {
    config: Config,
    updates: std_mpsc::Receiver<(Instant, Update)>,
    pub tables: BTreeMap<String, Table>,
    pub bridges: BTreeMap<String, Bridged>,
    pub counters: Arc<Counters>,
    pub received: usize,
    /// While it is held, the reader does not run.
    pub stall: Arc<Mutex<()>>,
    _configs: mpsc::Sender<Config>,
}

impl Watch {
    pub fn start(config: Config) -> Result<Self> {
        Self::with(config, limits())
    }

    pub fn with(config: Config, limits: Limits) -> Result<Self> {
        let (updates, received) = std_mpsc::channel();
        let (started, counters) = std_mpsc::channel();
        let (configs, changes) = mpsc::channel(1);
        let (first, failed) = (config.clone(), started.clone());
        let stall = Arc::new(Mutex::new(()));
        let stalled = stall.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result: Result<()> = runtime.map_err(Into::into).and_then(|runtime| {
                runtime.block_on(async {
                    let (sink, mut source) = mpsc::channel(1);
                    let reader = Reader::new(first, limits, changes, sink)?;
                    started.send(Ok(reader.counters()))?;
                    let forward = async move {
                        while let Some(update) = source.recv().await {
                            if updates.send((Instant::now(), update)).is_err() {
                                break;
                            }
                        }
                        Ok(())
                    };
                    // The runtime has one thread: whoever holds the lock stops all of it.
                    tokio::spawn(async move {
                        loop {
                            drop(stalled.lock());
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    });
                    tokio::try_join!(
                        async { reader.run().await.map_err(anyhow::Error::from) },
                        forward
                    )?;
                    Ok(())
                })
            });
            if let Err(error) = result {
                eprintln!("the reader ends: {error:#}");
                let _ = failed.send(Err(error));
            }
        });
        let counters = counters.recv()??;
        let tables = config.networks.keys().map(|name| (name.clone(), Table::new())).collect();
        let bridges =
            config.bridges.keys().map(|name| (name.clone(), Bridged::default())).collect();
        let mut watch = Self {
            config,
            updates: received,
            tables,
            bridges,
            counters,
            received: 0,
            stall,
            _configs: configs,
        };
        let (_, first) = watch.next(PATIENCE)?;
        ensure!(first, "the first update has to end a dump");
        Ok(watch)
    }

    /// Takes in one update: when it came, and whether it ends a dump.
    pub fn next(&mut self, patience: Duration) -> Result<(Instant, bool)> {
        let (at, update) = self.updates.recv_timeout(patience).context("no update came")?;
        self.received += 1;
        for (network, changes) in update.changes {
            let table = self.tables.get_mut(&network).context("an unknown network")?;
            ensure!(changes.is_sorted_by_key(|change| change.prefix), "not in order");
            for Change { prefix, target } in changes {
                let target = target.map(|target| (*target).clone());
                let before = table.get(&prefix).cloned();
                ensure!(before != target, "{prefix}: {target:?} is no change");
                match target {
                    Some(target) => table.insert(prefix, target),
                    None => table.remove(&prefix),
                };
            }
        }
        for (network, update) in update.bridges {
            let bridge = self.bridges.get_mut(&network).context("an unknown bridged network")?;
            ensure!(update.stations.is_sorted_by_key(|(mac, _)| *mac), "not in order");
            (bridge.state, bridge.left_out) = (Some(update.state), update.left_out);
            if let Some(flood) = update.flood {
                ensure!(bridge.flood != flood, "{flood:?} is no change");
                bridge.flood = flood;
            }
            for (mac, end) in update.stations {
                let before = match end {
                    Some(end) => bridge.stations.insert(mac, end),
                    None => bridge.stations.remove(&mac),
                };
                ensure!(before != end, "{mac:?}: {end:?} is no change");
            }
        }
        Ok((at, update.dumped))
    }

    /// Waits until this was said of a bridged network; then everything has to be as a new mirror sees it.
    pub fn expect_bridge(&mut self, network: &str, expected: &Bridged) -> Result<()> {
        self.wait_bridge(network, |it| it == expected).with_context(|| format!("{expected:?}"))?;
        self.same_as_new().with_context(|| format!("after {expected:?}"))
    }

    /// Waits until what was said of a bridged network fits.
    pub fn wait_bridge(&mut self, network: &str, fits: impl Fn(&Bridged) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.bridges.get(network).context("no such network")?;
            if fits(now) {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if self.next(left).is_err() {
                bail!("{network} is {:?}", self.bridges.get(network));
            }
        }
    }

    /// Waits until `prefix` of `network` leads to `target`; then everything has to be as a new mirror sees it.
    pub fn expect(&mut self, network: &str, text: &str, target: Option<Target>) -> Result<()> {
        self.wait(network, text, target.as_ref())?;
        self.same_as_new().with_context(|| format!("after {text} -> {target:?}"))
    }

    /// Waits until `prefix` of `network` leads to `target`. Returns when that was said.
    pub fn wait(&mut self, network: &str, text: &str, target: Option<&Target>) -> Result<Instant> {
        let prefix = prefix(text);
        let end = Instant::now() + PATIENCE;
        let mut at = Instant::now();
        loop {
            let now = self.tables.get(network).context("no such network")?.get(&prefix).cloned();
            if now.as_ref() == target {
                return Ok(at);
            }
            let left = end.saturating_duration_since(Instant::now());
            let Ok((came, _)) = self.next(left) else {
                bail!("{network}: {prefix} leads to {now:?} where {target:?} is due")
            };
            at = came;
        }
    }

    /// Whether all tables are, within a moment, what a mirror that starts now has.
    pub fn same_as_new(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            // What has been said is taken in before.
            while self.next(Duration::from_millis(20)).is_ok() {}
            let mut new = Self::start(self.config.clone())?;
            // Very many stations are said in parts.
            while !new.bridges.is_empty() && new.next(Duration::from_millis(20)).is_ok() {}
            if new.tables == self.tables && new.bridges == self.bridges {
                return Ok(());
            }
            if Instant::now() > end {
                let (ours, new_bridges) = (&self.bridges, &new.bridges);
                let tables = difference(&self.tables, &new.tables);
                bail!("{tables}{ours:?}, but a new mirror has {new_bridges:?}");
            }
        }
    }
}

fn difference(ours: &BTreeMap<String, Table>, new: &BTreeMap<String, Table>) -> String {
    let mut text = String::new();
    for (network, new) in new {
        let ours = &ours[network];
        for prefix in ours.keys().chain(new.keys()) {
            if ours.get(prefix) != new.get(prefix) {
                let (ours, new) = (ours.get(prefix), new.get(prefix));
                let _ =
                    writeln!(text, "{network} {prefix}: {ours:?}, but a new mirror has {new:?}");
            }
        }
    }
    text
}
