use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use clap::Parser as _;

use super::facts::Machine;
use super::plan::{self, Step};
use crate::args::{Args, Command, UplinkAction};
use crate::failure::Failure;

/// `ls -l` of the paths below, on a QEMU machine with two virtio NICs behind root ports of their own and an emulated Intel
/// IOMMU; the first is the kernel's and has the default route, the second is bound to vfio-pci. A path ends in ` -> TARGET`
/// for a symbolic link.
const CAPTURED: &str = include_str!("../../testdata/two-nodes.txt");

const FIRST: &str = "0000:41:00.0";
const SECOND: &str = "0000:81:00.0";

/// A root directory with the captured files, and more of the same form.
fn machine(more: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in CAPTURED.lines().chain(more.lines()).filter(|line| !line.starts_with('#')) {
        let (path, content) = line.split_once(' ').unwrap_or((line, ""));
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        match content.strip_prefix("-> ") {
            Some(target) => symlink(target, path).unwrap(),
            None => fs::write(path, content.replace("\\n", "\n")).unwrap(),
        }
    }
    root
}

fn steps(root: &Path, device: &str, driver: &str, force: bool) -> Result<Vec<String>, String> {
    let machine = Machine::gather(root);
    let nic = machine.find(device).unwrap();
    let plan = plan::bind(&machine, nic, driver, force)?;
    Ok(plan.steps.iter().map(Step::to_string).collect())
}

