//! Calls of the vRouter, each bounded in time.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::{Code, Response, Status, Streaming};
use vrouter_api::v1::{
    ChangeRoutesRequest, DeletePortRequest, Event, GetInfoRequest, Info, ListNetworksRequest,
    ListPortsRequest, ListRoutesRequest, Network, Port, PortSpec, Route, WatchRequest,
};
use vrouter_api::{Client, ConnectError, connect};

/// The vRouter did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum VRouterError {
    /// Nobody listens.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Somebody listens and says nothing.
    #[error(
        "the vRouter at {} did not answer within {} ms; look at its log, or raise vrouter_timeout_ms",
        socket.display(), timeout.as_millis()
    )]
    Silent {
        /// Its control socket.
        socket: PathBuf,
        /// How long it was given.
        timeout: Duration,
    },
    /// It did not answer just now.
    #[error(
        "the pod's vRouter at {} is away; start ringway-vrouter or correct the socket path (vrouter_sockets)",
        socket.display()
    )]
    Away {
        /// Its control socket.
        socket: PathBuf,
    },
    /// It answered with an error.
    #[error("the vRouter cannot {what}: {text}")]
    Refused {
        /// What it was asked for.
        what: String,
        /// What it said.
        text: String,
    },
}

impl VRouterError {
    /// A pod's vRouter is away.
    pub fn away(vrouter: Option<&VRouter>) -> Self {
        Self::Away { socket: vrouter.map(|vrouter| vrouter.socket.clone()).unwrap_or_default() }
    }
}

/// Where a vRouter is.
#[derive(Debug)]
pub struct VRouter {
    socket: PathBuf,
    /// The same as text, by which it is known.
    name: String,
    /// What the calls of one session may take together.
    pub timeout: Duration,
    /// Tells the watcher that its ports or routes may differ from what pods hold.
    pub stale: Notify,
}

/// A few calls that share one allowance of time.
///
/// Each session has its own connection: making one is cheap on a unix socket, and none is ever stale after a start of
/// the vRouter.
#[derive(Debug)]
pub struct Session<'a> {
    vrouter: &'a VRouter,
    client: Client,
    /// Time the vRouter has left. Only its own: what we do between calls (files, on a slow disk perhaps) is not its
    /// fault.
    left: Duration,
}

impl VRouter {
    /// The one at a control socket.
    pub fn new(socket: PathBuf, timeout: Duration) -> Self {
        let name = socket.display().to_string();
        Self { socket, name, timeout, stale: Notify::new() }
    }

    /// What it is known by: its control socket.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connects.
    pub async fn session(&self) -> Result<Session<'_>, VRouterError> {
        let mut left = self.timeout;
        let connected = within(&mut left, connect(&self.socket)).await;
        let client = connected.ok_or_else(|| self.silent())??;
        Ok(Session { vrouter: self, client, left })
    }

    fn silent(&self) -> VRouterError {
        VRouterError::Silent { socket: self.socket.clone(), timeout: self.timeout }
    }
}

