//! The vRouter's control API: generated messages, client and server, and how to reach it over a unix socket.
//!
//! Does not know containers, DPDK or rings. Anyone on the control path may depend on it; it is the only thing the
//! NRI plugin, the CLI and the vRouter share.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

/// Version 1 of the API, generated from `proto/vrouter.proto`, where every field is described.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("ringway.vrouter.v1");
}

/// A client of one vRouter.
pub type Client = v1::v_router_client::VRouterClient<Channel>;

/// The vRouter cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens on the socket, or it does not exist.
    #[error(
        "cannot reach the vRouter at {}; start ringway-vrouter or correct the socket path (vrouter_socket)",
        path.display()
    )]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// What connect(2) said.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects to the control socket at `path`.
///
/// # Errors
/// [`ConnectError::Unreachable`] when nothing listens there.
pub async fn connect(path: &Path) -> Result<Client, ConnectError> {
    let socket = path.to_path_buf();
    // The URI is never used: the connector below always opens the unix socket.
    let channel = Endpoint::from_static("http://vrouter.invalid")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| ConnectError::Unreachable { path: path.to_path_buf(), source })?;
    Ok(Client::new(channel))
}
