//! TLS before HTTP, for a kube-scheduler that does not share the extender's loopback. Both sides show certificates: whoever may
//! ask can bind pods.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Connections that may be without a finished handshake at once.
const AT_ONCE: usize = 64;
/// For a handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// PEM files. They are read for each connection, so renewed ones count with the next.
#[derive(Clone, Debug)]
pub struct Files {
    /// The extender's certificate and those that vouch for it.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who vouches for those who may ask.
    pub client_ca: PathBuf,
}

/// Hands out connections whose handshake is done.
#[derive(Debug)]
pub struct TlsListener {
    address: SocketAddr,
    done: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    /// Accepts from now on; fails if the files cannot be used as they are.
    pub fn new(tcp: TcpListener, files: Files) -> Result<Self> {
        files.config()?;
        let address = tcp.local_addr()?;
        let (tell, done) = mpsc::channel(AT_ONCE);
        tokio::spawn(accept(tcp, Arc::new(files), tell));
        Ok(Self { address, done })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.done.recv().await {
            Some(connection) => connection,
            // The other side ends only with the process.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}

async fn accept(
    mut tcp: TcpListener,
    files: Arc<Files>,
    tell: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    // A handshake that hangs holds up nobody else's.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let (stream, peer) = Listener::accept(&mut tcp).await;
        let (files, tell) = (Arc::clone(&files), tell.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(PATIENCE, files.shake(stream)).await;
            drop(permit);
            match shaken {
                // Nobody takes it only when the process ends.
                Ok(Ok(stream)) => drop(tell.send((stream, peer)).await),
                Ok(Err(error)) => tracing::warn!(%peer, "not answered: {error:#}"),
                Err(_) => tracing::warn!(%peer, "not answered: no handshake within {PATIENCE:?}"),
            }
        });
    }
}

impl Files {
    async fn shake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        Ok(TlsAcceptor::from(self.config()?).accept(stream).await?)
    }

    fn config(&self) -> Result<Arc<ServerConfig>> {
        let chain = certificates(&self.cert).with_context(|| of("--tls-cert", &self.cert))?;
        let key =
            PrivateKeyDer::from_pem_file(&self.key).with_context(|| of("--tls-key", &self.key))?;
        let mut roots = RootCertStore::empty();
        let add = |certificate| roots.add(certificate).map_err(anyhow::Error::from);
        certificates(&self.client_ca)
            .and_then(|all| all.into_iter().try_for_each(add))
            .with_context(|| of("--client-ca", &self.client_ca))?;
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .with_context(|| of("--client-ca", &self.client_ca))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .with_context(|| of("--tls-cert", &self.cert))?;
        Ok(Arc::new(config))
    }
}

fn of(option: &str, file: &Path) -> String {
    format!("{option} {}", file.display())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_file_iter(file)?.collect::<Result<_, _>>()?)
}
