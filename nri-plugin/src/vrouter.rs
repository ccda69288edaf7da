//! Calls of the vRouter, each bounded in time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
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

/// Where a vRouter is, and the connection to it.
#[derive(Debug)]
pub struct VRouter {
    socket: PathBuf,
    /// The same as text, by which it is known.
    name: String,
    /// What the calls of one session may take together.
    pub timeout: Duration,
    /// Tells the watcher that its ports or routes may differ from what pods hold.
    pub stale: Notify,
    kept: Mutex<Kept>,
}

/// What is kept from session to session.
#[derive(Debug, Default)]
struct Kept {
    /// One that broke is noticed by its next call, which is then made on a new one.
    client: Option<Client>,
    /// How often all of this was forgotten.
    forgotten: u64,
    /// The vRouter tells its changes, so that its end, or that of a port, is noticed at once.
    watched: bool,
    /// The ports that were made since, as they were asked for, and are still there.
    made: BTreeMap<String, PortSpec>,
}

/// A few calls that share one allowance of time.
#[derive(Debug)]
pub struct Session<'a> {
    vrouter: &'a VRouter,
    client: Client,
    /// The connection is from before this session, so that the vRouter may have been started again since.
    kept: bool,
    /// [`Kept::forgotten`] when the connection was taken.
    forgotten: u64,
    /// Time the vRouter has left. Only its own: what we do between calls (files, on a slow disk perhaps) is not its
    /// fault.
    left: Duration,
}

impl VRouter {
    /// The one at a control socket. Connects when it is needed.
    pub fn new(socket: PathBuf, timeout: Duration) -> Self {
        let name = socket.display().to_string();
        Self { socket, name, timeout, stale: Notify::new(), kept: Mutex::default() }
    }

    /// What it is known by: its control socket.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the connection there is, or connects.
    pub async fn session(&self) -> Result<Session<'_>, VRouterError> {
        let mut left = self.timeout;
        let (client, forgotten) = {
            let kept = self.lock();
            (kept.client.clone(), kept.forgotten)
        };
        if let Some(client) = client {
            return Ok(Session { vrouter: self, client, kept: true, forgotten, left });
        }
        let (client, forgotten) = self.connect(&mut left).await?;
        Ok(Session { vrouter: self, client, kept: false, forgotten, left })
    }

    /// Everything that changes from now on, on a connection of its own: what is not yet read of it shall not hold answers up. Only
    /// opening the stream is bounded.
    pub async fn watch(&self) -> Result<Streaming<Event>, VRouterError> {
        let mut left = self.timeout;
        // Whoever listens now is whom all calls are for.
        self.lost();
        let mut client =
            within(&mut left, connect(&self.socket)).await.ok_or_else(|| self.silent())??;
        let what = "report its changes";
        match within(&mut left, client.watch(WatchRequest {})).await {
            Some(Ok(answer)) => {
                // Sessions since then may have begun before this vRouter did.
                self.forget();
                self.lock().watched = true;
                Ok(answer.into_inner())
            }
            Some(Err(status)) => Err(refused(what, &status)),
            None => Err(self.silent()),
        }
    }

    async fn connect(&self, left: &mut Duration) -> Result<(Client, u64), VRouterError> {
        let before = self.lock().forgotten;
        let connected = within(left, connect(&self.socket)).await;
        let client = connected.ok_or_else(|| self.silent())??;
        let mut kept = self.lock();
        // Where it was forgotten meanwhile nobody knows whom this one leads to.
        if kept.forgotten == before {
            kept.client = Some(client.clone());
        }
        Ok((client, before))
    }

    /// The next session connects anew.
    pub fn forget(&self) {
        let mut kept = self.lock();
        let (forgotten, watched) = (kept.forgotten + 1, kept.watched);
        *kept = Kept { forgotten, watched, ..Kept::default() };
    }

    /// Nobody tells its changes any more: it may have ended.
    pub fn lost(&self) {
        self.lock().watched = false;
        self.forget();
    }

    /// The vRouter says that a port is gone.
    pub fn removed(&self, port: &str) {
        self.lock().made.remove(port);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Each change is one assignment.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silent(&self) -> VRouterError {
        VRouterError::Silent { socket: self.socket.clone(), timeout: self.timeout }
    }
}

