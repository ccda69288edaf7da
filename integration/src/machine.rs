//! What the machine must have, what is switched on for a run, and what was there before.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use crate::containerd::Version;
use crate::process::run;
use crate::readback;

const HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const CGROUPS: &str = "/sys/fs/cgroup";
const INTERFACES: &str = "/sys/class/net";

/// Puts an empty directory over one that programs of a run use wherever they run, until the run ends.
pub fn hide(run: &Path, directory: &Path) -> Result<()> {
    let mut restore = Restore::load(run)?;
    if !directory.exists() {
        restore.others.directories.push(directory.to_owned());
    }
    restore.others.hidden.push(directory.to_owned());
    restore.store(run)?;
    fs::create_dir_all(directory)?;
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .with_context(|| format!("cannot mount over {}", directory.display()))
}

/// Takes that away before the run ends.
pub fn show(run: &Path) -> Result<()> {
    let mut restore = Restore::load(run)?;
    let hidden = mem::take(&mut restore.others.hidden);
    Others { hidden, ..Others::default() }.apply()?;
    restore.store(run)
}

/// Root of the source tree; set-up puts everything it fetches below its `target/`.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Where the daemons are: beside this program (demo) or one above (test programs), unless `RINGWAY_BIN_DIR` says
/// otherwise.
pub fn program(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("RINGWAY_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let own = std::env::current_exe()?;
            let parent = own.parent().context("this program has no directory")?;
            if parent.ends_with("deps") {
                parent.parent().context("deps has no parent")?.to_owned()
            } else {
                parent.to_owned()
            }
        }
    };
    let path = directory.join(name);
    if !path.is_file() {
        bail!("{} is not built; run `cargo build --workspace`", path.display());
    }
    Ok(path)
}

/// A daemon as its systemd unit starts it, as far as that says how important it is: containerd holds every pod up while it waits.
pub fn daemon(name: &str) -> Result<Command> {
    let unit = repository().join("config/systemd").join(format!("{name}.service"));
    let text = fs::read_to_string(&unit).with_context(|| unit.display().to_string())?;
    let nice = text.lines().find_map(|line| line.strip_prefix("Nice=")).unwrap_or("0");
    let mut command = Command::new("nice");
    command.arg(format!("--adjustment={nice}")).arg(program(name)?);
    Ok(command)
}

/// Why this machine cannot run pods with DPDK outside containers, or nothing when it can.
pub fn unfit_for_dpdk() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("needs root".to_owned());
    }
    if !Path::new(HUGEPAGES).exists() {
        return Some("the kernel has no 2 MiB hugepages".to_owned());
    }
    None
}

/// Why this machine cannot run containers with DPDK under containerd `version`, or nothing when it can.
pub fn unfit(version: Version) -> Option<String> {
    if let Some(reason) = unfit_for_dpdk() {
        return Some(reason);
    }
    for (program, package) in [
        ("/usr/bin/dpdk-testpmd", "dpdk"),
        ("/usr/sbin/runc", "runc"),
        ("/bin/busybox", "busybox-static"),
    ] {
        if !Path::new(program).exists() {
            return Some(format!("{program} is missing (package {package}); run `make setup`"));
        }
    }
    let containerd = version.program("containerd");
    if !containerd.exists() {
        let setup = match version {
            Version::V1_7 | Version::V2_1 => "make setup",
            Version::V2_2 => "integration/setup/kubernetes.sh containerd-2.2",
            Version::V2_3 => "integration/setup/kubernetes.sh containerd-2.3",
            Version::V2_4 => "integration/setup/kubernetes.sh containerd",
        };
        return Some(format!("{} is missing; run `{setup}`", containerd.display()));
    }
    None
}

/// The settings of the machine before a run, kept in the run's directory so that a later process can restore them too.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Restore {
    /// Number of reserved 2 MiB hugepages.
    hugepages: Option<u64>,
    /// Hierarchy that was mounted for the run.
    mounted: Option<PathBuf>,
    /// What programs change that are not ours.
    #[serde(default)]
    others: Others,
}

