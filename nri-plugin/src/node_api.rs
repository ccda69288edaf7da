//! Serves the node API: for containers of the runtime wrapper, what NRI's events are for pods.
//!
//! The allocator does the work; here are the socket, the wire, and the callers' ends.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use nri_plugin_api::v1::node_server::{Node, NodeServer};
use nri_plugin_api::{SOCKET, sandbox, v1};
use nri_plugin_core::paths::{SandboxId, socket_in_container};
use nri_plugin_core::plan::{ContainerRecord, Cpus, Interface, PodRecord};
use nri_plugin_proto::api;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::unix::pipe::Receiver;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use crate::allocator::{Allocator, DeviceError, Granted, Refusal, WrappedError, name, show};
use crate::convert;

/// Longest id of a container, bytes: runtimes use it as a file name, at most.
const ID_BYTES: usize = 1024;

/// Serves until the process ends. Without it pods are served all the same, so a failure is said and no more.
pub async fn serve(allocator: Arc<Allocator>) {
    let socket = allocator.run_dir().join(SOCKET);
    let failed = |error: &(dyn std::error::Error + 'static)| {
        tracing::error!(socket = %socket.display(), error, "no node API: the runtime wrapper cannot be served");
    };
    let listener = match listen(&socket) {
        Ok(listener) => listener,
        Err(error) => return failed(&error),
    };
    let callers =
        UnixListenerStream::new(listener).filter(|stream| stream.as_ref().map_or(true, is_root));
    let server = Server::builder().add_service(NodeServer::new(Service { allocator }));
    if let Err(error) = server.serve_with_incoming(callers).await {
        failed(&error);
    }
}

/// The run directory is locked by this process: whatever has the name is from a former one.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The file's mode keeps others out; this does so again, for a file whose mode somebody has changed.
fn is_root(stream: &UnixStream) -> bool {
    let Ok(peer) = stream.peer_cred() else { return false };
    let root = peer.uid() == 0;
    if !root {
        tracing::warn!(uid = peer.uid(), pid = ?peer.pid(), "node API: connection refused");
    }
    root
}

struct Service {
    allocator: Arc<Allocator>,
}

/// The process that called, which becomes the real runtime: its end is the end of what it does. A descriptor of a process is no pipe,
/// but waited for like one.
struct Caller(Receiver);

impl Caller {
    fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let unknown = |why: &str| Status::internal(format!("cannot tell who calls: {why}"));
        let info = request.extensions().get::<UdsConnectInfo>();
        let pid = info.and_then(|info| info.peer_cred?.pid()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| unknown("no process id"))?;
        // It waits for the answer, so that its number cannot have been given to another.
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|it| unknown(&it.to_string()))?;
        Self::wait_on(fd).map_err(|it| unknown(&it.to_string()))
    }

    fn wait_on(process: OwnedFd) -> io::Result<Self> {
        Receiver::from_owned_fd_unchecked(process).map(Self)
    }

    async fn ended(self) {
        // A descriptor of a process is readable when that has ended.
        if let Err(error) = self.0.readable().await {
            tracing::warn!(%error, "cannot wait for a caller");
        }
    }
}

#[tonic::async_trait]
impl Node for Service {
    async fn create(
        &self,
        request: Request<v1::CreateRequest>,
    ) -> Result<Response<v1::Adjustment>, Status> {
        let caller = Caller::of(&request)?;
        let wanted = Wanted::try_from(request.into_inner())?;
        let allocator = Arc::clone(&self.allocator);
        // On its own: a caller that gives up must not stop it half way.
        let work = tokio::spawn(async move { create(allocator, wanted, caller).await });
        work.await.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let caller = Caller::of(&request)?;
        let sandbox = sandbox_of(request.into_inner().key.unwrap_or_default())?.0;
        if self.allocator.deleting_wrapped(&sandbox).await {
            tokio::spawn(watch(Arc::clone(&self.allocator), sandbox, caller));
        }
        Ok(Response::new(v1::ReleaseResponse {}))
    }

    async fn list(
        &self,
        _: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        let held = self.allocator.wrapped().await;
        let containers = held.into_iter().map(|held| describe(held.record, held.running));
        Ok(Response::new(v1::ListResponse { containers: containers.collect() }))
    }

    async fn create_device(
        &self,
        request: Request<v1::CreateDeviceRequest>,
    ) -> Result<Response<v1::Adjustment>, Status> {
        let v1::CreateDeviceRequest { name, annotations } = request.into_inner();
        let allocator = Arc::clone(&self.allocator);
        let work = tokio::spawn(async move {
            let made = allocator.create_device(&name, annotations.into_iter().collect()).await;
            let (directory, interfaces) = made.map_err(|error| device_refusal(&name, &error))?;
            tracing::info!(name, interfaces = interfaces.len(), "device made");
            let wire = convert::device_adjustment(&interfaces, directory)
                .map_err(|error| Status::internal(error.to_string()))?;
            Ok::<_, Status>(answer(wire.into_wire(), &interfaces, Vec::new()))
        });
        work.await.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }

