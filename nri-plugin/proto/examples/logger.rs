//! A whole NRI plugin that changes nothing and prints what happens to pods.
//!
//! By itself: `logger [/var/run/nri/nri.sock]`. Or copy it to the runtime's plugin directory as `99-logger`.

use std::path::PathBuf;
use std::sync::Arc;

use nri_plugin_proto::api::{ConfigureRequest, Container, ContainerUpdate, PodSandbox};
use nri_plugin_proto::runner::{self, Launched};
use nri_plugin_proto::{Creation, Event, EventSet, Identity, Plugin, Status};

struct Logger;

impl Plugin for Logger {
    fn events(&self) -> EventSet {
        EventSet::of(&[
            Event::RunPodSandbox,
            Event::StopPodSandbox,
            Event::RemovePodSandbox,
            Event::CreateContainer,
            Event::StopContainer,
            Event::RemoveContainer,
        ])
    }

    async fn configure(&self, request: ConfigureRequest) -> Result<(), Status> {
        println!("configured by {} {}", request.runtime_name, request.runtime_version);
        Ok(())
    }

    async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, Status> {
        println!("synchronized: {} pods, {} containers", pods.len(), containers.len());
        Ok(Vec::new())
    }

    async fn run_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        println!("run pod {}/{} {:?}", pod.namespace, pod.name, pod.annotations);
        Ok(())
    }

    async fn stop_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        println!("stop pod {}/{}", pod.namespace, pod.name);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        println!("remove pod {}/{}", pod.namespace, pod.name);
        Ok(())
    }

    async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Creation, Status> {
        let cgroup = container.linux.map(|linux| linux.cgroups_path).unwrap_or_default();
        println!("create {}/{}/{} in {cgroup}", pod.namespace, pod.name, container.name);
        Ok(Creation::default())
    }

    async fn stop_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Vec<ContainerUpdate>, Status> {
        println!("stop {}/{}/{}", pod.namespace, pod.name, container.name);
        Ok(Vec::new())
    }

    async fn remove_container(&self, pod: PodSandbox, container: Container) -> Result<(), Status> {
        println!("remove {}/{}/{}", pod.namespace, pod.name, container.name);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    if let Some(launched) = Launched::from_env(std::env::var_os)? {
        runner::serve_launched(Arc::new(Logger), launched, interrupted).await?;
        return Ok(());
    }
    let socket = std::env::args_os().nth(1).map_or("/var/run/nri/nri.sock".into(), PathBuf::from);
    let identity = Identity::new("logger", "99")?;
    runner::run_external(Arc::new(Logger), &socket, &identity, interrupted).await;
    Ok(())
}
