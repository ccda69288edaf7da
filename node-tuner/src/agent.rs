//! `ringway-tuner run`: applies a profile and keeps the node so. Every change is an event: one JSON object a line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use node_tuner_core::cpuset::CpuSet;
use node_tuner_core::drift::{Repairs, Verdict};
use node_tuner_core::engine::{self, Outcome};
use node_tuner_core::journal::Journal;
use node_tuner_core::knob::{Knob, RingKind};
use node_tuner_core::modes::{Mode, ModeFollower};
use node_tuner_core::node::Node;
use node_tuner_core::plan::{Change, Plan};
use node_tuner_core::rings::RingFollower;
use node_tuner_core::workers::Follower;
use ringway_config::NodeProfile;
use serde::Serialize;
use tokio::signal::unix::{self, SignalKind, signal};

use crate::node::{Target, boot_id};
use crate::store::Store;
use crate::vrouters;

/// Something happened that an operator may want to know.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
enum Event<'a> {
    /// The agent runs.
    Started { profile: &'a str },
    /// A value was set: at the start, or because something new came.
    Changed { what: String, from: Option<String>, to: String, why: &'a str },
    /// A value that somebody else had changed was set again.
    Repaired { what: String, from: Option<String>, to: String, why: &'a str },
    /// Somebody sets a value as often as we do, or it can't be set: it is left alone for a while.
    GaveUp { what: String, current: Option<String>, wanted: String },
    /// The kernel refuses to set it; it is not asked again.
    NotApplicable { what: String, why: String },
    /// A run failed and was turned back.
    Failed { what: String, why: String, left: Vec<String> },
    /// The profile can't be applied to the node as it is now; what was applied stays.
    Refused { why: String },
    /// The node can't be read at the moment.
    Unreadable { why: String },
    /// An interface or card appeared.
    NicAdded { nic: String },
    /// An interface or card is gone.
    NicRemoved { nic: String },
    /// The kernel has to be started with other arguments, some time.
    RebootNeeded { missing: Vec<String>, file: String, line: String },
    /// How long waking a CPU may take is limited from now on, until the agent ends.
    LatencyHeld { us: u32 },
    /// The number or place of a vRouter's workers was changed.
    Workers { vrouter: String, from: Vec<u32>, to: Vec<u32>, why: String },
    /// What a vRouter's workers do when there is nothing to do was changed.
    WorkerMode { vrouter: String, from: Mode, to: Mode, why: String },
    /// A card drops packets, or has long not done so: its receive rings have another size.
    Ring { nic: String, from: u32, to: u32, why: String },
    /// A vRouter that should get other workers, or another mode of them, refused.
    WorkersFailed { vrouter: String, why: String },
    /// The agent ends; values stay.
    Ended { signal: &'a str },
}

#[derive(Serialize)]
struct Line<'a> {
    /// Since 1970, ms.
    time_ms: u64,
    #[serde(flatten)]
    event: Event<'a>,
}

/// How things stand after a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Why the profile is not applied; `None`: it is, or was never tried.
    pub failed: Option<String>,
    /// What somebody else keeps changing, and is left alone.
    pub drifting: Vec<String>,
}

/// Applies one profile after the other, and keeps the node so.
pub struct Agent<W> {
    profile: NodeProfile,
    standing: Standing,
    store: Store,
    journal: Journal,
    out: W,
    repairs: Repairs,
    nics: Option<BTreeSet<String>>,
    /// Whether the profile has been applied once; what differs after that is drift, or new.
    applied: bool,
    followers: BTreeMap<PathBuf, (Follower, ModeFollower)>,
    rings: RingFollower,
    /// Held open: the limit ends with it.
    latency: Option<File>,
    boot_told: Vec<String>,
    trouble: Option<String>,
    started: Instant,
}

/// Runs until a signal.
pub async fn run(target: &mut Target, profile: NodeProfile, out: &mut impl Write) -> Result<()> {
    let mut end = End::on_signals()?;
    let mut agent = Agent::open(target, profile, out)?;
    // What can't be at the start is for whoever starts it; later it may pass.
    let (node, plan) = target.plan(&agent.profile, agent.journal.unwritable()).await?;
    agent.started()?;
    agent.look(target, &node, &plan).await?;
    loop {
        tokio::select! {
            signal = end.wait() => return agent.ended(signal),
            () = tokio::time::sleep(agent.interval()) => {}
        }
        match target.plan(&agent.profile, agent.journal.unwritable()).await {
            Ok((node, plan)) => {
                agent.trouble = None;
                agent.look(target, &node, &plan).await?;
            }
            Err(error) => agent.trouble(&error)?,
        }
    }
}

/// The signals that end the program.
pub struct End {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl End {
    /// From now on they do not end it by themselves.
    pub fn on_signals() -> Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    /// Until one comes.
    pub async fn wait(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.interrupt.recv() => Signal::SIGINT,
        }
    }
}

impl<W: Write> Agent<W> {
    /// Nothing is looked at yet. Fails if another tuner changes this node.
    pub fn open(target: &Target, profile: NodeProfile, out: W) -> Result<Self> {
        target.check_rights()?;
        let (store, journal) = Store::open(target.state())?;
        Ok(Self {
            profile,
            standing: Standing::default(),
            store,
            journal,
            out,
            repairs: Repairs::default(),
            nics: None,
            applied: false,
            followers: BTreeMap::new(),
            rings: RingFollower::default(),
            latency: None,
            boot_told: Vec::new(),
            trouble: None,
            started: Instant::now(),
        })
    }

    /// Another profile: what differs from it at the next look is not drift. What the one before has set, and this one does not
    /// mention, stays.
    pub fn follow(&mut self, profile: NodeProfile) -> Result<()> {
        self.profile = profile;
        self.applied = false;
        self.standing = Standing::default();
        // Held anew if the new one wants it.
        self.latency = None;
        self.trouble = None;
        self.started()
    }

    /// The profile that it follows.
    pub fn profile(&self) -> &NodeProfile {
        &self.profile
    }

    /// What the kernel has refused so far.
    pub fn unwritable(&self) -> &BTreeMap<Knob, String> {
        self.journal.unwritable()
    }

    /// How things stood after the last look.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Until the next look.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(u64::from(self.profile.agent.interval_s))
    }

    fn started(&mut self) -> Result<()> {
        let profile = self.profile.name.clone();
        self.tell(Event::Started { profile: &profile })
    }

    /// It ends; values stay.
    pub fn ended(&mut self, signal: Signal) -> Result<()> {
        self.tell(Event::Ended { signal: signal.as_str() })
    }

    fn tell(&mut self, event: Event<'_>) -> Result<()> {
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let time_ms = u64::try_from(time_ms).unwrap_or(u64::MAX);
        let line = serde_json::to_string(&Line { time_ms, event })?;
        writeln!(self.out, "{line}")?;
        Ok(self.out.flush()?)
    }

    /// Once, not at every look.
    pub fn trouble(&mut self, error: &anyhow::Error) -> Result<()> {
        let why = format!("{error:#}");
        if self.trouble.as_ref() == Some(&why) {
            return Ok(());
        }
        self.trouble = Some(why.clone());
        let refused = error.is::<node_tuner_core::plan::Refused>();
        self.tell(if refused { Event::Refused { why } } else { Event::Unreadable { why } })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// One look at the node, and what follows from it.
    pub async fn look(&mut self, target: &mut Target, node: &Node, plan: &Plan) -> Result<()> {
        self.cards(node)?;
        self.values(target, node, plan)?;
        self.rings(target, node, plan)?;
        self.hold_latency(target, plan)?;
        if let Some(boot) = plan.boot.as_ref().filter(|boot| boot.missing != self.boot_told) {
            self.boot_told.clone_from(&boot.missing);
            let (missing, file, line) =
                (boot.missing.clone(), boot.file.clone(), boot.line.clone());
            self.tell(Event::RebootNeeded { missing, file, line })?;
        }
        self.workers(target, node, plan).await
    }

    fn cards(&mut self, node: &Node) -> Result<()> {
        let name = |nic: &node_tuner_core::node::Nic| nic.name.clone().or_else(|| nic.pci.clone());
        let now: BTreeSet<String> = node.nics.iter().filter_map(name).collect();
        let before = self.nics.replace(now.clone()).unwrap_or_else(|| now.clone());
        for nic in now.difference(&before) {
            self.tell(Event::NicAdded { nic: nic.clone() })?;
        }
        for nic in before.difference(&now) {
            self.tell(Event::NicRemoved { nic: nic.clone() })?;
        }
        Ok(())
    }

    /// Sets what is not as it should be, but for what others keep changing.
    fn values(&mut self, target: &mut Target, node: &Node, plan: &Plan) -> Result<()> {
        let now = self.now_ms();
        let (mut due, mut given_up) = (Vec::new(), Vec::new());
        let turned = self.journal.turned().iter().filter(|_| self.applied);
        let known: BTreeSet<_> = turned.map(|turned| turned.knob.clone()).collect();
        for change in plan.changes() {
            if !self.applied {
                due.push(change.clone());
                continue;
            }
            match self.repairs.judge(&change.knob, now, &self.profile.agent) {
                Verdict::Repair => due.push(change.clone()),
                Verdict::GiveUp => given_up.push(change.clone()),
                Verdict::Leave => {}
            }
        }
        for change in given_up {
            let (what, current, wanted, _) = told(plan, &change);
            self.tell(Event::GaveUp { what, current, wanted })?;
        }
        let left = plan.changes().filter(|change| self.applied && !due.contains(change));
        self.standing.drifting = left.map(|change| change.knob.to_string()).collect();
        self.applied = true;
        if due.is_empty() && !self.journal.is_open() {
            if self.standing.drifting.is_empty() {
                self.standing.failed = None;
            }
            return Ok(());
        }
        let outcome = engine::apply(
            &due,
            &boot_id(node),
            &self.profile.name,
            &mut self.journal,
            &mut target.knobs(),
            &mut self.store,
        );
        self.outcome(plan, &due, &known, outcome)
    }

    fn outcome(
        &mut self,
        plan: &Plan,
        due: &[Change],
        known: &BTreeSet<Knob>,
        outcome: Outcome,
    ) -> Result<()> {
        for change in due.iter().filter(|change| outcome.turned.contains(&change.knob)) {
            let (what, from, to, why) = told(plan, change);
            self.tell(if known.contains(&change.knob) {
                Event::Repaired { what, from, to, why }
            } else {
                Event::Changed { what, from, to, why }
            })?;
        }
        for (knob, why) in outcome.unwritable {
            self.tell(Event::NotApplicable { what: knob.to_string(), why })?;
        }
        self.standing.failed =
            outcome.failed.as_ref().map(|(what, fault)| format!("{what}: {fault}"));
        if let Some((what, fault)) = outcome.failed {
            let left = outcome.left.iter().map(|(knob, fault)| format!("{knob}: {fault}"));
            let left = left.collect();
            self.tell(Event::Failed { what, why: fault.to_string(), left })?;
        }
        Ok(())
    }

    /// Receive rings as long as the cards need them. What is found at first is in the journal, as of every knob.
    fn rings(&mut self, target: &mut Target, node: &Node, plan: &Plan) -> Result<()> {
        let now = self.now_ms();
        for decision in self.rings.decide(now, &plan.rings, &self.profile.agent.rings) {
            let span = plan.rings.iter().find(|span| span.nic == decision.nic);
            let from = span.map_or(0, |span| span.now);
            let knob = Knob::Ring { nic: decision.nic.clone(), kind: RingKind::Rx };
            let change = Change { knob, value: decision.size.to_string() };
            let outcome = engine::apply(
                &[change],
                &boot_id(node),
                &self.profile.name,
                &mut self.journal,
                &mut target.knobs(),
                &mut self.store,
            );
            if outcome.is_good() && !outcome.turned.is_empty() {
                let (nic, to, why) = (decision.nic, decision.size, decision.why);
                self.tell(Event::Ring { nic, from, to, why })?;
                continue;
            }
            for (knob, why) in outcome.unwritable {
                self.tell(Event::NotApplicable { what: knob.to_string(), why })?;
            }
            if let Some((what, fault)) = outcome.failed {
                let left = outcome.left.iter().map(|(knob, fault)| format!("{knob}: {fault}"));
                let left = left.collect();
                self.tell(Event::Failed { what, why: fault.to_string(), left })?;
            }
        }
        Ok(())
    }

    /// PM QoS: the kernel keeps the limit as long as the file is open.
    fn hold_latency(&mut self, target: &Target, plan: &Plan) -> Result<()> {
        let Some(us) = plan.max_latency_us.filter(|_| self.latency.is_none() && target.is_live())
        else {
            return Ok(());
        };
        let file = hold(Path::new("/dev/cpu_dma_latency"), us).context("/dev/cpu_dma_latency")?;
        self.latency = Some(file);
        self.tell(Event::LatencyHeld { us })
    }

    /// As many workers as the load needs, and what they do without any. A vRouter that does not answer is left alone: it may be starting.
    async fn workers(&mut self, target: &Target, node: &Node, plan: &Plan) -> Result<()> {
        let rules = self.profile.agent.workers;
        let cores: Vec<CpuSet> = node.cpu.cores.iter().map(|core| core.cpus.clone()).collect();
        let wanted = target.is_live() && (rules.adjust || rules.mode.is_some());
        for vrouter in node.services.vrouters.iter().filter(|_| wanted) {
            let socket = PathBuf::from(&vrouter.socket);
            let Ok(sample) = vrouters::sample(&socket, self.now_ms()).await else { continue };
            let own = vrouter.numa.and_then(|numa| plan.cpus.by_numa.get(&numa));
            let cpus = own.map_or(&plan.cpus.vrouter, |numa| &numa.vrouter);
            let from: Vec<u32> = sample.workers.iter().map(|(cpu, _)| *cpu).collect();
            let (workers, modes) = self.followers.entry(socket.clone()).or_default();
            let (before, mode) = (sample.mode, modes.decide(sample.clone(), &rules));
            let decision = workers.decide(sample, cpus, &cores, &rules);
            let name = vrouter.socket.clone();
            if let Some(decision) = mode {
                let (vrouter, to) = (name.clone(), decision.mode);
                let event = match vrouters::set_mode(&socket, to).await {
                    Ok(()) => Event::WorkerMode { vrouter, from: before, to, why: decision.why },
                    Err(error) => Event::WorkersFailed { vrouter, why: format!("{error:#}") },
                };
                self.tell(event)?;
            }
            let Some(decision) = decision else { continue };
            let event = match vrouters::set_workers(&socket, &decision.cpus).await {
                Ok(()) => {
                    Event::Workers { vrouter: name, from, to: decision.cpus, why: decision.why }
                }
                Err(error) => Event::WorkersFailed { vrouter: name, why: format!("{error:#}") },
            };
            self.tell(event)?;
        }
        Ok(())
    }
}

/// What, from, to, why, as the plan has it.
fn told<'a>(plan: &'a Plan, change: &Change) -> (String, Option<String>, String, &'a str) {
    let item = plan.items.iter().find(|item| item.change.as_ref() == Some(change));
    item.map_or((change.knob.to_string(), None, change.value.clone(), ""), |item| {
        (item.what.clone(), item.current.clone(), item.wanted.clone(), item.why)
    })
}

fn hold(path: &Path, us: u32) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    // A signed 32-bit number, in the machine's byte order; profiles say at most a second.
    file.write_all(&i32::try_from(us).unwrap_or(i32::MAX).to_ne_bytes())?;
    Ok(file)
}
