//! The control API: requests in, registry calls, answers out.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use vrouter_api::v1;
use vrouter_api::v1::v_router_server::VRouter;
use vrouter_core::Timestamp;
use vrouter_dpdk::tsc;

use crate::convert::workers::{read_worker_mode, worker_mode};
use crate::convert::{NetworkRequest, PortRequest, UplinkRequest};
use crate::device::retry;
use crate::explain::Question;
use crate::registry::Registry;
use crate::routes;

/// A control request that takes longer than this is reported: the NRI plugin gives up after a second.
const SLOW: Duration = Duration::from_millis(250);

type Answer<T> = Result<Response<T>, Status>;

/// Serves one vRouter.
pub struct Service {
    registry: Arc<Mutex<Registry>>,
    info: v1::Info,
    ticks_per_second: u64,
}

impl Service {
    /// `info` says what does not change; workers do.
    pub fn new(registry: Arc<Mutex<Registry>>, info: v1::Info, ticks_per_second: u64) -> Self {
        Self { registry, info, ticks_per_second }
    }

    /// The time as the workers count it; how exactly makes no difference to what is asked by it.
    fn time(&self) -> Timestamp {
        let nanoseconds =
            u128::from(tsc()) * 1_000_000_000 / u128::from(self.ticks_per_second.max(1));
        Timestamp::from_nanoseconds(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Runs `work` where it may block: opening and closing ports waits for their threads.
    async fn with_registry<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Registry) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let registry = Arc::clone(&self.registry);
        let asked = Instant::now();
        tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            // Every method leaves the registry consistent before it can panic.
            let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
            let locked = Instant::now();
            let answer = work(&mut registry);
            drop(registry);
            if asked.elapsed() > SLOW {
                tracing::warn!(
                    thread = ?(begun - asked),
                    lock = ?(locked - begun),
                    work = ?locked.elapsed(),
                    "a control request was slow: time for a thread, for the registry, and of its own"
                );
            }
            answer
        })
        .await
        .map_err(|e| Status::internal(format!("the request failed inside the vRouter: {e}")))
    }
}

#[tonic::async_trait]
impl VRouter for Service {
    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Answer<v1::Info> {
        let now = self.with_registry(|r| (r.workers(), r.worker_mode(), r.nic_nodes())).await?;
        let (workers, mode, nic_nodes) = now;
        let worker_mode = worker_mode(mode).into();
        Ok(Response::new(v1::Info { workers, worker_mode, nic_nodes, ..self.info.clone() }))
    }

    async fn set_workers(
        &self,
        request: Request<v1::SetWorkersRequest>,
    ) -> Answer<v1::SetWorkersResponse> {
        let cpus = request.into_inner().cpus;
        let workers = self.with_registry(move |r| r.set_workers(&cpus)).await??;
        Ok(Response::new(v1::SetWorkersResponse { workers }))
    }

    async fn set_worker_mode(
        &self,
        request: Request<v1::SetWorkerModeRequest>,
    ) -> Answer<v1::SetWorkerModeResponse> {
        let mode = read_worker_mode(request.into_inner().mode)?;
        self.with_registry(move |r| r.set_worker_mode(mode)).await?;
        Ok(Response::new(v1::SetWorkerModeResponse {}))
    }

    async fn create_network(&self, request: Request<v1::Network>) -> Answer<v1::Network> {
        let wanted = NetworkRequest::read(request.get_ref())?;
        if self.info.instance.is_some() {
            wanted.fits_one_of_several()?;
        }
        let made = self.with_registry(move |r| r.create_network(wanted)).await??;
        Ok(Response::new(made))
    }

    async fn delete_network(
        &self,
        request: Request<v1::DeleteNetworkRequest>,
    ) -> Answer<v1::DeleteNetworkResponse> {
        let name = request.into_inner().name;
        self.with_registry(move |r| r.delete_network(&name)).await??;
        Ok(Response::new(v1::DeleteNetworkResponse {}))
    }

    async fn list_networks(
        &self,
        _: Request<v1::ListNetworksRequest>,
    ) -> Answer<v1::ListNetworksResponse> {
        let time = self.time();
        let networks = self.with_registry(move |r| r.networks(time)).await?;
        Ok(Response::new(v1::ListNetworksResponse { networks }))
    }

