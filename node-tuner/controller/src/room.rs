//! Tells the scheduler of room for pods that it was told there is none for.
//!
//! A kube-scheduler asks again for a pod that an extender has refused when it hears of a change of pods or nodes (of that pod itself for one),
//! else after minutes. It may hear before the extender does, as each watches the API server for itself; and of what only a node's
//! agent reports it hears nothing. So the extender, whose books are the ones that count, changes a condition of the pod.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use node_tuner_cluster::ledger::Room;
use serde_json::json;

use crate::placement::Books;

/// Type of the condition.
const CONDITION: &str = "placement.ringway.dev/Room";
/// How often promises that nothing came of are looked for, and whoever could not be told is told again.
const EVERY: Duration = Duration::from_secs(1);
/// An API server that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells of room as the books show it. Does not end.
pub async fn tell(books: Arc<Books>, client: Client) {
    let mut told = 0u64;
    loop {
        // Either is a reason to look.
        let _ = tokio::time::timeout(EVERY, books.changed()).await;
        for room in books.with(|ledger, _| ledger.found_room()).unwrap_or_default() {
            told += 1;
            match tell_one(&client, &room, told).await {
                Ok(()) => {}
                // Deleted, or made anew under its name.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => {
                    let (namespace, pod) = (&room.pod.namespace, &room.pod.name);
                    tracing::warn!(namespace, pod, "the scheduler is not told of room: {error}");
                    books.with(|ledger, _| ledger.wait_again(room));
                }
            }
        }
    }
}

/// `number` makes each condition another one: what stays the same is no change.
async fn tell_one(client: &Client, room: &Room, number: u64) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &room.pod.namespace);
    let message = format!("node {} has room for it by now ({number})", room.node);
    let patch = json!({
        "metadata": {"uid": room.pod.uid},
        "status": {"conditions": [{
            "type": CONDITION, "status": "True", "reason": "RoomFound", "message": message,
            "lastTransitionTime": Time(Timestamp::now()),
        }]},
    });
    let (parameters, patch) = (PatchParams::default(), Patch::Strategic(patch));
    let call = pods.patch_status(&room.pod.name, &parameters, &patch);
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map(|_| ()),
        Err(late) => Err(kube::Error::Service(late.into())),
    }
}
