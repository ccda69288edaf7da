//! Containers that no CRI stands behind: started by ctr, Docker, podman or by a runtime alone, through `ringway-runtime`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nri_plugin_api::v1::{Held, ListRequest};

use crate::image;
use crate::machine::{program, repository};
use crate::node::Node;
use crate::process::tail;
use crate::rundir::RunDir;
use crate::testpmd::{self, Counters};
use crate::traffic::{Outcome, Received};
use crate::wait::{self, runtime};

/// Where the wrapper looks for the name of its configuration file.
pub const CONFIG_VARIABLE: &str = "RINGWAY_RUNTIME_CONFIG";
/// Time for a container to go, and for packets to flow; containers and vRouter may share two CPUs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes the wrapper's configuration of a run; gives its name.
pub fn write_config(run: &RunDir) -> Result<PathBuf> {
    let file = run.path().join("runtime.toml");
    fs::write(&file, format!("run_dir = \"{}\"\n", run.path().display()))?;
    Ok(file)
}

/// The wrapper, built.
pub fn wrapper() -> Result<PathBuf> {
    program("ringway-runtime")
}

/// A program of a container manager, as the set-up unpacked it, or why there is none.
pub fn manager(name: &str) -> Result<PathBuf, String> {
    let root = repository().join("target/managers");
    let places = ["usr/bin", "usr/sbin", "bin"].map(|it| root.join(it).join(name));
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| format!("{name} is not in {}; run `make setup`", root.display()))
}

