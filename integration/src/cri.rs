//! CRI as kubelet speaks it, synchronous.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerFilter, ContainerState, ContainerStatusRequest,
    CreateContainerRequest, ExecSyncRequest, ImageSpec, ImageStatusRequest,
    LinuxContainerResources, ListContainersRequest, ListPodSandboxRequest, PodSandboxConfig,
    RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StatusRequest, StopContainerRequest, StopPodSandboxRequest, UpdateContainerResourcesRequest,
    VersionRequest,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::wait::{runtime, slowness};

/// Longest time one call may take; kubelet allows two minutes for a sandbox and for a container.
const CALL: Duration = Duration::from_secs(120);

/// A connection to a CRI socket.
#[derive(Debug, Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// What a command in a container printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code.
    pub code: i32,
}

/// How a container stands.
#[derive(Debug)]
pub struct ContainerStatus {
    /// Its state.
    pub state: ContainerState,
    /// Process id of its first process on the host, 0 when there is none.
    pub pid: u32,
    /// Exit code, when it has ended.
    pub exit_code: i32,
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL * slowness());
    request
}

/// What kubelet would show: the message alone.
fn message(status: Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}

impl Cri {
    /// Connects to a CRI socket.
    pub fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_path_buf();
        let channel = runtime()?
            .block_on(Endpoint::from_static("http://cri.invalid").connect_with_connector(
                tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
                }),
            ))
            .with_context(|| format!("cannot reach CRI at {}", socket.display()))?;
        // The largest answers are verbose status texts; the default of 4 MiB is enough.
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        })
    }

    /// Version of the runtime.
    pub fn version(&self) -> Result<String> {
        let call = VersionRequest { version: "v1".to_owned() };
        let answer = runtime()?.block_on(self.runtime.clone().version(request(call)));
        Ok(answer.map_err(message)?.into_inner().runtime_version)
    }

    /// Whether the runtime says that it can run pods.
    pub fn ready(&self) -> Result<bool> {
        self.condition("RuntimeReady")
    }

    /// Whether it has a CNI plugin for pods with a network of their own.
    pub fn network_ready(&self) -> Result<bool> {
        self.condition("NetworkReady")
    }

    fn condition(&self, name: &str) -> Result<bool> {
        let call = StatusRequest { verbose: false };
        let answer = runtime()?.block_on(self.runtime.clone().status(request(call)));
        let conditions =
            answer.map_err(message)?.into_inner().status.unwrap_or_default().conditions;
        Ok(conditions.iter().any(|condition| condition.r#type == name && condition.status))
    }

    /// Whether an image is known.
    pub fn has_image(&self, name: &str) -> Result<bool> {
        let image = ImageSpec { image: name.to_owned(), ..ImageSpec::default() };
        let call = ImageStatusRequest { image: Some(image), verbose: false };
        let answer = runtime()?.block_on(self.images.clone().image_status(request(call)));
        Ok(answer.map_err(message)?.into_inner().image.is_some())
    }

    /// Starts a sandbox with a runtime handler, the default one if empty; gives its id.
    pub fn run_pod(&self, config: &PodSandboxConfig, handler: &str) -> Result<String> {
        let call = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let answer = runtime()?.block_on(self.runtime.clone().run_pod_sandbox(request(call)));
        Ok(answer.map_err(message)?.into_inner().pod_sandbox_id)
    }

    /// Stops a sandbox and its containers.
    pub fn stop_pod(&self, sandbox: &str) -> Result<()> {
        let call = StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        runtime()?
            .block_on(self.runtime.clone().stop_pod_sandbox(request(call)))
            .map_err(message)?;
        Ok(())
    }

    /// Removes a sandbox and its containers.
    pub fn remove_pod(&self, sandbox: &str) -> Result<()> {
        let call = RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        runtime()?
            .block_on(self.runtime.clone().remove_pod_sandbox(request(call)))
            .map_err(message)?;
        Ok(())
    }

    /// Ids of all sandboxes.
    pub fn pods(&self) -> Result<Vec<String>> {
        let call = ListPodSandboxRequest { filter: None };
        let answer = runtime()?.block_on(self.runtime.clone().list_pod_sandbox(request(call)));
        Ok(answer.map_err(message)?.into_inner().items.into_iter().map(|item| item.id).collect())
    }

    /// Creates a container in a sandbox; gives its id.
    pub fn create(
        &self,
        sandbox: &str,
        pod: &PodSandboxConfig,
        container: &ContainerConfig,
    ) -> Result<String> {
        let call = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container.clone()),
            sandbox_config: Some(pod.clone()),
        };
        let answer = runtime()?.block_on(self.runtime.clone().create_container(request(call)));
        Ok(answer.map_err(message)?.into_inner().container_id)
    }

    /// Starts a created container.
    pub fn start(&self, container: &str) -> Result<()> {
        let call = StartContainerRequest { container_id: container.to_owned() };
        runtime()?
            .block_on(self.runtime.clone().start_container(request(call)))
            .map_err(message)?;
        Ok(())
    }

    /// SIGTERM, and SIGKILL after `grace` seconds; returns when the container has ended.
    pub fn stop(&self, container: &str, grace: i64) -> Result<()> {
        let call = StopContainerRequest { container_id: container.to_owned(), timeout: grace };
        let answer = runtime()?.block_on(self.runtime.clone().stop_container(request(call)));
        let Err(status) = answer else { return Ok(()) };
        // It may have ended by itself meanwhile: containerd 2.1 then says that its connection to it is closed.
        if self.status(container)?.state == ContainerState::ContainerExited {
            return Ok(());
        }
        Err(message(status))
    }

    /// Sets a container's CPUs, as kubelet's CPU manager does for every container now and then.
    pub fn update_cpus(&self, container: &str, cpus: &str) -> Result<()> {
        let linux = LinuxContainerResources {
            cpuset_cpus: cpus.to_owned(),
            ..LinuxContainerResources::default()
        };
        let call = UpdateContainerResourcesRequest {
            container_id: container.to_owned(),
            linux: Some(linux),
            ..UpdateContainerResourcesRequest::default()
        };
        runtime()?
            .block_on(self.runtime.clone().update_container_resources(request(call)))
            .map_err(message)?;
        Ok(())
    }

    /// Removes a container.
    pub fn remove(&self, container: &str) -> Result<()> {
        let call = RemoveContainerRequest { container_id: container.to_owned() };
        runtime()?
            .block_on(self.runtime.clone().remove_container(request(call)))
            .map_err(message)?;
        Ok(())
    }

    /// Ids of the containers of a sandbox, in any state.
    pub fn containers(&self, sandbox: &str) -> Result<Vec<String>> {
        let filter =
            ContainerFilter { pod_sandbox_id: sandbox.to_owned(), ..ContainerFilter::default() };
        let call = ListContainersRequest { filter: Some(filter) };
        let answer = runtime()?.block_on(self.runtime.clone().list_containers(request(call)));
        let list = answer.map_err(message)?.into_inner().containers;
        Ok(list.into_iter().map(|container| container.id).collect())
    }

    /// How a container stands.
    pub fn status(&self, container: &str) -> Result<ContainerStatus> {
        let call = ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
        let answer = runtime()?.block_on(self.runtime.clone().container_status(request(call)));
        let answer = answer.map_err(message)?.into_inner();
        let Some(status) = answer.status else { bail!("no status of container {container}") };
        let info: serde_json::Value =
            serde_json::from_str(answer.info.get("info").map_or("null", String::as_str))?;
        let pid = info.get("pid").and_then(serde_json::Value::as_u64).unwrap_or_default();
        Ok(ContainerStatus {
            state: status.state(),
            pid: u32::try_from(pid)?,
            exit_code: status.exit_code,
        })
    }

    /// Runs a command in a container to its end, at most `limit` seconds.
    pub fn exec(&self, container: &str, command: &[&str], limit: i64) -> Result<Output> {
        let call = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(ToString::to_string).collect(),
            timeout: limit,
        };
        let answer = runtime()?.block_on(self.runtime.clone().exec_sync(request(call)));
        let answer = answer.map_err(message)?.into_inner();
        Ok(Output {
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
            code: answer.exit_code,
        })
    }
}
