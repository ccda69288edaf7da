//! One node: containerd, vRouter, NRI plugin, pods.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_cri::v1::{ContainerState, PodSandboxConfig};

use crate::containerd::{Containerd, Version};
use crate::machine::{self, Hugepages, program};
use crate::pod::{Pod, log_name, log_text};
use crate::process::{Daemon, tail};
use crate::rundir::RunDir;
use crate::testpmd;
use crate::vrouter::{NetworkSpec, VRouter};
use crate::wait;

/// File name of the plugin in containerd's plugin directory.
const PLUGIN: &str = "10-ringway";
/// What containerd logs, beside the plugin's name, when it has accepted a plugin that connected to it.
const ACCEPTED: &str = " connected";
/// The plugin's defaults.
const VROUTER_TIMEOUT_MS: u32 = 1000;
const RUNTIME_TIMEOUT_MS: u32 = 2000;
/// Time for a command in a container, s.
const EXEC_S: u32 = 10;
/// Time for the plugin to register, and for containers to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the NRI plugin gets going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginStart {
    /// By itself, against `nri.sock`.
    External,
    /// By containerd, from its plugin directory.
    PreInstalled,
}

/// What a node is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// containerd line.
    pub version: Version,
    /// How the plugin is started.
    pub plugin: PluginStart,
    /// Networks of the vRouter.
    pub networks: Vec<NetworkSpec>,
    /// 2 MiB hugepages before anything starts; without any, the vRouter runs on ordinary pages.
    pub hugepages: Hugepages,
    /// More for the plugin's configuration, TOML that begins with a table.
    pub plugin_settings: &'static str,
    /// So many vRouters that share the networks; 0: one, which is not numbered.
    pub instances: u32,
    /// Their `[[instances]]`, and uplinks and networks besides, TOML; empty: all of the first NUMA node, each with one worker on a CPU of its
    /// own.
    pub instance_settings: String,
}

impl Setup {
    /// Two networks; hugepages for the vRouter and five DPDK pods.
    pub fn new(version: Version, plugin: PluginStart) -> Self {
        Self {
            version,
            plugin,
            networks: vec![
                NetworkSpec { name: "red", ipv4: "10.66.0.0/24", ipv6: Some("fd00:66::/64") },
                NetworkSpec { name: "blue", ipv4: "10.77.0.0/24", ipv6: None },
            ],
            hugepages: Hugepages::Free(512),
            plugin_settings: "",
            instances: 0,
            instance_settings: String::new(),
        }
    }
}

/// A pod that runs.
#[derive(Debug)]
pub struct RunningPod {
    /// What was asked for.
    pub pod: Pod,
    /// Sandbox id.
    pub sandbox: String,
    /// Container id.
    pub container: String,
    config: PodSandboxConfig,
    attempt: u32,
}

impl RunningPod {
    /// The cgroup that all its containers are below.
    pub fn cgroup(&self) -> &str {
        self.config.linux.as_ref().map_or("", |linux| &linux.cgroup_parent)
    }
}

/// A running node; dropping it ends and removes everything.
#[derive(Debug)]
pub struct Node {
    plugin: Option<Daemon>,
    vrouter: Option<VRouter>,
    /// Those of several that run, by number.
    instances: BTreeMap<u32, VRouter>,
    containerd: Option<Containerd>,
    setup: Setup,
    pods_started: u32,
    run: RunDir,
}

impl Node {
    /// Starts vRouter, containerd and plugin.
    pub fn start(setup: &Setup) -> Result<Self> {
        let run = RunDir::create()?;
        machine::prepare(&run.path(), setup.hugepages)?;
        let mut node = Self {
            plugin: None,
            vrouter: None,
            instances: BTreeMap::new(),
            containerd: None,
            setup: setup.clone(),
            pods_started: 0,
            run,
        };
        let step = |what: &str| {
            // There it takes minutes.
            if wait::slowness() > 1 {
                println!("    {what}");
            }
        };
        if setup.instances == 0 {
            step("starting the vRouter");
            node.start_vrouter()?;
        }
        for number in 0..setup.instances {
            step(&format!("starting vRouter {number}"));
            node.start_instance(number)?;
        }
        step("starting containerd");
        if setup.plugin == PluginStart::PreInstalled {
            node.install_plugin()?;
        }
        node.containerd = Some(Containerd::start(&node.run, setup.version)?);
        if setup.plugin == PluginStart::External {
            step("starting the plugin");
            node.start_plugin()?;
        }
        step("the node runs");
        Ok(node)
    }

