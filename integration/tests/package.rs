//! What `make install` and `make deb` ship: whole, and nothing that contradicts itself. Needs neither root nor hugepages.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers included"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use integration::kubernetes;
use integration::machine::{program, repository};

/// Runs a program to its end; what it wrote.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The Debian package of the binaries that are tested here, unpacked.
struct Package {
    folder: tempfile::TempDir,
    control: String,
}

impl Package {
    fn new() -> Self {
        let binaries = program("ringway").unwrap().parent().unwrap().to_owned();
        // The script leaves the package beside the folder with the binaries; links keep it out of the build's own.
        let folder = tempfile::tempdir().unwrap();
        let release = folder.path().join("release");
        std::fs::create_dir(&release).unwrap();
        for name in [
            "ringway",
            "ringway-vrouter",
            "ringway-nri",
            "ringway-runtime",
            "ringway-tuner",
            "ringway-controller",
        ] {
            std::os::unix::fs::symlink(binaries.join(name), release.join(name)).unwrap();
        }
        run(Command::new(repository().join("packaging/deb.sh")).arg(&release));
        let package = files(folder.path())
            .into_iter()
            .find(|path| path.extension().is_some_and(|e| e == "deb"));
        let package = package.unwrap();
        let root = folder.path().join("root");
        run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root));
        let control = run(Command::new("dpkg-deb").arg("-f").arg(&package));
        Self { folder, control }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }
}

#[test]
fn the_package_is_whole() {
    let package = Package::new();

    for needed in ["librte-eal", "librte-mempool-ring", "librte-bus-vdev", "libc6"] {
        assert!(
            package.control.contains(needed),
            "{needed} is no dependency:\n{}",
            package.control
        );
    }

    for unit in files(&package.path("usr/lib/systemd/system")) {
        let text = std::fs::read_to_string(&unit).unwrap();
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let binary = start.split_whitespace().next().unwrap();
        assert!(package.path(binary).is_file(), "{unit:?} starts {binary}, which is not there");
    }

    for path in ["usr/bin/ringway-runtime", "usr/bin/ringway-crun", "etc/ringway/runtime.toml"] {
        assert!(package.path(path).is_file(), "{path} is not there");
    }

    // Everything that can be called has a manual page, and completion knows it.
    let help = run(Command::new(package.path("usr/bin/ringway")).arg("--help"));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<_> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.contains(&"ports"), "{commands:?}");
    let bash = package.read("usr/share/bash-completion/completions/ringway");
    for command in commands {
        assert!(bash.contains(command), "bash does not complete {command}");
        let page = package.path(&format!("usr/share/man/man1/ringway-{command}.1.gz"));
        let text = run(Command::new("zcat").arg(&page));
        assert!(text.contains(&format!("ringway-{command} \\- ")), "{page:?} has no name:\n{text}");
        assert!(text.contains(".SH SYNOPSIS"), "{page:?} is no page:\n{text}");
    }
    for file in ["zsh/site-functions/_ringway", "fish/vendor_completions.d/ringway.fish"] {
        assert!(package.read(&format!("usr/share/{file}")).contains("networks"), "{file}");
    }
    for daemon in ["ringway-vrouter", "ringway-nri", "ringway-tuner", "ringway-controller"] {
        assert!(package.path(&format!("usr/share/man/man8/{daemon}.8.gz")).is_file(), "{daemon}");
    }
}

#[test]
fn what_is_shipped_as_configuration_is_accepted() {
    let kubernetes = repository().join("config/kubernetes");
    let vrouter = program("ringway-vrouter").unwrap();
    for file in [
        repository().join("config/samples/vrouter.toml"),
        kubernetes.join("base/vrouter.toml"),
        kubernetes.join("overlays/sample/vrouter.toml"),
    ] {
        run(Command::new(&vrouter).arg("--check").arg("--config").arg(&file));
    }
}

#[test]
fn the_kubernetes_overlay_builds() {
    // Installed, or built for `make test-k8s`.
    let places = ["kubectl".into(), kubernetes::program("kubectl")];
    let works =
        |kubectl: &&PathBuf| Command::new(kubectl).args(["version", "--client"]).output().is_ok();
    let Some(kubectl) = places.iter().find(works) else {
        println!("SKIP the_kubernetes_overlay_builds: kubectl is not installed");
        return;
    };
    let sample = repository().join("config/kubernetes/overlays/sample");
    let text = run(Command::new(kubectl).arg("kustomize").arg(sample));
    for wanted in
        ["kind: DaemonSet", "hostPID: true", "registry.example.com/ringway:", "name = \"red\""]
    {
        assert!(text.contains(wanted), "{wanted} is missing:\n{text}");
    }
}
