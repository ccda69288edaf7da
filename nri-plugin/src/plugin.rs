//! Answers NRI's events.

use std::sync::Arc;
use std::time::Instant;

use nri_plugin_core::plan::Cpus;
use nri_plugin_proto::api::{
    ConfigureRequest, Container, ContainerUpdate, LinuxResources, PodSandbox,
};
use nri_plugin_proto::{AdjustmentBuilder, Creation, Event, EventSet, Plugin, Status};
use ringway_config::NriConfig;
use tokio::sync::OnceCell;

use crate::allocator::{Allocator, StartError, name, show};
use crate::settings::Arguments;
use crate::{convert, logging, node_api, watch};

/// Name of the log file in `run_dir`, for a plugin that containerd starts.
const LOG_FILE: &str = "ringway-nri.log";

/// The plugin.
#[derive(Debug)]
pub struct Ringway {
    /// Empty until containerd has sent the configuration of a plugin it started. An error stands for a plugin that
    /// cannot work, see [`Ringway::first_start`].
    allocator: OnceCell<Result<Arc<Allocator>, String>>,
    arguments: Option<Arguments>,
}

impl Ringway {
    /// A plugin that containerd starts: it learns its configuration from containerd.
    pub fn launched(arguments: Arguments) -> Self {
        Self { allocator: OnceCell::new(), arguments: Some(arguments) }
    }

    /// A plugin on its own.
    pub async fn external(settings: NriConfig) -> Result<Self, StartError> {
        let allocator = watched(Allocator::start(settings).await?);
        // What a former process has written does not hold any more.
        allocator.registered(None).await;
        Ok(Self { allocator: OnceCell::new_with(Some(Ok(allocator))), arguments: None })
    }

    /// For giving.
    fn allocator(&self) -> Result<&Allocator, Status> {
        match self.allocator.get() {
            Some(Ok(allocator)) => Ok(allocator),
            Some(Err(error)) => Err(refusal(error)),
            None => Err(refusal("not configured yet")),
        }
    }

    /// For everything else, and only for a pod that opted in: a plugin that could not start has given nothing.
    fn allocator_of(&self, pod: &PodSandbox) -> Option<&Allocator> {
        let allocator = self.allocator.get()?.as_ref().ok()?;
        convert::pod_opted_in(pod).then_some(allocator)
    }

    /// As [`Ringway::allocator_of`], and for every pod where other containers make way.
    fn allocator_for(&self, pod: &PodSandbox) -> Option<&Allocator> {
        let allocator = self.allocator.get()?.as_ref().ok()?;
        (convert::pod_opted_in(pod) || allocator.moves_others()).then_some(allocator)
    }

    /// The creation of a container that has not opted in: left alone, unless other containers make way.
    async fn other(&self, container: &Container) -> Result<Creation, Status> {
        let Some(Ok(allocator)) = self.allocator.get() else { return Ok(Creation::default()) };
        let (chosen, _) = convert::chosen(container);
        let (instead, others) = allocator.meet_other(container, chosen).await;
        let mut builder = AdjustmentBuilder::new();
        if let Some(cpus) = instead {
            builder.cpuset_cpus(&cpus.to_string()).map_err(refusal)?;
        }
        let updates = convert::other_updates(&others, &container.id);
        Ok(Creation { adjustment: builder.build(), updates })
    }

    /// Others give new CPUs to a container that has not opted in.
    async fn update_other(
        &self,
        allocator: &Allocator,
        container: &Container,
        resources: &LinuxResources,
    ) -> Option<ContainerUpdate> {
        let (chosen, _) = convert::chosen_in(resources);
        // Unset: it keeps what it has.
        if chosen.is_empty() {
            return None;
        }
        let (instead, _) = allocator.meet_other(container, chosen).await;
        instead.map(|cpus| convert::cpuset_update(&container.id, &cpus, None))
    }

    /// Starts with what containerd says. A plugin that cannot start says so to the pods that need it: if it refused to
    /// be configured, containerd 1.7 would not start CRI, and no pod of the node would run.
    async fn first_start(&self, text: &str) {
        let Some(arguments) = &self.arguments else { return };
        let start = async || {
            let started = start_launched(arguments, text).await;
            started.map_err(|error| {
                let defaults = NriConfig::default();
                // Where somebody would look, if it is there.
                if logging::to_file(&defaults.log, &defaults.run_dir.join(LOG_FILE)).is_ok() {
                    tracing::error!("cannot start: {error:#}");
                }
                format!("{error:#}")
            })
        };
        self.allocator.get_or_init(start).await;
    }
}