    async fn attach_device(
        &self,
        request: Request<v1::AttachDeviceRequest>,
    ) -> Result<Response<v1::AttachDeviceResponse>, Status> {
        let v1::AttachDeviceRequest { name, pid } = request.into_inner();
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        let text = text.map_err(|error| {
            Status::invalid_argument(format!("pid {pid}: its cgroup cannot be read: {error}"))
        })?;
        let cgroup = container_cgroup(&text).ok_or_else(|| {
            Status::invalid_argument(format!(
                "pid {pid} is in no cgroup of its own: there is nothing to know its container by"
            ))
        })?;
        let cgroup = cgroup.to_owned();
        let allocator = Arc::clone(&self.allocator);
        let work = tokio::spawn(async move {
            let attached = allocator.attach_device(&name, &cgroup).await;
            attached.map_err(|error| device_refusal(&name, &error))?;
            tracing::info!(name, cgroup, "device attached");
            Ok::<_, Status>(v1::AttachDeviceResponse {})
        });
        work.await.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }

    async fn delete_device(
        &self,
        request: Request<v1::DeleteDeviceRequest>,
    ) -> Result<Response<v1::DeleteDeviceResponse>, Status> {
        let name = request.into_inner().name;
        let deleted = self.allocator.delete_device(&name).await;
        deleted.map_err(|error| device_refusal(&name, &error))?;
        Ok(Response::new(v1::DeleteDeviceResponse {}))
    }
}

/// The cgroup that says most about a process, from its `/proc/PID/cgroup`: containers have one of their own in every hierarchy
/// that their runtime uses, and sit with others in the rest.
fn container_cgroup(text: &str) -> Option<&str> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter(|path| *path != "/").max_by_key(|path| path.len())
}

fn device_refusal(name: &str, error: &DeviceError) -> Status {
    tracing::warn!(name, %error, "device refused");
    let text = error.to_string();
    match error {
        DeviceError::Exists(_) => Status::already_exists(text),
        DeviceError::Unknown(_) => Status::not_found(text),
        DeviceError::Name(_) | DeviceError::Nothing(_) => Status::invalid_argument(text),
        DeviceError::Refused(Refusal::Annotation(_)) => Status::invalid_argument(text),
        DeviceError::Refused(_) | DeviceError::InUse { .. } => Status::failed_precondition(text),
    }
}

async fn watch(allocator: Arc<Allocator>, sandbox: SandboxId, caller: Caller) {
    caller.ended().await;
    allocator.caller_ended(&sandbox).await;
}

async fn create(
    allocator: Arc<Allocator>,
    wanted: Wanted,
    caller: Caller,
) -> Result<v1::Adjustment, Status> {
    let Wanted { sandbox, pod, container } = wanted;
    let granted = match allocator.create_wrapped(&sandbox, &pod, &container).await {
        Ok(Some(granted)) => granted,
        Ok(None) => return Ok(v1::Adjustment::default()),
        Err(error) => {
            tracing::warn!(pod = name(&pod), container = container.id, %error, "refused");
            return Err(refusal(&error));
        }
    };
    tokio::spawn(watch(Arc::clone(&allocator), sandbox, caller));
    let Granted { allocation, slot_directory, .. } = granted;
    tracing::info!(
        pod = name(&pod),
        container = container.id,
        sandbox = pod.id,
        cpus = show(&allocation.cpus),
        mems = %allocation.mems,
        alignment = ?allocation.alignment,
        interfaces = allocation.interfaces.len(),
        "granted to a container of the runtime wrapper"
    );
    let notes: Vec<String> = allocation.notes.iter().map(ToString::to_string).collect();
    for note in &notes {
        tracing::warn!(pod = name(&pod), container = container.id, "{note}");
    }
    let adjustment = convert::adjustment(&container, &allocation, slot_directory)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(answer(adjustment.into_wire(), &allocation.interfaces, notes))
}

fn refusal(error: &WrappedError) -> Status {
    let text = error.to_string();
    match error {
        WrappedError::Running { .. } => Status::already_exists(text),
        WrappedError::Refused(Refusal::Annotation(_)) => Status::invalid_argument(text),
        WrappedError::Refused(_) => Status::failed_precondition(text),
    }
}

/// A request, as the allocator takes it.
#[derive(Debug)]
struct Wanted {
    sandbox: SandboxId,
    pod: api::PodSandbox,
    container: api::Container,
}

