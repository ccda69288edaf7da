//! ctr, with every containerd line.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::containerd::Version;
use integration::demo::dpdk_pod;
use integration::machine::repository;
use integration::node::{Node, PluginStart, Setup};
use integration::process::Daemon;
use integration::traffic::UP;
use integration::wrapper::{self, Application, expect, fail, held, run, sender, wait_nothing_left};
use integration::{containerd, image, testpmd, wait};

use crate::bare::{NOTICED, idle};
use integration::stage::Stage;

/// Enough for every ring to wrap many times.
pub const PACKETS: u64 = 50_000;
/// Time for a daemon to answer.
const START: Duration = Duration::from_secs(60);

/// Annotations of a DPDK container in network red with a fixed address.
pub fn annotations(ip: &str) -> [(&'static str, String); 2] {
    [
        ("interfaces.ringway.dev", format!(r#"[{{"network": "red", "ip": "{ip}"}}]"#)),
        ("hugepages-2mi.ringway.dev", "64Mi".to_owned()),
    ]
}

/// Starts a container in the background.
fn start(
    mut ctr: Command,
    node: &Node,
    id: &str,
    annotations: &[(&str, String)],
    options: &[&str],
    words: &[String],
) -> Result<Command> {
    let log = node.run().path().join(format!("{id}.log"));
    ctr.args(["run", "--detach", "--log-uri"]).arg(format!("file://{}", log.display()));
    ctr.arg("--cgroup").arg(format!("/{}/ctr/{id}", node.run().id()));
    self::options(&mut ctr, node, annotations)?;
    ctr.args(options).arg(image::TESTPMD).arg(id).args(words);
    Ok(ctr)
}

/// What every container of these tests has.
fn options(ctr: &mut Command, node: &Node, annotations: &[(&str, String)]) -> Result<()> {
    ctr.arg("--runc-binary").arg(wrapper::wrapper()?);
    ctr.arg("--runc-root").arg(node.run().path().join("runc-ctr"));
    for (key, value) in annotations {
        ctr.arg("--annotation").arg(format!("{key}={value}"));
    }
    Ok(())
}

fn application(
    node: &Node,
    ctr: fn(&Node) -> Result<Command>,
    id: &str,
    annotations: &[(&str, String)],
    options: &[&str],
    words: &[String],
) -> Result<Application> {
    run(&mut start(ctr(node)?, node, id, annotations, options, words)?)?;
    let log = node.run().path().join(format!("{id}.log"));
    let mut line = ctr(node)?;
    line.args(["tasks", "exec", "--exec-id", "tell", id, "/bin/sh", "-c"]);
    let (program, start): (_, Vec<_>) =
        (line.get_program().to_owned(), line.get_args().map(ToOwned::to_owned).collect());
    let exec = move |script: &str| run(Command::new(&program).args(&start).arg(script)).map(drop);
    let log = move || Ok(fs::read_to_string(&log)?);
    Application::up(node, id, Box::new(exec), Box::new(log))
}

/// Ends and removes a container.
fn remove(node: &Node, ctr: fn(&Node) -> Result<Command>, id: &str) -> Result<()> {
    // Fails where it has ended by itself.
    let _ = ctr(node)?.args(["tasks", "kill", "--signal", "KILL", id]).output()?;
    wait::until(&format!("{id} can be deleted"), NOTICED, || {
        let output = ctr(node)?.args(["tasks", "delete", id]).output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.success() || text.contains("not found")).then_some(()))
    })?;
    run(ctr(node)?.args(["containers", "delete", id])).map(drop)
}

pub fn traffic(stage: &mut Stage, version: Version) -> Result<()> {
    let node = stage.node(&Setup::new(version, PluginStart::External))?;
    every_step(node, wrapper::ctr)
}

/// Two containers talk; then everything that can be refused.
fn every_step(node: &Node, ctr: fn(&Node) -> Result<Command>) -> Result<()> {
    let listen = testpmd::command(&testpmd::Role::Receive);
    let receiver = application(node, ctr, "receives", &annotations("10.66.0.50"), &[], &listen)?;
    let words = sender(node, "red", "10.66.0.51", "10.66.0.50")?;
    let sender = application(node, ctr, "sends", &annotations("10.66.0.51"), &[], &words)?;
    ensure!(sender.address()? == "10.66.0.51", "{:?}", sender.held);
    ensure!(sender.held.namespace == "k8s.io", "{:?}", sender.held);
    let outcome = wrapper::traffic(node, &sender, &receiver, PACKETS)?;
    println!("    {outcome:?}");
    for id in ["receives", "sends"] {
        remove(node, ctr, id)?;
    }
    wait_nothing_left(node, NOTICED)?;

    // A plain one beside; one that is refused says why.
    run(&mut start(ctr(node)?, node, "plain", &[], &[], &idle())?)?;
    ensure!(held(node)?.is_empty(), "{:?}", held(node)?);
    let lost = [("network.ringway.dev", "green".to_owned())];
    let text = fail(&mut start(ctr(node)?, node, "lost", &lost, &[], &idle())?)?;
    println!("    {text}");
    expect(&text, &["ringway: ", "\"green\"", "does not exist"])?;
    remove(node, ctr, "plain")?;
    let _ = ctr(node)?.args(["containers", "delete", "lost"]).output()?;
    wait_nothing_left(node, NOTICED)
}

/// Labels of nerdctl's containers are in containerd alone; ctr makes some that look so. (Its own `--label` makes annotations, too.)
pub fn labels(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    for (id, annotations) in
        [("labelled", &[("nerdctl/name", "web".to_owned())][..]), ("others", &[])]
    {
        let mut line = wrapper::ctr(node)?;
        line.args(["containers", "create"]);
        options(&mut line, node, annotations)?;
        run(line.arg(image::TESTPMD).arg(id).args(idle()))?;
        let label = ["containers", "label", id, "network.ringway.dev=red"];
        run(wrapper::ctr(node)?.args(label))?;
        let log = format!("file://{}", node.run().path().join(id).display());
        run(wrapper::ctr(node)?.args(["tasks", "start", "--detach", "--log-uri", &log, id]))?;
    }
    // What is not nerdctl's is not asked for.
    let held = held(node)?;
    ensure!(held.len() == 1 && held[0].pod == "web" && held[0].id == "labelled", "{held:?}");
    remove(node, wrapper::ctr, "labelled")?;
    remove(node, wrapper::ctr, "others")?;
    // `containers create` has no option for a cgroup of the run; what is not empty is somebody else's.
    for hierarchy in fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let _ = fs::remove_dir(hierarchy.path().join("k8s.io"));
    }
    wait_nothing_left(node, NOTICED)
}

