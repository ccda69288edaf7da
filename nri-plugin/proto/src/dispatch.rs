//! From a request of the runtime to the plugin's method and back to bytes.

use std::collections::BTreeSet;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;

use crate::api;
use crate::event::Event;
use crate::plugin::{Creation, Plugin, Verdict, answer_budget};
use crate::status::{Code, Status};
use crate::ttrpc::Request;

/// Longer timeouts of a runtime are taken as this one.
const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(3600);

const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

/// The runtime's request timeout where it does not tell: the default of every version.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Messages of one split Synchronize. The runtime sends each of up to 4 MiB; a node has far fewer pods.
const MAX_SYNC_PARTS: usize = 256;

type Answer = Result<Vec<u8>, Status>;

/// A started method of the plugin.
pub(crate) struct Call {
    pub answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
    /// When to answer an error instead.
    pub deadline: Instant,
    /// For the log.
    pub method: String,
}

/// Serves the plugin's side of one connection to the runtime.
pub(crate) struct Dispatcher<P> {
    plugin: Arc<P>,
    request_timeout: Duration,
    sync: Sync,
    configured: bool,
}

/// A Synchronize that came in parts.
#[derive(Default)]
struct Sync {
    pods: Vec<api::PodSandbox>,
    containers: Vec<api::Container>,
    parts: usize,
    /// One deadline of the runtime covers all parts.
    began: Option<Instant>,
}

impl<P: Plugin> Dispatcher<P> {
    pub(crate) fn new(plugin: Arc<P>) -> Self {
        Self {
            plugin,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            sync: Sync::default(),
            configured: false,
        }
    }

    /// Whether the runtime has configured the plugin: the registration went through.
    pub(crate) fn configured(&self) -> bool {
        self.configured
    }

    /// Decodes a request and starts the plugin's method for it.
    pub(crate) fn call(&mut self, request: Request, now: Instant) -> Call {
        let mut began = now;
        let caller = match request.timeout_nano {
            0 => Duration::MAX,
            nanos => Duration::from_nanos(nanos),
        };
        let method = request.method.clone();
        let answer =
            self.start(request, &mut began, now).unwrap_or_else(|status| done(Err(status)));
        let budget = answer_budget(self.request_timeout.min(caller));
        Call { answer, deadline: began + budget, method }
    }

    fn start(
        &mut self,
        request: Request,
        began: &mut Instant,
        now: Instant,
    ) -> Result<Pin<Box<dyn Future<Output = Answer> + Send>>, Status> {
        if request.service != SERVICE {
            let text = format!("unknown service {:?}", request.service);
            return Err(Status::new(Code::INVALID_ARGUMENT, text));
        }
        let plugin = Arc::clone(&self.plugin);
        let body = &request.payload[..];
        Ok(match request.method.as_str() {
            "Configure" => {
                let request = decode::<api::ConfigureRequest>(body)?;
                if let Ok(millis @ 1..) = u64::try_from(request.request_timeout) {
                    self.request_timeout = Duration::from_millis(millis).min(MAX_REQUEST_TIMEOUT);
                }
                self.configured = true;
                Box::pin(async move {
                    let events = plugin.events().mask_for(&request);
                    plugin.configure(request).await?;
                    Ok(api::ConfigureResponse { events }.encode_to_vec())
                })
            }
            "Synchronize" => {
                let request = decode::<api::SynchronizeRequest>(body)?;
                let more = request.more;
                *began = self.sync.take_in(request, now)?;
                if more {
                    return Ok(reply(&api::SynchronizeResponse { more: true, update: Vec::new() }));
                }
                let Sync { pods, containers, .. } = std::mem::take(&mut self.sync);
                Box::pin(async move {
                    let update = once_each(plugin.synchronize(pods, containers).await?)?;
                    Ok(api::SynchronizeResponse { update, more: false }.encode_to_vec())
                })
            }
            // No runtime sends it. The end of the stream is what ends a plugin.
            "Shutdown" => reply(&api::Empty {}),
            "CreateContainer" => {
                let request = decode::<api::CreateContainerRequest>(body)?;
                let (pod, container) = both(request.pod, request.container)?;
                Box::pin(async move {
                    let Creation { adjustment, updates } =
                        plugin.create_container(pod, container).await?;
                    let adjust = Some(adjustment.into_wire());
                    let update = once_each(updates)?;
                    Ok(api::CreateContainerResponse { adjust, update }.encode_to_vec())
                })
            }
            "UpdateContainer" => {
                let request = decode::<api::UpdateContainerRequest>(body)?;
                let (pod, container) = both(request.pod, request.container)?;
                let resources = request.linux_resources.unwrap_or_default();
                Box::pin(async move {
                    let update = plugin.update_container(pod, container, resources).await?;
                    let update = once_each(update)?;
                    Ok(api::UpdateContainerResponse { update }.encode_to_vec())
                })
            }
            "StopContainer" => {
                let request = decode::<api::StopContainerRequest>(body)?;
                let (pod, container) = both(request.pod, request.container)?;
                Box::pin(async move {
                    let update = once_each(plugin.stop_container(pod, container).await?)?;
                    Ok(api::StopContainerResponse { update }.encode_to_vec())
                })
            }
            "UpdatePodSandbox" => {
                let request = decode::<api::UpdatePodSandboxRequest>(body)?;
                let pod = request.pod.ok_or_else(no_pod)?;
                let (overhead, resources) =
                    (request.overhead_linux_resources, request.linux_resources);
                empty(async move { plugin.update_pod_sandbox(pod, overhead, resources).await })
            }
            "ValidateContainerAdjustment" => {
                let request = decode::<api::ValidateContainerAdjustmentRequest>(body)?;
                let (pod, container) = both(request.pod, request.container)?;
                let adjust = request.adjust.unwrap_or_default();
                let updates = request.update;
                Box::pin(async move {
                    let verdict =
                        plugin.validate_container_adjustment(pod, container, adjust, updates);
                    let (reject, reason) = match verdict.await? {
                        Verdict::Accept => (false, String::new()),
                        Verdict::Reject(reason) => (true, reason),
                    };
                    Ok(api::ValidateContainerAdjustmentResponse { reject, reason }.encode_to_vec())
                })
            }
            "StateChange" => {
                let request = decode::<api::StateChangeEvent>(body)?;
                self.event(request.event(), request.pod, request.container)?
            }
            // The calls of 0.12 carry pod and container in fields 1 and 2 alike.
            method => {
                let Some(event) = dedicated(method) else {
                    let text = format!("unknown method {method:?}");
                    return Err(Status::new(Code::UNIMPLEMENTED, text));
                };
                let request = decode::<api::PostCreateContainerRequest>(body)?;
                self.event(event, request.pod, request.container)?
            }
        })
    }