async fn start_launched(arguments: &Arguments, text: &str) -> anyhow::Result<Arc<Allocator>> {
    let settings = arguments.settings_from(text)?;
    let (filter, log) = (settings.log.clone(), settings.run_dir.join(LOG_FILE));
    // Makes the directory that the log is in.
    let allocator = Allocator::start(settings).await?;
    logging::to_file(&filter, &log)?;
    Ok(watched(allocator))
}

fn watched(allocator: Allocator) -> Arc<Allocator> {
    let allocator = Arc::new(allocator);
    tokio::spawn(watch::vrouters(Arc::clone(&allocator)));
    tokio::spawn(watch::pods(Arc::clone(&allocator)));
    tokio::spawn(node_api::serve(Arc::clone(&allocator)));
    tokio::spawn(watch::leases(Arc::clone(&allocator)));
    allocator
}

/// What is wrong with a runtime that waits for so many ms, where so many are expected. 0: it does not say (NRI before 0.5).
fn impatience(waits: i64, expected: u32) -> Option<String> {
    (1..expected.into()).contains(&waits).then(|| {
        format!(
            "waits {waits} ms for an answer, less than runtime_timeout_ms = {expected}: it may give up while the plugin still waits for \
             the vRouter; lower that, or raise plugin_request_timeout"
        )
    })
}

fn refusal(error: impl std::fmt::Display) -> Status {
    Status::refused(format!("ringway: {error}"))
}

impl Plugin for Ringway {
    fn events(&self) -> EventSet {
        EventSet::of(&[
            Event::RunPodSandbox,
            Event::CreateContainer,
            Event::UpdateContainer,
            Event::StopContainer,
            Event::RemoveContainer,
            Event::StopPodSandbox,
            Event::RemovePodSandbox,
        ])
    }

    async fn configure(&self, request: ConfigureRequest) -> Result<(), Status> {
        self.first_start(&request.config).await;
        if let Some(Ok(allocator)) = self.allocator.get() {
            let runtime = format!("{} {}", request.runtime_name, request.runtime_version);
            let expected = allocator.runtime_timeout_ms();
            if let Some(problem) = impatience(request.request_timeout, expected) {
                tracing::warn!("{runtime} {problem}");
            }
            allocator.registered(Some(runtime)).await;
        }
        tracing::info!(
            runtime = request.runtime_name,
            version = request.runtime_version,
            "configured"
        );
        Ok(())
    }

    async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, Status> {
        if let Some(Ok(allocator)) = self.allocator.get() {
            let others = allocator.synchronize(&pods, &containers).await.map_err(refusal)?;
            return Ok(convert::other_updates(&others, ""));
        }
        Ok(Vec::new())
    }

    async fn disconnected(&self) {
        if let Some(Ok(allocator)) = self.allocator.get() {
            allocator.registered(None).await;
        }
    }

