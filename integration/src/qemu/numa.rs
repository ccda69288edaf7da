//! A machine with two NUMA nodes, an IOMMU, and a NIC on each node, in which a whole Debian runs.
//!
//! ```text
//!  node 0: CPUs 0-1, 2 GiB        node 1: CPUs 2-3, 2 GiB
//!  0000:41:00.0                   0000:81:00.0              behind bridges of their node, and the IOMMU
//!      | wire 0                       | wire 1
//!  another NIC                    another NIC               on no node: whatever the tests want at the other end
//! ```
//!
//! The wires are inside QEMU, so that nothing of the host's network is needed. The guest has QEMU's monitor at its second serial
//! line: it can pull its own cables. `integration/setup/numa.sh` makes what it boots from. Without KVM everything takes some 20
//! times as long as on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Guest, QEMU, listen};
use crate::containerd::Version;
use crate::machine::repository;
use crate::process::run;

/// Time for a boot: some 15 s where nothing else runs.
const BOOT: Duration = Duration::from_secs(300);
/// Time for the program that it is booted for.
const WORK: Duration = Duration::from_secs(45 * 60);
/// Programs of ours that are taken along, as far as they are built.
const PROGRAMS: [&str; 6] = [
    "ringway",
    "ringway-vrouter",
    "ringway-nri",
    "ringway-runtime",
    "ringway-pktgen",
    "ringway-frames",
];
/// QEMU's accelerator, if it is to be another: `kvm` where there is one. With a thread for each CPU, TCG is slower: they wait for each other's locks.
const ACCEL: &str = "RINGWAY_VM_ACCEL";
/// What the guest's own environment says of it.
pub const VARIABLE: &str = "RINGWAY_NUMA_MACHINE";

/// The NICs on nodes 0 and 1, and what their wires lead to.
pub const NICS: [&str; 2] = ["0000:41:00.0", "0000:81:00.0"];
/// MAC addresses of the same.
pub const NIC_MACS: [&str; 2] = ["52:54:00:00:00:10", "52:54:00:00:00:11"];
/// MAC addresses of the other ends.
pub const FAR_MACS: [&str; 2] = ["52:54:00:00:00:20", "52:54:00:00:00:21"];
/// Ids of the NICs for QEMU's monitor.
pub const NIC_IDS: [&str; 2] = ["nic0", "nic1"];

fn directory() -> PathBuf {
    repository().join("target/numa")
}

/// Why this machine cannot run it, or nothing when it can.
pub fn unfit() -> Option<String> {
    let parts = ["vmlinuz", "initramfs.gz", "root.ext4"].map(|name| directory().join(name));
    let missing = [PathBuf::from(QEMU)].into_iter().chain(parts).find(|path| !path.exists())?;
    Some(format!("{} is missing; run integration/setup/numa.sh", missing.display()))
}

