//! What containerd itself says of containers of pods, and how one is ended.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{GetRequest, KillRequest};
use containerd_client::types::v1::Status as TaskStatus;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

/// containerd's namespace of everything that CRI makes.
const NAMESPACE: &str = "k8s.io";
/// For all of one question; an operator waits.
const ANSWER: Duration = Duration::from_secs(5);
/// What a container is given to end in order; kubelet's own default is 30 s.
const GRACE: Duration = Duration::from_secs(10);
const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
/// Between two looks at a container that is ending.
const LOOK: Duration = Duration::from_millis(100);

/// Those of `ids` that have a running process.
pub(super) async fn running(socket: &Path, ids: Vec<String>) -> Result<BTreeSet<String>, String> {
    let ask = async {
        let mut tasks = connect(socket).await?;
        let mut running = BTreeSet::new();
        for id in ids {
            if is_running(&mut tasks, &id).await? {
                running.insert(id);
            }
        }
        Ok(running)
    };
    bounded(ANSWER, ask).await
}

/// Ends a container: asked first, then made to.
pub(super) async fn end(socket: &Path, id: &str) -> Result<(), String> {
    let end = async {
        let mut tasks = connect(socket).await?;
        kill(&mut tasks, id, SIGTERM).await?;
        let gone = tokio::time::timeout(GRACE, ended(&mut tasks, id)).await;
        match gone {
            Ok(ended) => ended,
            Err(_) => {
                kill(&mut tasks, id, SIGKILL).await?;
                ended(&mut tasks, id).await
            }
        }
    };
    bounded(GRACE + ANSWER, end).await
}

async fn bounded<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err("it does not answer".to_owned()))
}

async fn connect(socket: &Path) -> Result<TasksClient<Channel>, String> {
    let channel = containerd_client::connect(socket).await;
    let error = |error| format!("cannot reach it at {}: {error}", socket.display());
    channel.map(TasksClient::new).map_err(error)
}

fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("containerd-namespace", AsciiMetadataValue::from_static(NAMESPACE));
    request
}

async fn is_running(tasks: &mut TasksClient<Channel>, id: &str) -> Result<bool, String> {
    let request = GetRequest { container_id: id.to_owned(), ..GetRequest::default() };
    match tasks.get(in_namespace(request)).await {
        Ok(answer) => {
            let status = answer.into_inner().process.unwrap_or_default().status();
            Ok(!matches!(status, TaskStatus::Unknown | TaskStatus::Stopped))
        }
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status.message().to_owned()),
    }
}

async fn kill(tasks: &mut TasksClient<Channel>, id: &str, signal: u32) -> Result<(), String> {
    let request = KillRequest { container_id: id.to_owned(), signal, ..KillRequest::default() };
    match tasks.kill(in_namespace(request)).await {
        Ok(_) => Ok(()),
        // It has ended by itself.
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(status.message().to_owned()),
    }
}

async fn ended(tasks: &mut TasksClient<Channel>, id: &str) -> Result<(), String> {
    while is_running(tasks, id).await? {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
