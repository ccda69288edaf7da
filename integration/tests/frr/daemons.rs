//! FRR's daemons in a node's namespace, as they come from Debian's package, which is not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::process::Daemon;

use crate::rig::{Node, documented};

/// For a daemon to answer.
const START: Duration = Duration::from_secs(60);
const DAEMONS: [&str; 3] = ["zebra", "bgpd", "bfdd"];

/// Where `integration/setup/frr.sh` unpacks packages.
pub fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/frr")
}

/// What programs of these packages are started with, so that they find their libraries.
pub fn libraries() -> String {
    let root = unpacked();
    let folders =
        ["usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/frr", "lib/x86_64-linux-gnu"];
    let folders = folders.map(|folder| root.join(folder).display().to_string());
    format!("LD_LIBRARY_PATH={}", folders.join(":"))
}

/// Why FRR can't be run here, or nothing when it can.
pub fn unfit() -> Option<String> {
    let root = unpacked();
    let programs = DAEMONS.map(|name| root.join("usr/lib/frr").join(name));
    let missing = programs.into_iter().chain([root.join("usr/bin/vtysh")]).find(|it| !it.exists());
    missing.map(|it| format!("{} is missing; run integration/setup/frr.sh", it.display()))
}

/// Starts them all, with what `docs/frr.md` says.
pub fn start(node: &mut Node) -> Result<()> {
    let folder = node.file("frr");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("frr.conf"), node.which.place(&documented("frr")?))?;
    fs::write(folder.join("none.conf"), "")?;
    // It wants a password from everybody else, and would ask PAM.
    fs::write(folder.join("vtysh.conf"), "username root nopassword\n")?;
    users(&folder)?;
    for name in DAEMONS {
        let mut command = node.space.command("/usr/bin/unshare");
        let bind = format!(
            "for f in passwd group; do mount --bind {}/$f /etc/$f || exit; done; exec \"$@\"",
            folder.display()
        );
        command.args(["-m", "sh", "-c", &bind, "-", "/usr/bin/env"]).arg(libraries());
        command.arg(unpacked().join("usr/lib/frr").join(name));
        command.args(["--vty_port", "0", "--log", "stdout"]);
        let own = [
            ("--config_file", "none.conf".to_owned()),
            ("--pid_file", format!("{name}.pid")),
            ("--socket", "zserv.api".to_owned()),
            ("--vty_socket", String::new()),
        ];
        for (option, file) in own {
            command.arg(option).arg(folder.join(file));
        }
        if name == "bfdd" {
            command.arg("--bfdctl").arg(folder.join("bfdd.sock"));
        }
        let mut daemon = Daemon::start(name, command, &node.file(&format!("{name}.log")))?;
        let vty = folder.join(format!("{name}.vty"));
        daemon.wait_for("it can be talked to", START, || Ok(vty.exists().then_some(())))?;
        node.daemons.push(daemon);
    }
    let said = vtysh(node, &["-b"])?;
    ensure!(!said.contains('%') && !said.contains("does not exist"), "{said}");
    Ok(())
}

/// The daemons become the user and groups of their package, which are not there where it is not installed: they see files of
/// their own instead, in which these are root.
fn users(folder: &Path) -> Result<()> {
    for (name, more) in
        [("passwd", "frr:x:0:0::/:/usr/sbin/nologin\n"), ("group", "frr:x:0:\nfrrvty:x:0:\n")]
    {
        let text = fs::read_to_string(Path::new("/etc").join(name))?;
        fs::write(folder.join(name), format!("{text}{more}"))?;
    }
    Ok(())
}

/// Ends those that speak to other routers as a crash would, then zebra in order: it takes its routes out of the kernel.
pub fn kill(node: &mut Node) -> Result<()> {
    // It was started first.
    while let Some(mut daemon) = node.daemons.pop() {
        if node.daemons.is_empty() {
            daemon.stop(START)?;
        } else {
            daemon.crash()?;
        }
    }
    // What they listen on stays, and would look as if they were there.
    for name in DAEMONS {
        let _ = fs::remove_file(node.file("frr").join(format!("{name}.vty")));
    }
    Ok(())
}

/// `vtysh ARGUMENTS` for a node; what it says.
pub fn vtysh(node: &Node, arguments: &[&str]) -> Result<String> {
    let folder = node.file("frr");
    let mut command = Command::new("/usr/bin/env");
    command.arg(libraries()).arg(unpacked().join("usr/bin/vtysh"));
    command.arg("--vty_socket").arg(&folder).arg("--config_dir").arg(&folder).args(arguments);
    let output = command.output().context("vtysh")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "vtysh {arguments:?}: {said}");
    Ok(said)
}
