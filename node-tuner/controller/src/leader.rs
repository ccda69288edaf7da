//! Who of several instances leads, by a Lease.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::Result;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use node_tuner_cluster::lease::{Candidate, Record, Step};
use tokio::sync::Notify;

use crate::args::RunArguments;

/// Name of the lease.
const NAME: &str = "ringway-controller";

/// One instance that would lead.
#[derive(Debug)]
pub struct Leader {
    leases: Api<Lease>,
    identity: String,
    seconds: u32,
    candidate: Mutex<Candidate>,
    started: Instant,
    changed: Arc<Notify>,
}

impl Leader {
    /// It does not lead yet; `changed` is told when it does.
    pub fn new(client: &Client, arguments: &RunArguments, changed: &Arc<Notify>) -> Arc<Self> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let identity = arguments
            .identity
            .clone()
            .unwrap_or_else(|| format!("{}-{}", host.trim(), std::process::id()));
        let seconds = arguments.lease_seconds;
        Arc::new(Self {
            leases: Api::namespaced(client.clone(), &arguments.namespace),
            candidate: Mutex::new(Candidate::new(identity.clone(), u64::from(seconds) * 1000)),
            identity,
            seconds,
            started: Instant::now(),
            changed: Arc::clone(changed),
        })
    }

    /// Whether it leads at this very moment.
    pub fn leads(&self) -> bool {
        let now = self.now_ms();
        self.with(|candidate| candidate.leads(now))
    }

    /// Tries for ever.
    pub async fn run(self: Arc<Self>) {
        // Several tries within the time that a leader may go on after its last renewal.
        let pause = Duration::from_millis(u64::from(self.seconds) * 1000 / 6);
        let mut led = false;
        loop {
            // An API server that hangs shall not keep us from trying again while we lead.
            match tokio::time::timeout(pause * 2, self.turn()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("lease: {error:#}"),
                Err(_) => tracing::warn!("lease: no answer in {:?}", pause * 2),
            }
            let leads = self.leads();
            if leads != led {
                tracing::info!(identity = self.identity, leads, "leadership");
                led = leads;
                self.changed.notify_one();
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn turn(&self) -> Result<()> {
        let lease = self.leases.get_opt(NAME).await?;
        let record = lease.as_ref().map(|lease| Record {
            holder: lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.clone())
                .unwrap_or_default(),
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
        });
        let asked = self.now_ms();
        let step = self.with(|candidate| candidate.look(record, asked));
        let now = Some(MicroTime(Timestamp::now()));
        let written = match (step, lease) {
            (Step::Wait, _) => return Ok(()),
            (Step::Create, _) | (_, None) => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                let spec = LeaseSpec {
                    holder_identity: Some(self.identity.clone()),
                    lease_duration_seconds: i32::try_from(self.seconds).ok(),
                    acquire_time: now.clone(),
                    renew_time: now,
                    lease_transitions: Some(0),
                    ..LeaseSpec::default()
                };
                let lease = Lease { metadata, spec: Some(spec) };
                self.leases.create(&PostParams::default(), &lease).await
            }
            (step, Some(mut lease)) => {
                let spec = lease.spec.get_or_insert_default();
                if step == Step::Take {
                    spec.acquire_time.clone_from(&now);
                    spec.lease_transitions =
                        Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
                }
                spec.holder_identity = Some(self.identity.clone());
                spec.lease_duration_seconds = i32::try_from(self.seconds).ok();
                spec.renew_time = now;
                // Fails if it is not as read any more.
                self.leases.replace(NAME, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => self.with(|candidate| candidate.written(asked)),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Whoever waits need not wait.
    pub async fn give_up(&self) -> Result<()> {
        if !self.leads() {
            return Ok(());
        }
        loop {
            let mut lease = self.leases.get(NAME).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_ref() != Some(&self.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            match self.leases.replace(NAME, &PostParams::default(), &lease).await {
                // Our last renewal has come after all.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                done => return done.map(drop).map_err(Into::into),
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Candidate) -> T) -> T {
        look(&mut self.candidate.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
