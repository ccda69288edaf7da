//! What WireGuard's devices need before they carry anything: keys, and who may send what.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::rig::Rig;

const WG: &str = "/usr/bin/wg";
const PORT: u16 = 51_820;

/// Whether there is a program to tell them with.
pub fn is_there() -> bool {
    Path::new(WG).exists()
}

/// Makes keys and tells each end's device `tk` of the other.
pub fn exchange_keys(rig: &Rig) -> Result<()> {
    let [(near, near_public), (far, far_public)] = [keys()?, keys()?];
    let ends = [
        (&rig.node, "node.key", near, far_public, "192.0.2.2", "10.97.0.0/24,2001:db8:97::/64"),
        (&rig.far, "far.key", far, near_public, "192.0.2.1", "10.66.0.0/24,fd00:66::/64"),
    ];
    for (space, file, private, peer, address, allowed) in ends {
        let file = rig.file(file);
        std::fs::write(&file, private)?;
        let own = format!("listen-port {PORT} private-key {}", file.display());
        let other = format!("peer {peer} endpoint {address}:{PORT} allowed-ips {allowed}");
        space.run(&format!("{WG} set tk {own} {other}"))?;
    }
    Ok(())
}

/// A private key and its public one.
fn keys() -> Result<(String, String)> {
    let private = wg("genkey", "")?;
    let public = wg("pubkey", &private)?;
    Ok((private, public))
}

fn wg(word: &str, input: &str) -> Result<String> {
    let mut command = Command::new(WG);
    let mut wg = command.arg(word).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    wg.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = wg.wait_with_output()?;
    ensure!(output.status.success(), "wg {word}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