/// What programs that are not ours change on a machine, as it was before.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
struct Others {
    /// Settings and what they were.
    values: BTreeMap<PathBuf, String>,
    /// Directories that were not there.
    directories: Vec<PathBuf>,
    /// Network interfaces that were not there.
    interfaces: Vec<String>,
    /// Directories that something is mounted over.
    hidden: Vec<PathBuf>,
}

impl Others {
    fn apply(&self) -> Result<()> {
        for interface in &self.interfaces {
            if Path::new(INTERFACES).join(interface).exists() {
                run("ip", &["link", "delete", interface].map(OsStr::new))?;
            }
        }
        for directory in &self.hidden {
            match umount2(directory, MntFlags::MNT_DETACH) {
                // It was not mounted yet, or there is no such directory.
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot unmount {}", directory.display()));
                }
            }
        }
        for directory in &self.directories {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot remove {}", directory.display()));
                }
                _ => {}
            }
        }
        for (path, value) in &self.values {
            fs::write(path, value).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// Writes down what other programs of a run are going to change, so that the end of the run undoes it: settings in files, directories
/// and network interfaces they make. Those that are there already are not theirs.
pub fn others_will_change(
    run: &Path,
    files: &[&str],
    directories: &[&str],
    interfaces: &[&str],
) -> Result<()> {
    let mut restore = Restore::load(run)?;
    let others = &mut restore.others;
    for path in files.iter().map(Path::new).filter(|path| path.exists()) {
        let value = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        others.values.insert(path.to_owned(), value);
    }
    let new = directories.iter().map(Path::new).filter(|path| !path.exists());
    others.directories.extend(new.map(Path::to_path_buf));
    let new = interfaces.iter().filter(|name| !Path::new(INTERFACES).join(name).exists());
    others.interfaces.extend(new.map(ToString::to_string));
    restore.store(run)
}

impl Restore {
    const FILE: &'static str = "restore.json";

    /// What was stored in a run's directory; nothing to restore when there is no such file.
    pub fn load(run: &Path) -> Result<Self> {
        match fs::read(run.join(Self::FILE)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    fn store(&self, run: &Path) -> Result<()> {
        Ok(fs::write(run.join(Self::FILE), serde_json::to_vec(self)?)?)
    }

    /// Puts the machine back.
    pub fn apply(&self) -> Result<()> {
        self.others.apply()?;
        if let Some(directory) = &self.mounted {
            umount2(directory, MntFlags::MNT_DETACH)
                .with_context(|| format!("cannot unmount {}", directory.display()))?;
            fs::remove_dir(directory)?;
        }
        if let Some(number) = self.hugepages {
            set_hugepages(number)?;
        }
        Ok(())
    }
}

/// The 2 MiB hugepages a run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hugepages {
    /// At least so many free ones.
    Free(u64),
    /// None reserved at all.
    None,
}

/// Reserves hugepages, and mounts the hugetlb cgroup controller where the machine has cgroup v1 without it. What was there
/// before is written to `run` first.
pub fn prepare(run: &Path, wanted: Hugepages) -> Result<()> {
    let mut restore = Restore::load(run)?;
    if let Some(directory) = missing_hugetlb_hierarchy()? {
        restore.mounted = Some(directory.clone());
        restore.store(run)?;
        fs::create_dir_all(&directory)?;
        mount(Some("cgroup"), &directory, Some("cgroup"), MsFlags::empty(), Some("hugetlb"))
            .with_context(|| {
                format!("cannot mount the hugetlb cgroup at {}", directory.display())
            })?;
    }
    let total = hugepages()?;
    let free = readback::number(format!("{HUGEPAGES}/free_hugepages"))?;
    let new = match wanted {
        Hugepages::Free(number) if free >= number => return Ok(()),
        Hugepages::Free(number) => total + number - free,
        Hugepages::None => 0,
    };
    restore.hugepages.get_or_insert(total);
    restore.store(run)?;
    set_hugepages(new)?;
    if hugepages()? < new {
        make_room()?;
        set_hugepages(new)?;
    }
    let got = readback::number(format!("{HUGEPAGES}/free_hugepages"))?;
    match wanted {
        Hugepages::Free(number) if got < number => {
            bail!(
                "the kernel gave {got} free 2 MiB hugepages of {number}; free some memory or reboot"
            )
        }
        Hugepages::None if hugepages()? > 0 => {
            bail!("{} 2 MiB hugepages are in use by another program; stop it", hugepages()?)
        }
        _ => Ok(()),
    }
}

/// Memory full of cached files, as after a build, has no 2 MiB in one piece: the kernel gives up such pages one at a time, and
/// gives up looking before it has enough.
fn make_room() -> Result<()> {
    for (file, what) in [("drop_caches", "1"), ("compact_memory", "1")] {
        let path = format!("/proc/sys/vm/{file}");
        fs::write(&path, what).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// Those in use stay until they are freed.
fn set_hugepages(number: u64) -> Result<()> {
    let path = format!("{HUGEPAGES}/nr_hugepages");
    fs::write(&path, number.to_string()).with_context(|| format!("cannot write {path}"))
}

/// Number of reserved 2 MiB hugepages.
fn hugepages() -> Result<u64> {
    readback::number(format!("{HUGEPAGES}/nr_hugepages"))
}

/// Where the hugetlb controller has to be mounted: nowhere on cgroup v2, or when it is there, or when the kernel lacks it.
fn missing_hugetlb_hierarchy() -> Result<Option<PathBuf>> {
    let known = fs::read_to_string("/proc/cgroups")?;
    let enabled = known.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some("hugetlb") && fields.next_back() == Some("1")
    });
    let mounts = readback::mounts(None)?;
    let version_1 = mounts.iter().any(|mount| {
        mount.kind == "cgroup" && mount.super_options.split(',').any(|part| part == "cpuset")
    });
    let there = mounts.iter().any(|mount| {
        mount.kind == "cgroup" && mount.super_options.split(',').any(|part| part == "hugetlb")
    });
    Ok((enabled && version_1 && !there).then(|| Path::new(CGROUPS).join("hugetlb")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_what_is_restored() {
        let run = std::env::temp_dir().join(format!("ringway-restore-{}", std::process::id()));
        fs::create_dir(&run).unwrap();
        assert_eq!(Restore::load(&run).unwrap(), Restore::default());
        let restore = Restore {
            hugepages: Some(7),
            mounted: Some(PathBuf::from("/sys/fs/cgroup/hugetlb")),
            others: Others::default(),
        };
        restore.store(&run).unwrap();
        assert_eq!(Restore::load(&run).unwrap(), restore);
        fs::remove_dir_all(&run).unwrap();
    }

    #[test]
    fn what_others_change_is_as_before() {
        let run = std::env::temp_dir().join(format!("ringway-others-{}", std::process::id()));
        fs::create_dir(&run).unwrap();
        let path = |name: &str| run.join(name).display().to_string();
        let (setting, theirs, ours) = (path("setting"), path("theirs"), path("ours"));
        fs::write(&setting, "1\n").unwrap();
        fs::create_dir(&ours).unwrap();
        others_will_change(&run, &[&setting, &path("none")], &[&theirs, &ours], &["lo"]).unwrap();
        fs::write(&setting, "0\n").unwrap();
        fs::create_dir_all(Path::new(&theirs).join("deep")).unwrap();
        Restore::load(&run).unwrap().apply().unwrap();
        assert_eq!(fs::read_to_string(&setting).unwrap(), "1\n");
        assert!(Path::new(&ours).exists() && !Path::new(&theirs).exists());
        fs::remove_dir_all(&run).unwrap();
    }
}
