//! Container images made from this machine's own files, because no registry is needed for a test.
//!
//! An image is a docker-archive tar with one layer, as `ctr images import` reads it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::process::run;

/// busybox only: the sandbox image, and pods without DPDK.
pub const BUSYBOX: &str = "localhost/ringway/busybox:test";
/// The distribution's dpdk-testpmd with its libraries and drivers, and busybox.
pub const TESTPMD: &str = "localhost/ringway/testpmd:test";
/// Images like [`TESTPMD`] that say which user they run as, as `USER` in a Dockerfile does, by numbers and by names; what these say, and the
/// numbers that they stand for.
pub const WITH_USER: [(&str, &str, (u32, u32)); 2] = [
    ("localhost/ringway/testpmd-number:test", "1234:5678", (1234, 5678)),
    // In every Debian's /etc/passwd.
    ("localhost/ringway/testpmd-name:test", "games:users", (5, 100)),
];

/// The daemons and the operator's command, as the package has them, with libraries and drivers.
pub const RINGWAY: &str = "localhost/ringway/ringway:test";

/// What is in [`RINGWAY`].
const RINGWAY_PROGRAMS: [&str; 3] = ["ringway", "ringway-vrouter", "ringway-nri"];
/// Where Debian's busybox-static puts its program.
const BUSYBOX_PROGRAM: &str = "/bin/busybox";
/// The applets that pods of the tests use.
const APPLETS: [&str; 16] = [
    "sh", "mkfifo", "sleep", "cat", "echo", "ls", "env", "nc", "grep", // critest's
    "top", "touch", "true", "false", "id", "rm", "mount",
];
const TESTPMD_PROGRAM: &str = "/usr/bin/dpdk-testpmd";
/// Debian's merged /usr, which the paths that ldd prints rely on.
const MERGED: [(&str, &str); 3] = [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

/// Files of an image by their absolute path in it.
#[derive(Debug, Default)]
struct Files(BTreeMap<PathBuf, Content>);

#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// The bytes of this file of the machine.
    Copy(PathBuf),
    /// A symbolic link.
    Link(PathBuf),
}

impl Files {
    /// Adds `source` at its own path. Symbolic links stay links: EAL loads every name in its driver directory, and knows by the inode
    /// that two names are one driver.
    fn add(&mut self, source: &Path) -> Result<()> {
        let (Some(parent), Some(name)) = (source.parent(), source.file_name()) else {
            bail!("{} is not a file", source.display());
        };
        let parent = parent.canonicalize().with_context(|| parent.display().to_string())?;
        let path = parent.join(name);
        let kind = std::fs::symlink_metadata(&path)
            .with_context(|| path.display().to_string())?
            .file_type();
        if kind.is_symlink() {
            let target = std::fs::read_link(&path)?;
            let next = parent.join(&target);
            if self.0.insert(path, Content::Link(target)).is_none() {
                self.add(&next)?;
            }
        } else {
            self.0.insert(path.clone(), Content::Copy(path));
        }
        Ok(())
    }

    /// Adds a program or library and every library it needs.
    fn add_program(&mut self, source: &Path) -> Result<()> {
        self.add(source)?;
        for library in libraries(source)? {
            self.add(&library)?;
        }
        Ok(())
    }
}

/// The shared objects that the dynamic linker loads for `program`.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listing = run("ldd", &[program.as_os_str()])?;
    parse_ldd(&listing).with_context(|| format!("libraries of {}", program.display()))
}

fn parse_ldd(listing: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        if line.contains("not found") {
            bail!("missing library: {line}");
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        if path.starts_with('/') {
            let end = path.find(" (").unwrap_or(path.len());
            found.push(PathBuf::from(&path[..end]));
        }
    }
    Ok(found)
}

/// Writes the busybox image to `archive`.
pub fn write_busybox(archive: &Path) -> Result<()> {
    let mut files = Files::default();
    files.add(Path::new(BUSYBOX_PROGRAM))?;
    write(archive, BUSYBOX, "", &files)
}

