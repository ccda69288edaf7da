//! Runtimes without a manager: a bundle and a command line.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::node::Node;
use integration::wrapper::{
    bundle, command, expect, fail, held, held_of, run, wait_nothing_left, wrapper,
};
use serde_json::{Value, json};

use integration::stage::Stage;

/// As the set-up installs it.
const RUNC: &str = "/usr/sbin/runc";
/// Time for the plugin to notice the end of a process.
pub const NOTICED: Duration = Duration::from_secs(10);

/// A shell script as the words of a container.
pub fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// Runs until it is killed, and ends at once then.
pub fn idle() -> Vec<String> {
    shell("trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done")
}

/// Annotations of a container that wants one interface in network red.
pub fn opted_in(config: &mut Value) {
    config["annotations"] = json!({"network.ringway.dev": "red"});
}

/// A runtime's command line up to its verb.
pub struct Bare<'a> {
    node: &'a Node,
    program: PathBuf,
    root: PathBuf,
    log: PathBuf,
}

impl<'a> Bare<'a> {
    /// The wrapper, or a link to it, or a runtime by itself.
    pub fn new(node: &'a Node, program: PathBuf) -> Self {
        let (root, log) = (node.run().path().join("bare"), node.run().path().join("bare.json"));
        Self { node, program, root, log }
    }

    /// A command line.
    pub fn line(&self, words: &[&str]) -> Result<Command> {
        let mut line = command(self.node, &self.program)?;
        line.arg("--root").arg(&self.root).arg("--log").arg(&self.log);
        line.args(["--log-format", "json"]).args(words);
        // A container keeps the descriptors of its runtime: nobody may wait for them to be closed.
        let out = File::create(self.output())?;
        line.stdout(out.try_clone()?).stderr(out);
        Ok(line)
    }

    /// Creates a container, and starts it with the rest.
    pub fn start(&self, id: &str, bundle: &Path) -> Result<()> {
        let bundle = bundle.display().to_string();
        self.done(&["create", "--bundle", &bundle, id])?;
        self.done(&["start", id])
    }

    /// Runs a command line that must succeed.
    pub fn done(&self, words: &[&str]) -> Result<()> {
        let status = self.line(words)?.status()?;
        ensure!(status.success(), "{words:?} ended with {status}: {}", self.printed()?);
        Ok(())
    }

    /// Removes a container, running or not.
    pub fn delete(&self, id: &str) -> Result<()> {
        self.done(&["delete", "--force", id])
    }

    fn output(&self) -> PathBuf {
        self.log.with_extension("out")
    }

    fn printed(&self) -> Result<String> {
        Ok(fs::read_to_string(self.output())?)
    }
}

pub fn runc(stage: &mut Stage) -> Result<()> {
    every_step(stage.usual()?, "runc")
}

pub fn crun(stage: &mut Stage) -> Result<()> {
    every_step(stage.usual()?, "crun")
}

/// A link to the wrapper that is called as the runtime it stands for.
fn link(node: &Node, runtime: &str) -> Result<PathBuf> {
    let link = node.run().disk().join(format!("ringway-{runtime}"));
    if !link.exists() {
        std::os::unix::fs::symlink(wrapper()?, &link)?;
    }
    Ok(link)
}

