//! What a real containerd sends to the plugin, byte by byte. With `RINGWAY_RECORD=DIRECTORY` it is kept for
//! `nri-plugin/proto/testdata`, where the protocol's tests replay it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::containerd::Version;
use integration::machine::program;
use integration::node::{PluginStart, Setup};
use integration::pod::Pod;
use integration::process::Daemon;
use integration::recorder::Recorder;
use integration::stage::Stage;
use integration::wait;

const DIRECTORY: &str = "RINGWAY_RECORD";
const PATIENCE: Duration = Duration::from_secs(20);

pub fn is_recorded(stage: &mut Stage, version: Version) -> Result<()> {
    let node = stage.node(&Setup::new(version, PluginStart::External))?;
    let pod = |name: &str| Pod::idle(name).annotate("network.ringway.dev/pod", "red");
    let old = node.start_pod(pod("old"))?;
    node.stop_plugin()?;

    let run = node.run().path();
    let (socket, file) = (run.join("recorded.sock"), run.join("recorded.bin"));
    let recorder = Recorder::start(node.containerd()?.nri_socket(), &socket, &file)?;
    let mut command = Command::new(program("ringway-nri")?);
    command.arg("--config").arg(run.join("nri.toml")).arg("--nri-socket").arg(&socket);
    let log = run.join("nri-recorded.log");
    let mut plugin = Daemon::start("ringway-nri", command, &log)?;
    plugin.wait_for("containerd has told what exists", PATIENCE, || {
        Ok(std::fs::read_to_string(&log)?.contains("synchronized").then_some(()))
    })?;
    let new = node.start_pod(pod("new"))?;
    node.vrouter()?.port(&new.sandbox)?;
    node.containerd()?.cri.update_cpus(&new.container, "0")?;
    node.delete(&new)?;
    node.delete(&old)?;
    plugin.stop(PATIENCE)?;
    recorder.finish()?;
    node.start_plugin()?;

    let bytes = std::fs::read(&file)?;
    // From NRI 0.12 on each event of a pod has a call of its own.
    let event = match version {
        Version::V1_7 | Version::V2_1 | Version::V2_2 => "StateChange",
        Version::V2_3 | Version::V2_4 => "RemovePodSandbox",
    };
    for method in ["Configure", "Synchronize", "CreateContainer", "UpdateContainer", event] {
        let found = bytes.windows(method.len()).any(|window| window == method.as_bytes());
        ensure!(found, "{} bytes without {method}", bytes.len());
    }
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let reported = node.containerd()?.reported_version()?;
        let reported = reported.trim_start_matches('v');
        let reported = reported.split(['~', '-', '+']).next().unwrap_or(reported);
        let target = std::path::Path::new(&directory).join(format!("ringway-{reported}.bin"));
        std::fs::copy(&file, &target)?;
        println!("    {} bytes in {}", bytes.len(), target.display());
    }
    wait::until("no port is left", PATIENCE, || {
        Ok(node.vrouter()?.ports()?.is_empty().then_some(()))
    })
}
