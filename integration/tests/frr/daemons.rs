//! FRR's daemons in a node's namespace, as they come from Debian's package, which is not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::process::Daemon;
use integration::space::Space;

/// For a daemon to answer.
const START: Duration = Duration::from_secs(60);
const DAEMONS: [&str; 3] = ["zebra", "bgpd", "bfdd"];
/// As `docs/frr.md` has them: routes that zebra finds when it starts stay so many seconds.
const ZEBRA_OPTIONS: [&str; 2] = ["-K", "20"];

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

/// FRR in a network namespace.
pub struct Frr {
    /// zebra is the first.
    daemons: Vec<Daemon>,
    folder: PathBuf,
}

impl Frr {
    /// Starts it with `config`; its files are in `directory`, logs as `zebra.log` and the like.
    pub fn start(space: &Space, directory: &Path, config: &str) -> Result<Self> {
        let folder = directory.join("frr");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("frr.conf"), config)?;
        fs::write(folder.join("none.conf"), "")?;
        // It wants a password from everybody else, and would ask PAM.
        fs::write(folder.join("vtysh.conf"), "username root nopassword\n")?;
        users(&folder)?;
        let mut frr = Self { daemons: Vec::new(), folder };
        frr.launch(space, directory)?;
        Ok(frr)
    }

    fn launch(&mut self, space: &Space, directory: &Path) -> Result<()> {
        let folder = &self.folder;
        for name in DAEMONS {
            let mut command = space.command("/usr/bin/unshare");
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
            match name {
                "bfdd" => drop(command.arg("--bfdctl").arg(folder.join("bfdd.sock"))),
                "zebra" => drop(command.args(ZEBRA_OPTIONS)),
                _ => {}
            }
            let mut daemon = Daemon::start(name, command, &directory.join(format!("{name}.log")))?;
            let vty = folder.join(format!("{name}.vty"));
            daemon.wait_for("it can be talked to", START, || Ok(vty.exists().then_some(())))?;
            self.daemons.push(daemon);
        }
        let said = self.vtysh(&["-b"])?;
        ensure!(!said.contains('%') && !said.contains("does not exist"), "{said}");
        Ok(())
    }

    /// Ends those that speak to other routers as a crash would, then zebra in order: it takes its routes out of the kernel.
    pub fn kill(mut self) -> Result<()> {
        while let Some(mut daemon) = self.daemons.pop() {
            if self.daemons.is_empty() {
                daemon.stop(START)?;
            } else {
                daemon.crash()?;
            }
        }
        self.clear();
        Ok(())
    }

    /// `kill -9` of the one that writes the kernel's tables.
    pub fn crash_zebra(&mut self) -> Result<()> {
        self.daemons.first_mut().context("no zebra")?.crash()
    }

    /// What FRR's own watchfrr does when zebra has ended: it ends the others and starts them all.
    pub fn restart(&mut self, space: &Space, directory: &Path) -> Result<()> {
        while let Some(mut daemon) = self.daemons.pop() {
            daemon.stop(START)?;
        }
        self.clear();
        self.launch(space, directory)
    }

    /// What they listened on stays, and would look as if they were there.
    fn clear(&self) {
        for name in DAEMONS {
            let _ = fs::remove_file(self.folder.join(format!("{name}.vty")));
        }
    }

    /// `vtysh ARGUMENTS`; what it says.
    pub fn vtysh(&self, arguments: &[&str]) -> Result<String> {
        let folder = &self.folder;
        let mut command = Command::new("/usr/bin/env");
        command.arg(libraries()).arg(unpacked().join("usr/bin/vtysh"));
        command.arg("--vty_socket").arg(folder).arg("--config_dir").arg(folder).args(arguments);
        let output = command.output().context("vtysh")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "vtysh {arguments:?}: {said}");
        Ok(said)
    }

    /// What it says to several questions.
    pub fn told(&self, questions: &[&str]) -> String {
        let answer = |it: &&str| self.vtysh(&["-c", it]).unwrap_or_else(|error| error.to_string());
        questions.iter().map(|it| format!("{it}:\n{}\n", answer(it))).collect()
    }
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
