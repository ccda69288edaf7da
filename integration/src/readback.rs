//! What the kernel says about processes, mounts and cgroups: the truth that reports are made of.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// One process.
#[derive(Debug)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Name as in /proc/PID/comm.
    pub name: String,
    /// Arguments, the program first.
    pub command_line: Vec<String>,
    /// Its path in every cgroup hierarchy.
    pub cgroups: Vec<String>,
}

/// Every process that can be seen; one that ends while being read is left out.
pub fn processes() -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse() else { continue };
        let (Ok(name), Ok(line), Ok(cgroups)) = (
            fs::read_to_string(format!("/proc/{pid}/comm")),
            fs::read(format!("/proc/{pid}/cmdline")),
            fs::read_to_string(format!("/proc/{pid}/cgroup")),
        ) else {
            continue;
        };
        found.push(Process {
            pid,
            name: name.trim_end().to_owned(),
            command_line: zero_separated(&line),
            cgroups: cgroups
                .lines()
                .filter_map(|line| line.splitn(3, ':').nth(2).map(ToOwned::to_owned))
                .collect(),
        });
    }
    Ok(found)
}

fn zero_separated(bytes: &[u8]) -> Vec<String> {
    bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// The environment a process was started with, as `KEY=value`.
pub fn environment(pid: u32) -> Result<Vec<String>> {
    let path = format!("/proc/{pid}/environ");
    Ok(zero_separated(&fs::read(&path).context(path)?))
}

/// One mounted file system.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub target: PathBuf,
    /// Options of this mount point, e.g. `ro,nosuid`.
    pub options: String,
    /// File system type.
    pub kind: String,
    /// Options of the file system; a cgroup v1 hierarchy names its controllers here.
    pub super_options: String,
}

/// Mounts seen by process `pid`, or by this one, in mount order.
pub fn mounts(pid: Option<u32>) -> Result<Vec<Mount>> {
    let path = pid
        .map_or_else(|| "/proc/self/mountinfo".to_owned(), |pid| format!("/proc/{pid}/mountinfo"));
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

/// One line of mountinfo, see proc(5).
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(4);
    let mut after = after.split(' ');
    Some(Mount {
        target: PathBuf::from(unescape(before.next()?)),
        options: before.next()?.to_owned(),
        kind: after.next()?.to_owned(),
        super_options: after.nth(1)?.to_owned(),
    })
}

/// mountinfo writes blanks and backslashes in octal.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// A field of /proc/PID/status, without blanks around it: `Uid` gives the four user ids separated by tabs.
pub fn status_field(pid: u32, field: &str) -> Result<String> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == field)
        .map(|(_, value)| value.trim().to_owned())
        .with_context(|| format!("{path} has no {field}"))
}

/// CPU time a process has used, user and system. The kernel keeps the sum exactly and shows it in 1/100 s (`USER_HZ`).
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name in brackets may contain anything; utime and stime are the 12th and 13th field after it, see proc(5).
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: Vec<u64> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    let [user, system] = ticks[..] else { bail!("{path}: unexpected form") };
    Ok(Duration::from_millis((user + system) * 10))
}

/// The directory of a process in one controller's hierarchy, whether that is cgroup v1 or v2.
pub fn cgroup_directory(pid: u32, controller: &str) -> Result<PathBuf> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let place = find_cgroup(&text, controller)
        .with_context(|| format!("{path} has no hierarchy with {controller}"))?;
    let mounts = mounts(None)?;
    let mount = mounts.iter().find(|mount| match place.version {
        CgroupVersion::V1 => {
            mount.kind == "cgroup" && mount.super_options.split(',').any(|part| part == controller)
        }
        CgroupVersion::V2 => mount.kind == "cgroup2",
    });
    let Some(mount) = mount else { bail!("the hierarchy with {controller} is not mounted") };
    Ok(mount.target.join(place.path.trim_start_matches('/')))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CgroupVersion {
    V1,
    V2,
}

