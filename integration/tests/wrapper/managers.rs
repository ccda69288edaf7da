//! podman and Docker, each without a service of the machine, and the steps that every manager takes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::device::Device;
use integration::machine::repository;
use integration::node::Node;
use integration::process::Daemon;
use integration::wrapper::{
    self, Application, CONFIG_VARIABLE, command, expect, fail, held, manager, run, sender,
    wait_nothing_left, wrapper,
};
use integration::{image, testpmd};

use crate::bare::{NOTICED, idle};
use crate::ctr::{PACKETS, annotations};
use integration::stage::Stage;

/// Time for dockerd to answer.
const START: Duration = Duration::from_secs(60);

/// How a manager is told what a container asks for, and started.
pub struct Manager<'a> {
    /// A command line up to its verb.
    pub line: &'a dyn Fn() -> Result<Command>,
    /// Between `run` and the image.
    pub options: Vec<String>,
    /// `--annotation` or `--label`.
    pub tell: &'static str,
    /// Whether the value of that option is a line of CSV.
    pub csv: bool,
    /// The container's id for the runtime.
    pub id_of: &'a dyn Fn(&str) -> Result<String>,
}

impl Manager<'_> {
    pub fn start(&self, name: &str, asks: &[(&str, String)], words: &[String]) -> Result<Command> {
        let mut line = (self.line)()?;
        line.args(["run", "--detach", "--name", name]).args(&self.options);
        for (key, value) in asks {
            let text = format!("{key}={value}");
            let quoted = format!("\"{}\"", text.replace('"', "\"\""));
            line.arg(self.tell).arg(if self.csv { quoted } else { text });
        }
        // The image's own entry point would get the words.
        let (program, rest) = words.split_first().context("no words")?;
        line.args(["--entrypoint", program, image::TESTPMD]).args(rest);
        Ok(line)
    }

    pub fn application(
        &self,
        node: &Node,
        name: &str,
        ip: &str,
        words: &[String],
    ) -> Result<Application> {
        run(&mut self.start(name, &annotations(ip), words)?)?;
        let again = |words: &[&str]| -> Result<Box<dyn Fn() -> Command>> {
            let mut line = (self.line)()?;
            line.args(words);
            Ok(Box::new(move || copy(&line)))
        };
        let exec = again(&["exec", name, "/bin/sh", "-c"])?;
        let logs = again(&["logs", name])?;
        Application::up(
            node,
            &(self.id_of)(name)?,
            Box::new(move |script| run(exec().arg(script)).map(drop)),
            Box::new(move || run(&mut logs())),
        )
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        run((self.line)()?.args(["rm", "--force", name])).map(drop)
    }

    /// Two containers talk, one is plain, one is refused and says why.
    pub fn every_step(&self, node: &Node) -> Result<()> {
        let listen = testpmd::command(&testpmd::Role::Receive);
        let receiver = self.application(node, "receives", "10.66.0.70", &listen)?;
        let words = sender(node, "red", "10.66.0.71", "10.66.0.70")?;
        let sender = self.application(node, "sends", "10.66.0.71", &words)?;
        let outcome = wrapper::traffic(node, &sender, &receiver, PACKETS)?;
        println!("    {outcome:?}");
        for name in ["receives", "sends"] {
            self.remove(name)?;
        }
        wait_nothing_left(node, NOTICED)?;

        run(&mut self.start("plain", &[], &idle())?)?;
        ensure!(held(node)?.is_empty(), "{:?}", held(node)?);
        self.remove("plain")?;
        let lost = [("network.ringway.dev", "green".to_owned())];
        // nerdctl prints it as a quoted field.
        let text = fail(&mut self.start("lost", &lost, &idle())?)?.replace("\\\"", "\"");
        println!("    {text}");
        expect(&text, &["ringway: ", "\"green\"", "does not exist"])?;
        self.remove("lost")?;
        wait_nothing_left(node, NOTICED)
    }
}