fn every_step(node: &Node, runtime: &str) -> Result<()> {
    let bare = Bare::new(node, link(node, runtime)?);
    let script = "cat /run/ringway/interfaces.json; env; echo x >/run/ringway/x; sleep 3600";
    let directory = bundle(node, runtime, &shell(script), |config| {
        opted_in(config);
        config["annotations"]["hugepages-2mi.ringway.dev"] = "64Mi".into();
        config["example.com/unknown"] = json!({"kept": [1, 2.5, null]});
        config["hostname"] = "first-of-all".into();
    })?;
    let id = format!("{}-{runtime}", node.run().id());
    // Twice with the same bundle, whose configuration was edited the first time.
    for _ in 0..2 {
        bare.start(&id, &directory)?;
        let held = held_of(node, &id)?;
        ensure!(held.running && held.pod == id && held.namespace == "host", "{held:?}");
        ensure!(held.cgroup == format!("/{}/bare/{runtime}", node.run().id()), "{held:?}");
        let spec = node.vrouter()?.port(&held.sandbox)?.spec.unwrap_or_default();
        ensure!(spec.network == "red" && spec.peer_cgroups == [held.cgroup.clone()], "{spec:?}");

        let mut printed = String::new();
        integration::wait::until("the container has looked around", NOTICED, || {
            printed = bare.printed()?;
            Ok(printed.contains("Read-only file system").then_some(()))
        })
        .with_context(|| printed.clone())?;
        expect(
            &printed,
            &["RINGWAY_EAL_ARGS=", "RINGWAY_INTERFACES=/run/ringway", &spec.ipv4, &spec.mac],
        )?;

        let config: Value = serde_json::from_slice(&fs::read(directory.join("config.json"))?)?;
        ensure!(config["example.com/unknown"] == json!({"kept": [1, 2.5, null]}), "{config}");
        let mounts = config["mounts"].as_array().context("no mounts")?;
        let ours = mounts.iter().filter(|it| it["destination"] == "/run/ringway").count();
        ensure!(ours == 1, "{ours} mounts at /run/ringway: {mounts:?}");
        let limits = &config["linux"]["resources"]["hugepageLimits"];
        ensure!(limits == &json!([{"pageSize": "2MB", "limit": 64 << 20}]), "{limits}");
        ensure!(config["linux"]["resources"]["cpu"]["cpus"].is_string(), "{config}");

        // It runs: neither a second one of its name nor its deletion without force takes anything from it.
        let bundle = directory.display().to_string();
        ensure!(!bare.line(&["create", "--bundle", &bundle, &id])?.status()?.success());
        expect(&bare.printed()?, &["ringway:", "runs already", &id])?;
        ensure!(!bare.line(&["delete", &id])?.status()?.success());
        std::thread::sleep(Duration::from_millis(300));
        ensure!(held_of(node, &id)?.running, "a container that runs was given up");
        node.vrouter()?.port(&held.sandbox)?;

        bare.delete(&id)?;
        wait_nothing_left(node, NOTICED)?;
    }
    Ok(())
}

/// What is no start and no deletion is the runtime's own, whatever the node does.
pub fn other_verbs(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    // Its own path is in its messages.
    let real = |words: &[&str]| -> Result<_> { Ok(command(node, RUNC)?.args(words).output()?) };
    let ours =
        |words: &[&str]| -> Result<_> { Ok(command(node, wrapper()?)?.args(words).output()?) };
    for words in [
        &["--version"][..],
        &["features"],
        &["--help"],
        &["list"],
        &["state", "nobody"],
        &["kill", "nobody", "KILL"],
        &["delete", "nobody"],
        &["delete", "--force", "nobody"],
        &["no-such-verb"],
        &["--no-such-option"],
        &["create", "--bundle", "/nonexistent", "nobody"],
        &["create"],
        &[],
    ] {
        let (real, ours) = (real(words)?, ours(words)?);
        ensure!(real.status == ours.status, "{words:?}: {} and {}", real.status, ours.status);
        ensure!(real.stdout == ours.stdout, "{words:?}: {}", String::from_utf8_lossy(&ours.stdout));
        // runc's own lines have the time in them.
        let untimed = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.lines()
                .map(|line| line.split_once("level=").map_or(line, |it| it.1).to_owned())
                .collect()
        };
        ensure!(
            untimed(&real.stderr) == untimed(&ours.stderr),
            "{words:?}: {:?}",
            untimed(&ours.stderr)
        );
    }
    // Descriptors and the exit code are the runtime's, too: a container in the foreground.
    let directory =
        bundle(node, "exit", &shell("echo out; echo err >&2; cat <&3; exit 42"), |_| {})?;
    let id = format!("{}-exit", node.run().id());
    let file = node.run().path().join("third");
    fs::write(&file, "third\n")?;
    let mut through = command(node, "/bin/sh")?;
    through.args(["-c", "exec 3<\"$1\"; shift; exec \"$@\"", "sh"]).arg(&file).arg(wrapper()?);
    through.arg("--root").arg(node.run().path().join("bare"));
    through.args(["run", "--preserve-fds", "1", "--bundle"]).arg(&directory).arg(&id);
    let output = through.output()?;
    ensure!(output.status.code() == Some(42), "{output:?}");
    ensure!(output.stdout == b"out\nthird\n" && output.stderr == b"err\n", "{output:?}");
    Ok(())
}