    /// What it was made from.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Its directories.
    pub fn run(&self) -> &RunDir {
        &self.run
    }

    /// Its containerd.
    pub fn containerd(&self) -> Result<&Containerd> {
        self.containerd.as_ref().context("containerd is not running")
    }

    /// Its vRouter.
    pub fn vrouter(&self) -> Result<&VRouter> {
        self.vrouter.as_ref().context("the vRouter is not running")
    }

    /// All vRouters that run.
    pub fn vrouters(&self) -> impl Iterator<Item = &VRouter> {
        self.vrouter.iter().chain(self.instances.values())
    }

    /// Its vRouter, to do something to it.
    pub fn vrouter_mut(&mut self) -> Result<&mut VRouter> {
        self.vrouter.as_mut().context("the vRouter is not running")
    }

    /// One of several vRouters.
    pub fn instance(&self, number: u32) -> Result<&VRouter> {
        self.instances.get(&number).with_context(|| format!("vRouter {number} is not running"))
    }

    /// Starts one of several vRouters, for the first time or again.
    pub fn start_instance(&mut self, number: u32) -> Result<()> {
        let vrouter = VRouter::start_instance(&self.run, &self.setup, number)?;
        self.instances.insert(number, vrouter);
        Ok(())
    }

    /// Ends one of several vRouters as a crash would.
    pub fn crash_instance(&mut self, number: u32) -> Result<()> {
        let vrouter = self.instances.remove(&number);
        vrouter.with_context(|| format!("vRouter {number} is not running"))?.process().crash()
    }

    /// Ends containerd in order and starts it again; pods go on meanwhile. Returns when it answers and an external plugin is
    /// there again.
    pub fn restart_containerd(&mut self) -> Result<()> {
        let mut containerd = self.containerd.take().context("containerd is not running")?;
        containerd.process().stop(PATIENCE)?;
        drop(containerd);
        let before = self.plugins_accepted()?;
        self.containerd = Some(Containerd::start(&self.run, self.setup.version)?);
        if self.plugin.is_some() {
            wait::until("the plugin connects again", PATIENCE, || {
                Ok((self.plugins_accepted()? > before).then_some(()))
            })?;
        }
        Ok(())
    }

    /// How often containerd has accepted the plugin.
    fn plugins_accepted(&self) -> Result<usize> {
        let text = fs::read_to_string(self.run.path().join("containerd.log"))?;
        Ok(text.lines().filter(|it| it.contains(PLUGIN) && it.contains(ACCEPTED)).count())
    }

    /// Ends the vRouter as a crash would.
    pub fn crash_vrouter(&mut self) -> Result<()> {
        let mut vrouter = self.vrouter.take().context("the vRouter is not running")?;
        vrouter.process().crash()
    }

    /// Ends the vRouter in order.
    pub fn stop_vrouter(&mut self) -> Result<()> {
        let mut vrouter = self.vrouter.take().context("the vRouter is not running")?;
        let ended = vrouter.process().stop(PATIENCE)?;
        if !ended.success() {
            bail!("ringway-vrouter ended with {ended} after SIGTERM");
        }
        Ok(())
    }

    /// Starts the vRouter, for the first time or again.
    pub fn start_vrouter(&mut self) -> Result<()> {
        self.vrouter = Some(VRouter::start(&self.run, &self.setup)?);
        Ok(())
    }

    fn plugin_config(&self) -> String {
        let path = |path: PathBuf| path.display().to_string();
        let several = (0..self.setup.instances)
            .map(|number| format!("{:?}", path(VRouter::socket_of_instance(&self.run, number))));
        let several: Vec<_> = several.collect();
        format!(
            "run_dir = \"{}\"\nvrouter_socket = \"{}\"\nvrouter_sockets = [{}]\nnri_socket = \"{}\"\n\
             runtime_timeout_ms = {}\nvrouter_timeout_ms = {}\n{}",
            path(self.run.path()),
            path(VRouter::socket_of(&self.run)),
            several.join(", "),
            path(self.run.path().join("nri.sock")),
            RUNTIME_TIMEOUT_MS * wait::slowness(),
            VROUTER_TIMEOUT_MS * wait::slowness(),
            self.setup.plugin_settings,
        )
    }