impl Session<'_> {
    /// Who it is.
    pub async fn info(&mut self) -> Result<Info, VRouterError> {
        let call = self.client.get_info(GetInfoRequest {});
        bounded(self.vrouter, &mut self.left, "say who it is", call).await
    }

    /// Its networks.
    pub async fn networks(&mut self) -> Result<Vec<Network>, VRouterError> {
        let call = self.client.list_networks(ListNetworksRequest {});
        let list = bounded(self.vrouter, &mut self.left, "list its networks", call).await?;
        Ok(list.networks)
    }

    /// Its ports, ours and others'.
    pub async fn ports(&mut self) -> Result<Vec<Port>, VRouterError> {
        let call = self.client.list_ports(ListPortsRequest {});
        Ok(bounded(self.vrouter, &mut self.left, "list its ports", call).await?.ports)
    }

    /// Creates a port, or gives it other peers. A port with this id that is different is one whose removal was missed:
    /// it is replaced.
    pub async fn create(&mut self, spec: PortSpec) -> Result<(), VRouterError> {
        let id = spec.id.clone();
        match self.try_create(spec.clone()).await? {
            Ok(()) => return Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(refused("create port", &id, &status)),
        }
        self.delete(&id).await?;
        self.try_create(spec).await?.map_err(|status| refused("create port", &id, &status))
    }

    async fn try_create(&mut self, spec: PortSpec) -> Result<Result<(), Status>, VRouterError> {
        let call = within(&mut self.left, self.client.create_port(spec)).await;
        Ok(call.ok_or_else(|| self.vrouter.silent())?.map(drop))
    }

    /// Deletes a port. One that does not exist is no error.
    pub async fn delete(&mut self, id: &str) -> Result<(), VRouterError> {
        let call = self.client.delete_port(DeletePortRequest { id: id.to_owned() });
        let what = format!("delete port {id}");
        bounded(self.vrouter, &mut self.left, &what, call).await.map(drop)
    }

    /// A network's routes, all of them.
    pub async fn routes(&mut self, network: &str) -> Result<Vec<Route>, VRouterError> {
        let mut routes: Vec<Route> = Vec::new();
        loop {
            let after = routes.last().map(|route| route.prefix.clone()).unwrap_or_default();
            let request = ListRoutesRequest { network: network.to_owned(), after, limit: 0 };
            let call = self.client.list_routes(request);
            let page = bounded(self.vrouter, &mut self.left, "list its routes", call).await?;
            let done = !page.more || page.routes.is_empty();
            routes.extend(page.routes);
            if done {
                return Ok(routes);
            }
        }
    }

    /// Changes a network's routes.
    pub async fn change_routes(&mut self, change: ChangeRoutesRequest) -> Result<(), VRouterError> {
        let what = format!("change routes of network {}", change.network);
        let call = self.client.change_routes(change);
        bounded(self.vrouter, &mut self.left, &what, call).await.map(drop)
    }

    /// Everything that changes from now on. Only opening the stream is bounded.
    pub async fn watch(mut self) -> Result<Streaming<Event>, VRouterError> {
        let call = self.client.watch(WatchRequest {});
        bounded(self.vrouter, &mut self.left, "report its changes", call).await
    }
}

async fn bounded<T>(
    vrouter: &VRouter,
    left: &mut Duration,
    what: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, VRouterError> {
    match within(left, call).await {
        Some(Ok(answer)) => Ok(answer.into_inner()),
        Some(Err(status)) => {
            Err(VRouterError::Refused { what: what.to_owned(), text: status.message().to_owned() })
        }
        None => Err(vrouter.silent()),
    }
}

/// Waits for `call` as long as there is time left, and takes what it used off that.
async fn within<T>(left: &mut Duration, call: impl Future<Output = T>) -> Option<T> {
    let began = Instant::now();
    let outcome = tokio::time::timeout(*left, call).await.ok();
    *left = left.saturating_sub(began.elapsed());
    outcome
}

fn refused(what: &str, id: &str, status: &Status) -> VRouterError {
    VRouterError::Refused { what: format!("{what} {id}"), text: status.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_time_of_calls_counts() {
        let mut left = Duration::from_secs(20);
        let pause = Duration::from_millis(30);
        assert_eq!(within(&mut left, tokio::time::sleep(pause)).await, Some(()));
        let after = left;
        assert!(after <= Duration::from_secs(20) - pause);
        tokio::time::sleep(pause).await;
        assert_eq!(left, after, "time between calls was counted");
        left = pause;
        assert_eq!(within(&mut left, std::future::pending::<()>()).await, None);
        assert_eq!(left, Duration::ZERO);
    }

    #[tokio::test]
    async fn an_absent_and_a_silent_vrouter_are_told_apart_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vrouter.sock");
        let vrouter = VRouter::new(socket.clone(), Duration::from_millis(200));
        let error = vrouter.session().await.unwrap_err().to_string();
        assert!(
            error.contains("vrouter.sock") && error.contains("start ringway-vrouter"),
            "{error}"
        );

        // Accepts and never answers.
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let began = Instant::now();
        let outcome = async { vrouter.session().await?.ports().await }.await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("did not answer within 200 ms"), "{error}");
        assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
    }
}
