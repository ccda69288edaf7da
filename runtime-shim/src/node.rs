//! Calls of the node's allocator, for containers that need it. Only here is an asynchronous runtime made: all other containers start
//! without one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nri_plugin_api::v1::{Adjustment, CreateRequest, ReleaseRequest};
use nri_plugin_api::{Client, ConnectError, SOCKET, connect, sandbox};
use ringway_config::RuntimeConfig;
use tonic::{Response, Status};

use crate::convert;

/// The node did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Nobody listens.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Somebody listens and says nothing.
    #[error(
        "ringway-nri at {} did not answer within {} ms; look at its log, or raise timeout_ms",
        socket.display(), timeout.as_millis()
    )]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// How long it was given.
        timeout: Duration,
    },
    /// It answered with an error, which is for whoever started the container.
    #[error("{0}")]
    Refused(String),
    /// This process cannot wait for an answer.
    #[error("cannot make an event loop: {0}")]
    Loop(std::io::Error),
}

/// Asks for what a container needs.
pub fn create(settings: &RuntimeConfig, request: CreateRequest) -> Result<Adjustment, NodeError> {
    call(settings, async move |mut client: Client| client.create(request).await)
}

/// Says that a container is about to be deleted, if the node holds anything for it. What goes wrong is found by the node itself,
/// sooner or later.
pub fn release(settings: &RuntimeConfig, root: &str, id: &str) {
    if !may_hold(&settings.run_dir, root, id) {
        return;
    }
    let request = ReleaseRequest { key: Some(convert::key(root, id)) };
    let outcome = call(settings, async move |mut client: Client| client.release(request).await);
    if let Err(error) = outcome {
        eprintln!("ringway: {error}; it is told when it is back");
    }
}

/// Whether there is a directory for the container: most have none, and need no call.
fn may_hold(run_dir: &Path, root: &str, id: &str) -> bool {
    run_dir.join("pods").join(sandbox(root, id)).symlink_metadata().is_ok()
}

fn call<T>(
    settings: &RuntimeConfig,
    call: impl AsyncFnOnce(Client) -> Result<Response<T>, Status>,
) -> Result<T, NodeError> {
    let socket = settings.run_dir.join(SOCKET);
    let timeout = Duration::from_millis(settings.timeout_ms.into());
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build();
    event_loop.map_err(NodeError::Loop)?.block_on(async {
        let answer = async {
            let answer = call(connect(&socket).await?).await;
            answer
                .map(Response::into_inner)
                .map_err(|it| NodeError::Refused(it.message().to_owned()))
        };
        tokio::time::timeout(timeout, answer)
            .await
            .unwrap_or_else(|_| Err(NodeError::Silent { socket: socket.clone(), timeout }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(run_dir: &Path) -> RuntimeConfig {
        RuntimeConfig { run_dir: run_dir.into(), timeout_ms: 200, ..RuntimeConfig::default() }
    }

    #[test]
    fn an_absent_and_a_silent_node_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let error = create(&settings(directory.path()), CreateRequest::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("node.sock") && text.contains("start ringway-nri"), "{text}");

        // Accepts and never answers.
        let _listener =
            std::os::unix::net::UnixListener::bind(directory.path().join(SOCKET)).unwrap();
        let error = create(&settings(directory.path()), CreateRequest::default()).unwrap_err();
        assert!(error.to_string().contains("did not answer within 200 ms"), "{error}");
    }

    #[test]
    fn only_containers_with_a_directory_are_released() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!may_hold(directory.path(), "/run/runc", "test"));
        let own = directory.path().join("pods").join(sandbox("/run/runc", "test"));
        std::fs::create_dir_all(own).unwrap();
        assert!(may_hold(directory.path(), "/run/runc/", "test"));
        assert!(!may_hold(directory.path(), "/run/crun", "test"));
    }
}