/// Runs a command line on a root; what it prints.
fn run(root: &Path, line: &str) -> Result<String, Failure> {
    let root = root.display();
    let args = Args::try_parse_from(format!("ringway uplink {line} --root {root}").split(' '));
    let args = args.unwrap();
    let Command::Uplinks { action: Some(action) } = &args.command else { panic!("{line}") };
    let mut out = Vec::new();
    match action {
        UplinkAction::Bind(bind) => super::bind(bind, args.json, &mut out)?,
        UplinkAction::Unbind(unbind) => super::unbind(unbind, args.json, &mut out)?,
        UplinkAction::Devices(devices) => super::devices(devices, args.json, &mut out)?,
        other => panic!("{other:?}"),
    }
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn nics_are_found_with_what_matters_of_them() {
    let root = machine("");
    let text = run(root.path(), "devices").unwrap();
    assert_eq!(
        text,
        "ADDRESS       INTERFACE  DRIVER      NODE  IOMMU GROUP  USED BY\n\
         0000:41:00.0  eth0       virtio-pci     0           11  the default route on eth0\n\
         0000:81:00.0  -          vfio-pci       1            9  -\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&run(root.path(), "devices --json").unwrap()).unwrap();
    assert_eq!(json[0]["default_route"], true);
    assert_eq!((&json[1]["numa_node"], &json[1]["interface"]), (&1.into(), &().into()));
    let machine = Machine::gather(root.path());
    for name in ["eth0", FIRST, "41:00.0"] {
        assert_eq!(machine.find(name).unwrap().address, FIRST, "{name}");
    }
}

#[test]
fn what_is_used_is_not_taken_without_force() {
    let root = machine("");
    let error = steps(root.path(), "eth0", "vfio-pci", false).unwrap_err();
    assert!(error.contains("the default route on eth0") && error.contains("--force"), "{error}");
    let forced = steps(root.path(), "eth0", "vfio-pci", true).unwrap();
    assert_eq!(
        forced,
        [
            "reserve it for vfio-pci (driver_override)",
            "take it from virtio-pci (unbind)",
            "have the kernel look for a driver (drivers_probe)"
        ]
    );
    // A VLAN on top has it, or a bridge has the interface.
    let vlan = machine(
        "proc/net/route Iface Destination Gateway Flags RefCnt Use Metric Mask\\neth0.7 00000000 01020202 3 0 0 0 00000000\n\
         sys/class/net/eth0/upper_eth0.7 -> ../eth0.7\n\
         sys/class/net/eth0/master -> ../br0",
    );
    let error = steps(vlan.path(), FIRST, "vfio-pci", false).unwrap_err();
    assert!(error.contains("the default route on eth0.7; br0, of which eth0 is a port"), "{error}");
    let six = machine(
        "proc/net/route Iface\n\
         proc/net/ipv6_route 20010db8000000000000000000000000 40 0 00 0 0 0 0 0 eth0",
    );
    let error = steps(six.path(), FIRST, "vfio-pci", false).unwrap_err();
    assert!(error.contains("routes or addresses on eth0"), "{error}");
    let idle = machine(
        "proc/net/route Iface\n\
         proc/net/ipv6_route fe800000000000000000000000000000 40 0 00 0 0 0 0 0 eth0",
    );
    assert!(steps(idle.path(), FIRST, "vfio-pci", false).is_ok());
}

#[test]
fn what_the_iommu_cannot_keep_apart_is_refused() {
    let none = machine("");
    let group = none.path().join("sys/bus/pci/devices").join(FIRST).join("iommu_group");
    fs::remove_file(group).unwrap();
    let error = steps(none.path(), FIRST, "vfio-pci", true).unwrap_err();
    assert!(error.contains("no IOMMU group") && error.contains("intel_iommu=on"), "{error}");
    assert!(steps(none.path(), FIRST, "uio_pci_generic", true).is_ok(), "UIO needs no group");
    fs::create_dir_all(none.path().join("sys/module/vfio/parameters")).unwrap();
    let mode = none.path().join("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
    fs::write(mode, "Y\n").unwrap();
    assert!(steps(none.path(), FIRST, "vfio-pci", true).is_ok(), "VFIO without an IOMMU is on");

    let shared = machine(
        "sys/kernel/iommu_groups/11/devices/0000:41:00.1/class 0x010802\n\
         sys/kernel/iommu_groups/11/devices/0000:41:00.1/driver -> ../../../../bus/pci/drivers/nvme\n\
         sys/kernel/iommu_groups/11/devices/0000:40:00.0/class 0x060400\n\
         sys/kernel/iommu_groups/11/devices/0000:40:00.0/driver -> ../../../../bus/pci/drivers/pcieport",
    );
    let error = steps(shared.path(), FIRST, "vfio-pci", true).unwrap_err();
    assert!(error.contains("0000:41:00.1 (nvme)") && !error.contains("pcieport"), "{error}");
}

#[test]
fn what_somebody_has_open_stays() {
    let root = machine("proc/77/comm ringway-vrouter\nproc/77/fd/9 -> /dev/vfio/9");
    let machine = Machine::gather(root.path());
    let error = plan::unbind(&machine, machine.find(SECOND).unwrap()).unwrap_err();
    assert!(error.contains("process 77 (ringway-vrouter)"), "{error}");
    let error = steps(root.path(), SECOND, "uio_pci_generic", true).unwrap_err();
    assert!(error.contains("process 77"), "{error}");
}

#[test]
fn a_shared_driver_and_a_wrong_one_are_refused() {
    let root = machine(&format!(
        "sys/bus/pci/devices/{FIRST}/driver -> ../../drivers/mlx5_core\nproc/net/route Iface"
    ));
    let error = steps(root.path(), FIRST, "vfio-pci", true).unwrap_err();
    assert!(error.contains("beside the kernel's driver mlx5_core"), "{error}");
    let error = steps(root.path(), FIRST, "virtio-pci", true).unwrap_err();
    assert!(error.contains("\"virtio-pci\" does not leave a NIC to DPDK"), "{error}");
}

#[test]
fn done_is_done() {
    let root = machine("");
    assert_eq!(steps(root.path(), SECOND, "vfio-pci", false).unwrap(), [""; 0]);
    let text = run(root.path(), &format!("bind {SECOND} --yes")).unwrap();
    assert_eq!(text, "0000:81:00.0: vfio-pci\nnothing had to be done\n");
    let text = run(root.path(), "unbind eth0 --yes").unwrap();
    assert_eq!(text, "0000:41:00.0: virtio-pci, interface eth0\nnothing had to be done\n");
    // Bound by somebody's new_id: from now on it is kept.
    fs::write(
        root.path().join("sys/bus/pci/devices").join(SECOND).join("driver_override"),
        "(null)\n",
    )
    .unwrap();
    assert_eq!(
        steps(root.path(), SECOND, "vfio-pci", false).unwrap(),
        ["reserve it for vfio-pci (driver_override)"]
    );
}

#[test]
fn without_yes_nothing_is_written() {
    let root = machine("");
    let device = root.path().join("sys/bus/pci/devices").join(FIRST);
    let text = run(root.path(), "bind eth0 --force").unwrap();
    assert!(
        text.contains("would do:\n  reserve it for vfio-pci") && text.contains("--yes"),
        "{text}"
    );
    assert_eq!(fs::read_to_string(device.join("driver_override")).unwrap(), "(null)");
    assert!(!root.path().join("sys/bus/pci/drivers_probe").exists());
}

/// Files are no kernel: nobody follows what is written, which is told and taken back.
#[test]
fn what_had_no_effect_is_told_and_undone() {
    let root = machine("");
    let device = root.path().join("sys/bus/pci/devices").join(FIRST);
    let error = run(root.path(), "bind eth0 --force --yes").unwrap_err().to_string();
    assert!(error.contains("virtio-pci has it instead of vfio-pci"), "{error}");
    assert!(error.contains("undone, virtio-pci has it"), "{error}");
    assert_eq!(fs::read_to_string(device.join("driver_override")).unwrap(), "\n");
    let unbound = root.path().join("sys/bus/pci/drivers/virtio-pci/unbind");
    assert_eq!(fs::read_to_string(unbound).unwrap(), FIRST);

    let error = run(root.path(), &format!("unbind {SECOND} --yes")).unwrap_err().to_string();
    assert!(error.contains("vfio-pci took it again") && error.contains("remove_id"), "{error}");
}

#[test]
fn a_nic_that_is_not_there_is_told_with_those_that_are() {
    let root = machine("");
    let error = run(root.path(), "bind eth9 --yes").unwrap_err().to_string();
    assert!(
        error.contains("eth9") && error.contains("0000:41:00.0 (eth0), 0000:81:00.0"),
        "{error}"
    );
    let empty = tempfile::tempdir().unwrap();
    assert!(run(empty.path(), "bind eth9").unwrap_err().to_string().contains("there are: none"));
}