#[derive(Debug, PartialEq, Eq)]
struct Place {
    version: CgroupVersion,
    path: String,
}

/// Where /proc/PID/cgroup places a process for a controller; v1 has precedence, as the kernel binds a controller to one only.
fn find_cgroup(text: &str, controller: &str) -> Option<Place> {
    let lines = || {
        text.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?, parts.next()?.to_owned()))
        })
    };
    lines()
        .find(|(controllers, _)| controllers.split(',').any(|name| name == controller))
        .map(|(_, path)| Place { version: CgroupVersion::V1, path })
        .or_else(|| {
            lines()
                .find(|(controllers, _)| controllers.is_empty())
                .map(|(_, path)| Place { version: CgroupVersion::V2, path })
        })
}

/// A setting of the cgroup of a process; `names` are its file names in v1 and v2, the first that exists is read.
pub fn cgroup_value(pid: u32, controller: &str, names: &[&str]) -> Result<String> {
    let directory = cgroup_directory(pid, controller)?;
    for name in names {
        if let Ok(text) = fs::read_to_string(directory.join(name)) {
            return Ok(text.trim().to_owned());
        }
    }
    bail!("none of {names:?} in {}", directory.display())
}

/// CPUs the container of a process may use, e.g. `0-1`.
pub fn cpuset_cpus(pid: u32) -> Result<String> {
    cgroup_value(pid, "cpuset", &["cpuset.cpus", "cpuset.cpus.effective"])
}

/// Memory nodes the container of a process may use, e.g. `0`.
pub fn cpuset_mems(pid: u32) -> Result<String> {
    cgroup_value(pid, "cpuset", &["cpuset.mems", "cpuset.mems.effective"])
}

/// Limit of 2 MiB hugepages of the container of a process, in bytes.
pub fn hugetlb_2mb_limit(pid: u32) -> Result<String> {
    cgroup_value(pid, "hugetlb", &["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"])
}

/// Reads a number from a file of the kernel.
pub fn number(path: impl AsRef<Path>) -> Result<u64> {
    let path = path.as_ref();
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.trim().parse().with_context(|| format!("{}: {:?}", path.display(), text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo() {
        let line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - cgroup none rw,hugetlb";
        assert_eq!(
            parse_mount(line),
            Some(Mount {
                target: PathBuf::from("/mnt 2"),
                options: "rw,noatime".to_owned(),
                kind: "cgroup".to_owned(),
                super_options: "rw,hugetlb".to_owned(),
            })
        );
        assert_eq!(parse_mount("36 35 98:0"), None);
    }

    #[test]
    fn finds_a_process_in_v1_v2_and_hybrid() {
        let v1 = "4:cpu,cpuacct:/a\n3:cpuset:/b\n0::/c\n";
        let v2 = "0::/d\n";
        for (text, controller, version, path) in [
            (v1, "cpuacct", CgroupVersion::V1, "/a"),
            (v1, "cpuset", CgroupVersion::V1, "/b"),
            (v1, "hugetlb", CgroupVersion::V2, "/c"),
            (v2, "cpuset", CgroupVersion::V2, "/d"),
        ] {
            assert_eq!(
                find_cgroup(text, controller),
                Some(Place { version, path: path.to_owned() }),
                "{controller} in {text:?}"
            );
        }
        assert_eq!(find_cgroup("3:cpuset:/b\n", "cpu"), None);
    }

    #[test]
    fn reads_about_this_process() {
        let pid = std::process::id();
        assert!(status_field(pid, "Uid").unwrap().split('\t').count() == 4);
        assert!(environment(pid).unwrap().iter().any(|line| line.starts_with("PATH=")));
        assert!(processes().unwrap().iter().any(|process| process.pid == pid));
        assert!(mounts(None).unwrap().iter().any(|mount| mount.target == Path::new("/proc")));
        let before = cpu_time(pid).unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while cpu_time(pid).unwrap() == before && std::time::Instant::now() < end {}
        assert!(cpu_time(pid).unwrap() > before, "a busy process uses no time");
    }
}
