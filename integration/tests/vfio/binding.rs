//! `ringway uplink devices`, `bind` and `unbind`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use integration::machine::program;
use integration::process::run;
use integration::qemu::numa::{NIC_MACS, NICS};
use serde_json::Value;

use crate::rig::Rig;

/// What a command says, or what it complains about.
pub fn ringway(words: &[&str]) -> Result<String> {
    let output = Command::new(program("ringway")?).args(words).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is known of a NIC.
pub fn device(address: &str) -> Result<Value> {
    let text = ringway(&["uplink", "devices", "--json"])?;
    let list: Vec<Value> = serde_json::from_str(&text)?;
    let is = |nic: &Value| nic.get("address").and_then(Value::as_str) == Some(address);
    list.into_iter().find(is).with_context(|| format!("no {address} in {text}"))
}

fn word(nic: &Value, key: &str) -> String {
    nic.get(key).and_then(Value::as_str).unwrap_or("none").to_owned()
}

/// The kernel's interface of a NIC.
fn interface(address: &str) -> Result<String> {
    Ok(word(&device(address)?, "interface"))
}

/// Binds a NIC if it is not bound.
pub fn bind(address: &str) -> Result<()> {
    ringway(&["uplink", "bind", address, "--yes"])?;
    let driver = word(&device(address)?, "driver");
    ensure!(driver == "vfio-pci", "{address} has driver {driver}");
    Ok(())
}

fn ip(words: &str) -> Result<String> {
    let words: Vec<_> = words.split(' ').map(AsRef::as_ref).collect();
    run("ip", &words)
}

/// Both NICs go to VFIO, back, and to VFIO for good. One that the node lives on is refused.
pub fn there_and_back() -> Result<()> {
    for (node, (address, mac)) in NICS.iter().zip(NIC_MACS).enumerate() {
        let nic = device(address)?;
        ensure!(nic.get("numa_node").and_then(Value::as_u64) == Some(node.try_into()?), "{nic}");
        ensure!(nic.get("iommu_group").is_some_and(Value::is_u64), "{nic}");
        ensure!(word(&nic, "driver") == "virtio-pci", "{nic}");
        let name = word(&nic, "interface");

        // The machine's way out.
        ip(&format!("link set {name} up"))?;
        ip(&format!("addr add 203.0.113.1/24 dev {name}"))?;
        ip(&format!("route add default via 203.0.113.2 dev {name}"))?;
        ensure!(device(address)?.get("default_route") == Some(&true.into()), "no default route");
        let error = ringway(&["uplink", "bind", &name, "--yes"]).err().context("it was bound")?;
        let error = error.to_string();
        ensure!(error.contains(&format!("the default route on {name}")), "{error}");
        ensure!(error.contains("--force"), "{error}");
        ip("route del default")?;
        let error = ringway(&["uplink", "bind", &name, "--yes"]).err().context("it was bound")?;
        ensure!(error.to_string().contains("routes or addresses"), "{error}");
        ip(&format!("addr flush dev {name}"))?;
        ip(&format!("link set {name} down"))?;

        let shown = ringway(&["uplink", "bind", &name])?;
        ensure!(shown.contains("nothing was changed"), "{shown}");
        ensure!(word(&device(address)?, "driver") == "virtio-pci", "it was bound");
        let told = ringway(&["uplink", "bind", &name, "--yes"])?;
        ensure!(told.contains("take it from virtio-pci"), "{told}");
        let group = device(address)?.get("iommu_group").and_then(Value::as_u64).unwrap_or(0);
        let file = format!("/dev/vfio/{group}");
        ensure!(Path::new(&file).exists(), "there is no {file}");
        ensure!(!Path::new("/sys/class/net").join(&name).exists(), "{name} is still there");
        let again = ringway(&["uplink", "bind", address, "--yes"])?;
        ensure!(again.contains("nothing had to be done"), "{again}");

        let back = ringway(&["uplink", "unbind", address, "--yes"])?;
        ensure!(back.contains("virtio-pci, interface"), "{back}");
        let name = interface(address)?;
        let found = std::fs::read_to_string(format!("/sys/class/net/{name}/address"))?;
        ensure!(found.trim() == mac, "{name} has {found}");
        let again = ringway(&["uplink", "unbind", address, "--yes"])?;
        ensure!(again.contains("nothing had to be done"), "{again}");
        bind(address)?;
    }
    let error = ringway(&["uplink", "bind", "eth99"]).err().context("there is no eth99")?;
    ensure!(error.to_string().contains(NICS[0]), "{error}");
    Ok(())
}

/// The kernel would wait for the vRouter for ever.
pub fn open(rig: &Rig) -> Result<()> {
    let error = ringway(&["uplink", "unbind", NICS[0], "--yes"]).err().context("unbound")?;
    let error = error.to_string();
    ensure!(error.contains("ringway-vrouter") && error.contains("has it open"), "{error}");
    ensure!(rig.vrouter.uplink("up0")?.link, "up0 is down");
    Ok(())
}
