//! One vRouter: every call with a limit of time and one kind of failure.

use std::path::PathBuf;
use std::time::Duration;

use tonic::{Response, Status, Streaming};
use vrouter_api::{Client, v1};

use crate::failure::Failure;

/// Deleting a port waits for the pod's queues; everything else is answered at once.
const ANSWER: Duration = Duration::from_secs(10);

pub(crate) struct Vrouter {
    socket: PathBuf,
    client: Client,
}

impl Vrouter {
    pub(crate) async fn connect(socket: PathBuf) -> Result<Self, Failure> {
        match vrouter_api::connect(&socket).await {
            Ok(client) => Ok(Self { socket, client }),
            Err(error) => Err(Failure::connect(&socket, &error)),
        }
    }

    pub(crate) async fn info(&mut self) -> Result<v1::Info, Failure> {
        let answer = self.client.get_info(v1::GetInfoRequest {});
        answered(&self.socket, "info", answer).await
    }

    pub(crate) async fn ports(&mut self) -> Result<Vec<v1::Port>, Failure> {
        let answer = self.client.list_ports(v1::ListPortsRequest {});
        Ok(answered(&self.socket, "ports", answer).await?.ports)
    }

    pub(crate) async fn networks(&mut self) -> Result<Vec<v1::Network>, Failure> {
        let answer = self.client.list_networks(v1::ListNetworksRequest {});
        Ok(answered(&self.socket, "networks", answer).await?.networks)
    }

    pub(crate) async fn add_network(
        &mut self,
        network: v1::Network,
    ) -> Result<v1::Network, Failure> {
        let what = format!("network {} not added", network.name);
        answered(&self.socket, &what, self.client.create_network(network)).await
    }

    pub(crate) async fn delete_network(&mut self, name: &str) -> Result<(), Failure> {
        let answer = self.client.delete_network(v1::DeleteNetworkRequest { name: name.to_owned() });
        answered(&self.socket, &format!("network {name} not deleted"), answer).await?;
        Ok(())
    }

    pub(crate) async fn delete_port(&mut self, id: &str) -> Result<(), Failure> {
        let answer = self.client.delete_port(v1::DeletePortRequest { id: id.to_owned() });
        answered(&self.socket, &format!("port {id} not deleted"), answer).await?;
        Ok(())
    }

    pub(crate) async fn uplinks(&mut self) -> Result<Vec<v1::Uplink>, Failure> {
        let answer = self.client.list_uplinks(v1::ListUplinksRequest {});
        Ok(answered(&self.socket, "uplinks", answer).await?.uplinks)
    }

    pub(crate) async fn add_uplink(&mut self, spec: v1::UplinkSpec) -> Result<v1::Uplink, Failure> {
        let what = format!("uplink {} not added", spec.name);
        answered(&self.socket, &what, self.client.create_uplink(spec)).await
    }

    pub(crate) async fn delete_uplink(&mut self, name: &str) -> Result<(), Failure> {
        let answer = self.client.delete_uplink(v1::DeleteUplinkRequest { name: name.to_owned() });
        answered(&self.socket, &format!("uplink {name} not deleted"), answer).await?;
        Ok(())
    }

    /// One page of a network's routes, behind the prefix `after`; and whether there are more.
    pub(crate) async fn routes(
        &mut self,
        network: &str,
        after: String,
    ) -> Result<(Vec<v1::Route>, bool), Failure> {
        let request = v1::ListRoutesRequest { network: network.to_owned(), after, limit: 0 };
        let answer = self.client.list_routes(request);
        let page = answered(&self.socket, "routes", answer).await?;
        Ok((page.routes, page.more))
    }

    /// Changes routes; returns how many the network has then. `what` says what was not done if it fails.
    pub(crate) async fn change_routes(
        &mut self,
        what: &str,
        request: v1::ChangeRoutesRequest,
    ) -> Result<u64, Failure> {
        let answer = self.client.change_routes(request);
        Ok(answered(&self.socket, what, answer).await?.routes)
    }

    pub(crate) async fn explain(
        &mut self,
        request: v1::ExplainRequest,
    ) -> Result<v1::Explanation, Failure> {
        answered(&self.socket, "explain", self.client.explain(request)).await
    }

    pub(crate) async fn set_workers(&mut self, cpus: Vec<u32>) -> Result<(), Failure> {
        let answer = self.client.set_workers(v1::SetWorkersRequest { cpus });
        answered(&self.socket, "workers not changed", answer).await?;
        Ok(())
    }

    pub(crate) async fn set_worker_mode(&mut self, mode: v1::WorkerMode) -> Result<(), Failure> {
        let request = v1::SetWorkerModeRequest { mode: mode.into() };
        let answer = self.client.set_worker_mode(request);
        answered(&self.socket, "mode of workers not changed", answer).await?;
        Ok(())
    }

    /// The port as it is already, with another worker.
    pub(crate) async fn pin(&mut self, id: &str, worker: Option<u32>) -> Result<v1::Port, Failure> {
        let what = format!("port {id} not pinned");
        let known = self.ports().await?.into_iter().filter_map(|port| port.spec);
        let spec = known.into_iter().find(|spec| spec.id == id).ok_or_else(|| {
            let why = "no such port; `ringway ports --json` shows their ids".to_owned();
            Failure::Refused { what: what.clone(), why }
        })?;
        let spec = v1::PortSpec { worker, ..spec };
        answered(&self.socket, &what, self.client.create_port(spec)).await
    }

    pub(crate) async fn stats(&mut self) -> Result<v1::Stats, Failure> {
        let answer = self.client.get_stats(v1::GetStatsRequest {});
        answered(&self.socket, "stats", answer).await
    }

    pub(crate) async fn watch(&mut self) -> Result<Streaming<v1::Event>, Failure> {
        answered(&self.socket, "watch", self.client.watch(v1::WatchRequest {})).await
    }

    /// The next event of [`Vrouter::watch`], however long it takes.
    pub(crate) async fn next(
        &self,
        events: &mut Streaming<v1::Event>,
    ) -> Result<v1::Event, Failure> {
        let event = events.message().await;
        event
            .map_err(|status| Failure::status(&self.socket, "watch", &status))?
            .ok_or_else(|| Failure::lost(&self.socket, "it has ended"))
    }
}

async fn answered<T>(
    socket: &std::path::Path,
    what: &str,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::status(socket, what, &status)),
        Err(_) => Err(Failure::lost(socket, &format!("no answer within {} s", ANSWER.as_secs()))),
    }
}