/// Writes the testpmd image to `archive`.
pub fn write_testpmd(archive: &Path) -> Result<()> {
    write(archive, TESTPMD, "", &testpmd_with(|_| true)?)
}

/// The same with the small set of drivers, the machine's users, and one of them for its application; `name` and `user` as in [`WITH_USER`].
pub fn write_testpmd_of(archive: &Path, name: &str, user: &str) -> Result<()> {
    let mut files = testpmd_with(is_used)?;
    for file in ["/etc/passwd", "/etc/group"] {
        files.add(Path::new(file))?;
    }
    write(archive, name, user, &files)
}

/// The same with the drivers alone that a pod with vhost-user sockets uses: EAL loads all that it finds, which takes half a minute in a machine
/// without KVM.
pub fn write_small_testpmd(archive: &Path) -> Result<()> {
    write(archive, TESTPMD, "", &testpmd_with(is_used)?)
}

/// Whether a pod with vhost-user sockets uses a driver.
fn is_used(name: &str) -> bool {
    const USED: [&str; 4] =
        ["librte_bus_vdev.", "librte_bus_pci.", "librte_mempool_ring.", "librte_net_virtio."];
    USED.iter().any(|used| name.starts_with(used))
}

fn testpmd_with(is_used: impl Fn(&str) -> bool) -> Result<Files> {
    let mut files = Files::default();
    files.add(Path::new(BUSYBOX_PROGRAM))?;
    files.add_program(Path::new(TESTPMD_PROGRAM))?;
    for driver in drivers()? {
        if driver.file_name().is_some_and(|name| is_used(&name.to_string_lossy())) {
            files.add_program(&driver)?;
        }
    }
    Ok(files)
}

/// Writes the image of Ringway's daemons to `archive`; what they are made of without debugging symbols goes to the directory `stripped`.
pub fn write_ringway(archive: &Path, stripped: &Path) -> Result<()> {
    let mut files = Files::default();
    files.add(Path::new(BUSYBOX_PROGRAM))?;
    std::fs::create_dir_all(stripped)?;
    for name in RINGWAY_PROGRAMS {
        let (built, small) = (crate::machine::program(name)?, stripped.join(name));
        run("strip", &["-o".as_ref(), small.as_os_str(), built.as_os_str()])?;
        for library in libraries(&small)? {
            files.add(&library)?;
        }
        files.0.insert(Path::new("/usr/bin").join(name), Content::Copy(small));
    }
    for driver in drivers()? {
        files.add_program(&driver)?;
    }
    write(archive, RINGWAY, "", &files)
}

/// Every driver of the distribution's DPDK, from the directory its EAL searches by itself.
fn drivers() -> Result<Vec<PathBuf>> {
    let libdir = run("pkg-config", &[OsStr::new("--variable=libdir"), OsStr::new("libdpdk")])?;
    let parent = Path::new(libdir.trim()).join("dpdk");
    let mut found = Vec::new();
    for directory in
        std::fs::read_dir(&parent).with_context(|| format!("no drivers in {}", parent.display()))?
    {
        for file in std::fs::read_dir(directory?.path())? {
            found.push(file?.path());
        }
    }
    found.sort();
    Ok(found)
}

/// `user` as in a Dockerfile; root's where it is empty.
fn write(archive: &Path, name: &str, user: &str, files: &Files) -> Result<()> {
    let layer = layer(files)?;
    let digest = hex(&Sha256::digest(&layer));
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": user,
            "Env": ["PATH=/usr/bin:/bin"],
            // What a sandbox runs: it ends at once when asked to.
            "Entrypoint": ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"],
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created_by": "ringway integration tests"}],
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    let layer_name = format!("{digest}/layer.tar");
    let manifest =
        json!([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]).to_string();

    let file =
        File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
    let mut tar = tar::Builder::new(file);
    append(&mut tar, &config_name, 0o644, config.as_bytes())?;
    append(&mut tar, &layer_name, 0o644, &layer)?;
    append(&mut tar, "manifest.json", 0o644, manifest.as_bytes())?;
    tar.into_inner()?.flush()?;
    Ok(())
}

