//! Programs of a run: in the run's cgroups, so that they are found and ended with it, and on the CPUs they belong to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::readback::{Mount, mounts};
use crate::rundir::RunDir;
use anyhow::{Context, Result};

/// The run's cgroups.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchy: PathBuf,
    run: String,
}

/// Which side of the sockets a program is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A switch.
    Switch,
    /// Applications of pods.
    Pods,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Pods => "pods",
        }
    }
}

impl Cgroups {
    /// Makes them; they go with the run.
    pub fn create(run: &RunDir) -> Result<Self> {
        let mounts = mounts(None)?;
        let hierarchy = hierarchy(&mounts).context("no cgroup hierarchy is mounted")?.to_owned();
        let it = Self { hierarchy, run: run.id().to_owned() };
        for side in [Side::Switch, Side::Pods] {
            let directory = it.directory(side);
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(it)
    }

    /// As in /proc/PID/cgroup: what a port must allow for a pod's application to be let in.
    pub fn path(&self, side: Side) -> String {
        format!("/{}/{}", self.run, side.name())
    }

    fn directory(&self, side: Side) -> PathBuf {
        self.hierarchy.join(&self.run).join(side.name())
    }

    /// A command that runs `program` in the cgroup of its side; on `cpu` only, as far as it does not choose itself.
    pub fn command(&self, side: Side, cpu: u16, program: impl AsRef<Path>) -> Command {
        // The shell joins before the program starts, so that no thread of it is ever elsewhere.
        let script =
            "echo $$ >\"$1/cgroup.procs\" && cpu=$2 && shift 2 && exec taskset -c \"$cpu\" \"$@\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).arg(self.directory(side)).arg(cpu.to_string());
        command.arg(program.as_ref());
        command
    }
}

/// Where processes can be grouped without further settings: v2, else a v1 hierarchy. A new group of cpuset takes no process.
fn hierarchy(mounts: &[Mount]) -> Option<&Path> {
    let of = |kind: &str| {
        mounts
            .iter()
            .find(|mount| {
                mount.kind == kind && !mount.super_options.split(',').any(|it| it == "cpuset")
            })
            .map(|mount| mount.target.as_path())
    };
    of("cgroup2").or_else(|| of("cgroup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(target: &str, kind: &str, super_options: &str) -> Mount {
        Mount {
            target: PathBuf::from(target),
            options: "rw".to_owned(),
            kind: kind.to_owned(),
            super_options: super_options.to_owned(),
        }
    }

    #[test]
    fn the_unified_hierarchy_comes_first_and_cpuset_never() {
        let mounts = [
            mount("/proc", "proc", "rw"),
            mount("/sys/fs/cgroup/cpuset", "cgroup", "rw,cpuset"),
            mount("/sys/fs/cgroup/pids", "cgroup", "rw,pids"),
            mount("/sys/fs/cgroup/unified", "cgroup2", "rw"),
        ];
        assert_eq!(hierarchy(&mounts), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(hierarchy(&mounts[..3]), Some(Path::new("/sys/fs/cgroup/pids")));
        assert_eq!(hierarchy(&mounts[..2]), None);
    }

    #[test]
    fn a_program_starts_in_its_cgroup_with_its_arguments() {
        let root = std::env::temp_dir().join(format!("ringway-launch-{}", std::process::id()));
        fs::create_dir_all(root.join("run/pods")).unwrap();
        let cgroups = Cgroups { hierarchy: root.clone(), run: "run".to_owned() };
        let mut command = cgroups.command(Side::Pods, 0, "/bin/sh");
        let output = command.args(["-c", "echo $$ \"$1\"", "sh", "two words"]).output().unwrap();
        let pid = fs::read_to_string(root.join("run/pods/cgroup.procs")).unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed, format!("{} two words\n", pid.trim()));
        assert_eq!(cgroups.path(Side::Pods), "/run/pods");
        fs::remove_dir_all(&root).unwrap();
    }
}
