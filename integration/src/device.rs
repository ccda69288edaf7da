//! Devices of `ringway cdi`: made, used and deleted as an operator does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nri_plugin_api::device_sandbox;
use vrouter_api::v1::PortState;

use crate::machine::program;
use crate::node::Node;
use crate::{traffic, wait};

/// Time for a container to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// One; dropping it removes its file.
#[derive(Debug)]
pub struct Device {
    name: String,
    directory: PathBuf,
    file: PathBuf,
    /// Of its interface.
    pub ipv4: String,
}

impl Device {
    /// Makes one in network red, told to runtimes by a file in `directory`.
    pub fn make(node: &Node, directory: &Path, name: &str) -> Result<Self> {
        // Of this run, in a directory that is not.
        let name = format!("{}-{name}", node.run().id());
        let mut device = Self {
            file: directory.join(format!("ringway.dev-interface_{name}.json")),
            directory: directory.to_owned(),
            name,
            ipv4: String::new(),
        };
        let mut command = Command::new(program("ringway")?);
        command.args(["--json", "cdi", "--run-dir"]).arg(node.run().path());
        command.arg("--spec-dir").arg(directory).args(["add", &device.name, "--network", "red"]);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        println!("    {made}");
        ensure!(made["device"] == device.reference().as_str(), "{made}");
        ensure!(device.file.is_file(), "{} is not there", device.file.display());
        device.ipv4 = made["interfaces"][0]["ipv4"].as_str().context("no address")?.to_owned();
        Ok(device)
    }

    /// As runtimes name it.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("ringway.dev/interface={}", self.name)
    }

    /// The text of its file.
    pub fn text(&self) -> Result<String> {
        std::fs::read_to_string(&self.file).with_context(|| self.file.display().to_string())
    }

    fn deletion(&self, node: &Node) -> Result<Command> {
        let mut command = Command::new(program("ringway")?);
        command.args(["cdi", "--run-dir"]).arg(node.run().path());
        command.arg("--spec-dir").arg(&self.directory).args(["delete", &self.name]);
        Ok(command)
    }

    /// An application has connected.
    pub fn wait_up(&self, node: &Node) -> Result<()> {
        node.vrouter()?.wait_up(&device_sandbox(&self.name), traffic::UP).map(drop)
    }

    /// No application is connected; the port is there.
    pub fn wait_down(&self, node: &Node) -> Result<()> {
        wait::until("the application is gone", PATIENCE, || {
            let port = node.vrouter()?.port(&device_sandbox(&self.name))?;
            Ok((port.state() != PortState::Up).then_some(()))
        })
    }

    /// Deletion fails; gives what it says.
    pub fn refuses_to_go(&self, node: &Node) -> Result<String> {
        let output = self.deletion(node)?.output()?;
        ensure!(!output.status.success(), "the device was deleted under its container");
        ensure!(self.file.is_file(), "the file went with it");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Deletes it; nothing is left.
    pub fn delete(self, node: &Node) -> Result<()> {
        // The last process of its container may just be ending.
        let mut said = String::new();
        wait::until("the device is deleted", PATIENCE, || {
            let output = self.deletion(node)?.output()?;
            said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success() || said.contains("in use"), "{said}");
            Ok(output.status.success().then_some(()))
        })
        .with_context(|| said.clone())?;
        ensure!(!self.file.exists(), "{} is left", self.file.display());
        let port = node.vrouter()?.find_port(&device_sandbox(&self.name))?;
        ensure!(port.is_none(), "{port:?}");
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Gone if all went well.
        let _ = std::fs::remove_file(&self.file);
    }
}
