//! That a device belongs to one vRouter of the machine, however many there are.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// How often a file is opened anew that its last holder removed just now.
const ATTEMPTS: u32 = 16;

/// A device that is ours until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Claim {
    _lock: Flock<File>,
    path: PathBuf,
}

/// Claims a device. `directory`: where all vRouters do; `owner`: who this one is, for others.
///
/// # Errors
/// Who has it and what to do, in one line.
pub fn claim(directory: &Path, device: &str, owner: &str) -> Result<Claim, String> {
    let failed = |error: io::Error| {
        format!("cannot claim device {device:?} in {}: {error}", directory.display())
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let path = directory.join(name(device));
    for _ in 0..ATTEMPTS {
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                // What cannot be read is not said.
                let _ = file.read_to_string(&mut holder);
                return Err(taken(device, &holder));
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // The file may have gone between opening and locking; then somebody else can have one of the name.
        let ours = lock.metadata().map_err(failed)?.ino();
        if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
            lock.set_len(0).map_err(failed)?;
            write!(&mut *lock, "{owner} {}", std::process::id()).map_err(failed)?;
            return Ok(Claim { _lock: lock, path });
        }
    }
    Err(taken(device, ""))
}

fn taken(device: &str, holder: &str) -> String {
    match holder.split_once(' ') {
        Some((socket, pid)) => format!(
            "device {device:?} is claimed by another vRouter of this machine, at {socket} (process {pid}); delete its \
             uplink there first (ringway --socket {socket} uplinks delete NAME), or name another device"
        ),
        None => format!(
            "device {device:?} is claimed by another vRouter of this machine; delete its uplink there first, or name \
             another device"
        ),
    }
}

/// Kernel interfaces are those of a network namespace; a PCI device is the machine's.
fn name(device: &str) -> String {
    if ringway_config::is_pci(device) {
        return device.to_owned();
    }
    let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |found| found.ino());
    format!("{namespace}-{device}")
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked. Gone already is fine.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let devices = dir.path().join("devices");
        let claim = |device, owner| claim(&devices, device, owner);
        let first = claim("eth1", "/run/r/vrouter-0/api.sock").unwrap();
        let other = claim("eth2", "/run/r/vrouter-0/api.sock").unwrap();
        let error = claim("eth1", "/run/r/vrouter-1/api.sock").unwrap_err();
        let pid = std::process::id();
        assert!(
            error.contains(&format!("at /run/r/vrouter-0/api.sock (process {pid})")),
            "{error}"
        );
        drop(first);
        let second = claim("eth1", "/run/r/vrouter-1/api.sock").unwrap();
        let error = claim("eth1", "/run/r/vrouter-0/api.sock").unwrap_err();
        assert!(error.contains("vrouter-1"), "{error}");
        drop((second, other));
        assert_eq!(fs::read_dir(&devices).unwrap().count(), 0, "claims were left behind");
    }

    #[test]
    fn what_a_dead_owner_left_is_no_claim() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0000:01:00.0"), "/run/r/vrouter-0/api.sock 1").unwrap();
        claim(dir.path(), "0000:01:00.0", "/run/r/vrouter-1/api.sock").unwrap();
    }
}
