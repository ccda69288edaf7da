//! What a plugin implements.

use std::future::{Future, ready};
use std::time::Duration;

use crate::adjust::Adjustment;
use crate::api::{ConfigureRequest, Container, ContainerAdjustment, ContainerUpdate};
use crate::api::{LinuxResources, PodSandbox};
use crate::event::EventSet;
use crate::status::Status;

/// How much of the time for which a runtime waits a method has: four fifths. In the rest an error in place of its answer reaches
/// the runtime.
#[must_use]
pub fn answer_budget(waits: Duration) -> Duration {
    waits / 5 * 4
}

/// The answer to [`Plugin::create_container`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Creation {
    /// What to change of the container that is being created.
    pub adjustment: Adjustment,
    /// What to change of other containers; one entry per container.
    pub updates: Vec<ContainerUpdate>,
}

/// The answer to [`Plugin::validate_container_adjustment`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This plugin has nothing against it.
    Accept,
    /// The container is not created; the text says why.
    Reject(String),
}

/// An NRI plugin. Every event has a method that does nothing; implement the ones in [`Plugin::events`].
///
/// Errors: the text of a [`Status`] is what the user sees. It fails the creation of a container and the start of a
/// pod; for the other events the runtime only logs it. An update request fails too.
///
/// Time: a method that takes longer than its part of what the runtime waits ([`answer_budget`]) has its call answered with an
/// error, because a runtime whose call times out drops the plugin and starts the container unadjusted. The method is
/// *not* cancelled, so that the plugin's state stays whole: it runs to its end and its result is dropped. After a
/// failed creation the runtime sends `stop_container` and `remove_container` for it.
///
/// Calls may overlap (a slow one with the next); a plugin orders them with a lock of its own.
pub trait Plugin: Send + Sync + 'static {
    /// The events to ask the runtime for. Ones the runtime does not know are left out.
    fn events(&self) -> EventSet;

    /// First call of every connection: what the runtime is, and the plugin's configuration text (empty unless the
    /// runtime started the plugin). An error ends the connection.
    fn configure(
        &self,
        request: ConfigureRequest,
    ) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = request;
        ready(Ok(()))
    }

    /// Second call of every connection: everything that exists, stopped pods included. May answer with updates.
    fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> impl Future<Output = Result<Vec<ContainerUpdate>, Status>> + Send {
        let _ = (pods, containers);
        ready(Ok(Vec::new()))
    }

    /// The runtime that had configured the plugin is gone: it ended, or gave the plugin up. The runner that connects by itself keeps
    /// trying, and a new connection begins with [`Plugin::configure`] again.
    fn disconnected(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }

    /// A pod is being started. An error fails it.
    fn run_pod_sandbox(&self, pod: PodSandbox) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = pod;
        ready(Ok(()))
    }

    /// A pod's resources are being changed (NRI 0.10).
    fn update_pod_sandbox(
        &self,
        pod: PodSandbox,
        overhead: Option<LinuxResources>,
        resources: Option<LinuxResources>,
    ) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = (pod, overhead, resources);
        ready(Ok(()))
    }

    /// A pod's resources were changed (NRI 0.10).
    fn post_update_pod_sandbox(
        &self,
        pod: PodSandbox,
    ) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = pod;
        ready(Ok(()))
    }

    /// A pod was stopped. May come more than once.
    fn stop_pod_sandbox(&self, pod: PodSandbox) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = pod;
        ready(Ok(()))
    }

    /// A pod is gone. May come without [`Plugin::stop_pod_sandbox`].
    fn remove_pod_sandbox(
        &self,
        pod: PodSandbox,
    ) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = pod;
        ready(Ok(()))
    }

    /// A container is being created; the answer changes it. An error fails it.
    fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<Creation, Status>> + Send {
        let _ = (pod, container);
        ready(Ok(Creation::default()))
    }

    /// A container was created, with what all plugins changed.
    fn post_create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = (pod, container);
        ready(Ok(()))
    }

    /// A container is being started.
    fn start_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = (pod, container);
        ready(Ok(()))
    }

    /// A container was started.
    fn post_start_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = (pod, container);
        ready(Ok(()))
    }

    /// A container's resources are being changed to `resources`, whose zero members mean "not set". The answer is laid
    /// over it; to change this container it names its id.
    fn update_container(
        &self,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> impl Future<Output = Result<Vec<ContainerUpdate>, Status>> + Send {
        let _ = (pod, container, resources);
        ready(Ok(Vec::new()))
    }

    /// A container's resources were changed.
    fn post_update_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = (pod, container);
        ready(Ok(()))
    }

    /// A container's process has ended; in containerd also on its own. The pod may start the same container again.
    fn stop_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<Vec<ContainerUpdate>, Status>> + Send {
        let _ = (pod, container);
        ready(Ok(Vec::new()))
    }

    /// A container is gone, or its creation failed.
    fn remove_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<(), Status>> + Send {
        let _ = (pod, container);
        ready(Ok(()))
    }

    /// All plugins have answered the creation of a container; a rejection or an error fails it (NRI 0.10).
    fn validate_container_adjustment(
        &self,
        pod: PodSandbox,
        container: Container,
        adjustment: ContainerAdjustment,
        updates: Vec<ContainerUpdate>,
    ) -> impl Future<Output = Result<Verdict, Status>> + Send {
        let _ = (pod, container, adjustment, updates);
        ready(Ok(Verdict::Accept))
    }
}