/// Boots the machine and runs `program` with `arguments` in it, at the same path as here; prints what that prints. Gives its exit
/// status. Files that it leaves in `target/numa/report` are fetched.
///
/// # Errors
/// The machine does not boot, or the program does not end in time.
pub fn run_inside(program: &Path, arguments: &[String]) -> Result<i32> {
    let id = std::process::id();
    let disk = directory().join(format!("run-{id}"));
    // Paths of sockets have to be short.
    let sockets = std::env::temp_dir().join(format!("ringway-numa-{id}"));
    for directory in [&disk, &sockets] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let ended = run_in(&disk, &sockets, program, arguments);
    for directory in [&disk, &sockets] {
        fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    ended
}

fn run_in(work: &Path, sockets: &Path, program: &Path, arguments: &[String]) -> Result<i32> {
    let disk = work.join("built.ext4");
    let programs = take_along(&work.join("tree"), program)?;
    make_disk(&work.join("tree"), &disk)?;
    let mut guest = Guest::start(command(sockets, &disk), sockets, "numa", BOOT)?;
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let mut line = format!("cd {}", quoted(&repository().display().to_string()));
    line.push_str(&format!(" && env {VARIABLE}=1 RINGWAY_BIN_DIR="));
    line.push_str(&quoted(&programs.display().to_string()));
    let ours = |name: &str| name.starts_with("RINGWAY_") || name == "RUST_BACKTRACE";
    for (name, value) in std::env::vars().filter(|(name, _)| ours(name)) {
        if name != "RINGWAY_BIN_DIR" {
            line.push_str(&format!(" {name}={}", quoted(&value)));
        }
    }
    for word in std::iter::once(program.display().to_string()).chain(arguments.iter().cloned()) {
        line.push(' ');
        line.push_str(&quoted(&word));
    }
    let status = guest.run_aloud(&line, WORK)?;
    fetch(&mut guest)?;
    Ok(status)
}

/// Lays out what the guest is to have beside Debian's packages, at the paths that it has here. Gives the directory of the daemons.
fn take_along(tree: &Path, program: &Path) -> Result<PathBuf> {
    let inside = |path: &Path| tree.join(path.strip_prefix("/").unwrap_or(path));
    let own = std::env::current_exe()?;
    let programs = own.parent().context("this program has no directory")?.to_owned();
    let built = PROGRAMS.iter().map(|name| programs.join(name)).filter(|path| path.exists());
    for path in built.chain([program.to_owned()]) {
        let to = inside(&path);
        fs::create_dir_all(to.parent().context("no directory")?)?;
        // What a debugger reads is most of it.
        run("strip", &["--strip-debug".as_ref(), "-o".as_ref(), to.as_os_str(), path.as_os_str()])?;
    }
    let containerd = Version::V2_1.program("containerd");
    let containerd = containerd.parent().filter(|path| path.exists()).map(Path::to_owned);
    for path in std::iter::once(repository().join("config")).chain(containerd) {
        let to = inside(&path);
        fs::create_dir_all(to.parent().context("no directory")?)?;
        run("cp", &["-a".as_ref(), path.as_os_str(), to.as_os_str()])?;
    }
    let init = repository().join("integration/setup/numa-guest");
    let to = tree.join("usr/sbin/ringway-guest");
    fs::create_dir_all(to.parent().context("no directory")?)?;
    fs::copy(&init, &to).with_context(|| init.display().to_string())?;
    fs::create_dir_all(inside(&directory()).join("report"))?;
    Ok(programs)
}

fn make_disk(tree: &Path, disk: &Path) -> Result<()> {
    let kib = run("du", &["-sk".as_ref(), tree.as_os_str()])?;
    let kib: u64 = kib.split_whitespace().next().unwrap_or_default().parse()?;
    // Tables and what is lost at the end of files.
    let size = format!("{}k", kib + kib / 4 + 16_384);
    let words = ["-q", "-O", "^has_journal", "-d"].map(std::ffi::OsStr::new);
    let words = [&words[..], &[tree.as_os_str(), disk.as_os_str(), size.as_ref()]].concat();
    run("/usr/sbin/mkfs.ext4", &words)?;
    Ok(())
}

fn command(sockets: &Path, disk: &Path) -> Command {
    let parts = directory();
    let mut command = Command::new(QEMU);
    let accel = std::env::var(ACCEL).unwrap_or_else(|_| "tcg,thread=single".to_owned());
    command.args(["-accel", &accel, "-cpu", "max", "-machine", "q35", "-m", "4G"]);
    command.args(["-smp", "4,sockets=2,cores=2,threads=1"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    for node in 0..2 {
        command.args(["-object", &format!("memory-backend-ram,id=m{node},size=2G")]);
        let cpus = format!("{}-{}", 2 * node, 2 * node + 1);
        command.args(["-numa", &format!("node,nodeid={node},cpus={cpus},memdev=m{node}")]);
    }
    command.args(["-numa", "dist,src=0,dst=1,val=21"]);
    command.arg("-kernel").arg(parts.join("vmlinuz"));
    command.arg("-initrd").arg(parts.join("initramfs.gz"));
    // The kernel ends if its timer seems not to work, as on a host that is busy. When it ends, so does QEMU.
    let kernel = "console=ttyS0 quiet intel_iommu=on no_timer_check panic=-1";
    command.args(["-append", kernel, "-no-reboot"]);
    // Without caching mode mappings would not reach QEMU's devices, without interrupt remapping VFIO refuses.
    command.args(["-device", "intel-iommu,intremap=on,caching-mode=on,aw-bits=48"]);
    for (n, image) in [parts.join("root.ext4"), disk.to_owned()].into_iter().enumerate() {
        let file = image.display();
        command.args(["-drive", &format!("if=none,id=d{n},format=raw,file={file},readonly=on")]);
        command.args(["-device", &format!("virtio-blk-pci,drive=d{n},addr=0x{:x}", 4 + n)]);
    }
    for node in 0..2 {
        command.args(["-netdev", &format!("hubport,id=near{node},hubid={node}")]);
        command.args(["-netdev", &format!("hubport,id=far{node},hubid={node}")]);
        let bus = 0x40 * (node + 1);
        let bridge = format!("pxb-pcie,id=pxb{node},bus_nr={bus},numa_node={node},bus=pcie.0");
        command.args(["-device", &bridge]);
        let port =
            format!("pcie-root-port,id=slot{node},bus=pxb{node},chassis={0},slot={0}", node + 1);
        command.args(["-device", &port]);
        let (id, mac) = (NIC_IDS[node], NIC_MACS[node]);
        let nic = format!("virtio-net-pci,id={id},netdev=near{node},bus=slot{node},mac={mac}");
        command.args(["-device", &format!("{nic},iommu_platform=on,disable-legacy=on,romfile=")]);
        let mac = FAR_MACS[node];
        let far = format!(
            "virtio-net-pci,netdev=far{node},mac={mac},romfile=,bus=pcie.0,addr=0x{:x}",
            8 + node
        );
        command.args(["-device", &far]);
    }
    // The guest's own way to the monitor.
    let path = sockets.join("monitor");
    command.args(["-chardev", &format!("socket,id=near,{}", listen(&path))]);
    command.args(["-mon", "chardev=near,mode=control"]);
    command.args(["-chardev", &format!("socket,id=far,path={}", path.display())]);
    command.args(["-device", "isa-serial,index=1,iobase=0x2f8,irq=3,chardev=far"]);
    command
}

/// Copies what the program has reported.
fn fetch(guest: &mut Guest) -> Result<()> {
    let directory = directory().join("report");
    let there = directory.display();
    for name in guest.run(&format!("ls {there}"))?.lines() {
        if name.contains('/') {
            bail!("{name:?} is no file name");
        }
        let text = guest.run(&format!("cat {there}/{name}"))?;
        let to = self::directory().join(name);
        fs::write(&to, text).with_context(|| to.display().to_string())?;
        println!("report: {}", to.display());
    }
    Ok(())
}