fn copy(line: &Command) -> Command {
    let mut copy = Command::new(line.get_program());
    copy.args(line.get_args());
    for (key, value) in line.get_envs() {
        if let Some(value) = value {
            copy.env(key, value);
        }
    }
    copy
}

/// The wrapper for managers that start it with an environment of their own: a script that names its configuration, as an operator's
/// /etc/ringway/runtime.toml would be found by itself.
fn script(node: &Node) -> Result<PathBuf> {
    let file = node.run().disk().join("ringway-runtime");
    let text = format!(
        "#!/bin/sh\nexport {CONFIG_VARIABLE}={} LD_LIBRARY_PATH=\nexec {} \"$@\"\n",
        node.run().path().join("runtime.toml").display(),
        wrapper()?.display(),
    );
    fs::write(&file, text)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}

fn archive(node: &Node) -> Result<PathBuf> {
    let file = node.run().disk().join("managers.tar");
    image::write_testpmd(&file)?;
    Ok(file)
}

/// podman with everything of its own, but for the runtime.
struct Podman<'a> {
    node: &'a Node,
    home: PathBuf,
    settings: PathBuf,
    runtime: PathBuf,
}

impl<'a> Podman<'a> {
    /// Also loads the image.
    fn start(node: &'a Node, runtime: PathBuf) -> Result<Self> {
        let disk = node.run().disk().join("podman");
        let home = disk.join("home");
        fs::create_dir_all(home.join(".config/containers"))?;
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(home.join(".config/containers/policy.json"), policy)?;
        let settings = disk.join("containers.conf");
        fs::write(
            &settings,
            "[engine]\nevents_logger = \"file\"\n[network]\nnetwork_backend = \"cni\"\n",
        )?;
        let podman = Self { node, home, settings, runtime };
        let archive = archive(node)?;
        run(podman.line()?.args(["load", "--input"]).arg(&archive))?;
        fs::remove_file(&archive)?;
        Ok(podman)
    }

    fn line(&self) -> Result<Command> {
        let (disk, run) =
            (self.node.run().disk().join("podman"), self.node.run().path().join("podman"));
        let mut line = command(self.node, manager("podman").map_err(anyhow::Error::msg)?)?;
        line.env("HOME", &self.home).env("CONTAINERS_CONF", &self.settings);
        line.arg("--root").arg(disk.join("root")).arg("--runroot").arg(run.join("root"));
        line.arg("--tmpdir").arg(run.join("tmp")).arg("--runtime").arg(&self.runtime);
        line.arg("--conmon").arg(manager("conmon").map_err(anyhow::Error::msg)?);
        line.args(["--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"]);
        Ok(line)
    }

    fn options(&self) -> Vec<String> {
        let parent = format!("/{}/podman", self.node.run().id());
        let profile = repository().join("target/managers/usr/share/containers/seccomp.json");
        let profile = format!("seccomp={}", profile.display());
        // Without CAP_SYS_RESOURCE (a test machine in a container) podman's own limits cannot be set.
        let options = [
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
            "--network",
            "none",
            "--log-driver",
            "k8s-file",
            "--cgroup-parent",
            &parent,
            "--security-opt",
            &profile,
        ];
        options.map(str::to_owned).to_vec()
    }
}

pub fn podman(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let podman = Podman::start(node, script(node)?)?;
    let line = || podman.line();
    let id_of = |name: &str| -> Result<String> {
        let id = run(line()?.args(["inspect", "--format", "{{.Id}}", name]))?;
        Ok(id.trim().to_owned())
    };
    let options = podman.options();
    Manager { line: &line, options, tell: "--annotation", csv: true, id_of: &id_of }
        .every_step(node)
}

