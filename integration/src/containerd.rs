//! A private containerd: own root, state, sockets and plugin directory, taken from another Debian suite by the set-up.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use crate::cri::Cri;
use crate::image;
use crate::machine::repository;
use crate::process::{Daemon, run};
use crate::qemu::numa;
use crate::rundir::RunDir;
use crate::{wait, wrapper};

/// Time for containerd to answer CRI after its start; 2 s are usual on two busy CPUs.
const START: Duration = Duration::from_secs(60);

/// The runtime handler whose containers are started through `ringway-runtime`.
pub const WRAPPED: &str = "wrapped";

/// Where Debian's `containernetworking-plugins` are.
const CNI_PROGRAMS: &str = "/usr/lib/cni";

/// A containerd line that Ringway supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.7, NRI off unless switched on.
    V1_7,
    /// 2.1, NRI on.
    V2_1,
    /// 2.2, built by `integration/setup/kubernetes.sh` as the later ones are.
    V2_2,
    /// 2.3.
    V2_3,
    /// 2.4, with the newest NRI.
    V2_4,
}

impl Version {
    /// Every supported line.
    pub const ALL: [Self; 5] = [Self::V1_7, Self::V2_1, Self::V2_2, Self::V2_3, Self::V2_4];

    /// What the environment variable `CONTAINERD` asks for; 2.1 without it.
    pub fn from_environment() -> Result<Self> {
        match std::env::var("CONTAINERD") {
            Err(_) => Ok(Self::V2_1),
            Ok(text) => Self::ALL
                .into_iter()
                .find(|version| version.to_string() == text)
                .with_context(|| format!("CONTAINERD={text}: must be 1.7, 2.1, 2.2, 2.3 or 2.4")),
        }
    }

    /// One of its programs, as the set-up unpacked it.
    pub fn program(self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    fn directory(self) -> PathBuf {
        repository().join("target/containerd").join(self.to_string()).join("usr/bin")
    }

    /// The drop-in of this repository that an operator would use with it.
    fn drop_in(self) -> PathBuf {
        let name = match self {
            Self::V1_7 => "ringway-1.7.toml",
            Self::V2_1 | Self::V2_2 | Self::V2_3 | Self::V2_4 => "ringway-2.x.toml",
        };
        repository().join("config/containerd").join(name)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.1",
            Self::V2_2 => "2.2",
            Self::V2_3 => "2.3",
            Self::V2_4 => "2.4",
        })
    }
}

/// A running containerd with the test images.
#[derive(Debug)]
pub struct Containerd {
    /// Its CRI service.
    pub cri: Cri,
    version: Version,
    process: Daemon,
    socket: PathBuf,
    nri_socket: PathBuf,
}

impl Containerd {
    /// Programs here are started by containerd as NRI plugins.
    pub fn plugin_directory(run: &RunDir) -> PathBuf {
        run.disk().join("plugins")
    }

    /// Configuration of pre-installed NRI plugins.
    pub fn plugin_config_directory(run: &RunDir) -> PathBuf {
        run.path().join("nri.d")
    }

    /// CNI configuration; without any, pods use the host's network.
    pub fn cni_directory(run: &RunDir) -> PathBuf {
        run.path().join("cni.d")
    }

    /// Starts it and imports the images; pre-installed plugins must be in place before.
    pub fn start(run: &RunDir, version: Version) -> Result<Self> {
        let config = run.path().join("containerd.toml");
        for directory in [Self::plugin_directory(run), Self::plugin_config_directory(run)] {
            fs::create_dir_all(directory)?;
        }
        fs::write(&config, toml::to_string(&configuration(run, version)?)?)?;
        let mut command = Command::new(version.program("containerd"));
        command.arg("--config").arg(&config);
        // The shim of the same version must be found before any installed one.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut directories = vec![version.directory()];
        directories.extend(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(directories)?);
        // Containers of ctr, nerdctl and Docker may be started through the runtime wrapper.
        command.env(wrapper::CONFIG_VARIABLE, wrapper::write_config(run)?);
        let mut process = Daemon::start("containerd", command, &run.path().join("containerd.log"))?;

        let socket = run.path().join("containerd.sock");
        let cri = process.wait_for("CRI answers on its socket", START, || {
            let Ok(cri) = Cri::connect(&socket) else { return Ok(None) };
            Ok(cri.ready().unwrap_or(false).then_some(cri))
        })?;
        let nri_socket = run.path().join("nri.sock");
        let containerd = Self { cri, version, process, socket, nri_socket };
        containerd.import_images(run)?;
        Ok(containerd)
    }