    async fn run_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        let Some(allocator) = self.allocator_of(&pod) else { return Ok(()) };
        match allocator.prepare(&pod).await {
            Ok(true) => tracing::debug!(pod = name(&pod), sandbox = pod.id, "prepared"),
            Ok(false) => {}
            // The creation of a container says so to the pod.
            Err(error) => tracing::info!(pod = name(&pod), %error, "cannot prepare"),
        }
        Ok(())
    }

    async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Creation, Status> {
        if !convert::pod_opted_in(&pod) {
            return self.other(&container).await;
        }
        let allocator = self.allocator()?;
        let began = Instant::now();
        let granted = match allocator.create(&pod, &container).await {
            Ok(Some(granted)) => granted,
            Ok(None) => return self.other(&container).await,
            Err(error) => {
                tracing::warn!(pod = name(&pod), container = container.name, %error, "refused");
                return Err(refusal(error));
            }
        };
        let allocation = &granted.allocation;
        tracing::info!(
            pod = name(&pod),
            container = container.name,
            sandbox = pod.id,
            slot = allocation.slot.0,
            cpus = show(&allocation.cpus),
            mems = %allocation.mems,
            alignment = ?allocation.alignment,
            served_by = allocation.placement.vrouter,
            interfaces = allocation.interfaces.len(),
            micros = began.elapsed().as_micros(),
            waiting = granted.took.waiting.as_micros(),
            vrouter = granted.took.vrouter.as_micros(),
            files = granted.took.files.as_micros(),
            "granted"
        );
        for note in &allocation.notes {
            tracing::warn!(pod = name(&pod), container = container.name, "{note}");
        }
        let adjustment =
            convert::adjustment(&container, allocation, granted.slot_directory).map_err(refusal)?;
        let mut updates = convert::shared_updates(&allocation.updates, &container.id);
        updates.extend(convert::other_updates(&granted.others, &container.id));
        Ok(Creation { adjustment, updates })
    }

    async fn update_container(
        &self,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> Result<Vec<ContainerUpdate>, Status> {
        let Some(allocator) = self.allocator_for(&pod) else { return Ok(Vec::new()) };
        if let Some((cpus, alignment)) = allocator.follow(&pod, &container, &resources).await {
            tracing::info!(
                pod = name(&pod), container = container.name, %cpus, ?alignment, "others have chosen CPUs"
            );
        }
        let (record, shared, others) = allocator.placement(&pod, &container).await;
        let mut updates = convert::shared_updates(&shared, &container.id);
        updates.extend(convert::other_updates(&others, &container.id));
        if record.is_none() {
            updates.extend(self.update_other(allocator, &container, &resources).await);
        }
        // kubelet sends the cpuset of its own CPU manager; where we choose, ours stays.
        updates.extend(record.and_then(|record| match &record.cpus {
            Cpus::Exclusive(cpus) | Cpus::Shared(cpus) => {
                Some(convert::cpuset_update(&container.id, cpus, Some(&record.mems)))
            }
            Cpus::Followed { .. } => None,
        }));
        Ok(updates)
    }

    async fn stop_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Vec<ContainerUpdate>, Status> {
        let Some(allocator) = self.allocator_for(&pod) else { return Ok(Vec::new()) };
        // It may start again: nothing of its own is taken back here. A chance to tell others their new CPUs.
        let (_, shared, others) = allocator.placement(&pod, &container).await;
        let mut updates = convert::shared_updates(&shared, &container.id);
        updates.extend(convert::other_updates(&others, &container.id));
        Ok(updates)
    }

    async fn remove_container(&self, pod: PodSandbox, container: Container) -> Result<(), Status> {
        if let Some(allocator) = self.allocator_for(&pod) {
            allocator.forget_other(&container).await;
        }
        if let Some(allocator) = self.allocator_of(&pod) {
            allocator.remove_container(&pod, &container).await;
        }
        Ok(())
    }

    async fn stop_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        if let Some(allocator) = self.allocator_of(&pod) {
            allocator.release(&pod).await;
        }
        Ok(())
    }

    async fn remove_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        self.stop_pod_sandbox(pod).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use nri_plugin_proto::plugin::answer_budget;

    use super::*;

    #[test]
    fn a_runtime_that_waits_shorter_than_expected_is_told_of() {
        for waits in [i64::MIN, 0, 2000, i64::MAX] {
            assert_eq!(impatience(waits, 2000), None);
        }
        for waits in [1, 1999] {
            let said = impatience(waits, 2000).unwrap();
            assert!(
                said.contains(&format!("waits {waits} ms")) && said.contains("= 2000"),
                "{said}"
            );
        }
    }

    /// What the configuration lets the plugin wait for others leaves it time before its answer is given up.
    #[test]
    fn who_waits_as_long_as_allowed_can_still_answer() {
        for waits in [1000, 1003, 2000, 60_000] {
            let text = |most| format!("runtime_timeout_ms = {waits}\nvrouter_timeout_ms = {most}");
            let most = NriConfig { runtime_timeout_ms: waits, ..NriConfig::default() }.waiting_ms();
            let parse = |most| NriConfig::from_toml(&text(most), Path::new("nri.toml"));
            assert_eq!(parse(most).unwrap().vrouter_timeout_ms, most);
            assert!(parse(most + 1).is_err(), "{waits}");
            let [waits, most] = [waits, most].map(|ms| Duration::from_millis(ms.into()));
            assert!(most + waits / 25 <= answer_budget(waits), "{waits:?} {most:?}");
        }
    }
}