    async fn change_routes(
        &self,
        request: Request<v1::ChangeRoutesRequest>,
    ) -> Answer<v1::ChangeRoutesResponse> {
        let request = request.into_inner();
        // Many are read where it may take a while, and before anything is locked but for the names of uplinks.
        let uplinks = self.with_registry(|r| r.uplink_slots()).await?;
        let wanted = tokio::task::spawn_blocking(move || {
            routes::read(&request, &uplinks)
                .map(|changes| (request.network, changes, request.only_new))
        });
        let (network, changes, only_new) = wanted
            .await
            .map_err(|e| Status::internal(format!("the routes were not read: {e}")))??;
        let change = move |r: &mut Registry| r.change_routes(&network, &changes, only_new);
        let changed = self.with_registry(change).await??;
        let routes = u64::try_from(changed).unwrap_or(u64::MAX);
        Ok(Response::new(v1::ChangeRoutesResponse { routes }))
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Answer<v1::ListRoutesResponse> {
        let v1::ListRoutesRequest { network, after, limit } = request.into_inner();
        let after = routes::after(&after)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let limit = if limit == 0 { routes::PAGE } else { limit.min(routes::PAGE) };
        let page = self.with_registry(move |r| r.routes(&network, after, limit)).await?;
        let (routes, more) = page?;
        Ok(Response::new(v1::ListRoutesResponse { routes, more }))
    }

    async fn create_port(&self, request: Request<v1::PortSpec>) -> Answer<v1::Port> {
        let wanted = PortRequest::read(request.into_inner())?;
        let made = self.with_registry(move |r| r.create_port(wanted)).await??;
        Ok(Response::new(made))
    }

    async fn delete_port(
        &self,
        request: Request<v1::DeletePortRequest>,
    ) -> Answer<v1::DeletePortResponse> {
        let id = request.into_inner().id;
        if let Some(port) = self.with_registry(move |r| r.delete_port(&id)).await? {
            // Not under the registry's lock: a hostile pod can make this slow.
            tokio::task::spawn_blocking(|| port.close())
                .await
                .map_err(|e| Status::internal(format!("the port did not close: {e}")))?;
        }
        Ok(Response::new(v1::DeletePortResponse {}))
    }

    async fn list_ports(&self, _: Request<v1::ListPortsRequest>) -> Answer<v1::ListPortsResponse> {
        let ports = self.with_registry(|r| r.ports()).await?;
        Ok(Response::new(v1::ListPortsResponse { ports }))
    }

    async fn create_uplink(&self, request: Request<v1::UplinkSpec>) -> Answer<v1::Uplink> {
        let wanted = UplinkRequest::read(request.get_ref())?;
        let begun = Instant::now();
        loop {
            let wanted = wanted.clone();
            let made = self.with_registry(move |r| r.create_uplink(wanted)).await?;
            match made.as_ref().err().and_then(|refusal| retry(refusal, begun.elapsed())) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Ok(Response::new(made?)),
            }
        }
    }

    async fn delete_uplink(
        &self,
        request: Request<v1::DeleteUplinkRequest>,
    ) -> Answer<v1::DeleteUplinkResponse> {
        let name = request.into_inner().name;
        self.with_registry(move |r| r.delete_uplink(&name)).await?;
        Ok(Response::new(v1::DeleteUplinkResponse {}))
    }

    async fn list_uplinks(
        &self,
        _: Request<v1::ListUplinksRequest>,
    ) -> Answer<v1::ListUplinksResponse> {
        let uplinks = self.with_registry(|r| r.uplinks()).await?;
        Ok(Response::new(v1::ListUplinksResponse { uplinks }))
    }

    async fn get_stats(&self, _: Request<v1::GetStatsRequest>) -> Answer<v1::Stats> {
        let hz = self.ticks_per_second;
        let counted = move |r: &mut Registry| v1::Stats {
            ports: r.port_stats(),
            workers: r.worker_stats(hz),
            ticks_per_second: hz,
            uplinks: r.uplink_stats(),
            kernel_ports: r.kernel_port_stats(),
        };
        Ok(Response::new(self.with_registry(counted).await?))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::Explanation> {
        let question = Question::read(request.into_inner())?;
        let time = self.time();
        let answer = self.with_registry(move |r| r.explain(&question, time)).await??;
        Ok(Response::new(answer))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let time = self.time();
        let (events, now) = self.with_registry(move |r| r.watch(time)).await?;
        let later = BroadcastStream::new(events).map(|event| {
            event.map_err(|BroadcastStreamRecvError::Lagged(n)| {
                Status::data_loss(format!("{n} events were missed; call Watch again"))
            })
        });
        let stream = tokio_stream::iter(now.into_iter().map(Ok)).chain(later);
        Ok(Response::new(Box::pin(stream)))
    }
}