    /// Version as the running process tells it by CRI.
    pub fn reported_version(&self) -> Result<String> {
        self.cri.version()
    }

    /// Its line.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where NRI plugins connect.
    pub fn nri_socket(&self) -> &Path {
        &self.nri_socket
    }

    /// Its own and the CRI socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process, for its log and for waiting on it.
    pub fn process(&mut self) -> &mut Daemon {
        &mut self.process
    }

    fn import_images(&self, run_dir: &RunDir) -> Result<()> {
        type Write = fn(&Path) -> Result<()>;
        let images: [(&str, Write, &str); 2] = [
            (image::BUSYBOX, image::write_busybox, numa::IMAGES[0]),
            (image::TESTPMD, image::write_testpmd, numa::IMAGES[1]),
        ];
        for (name, write, prepared) in images {
            let mut archive = numa::images().join(prepared);
            if wait::slowness() == 1 || !archive.exists() {
                archive = run_dir.disk().join("image.tar");
                write(&archive).with_context(|| format!("cannot make the image {name}"))?;
            }
            self.import(name, &archive)?;
        }
        Ok(())
    }

    /// Takes over an image from an archive, which goes.
    pub fn import(&self, name: &str, archive: &Path) -> Result<()> {
        run(
            self.version.program("ctr"),
            &[
                "--address".as_ref(),
                self.socket.as_os_str(),
                "--namespace".as_ref(),
                "k8s.io".as_ref(),
                "images".as_ref(),
                "import".as_ref(),
                archive.as_os_str(),
            ],
        )?;
        fs::remove_file(archive)?;
        // CRI learns of the image by an event.
        wait::until(&format!("CRI knows {name}"), START, || {
            Ok(self.cri.has_image(name)?.then_some(()))
        })
    }
}

/// The operator's drop-in, with every path moved into the run's directories and what this machine's cgroups need.
fn configuration(run: &RunDir, version: Version) -> Result<Table> {
    let drop_in = version.drop_in();
    let text = fs::read_to_string(&drop_in)
        .with_context(|| format!("cannot read {}", drop_in.display()))?;
    let mut config: Table = text.parse().with_context(|| drop_in.display().to_string())?;
    let own = overrides(run, version, &wrapper::wrapper()?.display().to_string());
    let own: Table = own.parse().context("the fixture's own configuration")?;
    merge(&mut config, own)?;
    Ok(config)
}