    fn install_plugin(&self) -> Result<()> {
        let directory = Containerd::plugin_directory(&self.run);
        let configs = Containerd::plugin_config_directory(&self.run);
        fs::create_dir_all(&directory)?;
        fs::create_dir_all(&configs)?;
        fs::write(configs.join(format!("{PLUGIN}.conf")), self.plugin_config())?;
        let target = directory.join(PLUGIN);
        fs::copy(program("ringway-nri")?, &target)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Starts the external plugin and waits until containerd has accepted it.
    pub fn start_plugin(&mut self) -> Result<()> {
        self.start_plugin_at(&self.run.path().join("nri.sock"))
    }

    /// The same, connected by way of another socket, of somebody who passes everything on.
    pub fn start_plugin_at(&mut self, socket: &Path) -> Result<()> {
        let config = self.run.path().join("nri.toml");
        fs::write(&config, self.plugin_config())?;
        let before = self.plugins_accepted()?;
        let mut command = machine::daemon("ringway-nri")?;
        command.arg("--config").arg(&config).arg("--nri-socket").arg(socket);
        let mut plugin = Daemon::start("ringway-nri", command, &self.run.path().join("nri.log"))?;
        plugin.wait_for("containerd accepts it", PATIENCE, || {
            Ok((self.plugins_accepted()? > before).then_some(()))
        })?;
        self.plugin = Some(plugin);
        Ok(())
    }

    /// Ends the external plugin.
    pub fn stop_plugin(&mut self) -> Result<()> {
        let mut plugin = self.plugin.take().context("no external plugin is running")?;
        let ended = plugin.stop(PATIENCE)?;
        if !ended.success() {
            bail!("ringway-nri ended with {ended} after SIGTERM");
        }
        Ok(())
    }

    /// Ends the external plugin as a crash would.
    pub fn crash_plugin(&mut self) -> Result<()> {
        self.plugin.take().context("no external plugin is running")?.crash()
    }

    fn logs(&self) -> PathBuf {
        self.run.path().join("logs")
    }

    /// Starts a pod and its container. When that fails nothing of the pod is left.
    ///
    /// # Errors
    /// What CRI said, as kubelet would show it.
    pub fn start_pod(&mut self, pod: Pod) -> Result<RunningPod> {
        self.start_pod_in(pod, "")
    }

    /// The same with a runtime handler.
    ///
    /// # Errors
    /// See there.
    pub fn start_pod_in(&mut self, pod: Pod, handler: &str) -> Result<RunningPod> {
        self.pods_started += 1;
        let config = pod.sandbox(self.run.id(), &self.logs(), self.pods_started);
        let cri = &self.containerd()?.cri;
        let sandbox = cri.run_pod(&config, handler)?;
        let mut running = RunningPod { pod, sandbox, container: String::new(), config, attempt: 0 };
        match self.start_container(&mut running) {
            Ok(()) => Ok(running),
            Err(error) => {
                self.remove_sandbox(&running.sandbox)?;
                Err(error)
            }
        }
    }

    fn start_container(&self, running: &mut RunningPod) -> Result<()> {
        let cri = &self.containerd()?.cri;
        let container = running.pod.container(running.attempt);
        running.container = cri.create(&running.sandbox, &running.config, &container)?;
        cri.start(&running.container)
    }

    /// Ends the container and starts a new one in the same sandbox with another command, as kubelet restarts a container.
    pub fn restart(&self, running: &mut RunningPod, command: Vec<String>) -> Result<()> {
        self.containerd()?.cri.stop(&running.container, 10)?;
        running.pod.command = command;
        running.attempt += 1;
        self.start_container(running)
    }

    /// Starts the sandbox of a pod and no container.
    pub fn start_sandbox(&mut self, pod: Pod) -> Result<RunningPod> {
        self.pods_started += 1;
        let config = pod.sandbox(self.run.id(), &self.logs(), self.pods_started);
        let sandbox = self.containerd()?.cri.run_pod(&config, "")?;
        Ok(RunningPod { pod, sandbox, container: String::new(), config, attempt: 0 })
    }

    /// Creates and starts one more container in a pod; gives its id.
    pub fn add_container(&self, running: &RunningPod, name: &str, attempt: u32) -> Result<String> {
        let cri = &self.containerd()?.cri;
        let container = running.pod.container_named(name, attempt);
        let id = cri.create(&running.sandbox, &running.config, &container)?;
        cri.start(&id)?;
        Ok(id)
    }

    /// Stops and removes a pod.
    pub fn delete(&self, running: &RunningPod) -> Result<()> {
        self.remove_sandbox(&running.sandbox)
    }

    fn remove_sandbox(&self, sandbox: &str) -> Result<()> {
        let cri = &self.containerd()?.cri;
        for container in cri.containers(sandbox)? {
            // Kubelet's grace; the applications of the tests end at once.
            cri.stop(&container, 10)?;
            cri.remove(&container)?;
        }
        cri.stop_pod(sandbox)?;
        cri.remove_pod(sandbox)
    }

    /// Process id of the container's first process.
    pub fn pid(&self, running: &RunningPod) -> Result<u32> {
        let status = self.containerd()?.cri.status(&running.container)?;
        if status.pid == 0 {
            bail!("{} is not running:\n{}", running.pod.name, self.log(running)?);
        }
        Ok(status.pid)
    }

    /// What the container has printed.
    pub fn log(&self, running: &RunningPod) -> Result<String> {
        let path = self.logs().join(&running.pod.name).join(log_name(running.attempt));
        match fs::read_to_string(&path) {
            Ok(raw) => Ok(log_text(&raw)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Hands a command to the testpmd of a pod.
    pub fn tell(&self, running: &RunningPod, line: &str) -> Result<()> {
        let command = testpmd::tell(line);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let output = self.containerd()?.cri.exec(
            &running.container,
            &words,
            i64::from(EXEC_S * wait::slowness()),
        )?;
        if output.code != 0 {
            bail!("cannot tell {} to {line}: {}", running.pod.name, output.stderr);
        }
        Ok(())
    }

    /// Waits until the container has ended; gives its exit code.
    pub fn wait_end(&self, running: &RunningPod) -> Result<i32> {
        let cri = &self.containerd()?.cri;
        wait::until(&format!("{} ends", running.pod.name), PATIENCE, || {
            let status = cri.status(&running.container)?;
            Ok((status.state == ContainerState::ContainerExited).then_some(status.exit_code))
        })
        .with_context(|| self.log(running).unwrap_or_default())
    }

    /// Tells testpmd to quit and gives its counters between `start` and `stop`.
    pub fn quit(&self, running: &RunningPod) -> Result<testpmd::Counters> {
        self.tell(running, "quit")?;
        self.wait_end(running)?;
        testpmd::counters(&self.log(running)?).with_context(|| {
            format!("log of {}:\n{}", running.pod.name, self.log(running).unwrap_or_default())
        })
    }

    /// The ends of the daemons' logs, for whoever must find out why something failed.
    pub fn log_ends(&self) -> String {
        let mut text = String::new();
        let names = ["vrouter.log", "vrouter-0.log", "vrouter-1.log", "nri.log", "containerd.log"];
        for name in names {
            let path = self.run.path().join(name);
            if path.exists() {
                text.push_str(&format!("--- end of {name}\n{}\n", tail(&path, 40)));
            }
        }
        text
    }

    /// Leaves everything running when dropped.
    pub fn keep(&mut self) {
        self.run.keep();
        if let Some(plugin) = &mut self.plugin {
            plugin.detach();
        }
        if let Some(vrouter) = &mut self.vrouter {
            vrouter.process().detach();
        }
        for vrouter in self.instances.values_mut() {
            vrouter.process().detach();
        }
        if let Some(containerd) = &mut self.containerd {
            containerd.process().detach();
        }
    }

    fn remove_pods(&self) -> Result<()> {
        let Some(containerd) = &self.containerd else { return Ok(()) };
        for sandbox in containerd.cri.pods()? {
            self.remove_sandbox(&sandbox)?;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.run.is_kept() {
            return;
        }
        // In order while everything still works; what is left after a failure, the run directory sweeps.
        if let Err(error) = self.remove_pods() {
            eprintln!("clean-up: cannot remove the pods in order: {error:#}");
        }
    }
}