/// A pod that the plugin has served is started by the wrapper: it is served once.
pub fn cri(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let pod = node.start_pod_in(dpdk_pod("twice", "red"), containerd::WRAPPED)?;
    node.vrouter()?.wait_up(&pod.sandbox, UP)?;
    let ports = node.vrouter()?.ports()?;
    ensure!(ports.len() == 1 && held(node)?.is_empty(), "{ports:?} {:?}", held(node)?);
    node.delete(&pod)?;
    wait_nothing_left(node, NOTICED)
}

/// A program of Debian 12's own containerd, which has no NRI.
pub fn old_program(name: &str) -> Result<PathBuf, String> {
    let path = repository().join("target/managers/containerd-1.6/usr/bin").join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is missing; run `make setup`", path.display()))
    }
}

fn old_ctr(node: &Node) -> Result<Command> {
    let program = old_program("ctr").map_err(anyhow::Error::msg)?;
    let mut command = wrapper::command(node, program)?;
    command.arg("--address").arg(node.run().path().join("old.sock"));
    command.args(["--namespace", "k8s.io"]);
    Ok(command)
}

/// A containerd without NRI, on a node whose plugin serves another one.
pub fn old(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let _containerd = old_containerd(node)?;
    every_step(node, old_ctr)
}

fn old_containerd(node: &Node) -> Result<Daemon> {
    let (run_path, disk) = (node.run().path(), node.run().disk());
    let config = run_path.join("old.toml");
    let text = format!(
        "version = 2\nroot = \"{disk}/old\"\nstate = \"{run}/old\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
         \"io.containerd.internal.v1.opt\", \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.btrfs\", \
         \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.zfs\"]\n\
         [grpc]\naddress = \"{run}/old.sock\"\n[ttrpc]\naddress = \"{run}/old.ttrpc\"\n",
        disk = disk.display(),
        run = run_path.display(),
    );
    fs::write(&config, text)?;
    let program = old_program("containerd").map_err(anyhow::Error::msg)?;
    let directory = program.parent().context("no directory")?.to_owned();
    let mut command = wrapper::command(node, &program)?;
    let path = command.get_envs().find(|it| it.0 == "PATH").and_then(|it| it.1).unwrap_or_default();
    // Its own shim before any other.
    let path: Vec<_> = [directory].into_iter().chain(std::env::split_paths(path)).collect();
    command.env("PATH", std::env::join_paths(path)?).arg("--config").arg(&config);
    let mut daemon = Daemon::start("containerd 1.6", command, &run_path.join("old.log"))?;
    daemon.wait_for("containerd 1.6 answers", START, || {
        Ok(old_ctr(node)?.arg("version").output()?.status.success().then_some(()))
    })?;
    let archive = node.run().disk().join("old.tar");
    image::write_testpmd(&archive)?;
    run(old_ctr(node)?.args(["images", "import"]).arg(&archive))?;
    fs::remove_file(&archive)?;
    Ok(daemon)
}

/// Starts a container with ctr that does nothing; for other tests.
pub fn start_idle(node: &Node, id: &str, annotations: &[(&str, String)]) -> Result<()> {
    run(&mut start(wrapper::ctr(node)?, node, id, annotations, &[], &idle())?).map(drop)
}

/// Starts a receiver with further options of `ctr run`; for other tests.
pub fn start_receiver(node: &Node, id: &str, ip: &str, options: &[&str]) -> Result<Application> {
    let words = testpmd::command(&testpmd::Role::Receive);
    application(node, wrapper::ctr, id, &annotations(ip), options, &words)
}

/// Starts a sender; for other tests.
pub fn start_sender(node: &Node, id: &str, ip: &str, words: &[String]) -> Result<Application> {
    application(node, wrapper::ctr, id, &annotations(ip), &[], words)
}

/// Tries to start a container with ctr that has to be refused; gives what ctr prints.
pub fn refused(node: &Node, id: &str, annotations: &[(&str, String)]) -> Result<String> {
    let text = fail(&mut start(wrapper::ctr(node)?, node, id, annotations, &[], &idle())?)?;
    let _ = wrapper::ctr(node)?.args(["containers", "delete", id]).output()?;
    Ok(text)
}

/// Ends and removes a container; for other tests.
pub fn remove_container(node: &Node, id: &str) -> Result<()> {
    remove(node, wrapper::ctr, id)
}

/// Process id of a container.
pub fn pid(node: &Node, id: &str) -> Result<i32> {
    let list = run(wrapper::ctr(node)?.args(["tasks", "list"]))?;
    let line = list.lines().find(|line| line.starts_with(id)).context(id.to_owned())?;
    Ok(line.split_whitespace().nth(1).context("no pid")?.parse()?)
}