/// Whatever is wrong with a container that opted in, its start fails with one line, where its manager reads it.
pub fn refusals(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let bare = Bare::new(node, wrapper()?);
    type Spoil = fn(&mut Value);
    let cases: [(&str, Spoil, &[&str]); 6] = [
        (
            "network",
            |it| it["annotations"]["network.ringway.dev"] = "green".into(),
            &["\"green\"", "does not exist", "red"],
        ),
        (
            "typo",
            |it| it["annotations"]["netwrok.ringway.dev"] = "red".into(),
            &["netwrok.ringway.dev"],
        ),
        (
            "cpus",
            |it| it["annotations"]["cpus.ringway.dev"] = "99".into(),
            &["99", "cpus.ringway.dev"],
        ),
        (
            "mount",
            |it| {
                let mount =
                    json!({"destination": "/run/ringway", "type": "tmpfs", "source": "tmpfs"});
                if let Some(mounts) = it["mounts"].as_array_mut() {
                    mounts.push(mount);
                }
            },
            &["something else is mounted at /run/ringway"],
        ),
        ("cgroup", |it| it["linux"]["cgroupsPath"] = "a/b".into(), &["cgroupsPath", "\"a/b\""]),
        (
            "shape",
            |it| it["linux"]["resources"]["hugepageLimits"] = "many".into(),
            &["linux.resources.hugepageLimits", "list"],
        ),
    ];
    for (name, spoil, words) in cases {
        let directory = bundle(node, name, &idle(), |config| {
            opted_in(config);
            spoil(config);
        })?;
        let before = fs::read(directory.join("config.json"))?;
        fs::remove_file(&bare.log).or_else(|error| {
            if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
        })?;
        let id = format!("{}-{name}", node.run().id());
        let bundle = directory.display().to_string();
        let status = bare.line(&["create", "--bundle", &bundle, &id])?.status()?;
        ensure!(status.code() == Some(1), "{name}: {status}");
        let log = fs::read_to_string(&bare.log)?;
        println!("    {}", log.trim());
        ensure!(log.lines().count() == 1, "{log}");
        let line: Value = serde_json::from_str(&log)?;
        ensure!(line["level"] == "error" && line["time"].is_string(), "{log}");
        let message = line["msg"].as_str().context("no message")?;
        ensure!(message.starts_with("ringway: ") && !message.contains('\n'), "{message}");
        expect(message, words)?;
        ensure!(bare.printed()?.trim() == message, "{}", bare.printed()?);
        ensure!(fs::read(directory.join("config.json"))? == before, "{name} was edited");
        ensure!(held(node)?.is_empty(), "{:?}", held(node)?);
    }
    wait_nothing_left(node, NOTICED)
}

/// The node grants, and then the real runtime fails: nobody deletes such a container.
pub fn failed_start(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let bare = Bare::new(node, wrapper()?);
    let directory = bundle(node, "broken", &idle(), |config| {
        opted_in(config);
        config["mounts"] = json!([{"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]}]);
    })?;
    let bundle = directory.display().to_string();
    let id = format!("{}-broken", node.run().id());
    for verb in ["create", "run"] {
        ensure!(!bare.line(&[verb, "--bundle", &bundle, &id])?.status()?.success());
        expect(&bare.printed()?, &["/no/such"])?;
        wait_nothing_left(node, NOTICED)?;
    }
    Ok(())
}

/// Prints what a start costs through the wrapper. A number to read, not to fail by: other work shares the machine.
pub fn cost(stage: &mut Stage) -> Result<()> {
    const ROUNDS: usize = 25;
    let node = stage.usual()?;
    let plain = bundle(node, "plain", &idle(), |_| {})?;
    let opted = bundle(node, "opted", &idle(), opted_in)?;
    let through = Bare::new(node, wrapper()?);
    let direct = Bare::new(node, PathBuf::from("runc"));
    let cases = [
        ("runc alone", &direct, &plain),
        ("plain", &through, &plain),
        ("opted in", &through, &opted),
    ];
    let mut times = cases.map(|_| Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS {
        for ((name, bare, bundle), times) in cases.iter().zip(&mut times) {
            let id = format!("{}-cost-{round}-{}", node.run().id(), name.len());
            let bundle = bundle.display().to_string();
            let began = Instant::now();
            bare.done(&["create", "--bundle", &bundle, &id])?;
            times.push(began.elapsed());
            bare.delete(&id)?;
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let [alone, plain, opted] = &mut times;
    let (alone, plain, opted) = (median(alone), median(plain), median(opted));
    println!(
        "    create, median of {ROUNDS}: runc alone {alone:.1?}, through the wrapper {plain:.1?} ({:+.1} ms), opted in {opted:.1?} ({:+.1} ms)",
        (plain.as_secs_f64() - alone.as_secs_f64()) * 1e3,
        (opted.as_secs_f64() - alone.as_secs_f64()) * 1e3,
    );
    // Without a container: the program alone, beside one that does nothing.
    let time = |program: &Path| -> Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            run(command(node, program)?.env("PATH", "/nonexistent").arg("--version"))?;
            times.push(began.elapsed());
        }
        Ok(median(&mut times))
    };
    let runc = time(Path::new(RUNC))?;
    let wrapped = time(&wrapper()?)?;
    println!(
        "    --version, median of {ROUNDS}: runc alone {runc:.1?}, through the wrapper {wrapped:.1?}"
    );
    // Nothing of this may fail because of the plugin: it has been asked for every third container only.
    fail(command(node, wrapper()?)?.arg("no-such-verb"))?;
    wait_nothing_left(node, NOTICED)
}
