//! `ringway-vrouter` as a child process, and its control API, synchronous.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::task::JoinHandle;
use tonic::Response;
use vrouter_api::v1::event::Event;
use vrouter_api::v1::{
    ChangeRoutesRequest, DeleteNetworkRequest, DeletePortRequest, DeleteUplinkRequest,
    GetInfoRequest, GetStatsRequest, Info, ListNetworksRequest, ListPortsRequest,
    ListRoutesRequest, ListUplinksRequest, Network, PeerRefused, Port, PortSpec, PortState,
    PortStats, Route, RouteKind, Stats, Uplink, UplinkSpec, WatchRequest,
};
use vrouter_api::{Client, connect};

use crate::machine::{self, Hugepages, program};
use crate::node::Setup;
use crate::process::Daemon;
use crate::rundir::RunDir;
use crate::wait::{self, runtime};

/// Time for EAL to start; 1 s is usual, more when two CPUs are busy.
const START: Duration = Duration::from_secs(30);
/// Two equal readings this far apart mean that nothing moves any more: thousands of worker rounds.
const STILL: Duration = Duration::from_millis(300);

/// Routes of one request.
const ROUTES_AT_ONCE: u32 = 50_000;

/// A network as the configuration file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Name.
    pub name: &'static str,
    /// Prefix with length.
    pub ipv4: &'static str,
    /// IPv6 prefix with length, if it has one.
    pub ipv6: Option<&'static str>,
}

/// A running vRouter; dropping it stops it.
#[derive(Debug)]
pub struct VRouter {
    process: Daemon,
    client: Client,
    socket: PathBuf,
    refused: Arc<Mutex<Vec<PeerRefused>>>,
    watcher: JoinHandle<()>,
}

impl VRouter {
    /// Control socket of the vRouter of a run.
    pub fn socket_of(run: &RunDir) -> PathBuf {
        run.path().join("vrouter.sock")
    }

    /// Writes its configuration and starts it.
    pub fn start(run: &RunDir, setup: &Setup) -> Result<Self> {
        let socket = Self::socket_of(run);
        let mut text = format!(
            "control_socket = \"{}\"\nrun_dir = \"{}\"\n",
            socket.display(),
            run.path().display()
        );
        if setup.hugepages == Hugepages::None {
            text.push_str("[dpdk]\nhugepages = false\n");
        }
        for network in &setup.networks {
            text.push_str(&format!(
                "[[networks]]\nname = \"{}\"\nipv4 = \"{}\"\n",
                network.name, network.ipv4
            ));
            if let Some(ipv6) = network.ipv6 {
                text.push_str(&format!("ipv6 = \"{ipv6}\"\n"));
            }
        }
        let config = run.path().join("vrouter.toml");
        std::fs::write(&config, text)?;
        Self::start_as(
            machine::daemon("ringway-vrouter")?,
            &config,
            &socket,
            &run.path().join("vrouter.log"),
        )
    }

    /// Starts it with the configuration file `config`, which names `socket`, and waits until it answers there.
    pub fn start_with(config: &Path, socket: &Path, log: &Path) -> Result<Self> {
        Self::start_as(Command::new(program("ringway-vrouter")?), config, socket, log)
    }