fn layer(files: &Files) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut directories = BTreeMap::from([
        (PathBuf::from("usr/bin"), 0o755),
        (PathBuf::from("proc"), 0o755),
        (PathBuf::from("sys"), 0o755),
        (PathBuf::from("dev"), 0o755),
        (PathBuf::from("etc"), 0o755),
        (PathBuf::from("run"), 0o755),
        (PathBuf::from("tmp"), 0o1777),
    ]);
    for path in files.0.keys() {
        for parent in relative(path).ancestors().skip(1) {
            if !parent.as_os_str().is_empty() {
                directories.entry(parent.to_owned()).or_insert(0o755);
            }
        }
    }
    for (path, mode) in &directories {
        special(&mut tar, path, EntryType::Directory, *mode, None)?;
    }
    for (link, target) in MERGED {
        special(&mut tar, Path::new(link), EntryType::Symlink, 0o777, Some(Path::new(target)))?;
    }
    for (path, content) in &files.0 {
        match content {
            Content::Copy(source) => {
                let bytes = std::fs::read(source)
                    .with_context(|| format!("cannot read {}", source.display()))?;
                append(&mut tar, relative(path), 0o755, &bytes)?;
            }
            Content::Link(target) => {
                special(&mut tar, relative(path), EntryType::Symlink, 0o777, Some(target))?;
            }
        }
    }
    for applet in APPLETS {
        let link = Path::new("usr/bin").join(applet);
        special(&mut tar, &link, EntryType::Symlink, 0o777, Some(Path::new("busybox")))?;
    }
    Ok(tar.into_inner()?)
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    path: impl AsRef<Path>,
    mode: u32,
    bytes: &[u8],
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(u64::try_from(bytes.len())?);
    header.set_mode(mode);
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}

fn special(
    tar: &mut tar::Builder<impl Write>,
    path: &Path,
    kind: EntryType,
    mode: u32,
    target: Option<&Path>,
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(mode);
    match target {
        Some(target) => tar.append_link(&mut header, path, target)?,
        None => tar.append_data(&mut header, path, std::io::empty())?,
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_prints() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffe)\n\
             \tlibrte_eal.so.23 => /lib/x86_64-linux-gnu/librte_eal.so.23 (0x00007f)\n\
             \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(listing).unwrap(),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/librte_eal.so.23"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert_eq!(parse_ldd("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
        let missing = parse_ldd("\tlibx.so => not found\n").unwrap_err();
        assert_eq!(missing.to_string(), "missing library: libx.so => not found");
    }

    #[test]
    fn the_manifest_names_a_layer_with_the_digest_of_its_bytes() {
        let archive = std::env::temp_dir().join(format!("ringway-image-{}", std::process::id()));
        let mut files = Files::default();
        files
            .0
            .insert(PathBuf::from("/opt/x/self"), Content::Copy(std::env::current_exe().unwrap()));
        write(&archive, "localhost/a:b", "", &files).unwrap();

        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(File::open(&archive).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            entries.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        std::fs::remove_file(&archive).unwrap();

        let manifest: serde_json::Value =
            serde_json::from_slice(&entries["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["localhost/a:b"]));
        let layer = &entries[manifest[0]["Layers"][0].as_str().unwrap()];
        let config: serde_json::Value =
            serde_json::from_slice(&entries[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        let digest = format!("sha256:{}", hex(&Sha256::digest(layer)));
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest]));
        let inside: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(inside.contains(&"opt/x/self".to_owned()), "{inside:?}");
        assert!(inside.contains(&"usr/bin/sh".to_owned()), "{inside:?}");
    }
}