fn overrides(run: &RunDir, version: Version, wrapper: &str) -> String {
    let run_path = run.path().display().to_string();
    let disk = run.disk().display().to_string();
    let plugins = Containerd::plugin_directory(run).display().to_string();
    let plugin_config = Containerd::plugin_config_directory(run).display().to_string();
    let sandbox = image::BUSYBOX;
    // The drop-in's is for machines with KVM, or none around them.
    let patience = match wait::slowness() {
        1 => String::new(),
        slowness => format!(
            "plugin_registration_timeout = \"{}s\"\nplugin_request_timeout = \"{}s\"",
            5 * slowness,
            2 * slowness
        ),
    };
    let common = format!(
        r#"
        root = "{disk}/root"
        state = "{run_path}/state"
        # Snapshotters that need devices this fixture does not use.
        disabled_plugins = [
            "io.containerd.internal.v1.opt",
            "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
            "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
            "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
        ]
        [grpc]
        address = "{run_path}/containerd.sock"
        [ttrpc]
        address = "{run_path}/containerd.ttrpc"
        [debug]
        level = "info"
        [plugins."io.containerd.nri.v1.nri"]
        socket_path = "{run_path}/nri.sock"
        plugin_path = "{plugins}"
        plugin_config_path = "{plugin_config}"
        {patience}
        "#
    );
    // Without CAP_SYS_RESOURCE (a test machine in a container) a negative oom_score_adj cannot be set; the hugetlb limits of
    // the pods are read back.
    let runtime = format!(
        r#"
        restrict_oom_score_adj = true
        disable_hugetlb_controller = false
        tolerate_missing_hugetlb_controller = false
        enable_cdi = true
        cdi_spec_dirs = ["{run_path}/cdi"]
        # So that what is left of a run is found and taken away with it.
        netns_mounts_under_state_dir = true
        "#
    );
    let cni = format!("conf_dir = \"{}\"", Containerd::cni_directory(run).display());
    // Named anew in 2.1, and the old name is gone later.
    let cni_programs = match version {
        Version::V1_7 | Version::V2_1 => format!("bin_dir = \"{CNI_PROGRAMS}\""),
        Version::V2_2 | Version::V2_3 | Version::V2_4 => format!("bin_dirs = [\"{CNI_PROGRAMS}\"]"),
    };
    match version {
        Version::V1_7 => format!(
            r#"version = 2
            {common}
            [plugins."io.containerd.grpc.v1.cri"]
            sandbox_image = "{sandbox}"
            {runtime}
            [plugins."io.containerd.grpc.v1.cri".cni]
            {cni}
            {cni_programs}
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
            runtime_type = "io.containerd.runc.v2"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            SystemdCgroup = false
            Root = "{run_path}/runc"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{WRAPPED}]
            runtime_type = "io.containerd.runc.v2"
            pod_annotations = ["*.ringway.dev", "*.ringway.dev/*"]
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{WRAPPED}.options]
            SystemdCgroup = false
            Root = "{run_path}/runc"
            BinaryName = "{wrapper}"
            "#
        ),
        Version::V2_1 | Version::V2_2 | Version::V2_3 | Version::V2_4 => format!(
            r#"version = 3
            {common}
            [plugins."io.containerd.cri.v1.images".pinned_images]
            sandbox = "{sandbox}"
            [plugins."io.containerd.cri.v1.runtime"]
            {runtime}
            [plugins."io.containerd.cri.v1.runtime".cni]
            {cni}
            {cni_programs}
            [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
            runtime_type = "io.containerd.runc.v2"
            [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
            SystemdCgroup = false
            Root = "{run_path}/runc"
            [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{WRAPPED}]
            runtime_type = "io.containerd.runc.v2"
            pod_annotations = ["*.ringway.dev", "*.ringway.dev/*"]
            [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{WRAPPED}.options]
            SystemdCgroup = false
            Root = "{run_path}/runc"
            BinaryName = "{wrapper}"
            "#
        ),
    }
}

/// Puts `from` over `into`, table by table.
fn merge(into: &mut Table, from: Table) -> Result<()> {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new)?,
            (Some(old), new) if key == "version" && *old != new => {
                bail!("the drop-in has version {old}, this containerd needs {new}")
            }
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_what_only_one_side_has() {
        let mut config: Table = "version = 2\n[a.b]\nx = 1\ny = 2\n".parse().unwrap();
        merge(&mut config, "version = 2\n[a.b]\ny = 3\n[a.c]\nz = 4\n".parse().unwrap()).unwrap();
        let expected: Table = "version = 2\n[a.b]\nx = 1\ny = 3\n[a.c]\nz = 4\n".parse().unwrap();
        assert_eq!(config, expected);
        let error = merge(&mut config, "version = 3\n".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "the drop-in has version 2, this containerd needs 3");
    }
}