    /// An event that is answered with an empty message, by whichever call it came.
    fn event(
        &self,
        event: Event,
        pod: Option<api::PodSandbox>,
        container: Option<api::Container>,
    ) -> Result<Pin<Box<dyn Future<Output = Answer> + Send>>, Status> {
        let plugin = Arc::clone(&self.plugin);
        match event {
            Event::RunPodSandbox
            | Event::StopPodSandbox
            | Event::RemovePodSandbox
            | Event::PostUpdatePodSandbox => {
                let pod = pod.ok_or_else(no_pod)?;
                Ok(empty(async move {
                    match event {
                        Event::RunPodSandbox => plugin.run_pod_sandbox(pod).await,
                        Event::StopPodSandbox => plugin.stop_pod_sandbox(pod).await,
                        Event::RemovePodSandbox => plugin.remove_pod_sandbox(pod).await,
                        _ => plugin.post_update_pod_sandbox(pod).await,
                    }
                }))
            }
            Event::PostCreateContainer
            | Event::StartContainer
            | Event::PostStartContainer
            | Event::PostUpdateContainer
            | Event::RemoveContainer => {
                let (pod, container) = both(pod, container)?;
                Ok(empty(async move {
                    match event {
                        Event::PostCreateContainer => {
                            plugin.post_create_container(pod, container).await
                        }
                        Event::StartContainer => plugin.start_container(pod, container).await,
                        Event::PostStartContainer => {
                            plugin.post_start_container(pod, container).await
                        }
                        Event::PostUpdateContainer => {
                            plugin.post_update_container(pod, container).await
                        }
                        _ => plugin.remove_container(pod, container).await,
                    }
                }))
            }
            // These have calls of their own in every version. A number of a later version is none of ours.
            Event::Unknown
            | Event::CreateContainer
            | Event::UpdateContainer
            | Event::StopContainer
            | Event::UpdatePodSandbox
            | Event::ValidateContainerAdjustment => Ok(reply(&api::Empty {})),
        }
    }
}

impl Sync {
    /// Adds one part; returns when the first one came.
    fn take_in(
        &mut self,
        request: api::SynchronizeRequest,
        now: Instant,
    ) -> Result<Instant, Status> {
        self.parts += 1;
        if self.parts > MAX_SYNC_PARTS {
            *self = Self::default();
            let text = format!("more than {MAX_SYNC_PARTS} parts in one Synchronize");
            return Err(Status::new(Code::RESOURCE_EXHAUSTED, text));
        }
        self.pods.extend(request.pods);
        self.containers.extend(request.containers);
        Ok(*self.began.get_or_insert(now))
    }
}

fn dedicated(method: &str) -> Option<Event> {
    Some(match method {
        "RunPodSandbox" => Event::RunPodSandbox,
        "StopPodSandbox" => Event::StopPodSandbox,
        "RemovePodSandbox" => Event::RemovePodSandbox,
        "PostUpdatePodSandbox" => Event::PostUpdatePodSandbox,
        "PostCreateContainer" => Event::PostCreateContainer,
        "StartContainer" => Event::StartContainer,
        "PostStartContainer" => Event::PostStartContainer,
        "PostUpdateContainer" => Event::PostUpdateContainer,
        "RemoveContainer" => Event::RemoveContainer,
        _ => return None,
    })
}

fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Status> {
    M::decode(payload).map_err(|error| Status::new(Code::INVALID_ARGUMENT, error))
}

fn done(answer: Answer) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
    Box::pin(ready(answer))
}

fn reply(message: &impl Message) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
    done(Ok(message.encode_to_vec()))
}

fn empty(
    call: impl Future<Output = Result<(), Status>> + Send + 'static,
) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
    Box::pin(async move { call.await.map(|()| api::Empty {}.encode_to_vec()) })
}

fn both(
    pod: Option<api::PodSandbox>,
    container: Option<api::Container>,
) -> Result<(api::PodSandbox, api::Container), Status> {
    let container = container
        .ok_or_else(|| Status::new(Code::INVALID_ARGUMENT, "request without a container"))?;
    Ok((pod.ok_or_else(no_pod)?, container))
}

fn no_pod() -> Status {
    Status::new(Code::INVALID_ARGUMENT, "request without a pod")
}

/// Two updates of one container in one answer would both claim its CPUs: the runtime fails such an answer.
fn once_each(updates: Vec<api::ContainerUpdate>) -> Result<Vec<api::ContainerUpdate>, Status> {
    let mut seen = BTreeSet::new();
    for update in &updates {
        if !seen.insert(&update.container_id) {
            let text = format!("container {:?} is updated twice", update.container_id);
            return Err(Status::new(Code::INTERNAL, text));
        }
    }
    Ok(updates)
}