/// A command that finds what the set-up unpacked, the wrapper's configuration, and nothing of another installation.
pub fn command(node: &Node, program: impl AsRef<Path>) -> Result<Command> {
    let managers = repository().join("target/managers");
    let mut path = vec![managers.join("usr/bin"), managers.join("usr/sbin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new(program.as_ref());
    command.env("PATH", std::env::join_paths(path)?);
    command.env("LD_LIBRARY_PATH", managers.join("usr/lib/x86_64-linux-gnu"));
    command.env(CONFIG_VARIABLE, node.run().path().join("runtime.toml"));
    command.stdin(Stdio::null());
    Ok(command)
}

/// Runs a command to its end.
///
/// # Errors
/// When it fails: with all it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = finish(command)?;
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, said(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command that has to fail; gives all it printed.
///
/// # Errors
/// When it succeeds.
pub fn fail(command: &mut Command) -> Result<String> {
    let output = finish(command)?;
    ensure!(!output.status.success(), "{command:?} did not fail: {}", said(&output));
    Ok(said(&output))
}

fn finish(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_owned();
    command.output().with_context(|| format!("cannot run {}", program.display()))
}

fn said(output: &Output) -> String {
    let all = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it).into_owned());
    all.concat().trim().to_owned()
}

/// What the plugin holds for containers of the wrapper.
pub fn held(node: &Node) -> Result<Vec<Held>> {
    let socket = node.run().path().join(nri_plugin_api::SOCKET);
    runtime()?.block_on(async {
        let mut client = nri_plugin_api::connect(&socket).await?;
        let answer = client.list(ListRequest {}).await;
        Ok(answer
            .map_err(|status| anyhow::anyhow!("{}", status.message()))?
            .into_inner()
            .containers)
    })
}

/// Waits until nothing is left of any container of the wrapper: records, directories, ports.
pub fn wait_nothing_left(node: &Node, limit: Duration) -> Result<()> {
    let mut left = String::new();
    wait::until("nothing is left of the containers", limit, || {
        let held = held(node)?;
        let ports = node.vrouter()?.ports()?;
        let pods = node.run().path().join("pods");
        let names = fs::read_dir(&pods).with_context(|| pods.display().to_string())?;
        let directories: Vec<_> = names.flatten().map(|it| it.file_name()).collect();
        left = format!("{held:?} {ports:?} {directories:?}");
        Ok((held.is_empty() && ports.is_empty() && directories.is_empty()).then_some(()))
    })
    .with_context(|| format!("left: {left}"))
}

/// Hands a shell command to a container.
pub type Exec = Box<dyn Fn(&str) -> Result<()>>;
/// Gives what a container has printed.
pub type Log = Box<dyn Fn() -> Result<String>>;

/// A container of the wrapper that runs testpmd.
pub struct Application {
    /// For people.
    pub name: String,
    /// What the plugin holds for it.
    pub held: Held,
    /// Hands a shell command to it.
    pub exec: Exec,
    /// What it has printed.
    pub log: Log,
}

impl Application {
    /// The container with this id, once the vRouter has its connection.
    pub fn up(node: &Node, id: &str, exec: Exec, log: Log) -> Result<Self> {
        let held = held_of(node, id)?;
        node.vrouter()?
            .wait_up(&held.sandbox, PATIENCE)
            .with_context(|| format!("log of {id}:\n{}", log().unwrap_or_default()))?;
        Ok(Self { name: id.to_owned(), held, exec, log })
    }

    /// The address of its first interface.
    pub fn address(&self) -> Result<&str> {
        Ok(&self.held.interfaces.first().context("no interface")?.ipv4)
    }

    fn port(&self, node: &Node) -> Result<String> {
        Ok(node.vrouter()?.port(&self.held.sandbox)?.spec.unwrap_or_default().id)
    }

    /// Hands a command to its testpmd.
    pub fn tell(&self, line: &str) -> Result<()> {
        let words = testpmd::tell(line);
        let script = words.last().context("no command")?;
        (self.exec)(script).with_context(|| format!("cannot tell {} to {line}", self.name))
    }

    fn quit(&self) -> Result<Counters> {
        self.tell("quit")?;
        let mut last = String::new();
        wait::until(&format!("testpmd of {} has ended", self.name), PATIENCE, || {
            last = (self.log)()?;
            Ok(last.contains("Bye...").then_some(()))
        })
        .with_context(|| format!("log of {}:\n{last}", self.name))?;
        testpmd::counters(&last).with_context(|| format!("log of {}:\n{last}", self.name))
    }
}

/// What the plugin holds for the container with this id.
pub fn held_of(node: &Node, id: &str) -> Result<Held> {
    let all = held(node)?;
    let found = all.iter().find(|held| held.id == id).cloned();
    found.with_context(|| format!("the plugin holds nothing for {id}, but {all:?}"))
}

/// The shell command of a sender with a fixed address. The gateway's MAC address is the vRouter's.
pub fn sender(node: &Node, network: &str, from: &str, to: &str) -> Result<Vec<String>> {
    let gateway_mac = node.vrouter()?.network(network)?.gateway_mac;
    let role = testpmd::Role::Send { from: from.to_owned(), to: to.to_owned(), gateway_mac };
    Ok(testpmd::command(&role))
}

/// Sends until `packets` were delivered, and accounts for every one. Both applications have ended afterwards.
pub fn traffic(
    node: &Node,
    sender: &Application,
    receiver: &Application,
    packets: u64,
) -> Result<Outcome> {
    let vrouter = node.vrouter()?;
    let (from, to) = (sender.port(node)?, receiver.port(node)?);
    receiver.tell("start")?;
    sender.tell("start")?;
    wait::until(&format!("{packets} packets reach {}", receiver.name), PATIENCE, || {
        Ok((vrouter.port_stats(&to)?.tx_packets >= packets).then_some(()))
    })?;
    sender.tell("stop")?;
    let stats = vrouter.settled_stats(PATIENCE)?;
    receiver.tell("stop")?;
    let of = |id: &str| {
        stats.iter().find(|it| it.id == id).cloned().with_context(|| format!("no counters of {id}"))
    };
    let (sent, got) = (of(&from)?, of(&to)?);
    let received = Received { vrouter_tx: got.tx_packets, received: receiver.quit()?.rx_packets };
    let outcome = Outcome {
        from: sender.name.clone(),
        to: receiver.address()?.to_owned(),
        sent: sender.quit()?.tx_packets,
        vrouter_rx: sent.rx_packets,
        drops: sent.drops.iter().map(|it| (it.reason.clone(), it.packets)).collect(),
        receivers: [(receiver.name.clone(), received)].into(),
    };
    outcome.check()?;
    Ok(outcome)
}

/// A mounted file system of the testpmd image, for runtimes without a manager.
pub fn root_file_system(node: &Node) -> Result<PathBuf> {
    let target = node.run().disk().join("rootfs");
    if !target.exists() {
        fs::create_dir_all(&target)?;
        let mut mount = ctr(node)?;
        mount.args(["images", "mount", "--rw", image::TESTPMD]).arg(&target);
        run(&mut mount)?;
    }
    Ok(target)
}

/// ctr, for the containerd of the node and the namespace its images are in.
pub fn ctr(node: &Node) -> Result<Command> {
    let containerd = node.containerd()?;
    let mut command = command(node, containerd.version().program("ctr"))?;
    command.arg("--address").arg(containerd.socket()).args(["--namespace", "k8s.io"]);
    Ok(command)
}

/// Makes a bundle with the configuration that `runc spec` proposes, as far as `edit` leaves it.
pub fn bundle(
    node: &Node,
    name: &str,
    words: &[String],
    edit: impl FnOnce(&mut serde_json::Value),
) -> Result<PathBuf> {
    let directory = node.run().disk().join("bundles").join(name);
    fs::create_dir_all(&directory)?;
    let file = directory.join("config.json");
    if file.exists() {
        fs::remove_file(&file)?;
    }
    run(command(node, "runc")?.arg("spec").arg("--bundle").arg(&directory))?;
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = words.into();
    config["root"]["path"] = root_file_system(node)?.display().to_string().into();
    config["linux"]["cgroupsPath"] = format!("/{}/bare/{name}", node.run().id()).into();
    edit(&mut config);
    fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
    Ok(directory)
}

/// The end of a file, for messages.
pub fn end_of(path: &Path) -> String {
    tail(path, 30)
}

/// Fails unless every word is in the text.
pub fn expect(text: &str, words: &[&str]) -> Result<()> {
    match words.iter().find(|word| !text.contains(**word)) {
        Some(word) => bail!("no {word:?} in: {text}"),
        None => Ok(()),
    }
}