    /// The same by a command to which its arguments are added, such as one that enters a network namespace first.
    pub fn start_as(
        mut command: Command,
        config: &Path,
        socket: &Path,
        log: &Path,
    ) -> Result<Self> {
        command.arg("--config").arg(config);
        let mut process = Daemon::start("ringway-vrouter", command, log)?;
        let client = process.wait_for("its control API answers", START, || {
            let Ok(mut client) = runtime()?.block_on(connect(socket)) else { return Ok(None) };
            let info = runtime()?.block_on(client.get_info(GetInfoRequest {}));
            Ok(info.is_ok().then_some(client))
        })?;
        let refused = Arc::new(Mutex::new(Vec::new()));
        let watcher = watch(&client, Arc::clone(&refused))?;
        Ok(Self { process, client, socket: socket.to_owned(), refused, watcher })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Daemon {
        &mut self.process
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it says about itself.
    pub fn info(&self) -> Result<Info> {
        let answer = runtime()?.block_on(self.client.clone().get_info(GetInfoRequest {}));
        Ok(answer.map_err(status)?.into_inner())
    }

    /// Its networks.
    pub fn networks(&self) -> Result<Vec<Network>> {
        let answer = runtime()?.block_on(self.client.clone().list_networks(ListNetworksRequest {}));
        Ok(answer.map_err(status)?.into_inner().networks)
    }

    /// A network by name.
    pub fn network(&self, name: &str) -> Result<Network> {
        let networks = self.networks()?;
        networks
            .into_iter()
            .find(|it| it.name == name)
            .with_context(|| format!("no network {name}"))
    }

    /// Makes a network.
    pub fn create_network(&self, network: Network) -> Result<Network> {
        let name = network.name.clone();
        let answer = runtime()?.block_on(self.client.clone().create_network(network));
        answer.map_err(status).map(Response::into_inner).with_context(|| format!("network {name}"))
    }

    /// Deletes a network.
    pub fn delete_network(&self, name: &str) -> Result<()> {
        let request = DeleteNetworkRequest { name: name.to_owned() };
        let answer = runtime()?.block_on(self.client.clone().delete_network(request));
        answer.map(drop).map_err(status).with_context(|| format!("network {name}"))
    }

    /// Opens an uplink.
    pub fn create_uplink(&self, spec: UplinkSpec) -> Result<Uplink> {
        let name = spec.name.clone();
        let answer = runtime()?.block_on(self.client.clone().create_uplink(spec));
        answer.map_err(status).map(Response::into_inner).with_context(|| format!("uplink {name}"))
    }

    /// Closes an uplink.
    pub fn delete_uplink(&self, name: &str) -> Result<()> {
        let request = DeleteUplinkRequest { name: name.to_owned() };
        let answer = runtime()?.block_on(self.client.clone().delete_uplink(request));
        answer.map(drop).map_err(status).with_context(|| format!("uplink {name}"))
    }

    /// An uplink by name.
    pub fn uplink(&self, name: &str) -> Result<Uplink> {
        let answer = runtime()?.block_on(self.client.clone().list_uplinks(ListUplinksRequest {}));
        let uplinks = answer.map_err(status)?.into_inner().uplinks;
        let is_it = |uplink: &Uplink| uplink.spec.as_ref().is_some_and(|spec| spec.name == name);
        uplinks.into_iter().find(is_it).with_context(|| format!("no uplink {name}"))
    }

    /// Sets routes of a network.
    pub fn set_routes(&self, network: &str, set: Vec<Route>) -> Result<()> {
        let request = ChangeRoutesRequest {
            network: network.to_owned(),
            set,
            ..ChangeRoutesRequest::default()
        };
        let answer = runtime()?.block_on(self.client.clone().change_routes(request));
        answer.map(drop).map_err(status).with_context(|| format!("routes of {network}"))
    }

    /// Takes routes of a network away.
    pub fn remove_routes(&self, network: &str, prefixes: &[&str]) -> Result<()> {
        let request = ChangeRoutesRequest {
            network: network.to_owned(),
            remove: prefixes.iter().map(|&prefix| prefix.to_owned()).collect(),
            ..ChangeRoutesRequest::default()
        };
        let answer = runtime()?.block_on(self.client.clone().change_routes(request));
        answer.map(drop).map_err(status).with_context(|| format!("routes of {network}"))
    }

    /// The first page of a network's routes.
    pub fn routes(&self, network: &str) -> Result<Vec<Route>> {
        let request =
            ListRoutesRequest { network: network.to_owned(), ..ListRoutesRequest::default() };
        let answer = runtime()?.block_on(self.client.clone().list_routes(request));
        Ok(answer.map_err(status)?.into_inner().routes)
    }

    /// Its ports.
    pub fn ports(&self) -> Result<Vec<Port>> {
        let answer = runtime()?.block_on(self.client.clone().list_ports(ListPortsRequest {}));
        Ok(answer.map_err(status)?.into_inner().ports)
    }

    /// The one port of a sandbox, if it has one.
    pub fn find_port(&self, sandbox: &str) -> Result<Option<Port>> {
        let prefix = format!("{sandbox}/");
        let of_sandbox =
            |port: &Port| port.spec.as_ref().is_some_and(|it| it.id.starts_with(&prefix));
        Ok(self.ports()?.into_iter().find(of_sandbox))
    }

    /// The one port of a sandbox.
    pub fn port(&self, sandbox: &str) -> Result<Port> {
        self.find_port(sandbox)?
            .with_context(|| format!("the vRouter has no port of sandbox {sandbox}"))
    }

    /// Waits until the port of a sandbox carries traffic.
    pub fn wait_up(&self, sandbox: &str, limit: Duration) -> Result<Port> {
        let mut last = "nothing".to_owned();
        wait::until(&format!("port of {sandbox} is up"), limit, || {
            let port = self.find_port(sandbox)?;
            if let Some(port) = &port {
                last = format!("{:?}, {:?}", port.state(), port.reason);
            }
            Ok(port.filter(|port| port.state() == PortState::Up))
        })
        .with_context(|| format!("the port was last seen as {last}"))
    }

    /// All counters.
    pub fn stats(&self) -> Result<Stats> {
        let answer = runtime()?.block_on(self.client.clone().get_stats(GetStatsRequest {}));
        Ok(answer.map_err(status)?.into_inner())
    }

    /// Counters of one port.
    pub fn port_stats(&self, id: &str) -> Result<PortStats> {
        let stats = self.stats()?;
        stats
            .ports
            .into_iter()
            .find(|it| it.id == id)
            .with_context(|| format!("no counters of {id}"))
    }

    /// Creates a network with IPv4 and nothing special.
    pub fn create_plain_network(&self, name: &str, ipv4: &str, mtu: u32) -> Result<Network> {
        let (name, ipv4) = (name.to_owned(), ipv4.to_owned());
        self.create_network(Network { name, ipv4, mtu, ..Network::default() })
    }

    /// Creates a port, or changes what of it can be changed.
    pub fn create_port(&self, spec: PortSpec) -> Result<Port> {
        let id = spec.id.clone();
        let answer = runtime()?.block_on(self.client.clone().create_port(spec));
        answer.map_err(status).map(Response::into_inner).with_context(|| format!("port {id}"))
    }

    /// Removes a port.
    pub fn delete_port(&self, id: &str) -> Result<()> {
        let request = DeletePortRequest { id: id.to_owned() };
        let answer = runtime()?.block_on(self.client.clone().delete_port(request));
        answer.map(drop).map_err(status).with_context(|| format!("port {id}"))
    }

    /// Host routes for `count` addresses from `first` on, all to one port or tunnel.
    pub fn set_host_routes(
        &self,
        network: &str,
        first: Ipv4Addr,
        count: u32,
        kind: RouteKind,
        via: Ipv4Addr,
    ) -> Result<()> {
        let route = |n: u32| Route {
            prefix: format!("{}/32", Ipv4Addr::from(u32::from(first) + n)),
            kind: kind.into(),
            via: via.to_string(),
            ..Route::default()
        };
        for start in (0..count).step_by(usize::try_from(ROUTES_AT_ONCE)?) {
            let request = ChangeRoutesRequest {
                network: network.to_owned(),
                remove: Vec::new(),
                set: (start..count.min(start + ROUTES_AT_ONCE)).map(route).collect(),
                only_new: false,
            };
            let answer = runtime()?.block_on(self.client.clone().change_routes(request));
            answer.map_err(status).with_context(|| format!("routes of {network}"))?;
        }
        Ok(())
    }

    /// Waits until the packet counters of every port stand still, and gives them.
    pub fn settled_stats(&self, limit: Duration) -> Result<Vec<PortStats>> {
        let mut last = self.stats()?.ports;
        let mut since = Instant::now();
        wait::until("the vRouter's counters stand still", limit, || {
            let now = self.stats()?.ports;
            if now != last {
                last = now;
                since = Instant::now();
            }
            Ok((since.elapsed() >= STILL).then(|| last.clone()))
        })
    }

    /// Every refused peer since the start.
    pub fn refused(&self) -> Vec<PeerRefused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a peer was refused at `port` for which `which` holds.
    pub fn wait_refused(
        &self,
        port: &str,
        limit: Duration,
        which: impl Fn(&PeerRefused) -> bool,
    ) -> Result<PeerRefused> {
        wait::until(&format!("a peer is refused at port {port}"), limit, || {
            Ok(self.refused().into_iter().find(|refused| refused.port == port && which(refused)))
        })
    }
}

impl Drop for VRouter {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

fn status(status: tonic::Status) -> anyhow::Error {
    anyhow!("the vRouter answered {}: {}", status.code(), status.message())
}

/// Collects refusals until the vRouter goes away; returns when the watch has caught up.
fn watch(client: &Client, refused: Arc<Mutex<Vec<PeerRefused>>>) -> Result<JoinHandle<()>> {
    let mut client = client.clone();
    let mut stream = runtime()?
        .block_on(async move { client.watch(WatchRequest {}).await })
        .map_err(status)?
        .into_inner();
    Ok(runtime()?.spawn(async move {
        while let Ok(Some(message)) = stream.message().await {
            if let Some(Event::PeerRefused(event)) = message.event {
                refused.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        }
    }))
}
