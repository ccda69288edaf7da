//! Where DPDK's log goes: into memory while EAL starts, so that a refusal can say why, then to stderr.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, IntoRawFd};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use vrouter_dpdk_sys as sys;

/// More than EAL writes at any level on any machine seen; keeps an error text bounded.
const TEXT_MAX: u64 = 64 * 1024;

/// DPDK's log stream while it points into memory.
pub(super) struct Capture {
    text: File,
    stream: *mut sys::FILE,
}

impl Capture {
    /// Redirects DPDK's log until [`Capture::finish`].
    pub(super) fn start() -> Result<Self, Errno> {
        let text = File::from(memfd_create(c"eal-log", MFdFlags::MFD_CLOEXEC)?);
        let writer = text.try_clone().map_err(|_| Errno::last())?;
        // SAFETY: the descriptor is open for the whole call and the mode is a C string.
        let stream = unsafe { sys::fdopen(writer.as_raw_fd(), c"w".as_ptr()) };
        if stream.is_null() {
            return Err(Errno::last());
        }
        // The stream owns the descriptor from here on; fclose in `finish` closes it.
        let _ = writer.into_raw_fd();
        // SAFETY: the stream stays open until `finish` takes it away from DPDK again.
        unsafe { sys::rte_openlog_stream(stream) };
        Ok(Self { text, stream })
    }

    /// Points the log at stderr, for good, and returns what was caught: one line per message.
    pub(super) fn finish(mut self) -> String {
        // SAFETY: the C library's stderr is initialised before main and never reassigned by us; reading the
        // pointer races with nobody.
        let stderr = unsafe { sys::stderr };
        // SAFETY: stderr lives as long as the process. DPDK knows not to close it at cleanup.
        unsafe { sys::rte_openlog_stream(stderr) };
        // SAFETY: `start` opened the stream, nobody else has it: DPDK was given another one just now, and
        // `finish` consumes self, so this happens once. It also flushes and closes the descriptor.
        unsafe { sys::fclose(self.stream) };

        let mut caught = Vec::new();
        // Memory cannot fail to be read; if it did, an error without its text is all that is lost.
        let _ =
            self.text.rewind().and_then(|()| (&self.text).take(TEXT_MAX).read_to_end(&mut caught));
        String::from_utf8_lossy(&caught).into_owned()
    }
}
