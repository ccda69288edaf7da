//! The scheduler extender: what an unmodified kube-scheduler asks over HTTP (k8s.io/kube-scheduler/extender/v1).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::Client;
use kube::api::{Api, PostParams};
use node_tuner_cluster::demand::Demand;
use node_tuner_cluster::ledger::{Ledger, Verdict};
use node_tuner_kubernetes::pods;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::args::ExtenderArguments;
use crate::placement::Books;
use crate::tls::TlsListener;

/// Thousands of nodes as whole objects have some ten KiB each.
const BODY: usize = 256 << 20;
/// An API server that does not answer a binding.
const PATIENCE: Duration = Duration::from_secs(10);
/// Annotation of a binding, which the API server copies to the pod.
const PLACEMENT: &str = ringway_config::annotations::PLACEMENT;
/// The answer as long as the lists of nodes and pods are not complete; the scheduler tries again.
const NOT_YET: &str = "ringway-controller extender has not read all nodes and pods yet";

struct Extender {
    books: Arc<Books>,
    client: Client,
    promise: Duration,
}

/// A pod, and nodes by their names, or as whole objects where the scheduler's `nodeCacheCapable` is off.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Arguments {
    pod: Pod,
    #[serde(default)]
    nodes: Option<Value>,
    #[serde(default)]
    node_names: Option<Vec<String>>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Filtered {
    nodes: Option<Value>,
    node_names: Option<Vec<String>>,
    failed_nodes: BTreeMap<String, String>,
    failed_and_unresolvable_nodes: BTreeMap<String, String>,
    error: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Priority {
    host: String,
    /// 0 to 10.
    score: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BindArguments {
    pod_name: String,
    pod_namespace: String,
    #[serde(rename = "PodUID")]
    pod_uid: String,
    node: String,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Bound {
    error: String,
}

/// Runs until `ended`.
pub async fn run(
    client: Client,
    arguments: &ExtenderArguments,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let books = Books::open(&client);
    let promise = Duration::from_secs(u64::from(arguments.promise_seconds));
    let extender = Arc::new(Extender { books, client, promise });
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("--listen {}", arguments.listen))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let app = Router::new()
        .route("/filter", post(filter))
        .route("/prioritize", post(prioritize))
        .route("/bind", post(bind))
        .route("/readyz", get(ready))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(extender);
    match arguments.tls() {
        Some(files) => {
            let listener = TlsListener::new(listener, files)?;
            axum::serve(listener, app).with_graceful_shutdown(ended).await?;
        }
        None => {
            // An answer is not to wait for what the scheduler's kernel says of the last one.
            let listener = listener.tap_io(|stream| {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!("TCP_NODELAY: {error}");
                }
            });
            axum::serve(listener, app).with_graceful_shutdown(ended).await?;
        }
    }
    Ok(())
}

async fn ready(State(extender): State<Arc<Extender>>) -> (StatusCode, &'static str) {
    match extender.books.with(|_, _| ()) {
        Some(()) => (StatusCode::OK, "ok"),
        None => (StatusCode::SERVICE_UNAVAILABLE, NOT_YET),
    }
}

async fn filter(
    State(extender): State<Arc<Extender>>,
    Json(arguments): Json<Arguments>,
) -> Json<Filtered> {
    Json(extender.filter(arguments))
}

async fn prioritize(
    State(extender): State<Arc<Extender>>,
    Json(arguments): Json<Arguments>,
) -> Json<Vec<Priority>> {
    Json(extender.prioritize(&arguments))
}

async fn bind(
    State(extender): State<Arc<Extender>>,
    Json(arguments): Json<BindArguments>,
) -> Json<Bound> {
    let error = extender.bind(&arguments).await.err().map(|error| format!("{error:#}"));
    if let Some(error) = &error {
        let (namespace, pod) = (&arguments.pod_namespace, &arguments.pod_name);
        tracing::warn!(namespace, pod, node = arguments.node, "not bound: {error}");
    }
    Json(Bound { error: error.unwrap_or_default() })
}

impl Arguments {
    fn names(&self) -> Vec<String> {
        let items = self.nodes.as_ref().and_then(|nodes| nodes["items"].as_array());
        let name = |node: &Value| node["metadata"]["name"].as_str().map(str::to_owned);
        let listed = items.into_iter().flatten().filter_map(name);
        self.node_names.clone().unwrap_or_else(|| listed.collect())
    }

    /// Of the nodes, in the form they came in, those that `keep` names.
    fn kept(self, keep: &[String]) -> (Option<Value>, Option<Vec<String>>) {
        let nodes = self.nodes.map(|mut nodes| {
            if let Some(items) = nodes["items"].as_array_mut() {
                let keep: BTreeSet<&str> = keep.iter().map(String::as_str).collect();
                items.retain(|node| {
                    node["metadata"]["name"].as_str().is_some_and(|name| keep.contains(name))
                });
            }
            nodes
        });
        (nodes, self.node_names.map(|_| keep.to_vec()))
    }
}

impl Extender {
    fn filter(&self, arguments: Arguments) -> Filtered {
        let demand = match pods::demand(&arguments.pod) {
            Ok(Some(demand)) => demand,
            Ok(None) => {
                let (nodes, node_names) = (arguments.nodes, arguments.node_names);
                return Filtered { nodes, node_names, ..Filtered::default() };
            }
            // No node would have it: the author is told what to correct.
            Err(why) => {
                let names = arguments.names();
                let (nodes, node_names) = arguments.kept(&[]);
                let all = names.into_iter().map(|name| (name, why.to_string())).collect();
                let failed_and_unresolvable_nodes = all;
                return Filtered {
                    nodes,
                    node_names,
                    failed_and_unresolvable_nodes,
                    ..Filtered::default()
                };
            }
        };
        let names = arguments.names();
        let judged = self.books.with(|ledger, _| {
            names.iter().map(|name| ledger.judge(name, &demand)).collect::<Vec<_>>()
        });
        let Some(judged) = judged else {
            return Filtered { error: NOT_YET.to_owned(), ..Filtered::default() };
        };
        let (mut keep, mut filtered) = (Vec::new(), Filtered::default());
        for (name, verdict) in names.into_iter().zip(judged) {
            match verdict {
                Verdict::Fits { .. } => keep.push(name),
                Verdict::Refused { why, resolvable: true } => {
                    filtered.failed_nodes.insert(name, why);
                }
                Verdict::Refused { why, resolvable: false } => {
                    filtered.failed_and_unresolvable_nodes.insert(name, why);
                }
            }
        }
        (filtered.nodes, filtered.node_names) = arguments.kept(&keep);
        filtered
    }

    fn prioritize(&self, arguments: &Arguments) -> Vec<Priority> {
        let names = arguments.names();
        let score = |ledger: &Ledger, name: &str, demand: &Demand| match ledger.judge(name, demand)
        {
            Verdict::Fits { score, .. } => i64::from((score + 500) / 1000),
            Verdict::Refused { .. } => 0,
        };
        let demand = pods::demand(&arguments.pod).ok().flatten();
        let scores = demand.and_then(|demand| {
            self.books.with(|ledger, _| {
                names.iter().map(|name| score(ledger, name, &demand)).collect::<Vec<_>>()
            })
        });
        let scores = scores.unwrap_or_else(|| vec![0; names.len()]);
        names.into_iter().zip(scores).map(|(host, score)| Priority { host, score }).collect()
    }

    /// The promise is made at the very moment of the binding, and goes with it: two pods that were found to fit at the same
    /// time do not both get the same place.
    async fn bind(&self, arguments: &BindArguments) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &arguments.pod_namespace);
        let pod = pods.get(&arguments.pod_name).await?;
        anyhow::ensure!(
            pod.metadata.uid.as_deref() == Some(arguments.pod_uid.as_str()),
            "the pod has been deleted and made anew"
        );
        let demand = pods::demand(&pod)?;
        let mut annotations = BTreeMap::new();
        if let Some(demand) = &demand {
            let promise = u64::try_from(self.promise.as_millis()).unwrap_or(u64::MAX);
            let numa = self
                .books
                .with(|ledger, now| {
                    let until = now.saturating_add(promise);
                    ledger.reserve(&arguments.pod_uid, &arguments.node, demand, until)
                })
                .context(NOT_YET)?
                .map_err(anyhow::Error::msg)?;
            annotations.extend(numa.map(|numa| (PLACEMENT.to_owned(), format!("numa={numa}"))));
        }
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(arguments.pod_name.clone()),
                namespace: Some(arguments.pod_namespace.clone()),
                uid: Some(arguments.pod_uid.clone()),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(arguments.node.clone()),
                ..ObjectReference::default()
            },
        };
        let parameters = PostParams::default();
        let call = pods.create_subresource::<Binding, Status>(
            "binding",
            &arguments.pod_name,
            &parameters,
            &binding,
        );
        let answer = tokio::time::timeout(PATIENCE, call).await;
        // Without an answer it may have been bound: the promise stays until the pod shows or the promise runs out.
        let answer = answer.context("no answer from the API server")?;
        if let Err(error) = answer {
            self.books.with(|ledger, _| ledger.release(&arguments.pod_uid));
            return Err(error.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_scheduler_writes_and_reads() {
        let text = r#"{"Pod":{"metadata":{"name":"p"},"spec":{"containers":[]}},"Nodes":null,"NodeNames":["a","b"]}"#;
        let arguments: Arguments = serde_json::from_str(text).unwrap();
        assert_eq!(arguments.names(), ["a", "b"]);
        assert_eq!(arguments.kept(&["b".to_owned()]), (None, Some(vec!["b".to_owned()])));
        let text = r#"{"Pod":{"metadata":{"name":"p"}},
            "Nodes":{"metadata":{},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}}"#;
        let arguments: Arguments = serde_json::from_str(text).unwrap();
        assert_eq!(arguments.names(), ["a", "b"]);
        let (nodes, names) = arguments.kept(&["b".to_owned()]);
        assert_eq!(nodes.unwrap()["items"], serde_json::json!([{"metadata": {"name": "b"}}]));
        assert_eq!(names, None);
        let text = r#"{"PodName":"p","PodNamespace":"d","PodUID":"u","Node":"n"}"#;
        let bind: BindArguments = serde_json::from_str(text).unwrap();
        assert_eq!(
            (bind.pod_name.as_str(), bind.pod_uid.as_str(), bind.node.as_str()),
            ("p", "u", "n")
        );
        let filtered = Filtered {
            node_names: Some(vec!["a".into()]),
            failed_nodes: BTreeMap::from([("b".into(), "full".into())]),
            ..Filtered::default()
        };
        let told = serde_json::to_string(&filtered).unwrap();
        let wanted = r#"{"Nodes":null,"NodeNames":["a"],"FailedNodes":{"b":"full"},"FailedAndUnresolvableNodes":{},"Error":""}"#;
        assert_eq!(told, wanted);
        let told = serde_json::to_string(&[Priority { host: "a".into(), score: 7 }]).unwrap();
        assert_eq!(told, r#"[{"Host":"a","Score":7}]"#);
    }
}