/// A device by CDI, with the plain runtime: its interface is there before and after the container, and one container has it at a time.
pub fn podman_with_cdi(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    // podman 4.3 looks nowhere else.
    let device = Device::make(node, Path::new("/var/run/cdi"), "podman")?;
    let podman = Podman::start(node, PathBuf::from("runc"))?;
    let start = |name: &str| -> Result<Command> {
        let mut line = podman.line()?;
        line.args(["run", "--detach", "--name", name, "--device", &device.reference()]);
        // The default profile refuses what EAL needs to place memory; only the wrapper changes that.
        let options = podman.options();
        line.args(options.iter().filter(|option| !option.starts_with("seccomp=")).map(|option| {
            if option == "--security-opt" { "--security-opt=seccomp=unconfined" } else { option }
        }));
        let words = testpmd::command(&testpmd::Role::Receive);
        let (program, rest) = words.split_first().context("no words")?;
        line.args(["--entrypoint", program, image::TESTPMD]).args(rest);
        Ok(line)
    };
    run(&mut start("first")?)?;
    device.wait_up(node)?;
    let text = fail(&mut start("second")?)?;
    println!("    {text}");
    expect(&text, &["in use by the container"])?;
    for name in ["first", "second"] {
        run(podman.line()?.args(["rm", "--force", "--time", "1", name]))?;
    }
    device.wait_down(node)?;
    run(&mut start("third")?)?;
    device.wait_up(node)?;
    let text = device.refuses_to_go(node)?;
    expect(&text, &["in use by the container"])?;
    run(podman.line()?.args(["rm", "--force", "--time", "1", "third"]))?;
    device.delete(node)?;
    wait_nothing_left(node, NOTICED)
}

pub fn docker(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let _dockerd = dockerd(node)?;
    let line = || docker_line(node);
    let archive = archive(node)?;
    run(line()?.args(["load", "--input"]).arg(&archive))?;
    fs::remove_file(&archive)?;
    let id_of = |name: &str| -> Result<String> {
        let id = run(line()?.args(["inspect", "--format", "{{.Id}}", name]))?;
        Ok(id.trim().to_owned())
    };
    let options = ["--runtime", "ringway", "--network", "none"];
    let options = options.map(str::to_owned).to_vec();
    // Docker 20.10 has no option for annotations.
    Manager { line: &line, options, tell: "--label", csv: false, id_of: &id_of }.every_step(node)
}

fn docker_line(node: &Node) -> Result<Command> {
    let mut line = command(node, manager("docker").map_err(anyhow::Error::msg)?)?;
    line.env("HOME", node.run().disk()).arg("--host");
    line.arg(format!("unix://{}", docker_socket(node).display()));
    Ok(line)
}

fn docker_socket(node: &Node) -> PathBuf {
    node.run().path().join("docker.sock")
}

/// Docker with a containerd of its own: Debian 12's.
fn dockerd(node: &Node) -> Result<Daemon> {
    let (disk, run_path) = (node.run().disk(), node.run().path());
    let mut line = command(node, manager("dockerd").map_err(anyhow::Error::msg)?)?;
    let own = repository().join("target/managers/containerd-1.6/usr/bin");
    let path = line.get_envs().find(|it| it.0 == "PATH").and_then(|it| it.1).unwrap_or_default();
    let path: Vec<_> = [own].into_iter().chain(std::env::split_paths(path)).collect();
    line.env("PATH", std::env::join_paths(path)?).env("HOME", &disk);
    let settings = disk.join("daemon.json");
    fs::write(&settings, "{}")?;
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    line.arg(option("config-file", &settings));
    line.arg(option("data-root", &disk.join("docker")));
    line.arg(option("exec-root", &run_path.join("docker")));
    line.arg(option("pidfile", &run_path.join("docker.pid")));
    line.arg(format!("--host=unix://{}", docker_socket(node).display()));
    line.arg(format!("--add-runtime=ringway={}", script(node)?.display()));
    line.arg(format!("--cgroup-parent=/{}/docker", node.run().id()));
    line.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
    line.args(["--storage-driver=vfs", "--exec-opt=native.cgroupdriver=cgroupfs"]);
    let mut daemon = Daemon::start("dockerd", line, &run_path.join("docker.log"))?;
    daemon.wait_for("Docker answers", START, || {
        Ok(docker_line(node)?.arg("version").output()?.status.success().then_some(()))
    })?;
    Ok(daemon)
}
