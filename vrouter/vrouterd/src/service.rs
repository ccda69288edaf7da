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
use vrouter_core::DropReason;

use crate::convert::{self, NetworkRequest, PortRequest};
use crate::registry::Registry;
use crate::worker::Worker;

/// A control request that takes longer than this is reported: the NRI plugin gives up after a second.
const SLOW: Duration = Duration::from_millis(250);

type Answer<T> = Result<Response<T>, Status>;

/// Serves one vRouter.
pub struct Service {
    registry: Arc<Mutex<Registry>>,
    workers: Arc<Vec<Worker>>,
    info: v1::Info,
    ticks_per_second: u64,
}

impl Service {
    /// `info` says what does not change.
    pub fn new(
        registry: Arc<Mutex<Registry>>,
        workers: Arc<Vec<Worker>>,
        info: v1::Info,
        ticks_per_second: u64,
    ) -> Self {
        Self { registry, workers, info, ticks_per_second }
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

    fn worker_stats(&self, index: usize, worker: &Worker) -> v1::WorkerStats {
        let tally = &worker.tally;
        let ticks = u128::from(tally.busy_ticks.get());
        let busy_ns = ticks * 1_000_000_000 / u128::from(self.ticks_per_second.max(1));
        let drops = DropReason::ALL.into_iter().zip(tally.drops.iter().map(|d| d.get()));
        v1::WorkerStats {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            cpu: u32::from(worker.cpu.0),
            packets: tally.packets.get(),
            bursts: tally.bursts.get(),
            sleeps: tally.sleeps.get(),
            busy_ns: u64::try_from(busy_ns).unwrap_or(u64::MAX),
            forwarded: tally.forwarded.get(),
            replied: tally.replied.get(),
            originated: tally.originated.get(),
            drops: convert::drops(drops.filter(|(_, n)| *n > 0)),
        }
    }
}

#[tonic::async_trait]
impl VRouter for Service {
    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Answer<v1::Info> {
        Ok(Response::new(self.info.clone()))
    }

    async fn create_network(&self, request: Request<v1::Network>) -> Answer<v1::Network> {
        let wanted = NetworkRequest::read(request.get_ref())?;
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
        let networks = self.with_registry(|r| r.networks()).await?;
        Ok(Response::new(v1::ListNetworksResponse { networks }))
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

    async fn get_stats(&self, _: Request<v1::GetStatsRequest>) -> Answer<v1::Stats> {
        let ports = self.with_registry(|r| r.port_stats()).await?;
        let workers = self.workers.iter().enumerate().map(|(i, w)| self.worker_stats(i, w));
        Ok(Response::new(v1::Stats { ports, workers: workers.collect() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let (events, now) = self.with_registry(|r| r.watch()).await?;
        let later = BroadcastStream::new(events).map(|event| {
            event.map_err(|BroadcastStreamRecvError::Lagged(n)| {
                Status::data_loss(format!("{n} events were missed; call Watch again"))
            })
        });
        let stream = tokio_stream::iter(now.into_iter().map(Ok)).chain(later);
        Ok(Response::new(Box::pin(stream)))
    }
}
