//! The two ways a plugin lives: started by the runtime, or on its own.

use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::net::UnixStream;

use crate::plugin::Plugin;
use crate::session::{self, Ended, Identity, IdentityError, SessionError};

/// The wait before the second attempt to reach the runtime; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait: a restarted runtime is without the plugin for no longer than this.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The runtime started this process: who it says we are, and the connection.
#[derive(Debug)]
pub struct Launched {
    /// From the environment; the runtime ignores what the plugin registers as.
    pub identity: Identity,
    /// The inherited end of a socket pair.
    pub stream: std::os::unix::net::UnixStream,
}

/// The environment of a plugin that the runtime starts is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// One of the three variables is missing or not text.
    #[error("NRI_PLUGIN_SOCKET is set but {0} is not: was this started by a runtime?")]
    Missing(&'static str),
    /// Not a number.
    #[error("NRI_PLUGIN_SOCKET={0:?} is not a file descriptor")]
    Socket(String),
    /// A name or index no runtime would use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nothing is open there.
    #[error("cannot use file descriptor {fd} that NRI_PLUGIN_SOCKET names")]
    Fd {
        /// From the variable.
        fd: i32,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl Launched {
    /// Looks at the environment (`std::env::var_os`) for the variables of a runtime that starts its plugins; `None`
    /// without them.
    ///
    /// # Errors
    /// [`LaunchError`] when they are there but cannot be used.
    pub fn from_env(
        var: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Option<Self>, LaunchError> {
        let Some(socket) = var("NRI_PLUGIN_SOCKET") else { return Ok(None) };
        let text = |name| {
            var(name).and_then(|value| value.into_string().ok()).ok_or(LaunchError::Missing(name))
        };
        let identity = Identity::new(&text("NRI_PLUGIN_NAME")?, &text("NRI_PLUGIN_IDX")?)?;
        let fd = socket
            .to_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| LaunchError::Socket(socket.to_string_lossy().into_owned()))?;
        // Taking over a descriptor by its number is unsafe in Rust, and /proc/self/fd cannot reopen a socket. A pidfd
        // of ourselves gives a duplicate of our own that is safe to own. The original stays open until we exit, which
        // is what a launched plugin does when its session ends.
        let source = |errno: rustix::io::Errno| LaunchError::Fd { fd, source: errno.into() };
        let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).map_err(source)?;
        let owned = pidfd_getfd(ourselves, fd, PidfdGetfdFlags::empty()).map_err(source)?;
        Ok(Some(Self { identity, stream: owned.into() }))
    }
}

/// Serves the runtime that started this process. Returns when it closes the connection; the process must then exit,
/// or the runtime would start a second one beside it.
///
/// # Errors
/// [`SessionError`].
pub async fn serve_launched<P: Plugin>(
    plugin: Arc<P>,
    launched: Launched,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Ended, SessionError> {
    launched.stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(launched.stream)?;
    session::serve(plugin, stream, &launched.identity, pin!(shutdown), || ()).await
}

/// Keeps `plugin` registered with the runtime that listens at `socket`, over restarts of the runtime, until `shutdown`
/// completes.
pub async fn run_external<P: Plugin>(
    plugin: Arc<P>,
    socket: &Path,
    identity: &Identity,
    shutdown: impl Future<Output = ()> + Send,
) {
    let mut shutdown = pin!(shutdown);
    let mut backoff = BACKOFF_MIN;
    let mut last = String::new();
    loop {
        let (outcome, served) = attempt(&plugin, socket, identity, shutdown.as_mut()).await;
        let text = match outcome {
            Ok(Ended::Cancelled) => return,
            Ok(Ended::Eof) => "the runtime closed the connection".to_owned(),
            Err(error) => error,
        };
        if served {
            plugin.disconnected().await;
            backoff = BACKOFF_MIN;
            last.clear();
        }
        // A runtime that stays away is said once.
        if text != last {
            tracing::warn!(socket = %socket.display(), reason = text, "not registered; trying again");
            last = text;
        }
        tokio::select! {
            () = &mut shutdown => return,
            () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
        }
    }
}

/// One connection; also says whether the runtime had taken the plugin in.
async fn attempt<P: Plugin>(
    plugin: &Arc<P>,
    socket: &Path,
    identity: &Identity,
    shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> (Result<Ended, String>, bool) {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) => {
            let text = format!(
                "cannot connect: {error}; is the runtime running and NRI enabled in its configuration?"
            );
            return (Err(text), false);
        }
    };
    let mut served = false;
    let configured = || {
        served = true;
        tracing::info!(socket = %socket.display(), "registered");
    };
    let outcome = session::serve(Arc::clone(plugin), stream, identity, shutdown, configured).await;
    (outcome.map_err(|error| chain(&error)), served)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use super::*;

    fn from_vars(vars: &[(&'static str, &str)]) -> Result<Option<Launched>, LaunchError> {
        Launched::from_env(|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[tokio::test]
    async fn the_inherited_socket_is_found_by_its_number() {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let fd = theirs.as_raw_fd().to_string();
        let vars =
            [("NRI_PLUGIN_SOCKET", &*fd), ("NRI_PLUGIN_NAME", "x"), ("NRI_PLUGIN_IDX", "07")];
        let mut launched = from_vars(&vars).unwrap().unwrap();
        assert_eq!((launched.identity.name(), launched.identity.index()), ("x", "07"));
        launched.stream.write_all(b"hello").unwrap();
        let mut got = [0; 5];
        ours.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
    }

    #[test]
    fn a_broken_environment_is_named() {
        assert!(from_vars(&[("NRI_PLUGIN_NAME", "x")]).unwrap().is_none());
        let check = |socket: &str, rest: &[(&'static str, &str)], expected: &str| {
            let vars = [&[("NRI_PLUGIN_SOCKET", socket)], rest].concat();
            let error = from_vars(&vars).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let complete = [("NRI_PLUGIN_NAME", "x"), ("NRI_PLUGIN_IDX", "07")];
        check("3", &complete[..1], "NRI_PLUGIN_IDX");
        check("3", &complete[1..], "NRI_PLUGIN_NAME");
        check("three", &complete, "\"three\" is not a file descriptor");
        check("99999", &complete, "cannot use file descriptor 99999");
        check("3", &[("NRI_PLUGIN_NAME", "x"), ("NRI_PLUGIN_IDX", "7")], "two digits");
        check("3", &[("NRI_PLUGIN_NAME", "x y"), ("NRI_PLUGIN_IDX", "07")], "\"x y\"");
    }
}