impl TryFrom<v1::CreateRequest> for Wanted {
    type Error = Status;

    fn try_from(request: v1::CreateRequest) -> Result<Self, Status> {
        let (sandbox, id) = sandbox_of(request.key.unwrap_or_default())?;
        let named = |text: String| if text.is_empty() { id.clone() } else { text };
        let pod = api::PodSandbox {
            id: sandbox.to_string(),
            namespace: request.namespace,
            name: named(request.pod),
            annotations: request.annotations.into_iter().collect(),
            ..Default::default()
        };
        let resources = request.resources.unwrap_or_default();
        let hugepages = resources
            .hugepages
            .into_iter()
            .map(|it| api::HugepageLimit { page_size: it.page_size, limit: it.limit });
        let cpu = api::LinuxCpu {
            shares: Some(api::OptionalUInt64 { value: resources.cpu_shares }),
            quota: Some(api::OptionalInt64 { value: resources.cpu_quota }),
            period: Some(api::OptionalUInt64 { value: resources.cpu_period }),
            cpus: resources.cpuset_cpus,
            mems: resources.cpuset_mems,
            ..Default::default()
        };
        let linux = api::LinuxContainer {
            cgroups_path: request.cgroups_path,
            resources: Some(api::LinuxResources {
                cpu: Some(cpu),
                hugepage_limits: hugepages.collect(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let container = api::Container {
            pod_sandbox_id: pod.id.clone(),
            name: named(request.name),
            linux: Some(linux),
            id,
            ..Default::default()
        };
        Ok(Self { sandbox, pod, container })
    }
}

fn sandbox_of(key: v1::ContainerKey) -> Result<(SandboxId, String), Status> {
    let v1::ContainerKey { root, id } = key;
    if !root.starts_with('/') {
        return Err(Status::invalid_argument(format!(
            "key.root {root:?}: must be an absolute path"
        )));
    }
    if id.is_empty() || id.len() > ID_BYTES {
        return Err(Status::invalid_argument(format!(
            "key.id: must have 1 to {ID_BYTES} bytes, not {}",
            id.len()
        )));
    }
    let sandbox = SandboxId::new(&sandbox(&root, &id));
    Ok((sandbox.map_err(|error| Status::internal(error.to_string()))?, id))
}

/// From what NRI would be answered.
fn answer(
    wire: api::ContainerAdjustment,
    interfaces: &[Interface],
    notes: Vec<String>,
) -> v1::Adjustment {
    let resources = wire.linux.unwrap_or_default().resources.unwrap_or_default();
    let cpu = resources.cpu.unwrap_or_default();
    let mount = |it: api::Mount| v1::Mount {
        destination: it.destination,
        r#type: it.r#type,
        source: it.source,
        options: it.options,
    };
    let variable = |it: api::KeyValue| v1::EnvironmentVariable { name: it.key, value: it.value };
    let limit =
        |it: api::HugepageLimit| v1::HugepageLimit { page_size: it.page_size, limit: it.limit };
    v1::Adjustment {
        mounts: wire.mounts.into_iter().map(mount).collect(),
        env: wire.env.into_iter().map(variable).collect(),
        annotations: wire.annotations.into_iter().collect::<HashMap<_, _>>(),
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepages: resources.hugepage_limits.into_iter().map(limit).collect(),
        interfaces: interfaces.iter().map(interface).collect(),
        notes,
    }
}

fn interface(it: &Interface) -> v1::Interface {
    v1::Interface {
        name: it.name.clone(),
        network: it.network.clone(),
        mac: it.mac.to_string(),
        ipv4: it.ip.to_string(),
        ipv6: it.ipv6.map(|ipv6| ipv6.address.to_string()).unwrap_or_default(),
        socket: socket_in_container(&it.name),
    }
}

fn describe(record: PodRecord, running: bool) -> v1::Held {
    let container = record.containers.values().next();
    v1::Held {
        sandbox: record.sandbox.to_string(),
        id: container.map(|it| it.id.clone()).unwrap_or_default(),
        cgroup: container.map(|it| it.cgroup.clone()).unwrap_or_default(),
        cpus: container.map(|it| show(&it.cpus)).unwrap_or_default(),
        exclusive_cpus: container.map(exclusive).unwrap_or_default(),
        interfaces: record.slots.values().flatten().map(interface).collect(),
        namespace: record.namespace,
        pod: record.name,
        running,
    }
}

fn exclusive(container: &ContainerRecord) -> String {
    match &container.cpus {
        Cpus::Exclusive(cpus) => cpus.to_string(),
        Cpus::Shared(_) | Cpus::Followed { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests;
