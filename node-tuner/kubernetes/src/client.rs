//! Reaching the API server.

use std::path::{Path, PathBuf};

use kube::Client;
use kube::config::{Config, InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file can't be used.
    #[error("{}", file.display())]
    File {
        /// As given.
        file: PathBuf,
        /// Why.
        source: KubeconfigError,
    },
    /// No file was given, and there is neither a pod's service account nor a file at the usual places.
    #[error("give --kubeconfig")]
    Nothing(#[from] InferConfigError),
    /// What it says is no address or no key.
    #[error(transparent)]
    Client(#[from] kube::Error),
}

/// A client by `kubeconfig`, or by what a pod or a person's home has of itself.
///
/// # Errors
/// [`ClientError`]; that nobody answers shows with the first request.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(file) => {
            let because = |source| ClientError::File { file: file.to_owned(), source };
            let kubeconfig = Kubeconfig::read_from(file).map_err(because)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(because)?
        }
        None => Config::infer().await?,
    };
    // Whoever calls decides when to try again: fifteen tries in a row would hold up everything else, and the server most of all.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
