//! Labels that containerd keeps: nerdctl puts none of a user's into the configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1::GetContainerRequest;
use containerd_client::services::v1::containers_client::ContainersClient;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Status};

/// containerd's shim tells its runtime where containerd is.
const ADDRESS: &str = "GRPC_ADDRESS";
/// containerd waits for this program meanwhile: it answers at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// The labels cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// Nobody listens.
    #[error("cannot reach containerd at {}: {source}", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// What connect(2) said.
        source: tonic::transport::Error,
    },
    /// It answered with an error.
    #[error("containerd does not tell the container's labels: {0}")]
    Refused(Status),
    /// It does not answer.
    #[error("containerd does not answer")]
    Silent(#[from] tokio::time::error::Elapsed),
    /// A namespace that cannot be one.
    #[error("containerd namespace {0:?} has characters that no namespace has")]
    Namespace(String),
    /// This process cannot wait for an answer.
    #[error("cannot make an event loop: {0}")]
    Loop(#[from] std::io::Error),
}

/// Where containerd is, if it has started this program.
pub fn socket() -> Option<PathBuf> {
    std::env::var_os(ADDRESS).filter(|it| !it.is_empty()).map(PathBuf::from)
}

/// Asks for them.
pub fn ask(
    socket: &Path,
    namespace: &str,
    id: &str,
) -> Result<BTreeMap<String, String>, LabelsError> {
    let header: AsciiMetadataValue =
        namespace.parse().map_err(|_| LabelsError::Namespace(namespace.to_owned()))?;
    let mut request = Request::new(GetContainerRequest { id: id.to_owned() });
    request.metadata_mut().insert("containerd-namespace", header);
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    event_loop.block_on(async {
        let answer = async {
            let channel = containerd_client::connect(socket)
                .await
                .map_err(|source| LabelsError::Connect { socket: socket.to_owned(), source })?;
            let mut client = ContainersClient::new(channel);
            client.get(request).await.map_err(LabelsError::Refused)
        };
        let container = tokio::time::timeout(PATIENCE, answer).await??.into_inner().container;
        Ok(container.unwrap_or_default().labels.into_iter().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_and_a_silent_containerd_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("containerd.sock");
        assert!(matches!(ask(&socket, "default", "c1"), Err(LabelsError::Connect { .. })));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(ask(&socket, "default", "c1"), Err(LabelsError::Silent(_))));
        assert!(matches!(ask(&socket, "a\nb", "c1"), Err(LabelsError::Namespace(_))));
    }
}