impl Session<'_> {
    /// Who it is.
    pub async fn info(&mut self) -> Result<Info, VRouterError> {
        let call = |mut client: Client| async move { client.get_info(GetInfoRequest {}).await };
        self.call(call).await?.map_err(|status| refused("say who it is", &status))
    }

    /// Its networks.
    pub async fn networks(&mut self) -> Result<Vec<Network>, VRouterError> {
        let call =
            |mut client: Client| async move { client.list_networks(ListNetworksRequest {}).await };
        let list = self.call(call).await?;
        Ok(list.map_err(|status| refused("list its networks", &status))?.networks)
    }

    /// Its ports, ours and others'.
    pub async fn ports(&mut self) -> Result<Vec<Port>, VRouterError> {
        let call = |mut client: Client| async move { client.list_ports(ListPortsRequest {}).await };
        let list = self.call(call).await?;
        Ok(list.map_err(|status| refused("list its ports", &status))?.ports)
    }

    /// Creates a port, or gives it other peers. A port with this id that is different is one whose removal was missed:
    /// it is replaced.
    pub async fn create(&mut self, spec: PortSpec) -> Result<(), VRouterError> {
        let what = format!("create port {}", spec.id);
        match self.try_create(&spec).await? {
            Ok(()) => {
                self.note(spec);
                return Ok(());
            }
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(refused(&what, &status)),
        }
        self.delete(&spec.id).await?;
        self.try_create(&spec).await?.map_err(|status| refused(&what, &status))?;
        self.note(spec);
        Ok(())
    }

    /// Remembers a port that is there now.
    fn note(&self, spec: PortSpec) {
        let mut kept = self.vrouter.lock();
        if kept.watched && kept.forgotten == self.forgotten {
            kept.made.insert(spec.id.clone(), spec);
        }
    }

    /// Whether the vRouter has this port, as far as it has told; a `false` says nothing.
    pub fn has_made(&self, spec: &PortSpec) -> bool {
        let kept = self.vrouter.lock();
        kept.watched
            && kept.forgotten == self.forgotten
            && kept.made.get(&spec.id).is_some_and(|made| made == spec)
    }

    async fn try_create(&mut self, spec: &PortSpec) -> Result<Result<(), Status>, VRouterError> {
        let call = |mut client: Client| {
            let spec = spec.clone();
            async move { client.create_port(spec).await }
        };
        Ok(self.call(call).await?.map(drop))
    }

    /// Deletes a port. One that does not exist is no error.
    pub async fn delete(&mut self, id: &str) -> Result<(), VRouterError> {
        self.vrouter.removed(id);
        let call = |mut client: Client| {
            let request = DeletePortRequest { id: id.to_owned() };
            async move { client.delete_port(request).await }
        };
        let deleted = self.call(call).await?;
        deleted.map(drop).map_err(|status| refused(&format!("delete port {id}"), &status))
    }

    /// A network's routes, all of them.
    pub async fn routes(&mut self, network: &str) -> Result<Vec<Route>, VRouterError> {
        let mut routes: Vec<Route> = Vec::new();
        loop {
            let after = routes.last().map(|route| route.prefix.clone()).unwrap_or_default();
            let request = ListRoutesRequest { network: network.to_owned(), after, limit: 0 };
            let call = |mut client: Client| {
                let request = request.clone();
                async move { client.list_routes(request).await }
            };
            let page = self.call(call).await?;
            let page = page.map_err(|status| refused("list its routes", &status))?;
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
        let call = |mut client: Client| {
            let change = change.clone();
            async move { client.change_routes(change).await }
        };
        self.call(call).await?.map(drop).map_err(|status| refused(&what, &status))
    }

    /// Time its calls have taken so far.
    pub fn used(&self) -> Duration {
        self.vrouter.timeout.saturating_sub(self.left)
    }

    /// Makes a call, a second time on a new connection where the kept one turns out to be dead: every call can be made twice.
    async fn call<T, F>(
        &mut self,
        call: impl Fn(Client) -> F,
    ) -> Result<Result<T, Status>, VRouterError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            match within(&mut self.left, call(self.client.clone())).await {
                Some(Ok(answer)) => return Ok(Ok(answer.into_inner())),
                Some(Err(status)) if is_lost(&status) => {
                    self.vrouter.forget();
                    if !std::mem::take(&mut self.kept) {
                        return Ok(Err(status));
                    }
                    (self.client, self.forgotten) = self.vrouter.connect(&mut self.left).await?;
                }
                Some(Err(status)) => return Ok(Err(status)),
                None => {
                    self.vrouter.forget();
                    return Err(self.vrouter.silent());
                }
            }
        }
    }
}

/// Whether a call failed on its way: what the vRouter itself answers has no cause on this side.
fn is_lost(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Waits for `call` as long as there is time left, and takes what it used off that.
async fn within<T>(left: &mut Duration, call: impl Future<Output = T>) -> Option<T> {
    let began = Instant::now();
    let outcome = tokio::time::timeout(*left, call).await.ok();
    *left = left.saturating_sub(began.elapsed());
    outcome
}

fn refused(what: &str, status: &Status) -> VRouterError {
    VRouterError::Refused { what: what.to_owned(), text: status.message().to_owned() }
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
