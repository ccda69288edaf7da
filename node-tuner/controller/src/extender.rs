//! The scheduler extender: what an unmodified kube-scheduler asks over HTTP (k8s.io/kube-scheduler/extender/v1).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::Client;
use kube::api::{Api, PostParams};
use node_tuner_cluster::ledger::{Verdict, Waiting};
use node_tuner_kubernetes::pods;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::args::ExtenderArguments;
use crate::placement::Books;
use crate::room;
use crate::tls::{Files, TlsListener};

/// Thousands of nodes as whole objects have some ten KiB each.
const BODY: usize = 256 << 20;
/// An API server that does not answer a binding.
const PATIENCE: Duration = Duration::from_secs(10);
/// Annotation of a binding, which the API server copies to the pod.
const PLACEMENT: &str = ringway_config::annotations::PLACEMENT;
/// The answer as long as the lists of nodes and pods are not complete; the scheduler tries again.
const NOT_YET: &str = "ringway-controller extender has not read all nodes and pods yet";

/// Answers from its books, and binds.
pub struct Extender {
    books: Arc<Books>,
    client: Client,
    promise: Duration,
}

/// A pod, and nodes by their names, or as whole objects where the scheduler's `nodeCacheCapable` is off.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Arguments<'a> {
    pod: Pod,
    #[serde(default)]
    nodes: Option<Value>,
    #[serde(default, borrow)]
    node_names: Option<Vec<Name<'a>>>,
}

/// Thousands of names come with each question: they are left where they are.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Filtered<'a> {
    nodes: Option<Value>,
    node_names: Option<Vec<Cow<'a, str>>>,
    failed_nodes: Failed<'a>,
    failed_and_unresolvable_nodes: Failed<'a>,
    error: &'static str,
}

/// Names and reasons, written as a map.
#[derive(Default)]
struct Failed<'a>(Vec<(Cow<'a, str>, Arc<str>)>);

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Priority<'a> {
    host: Cow<'a, str>,
    /// 0 to 10.
    score: u32,
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
///
/// # Errors
/// When it cannot listen.
pub async fn run(
    client: Client,
    arguments: &ExtenderArguments,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let books = Books::open(&client);
    let promise = Duration::from_secs(u64::from(arguments.promise_seconds));
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("--listen {}", arguments.listen))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    Extender::new(books, client, promise).serve(listener, arguments.tls(), ended).await
}

async fn ready(State(extender): State<Arc<Extender>>) -> (StatusCode, &'static str) {
    match extender.books.with(|_, _| ()) {
        Some(()) => (StatusCode::OK, "ok"),
        None => (StatusCode::SERVICE_UNAVAILABLE, NOT_YET),
    }
}

async fn filter(State(extender): State<Arc<Extender>>, body: Bytes) -> Response {
    answer(&body, |arguments| Json(extender.filter(arguments)).into_response())
}

async fn prioritize(State(extender): State<Arc<Extender>>, body: Bytes) -> Response {
    answer(&body, |arguments| Json(extender.prioritize(&arguments)).into_response())
}

fn answer<'a>(body: &'a [u8], answer: impl FnOnce(Arguments<'a>) -> Response) -> Response {
    match serde_json::from_slice(body) {
        Ok(arguments) => answer(arguments),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
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

impl Serialize for Failed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, why)| (name, &**why)))
    }
}

/// Whether nothing was done, for sure: not after a connection that broke, or by a server that has trouble after it was asked.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code))
}

fn name(node: &Value) -> Option<&str> {
    node["metadata"]["name"].as_str()
}

impl<'a> Arguments<'a> {
    fn names(&self) -> Vec<Cow<'a, str>> {
        if let Some(names) = &self.node_names {
            return names.iter().map(|name| name.0.clone()).collect();
        }
        let items = self.nodes.as_ref().and_then(|nodes| nodes["items"].as_array());
        let listed = items.into_iter().flatten().filter_map(name);
        listed.map(|name| Cow::Owned(name.to_owned())).collect()
    }

    /// Of the nodes, in the form they came in, those that `keep` names, in the same order.
    fn kept(self, keep: Vec<Cow<'a, str>>) -> Filtered<'a> {
        if self.node_names.is_some() {
            return Filtered { node_names: Some(keep), ..Filtered::default() };
        }
        let nodes = self.nodes.map(|mut nodes| {
            if let Some(items) = nodes["items"].as_array_mut() {
                let mut keep = keep.iter().peekable();
                items.retain(|node| keep.next_if(|kept| name(node) == Some(kept)).is_some());
            }
            nodes
        });
        Filtered { nodes, ..Filtered::default() }
    }
}

/// The pod, to tell the scheduler of room for it later.
fn waiting(pod: &Pod) -> Option<Waiting> {
    let ObjectMeta { uid, namespace, name, .. } = &pod.metadata;
    Some(Waiting { uid: uid.clone()?, namespace: namespace.clone()?, name: name.clone()? })
}

impl Extender {
    /// One whose promises hold for `promise` where their binding came to nothing.
    #[must_use]
    pub fn new(books: Arc<Books>, client: Client, promise: Duration) -> Self {
        Self { books, client, promise }
    }

    /// Answers whoever comes, by TLS if there are `files`, until `ended`.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub async fn serve(
        self,
        listener: TcpListener,
        files: Option<Files>,
        ended: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()> {
        let telling = tokio::spawn(room::tell(Arc::clone(&self.books), self.client.clone()));
        let served = self.answer_all(listener, files, ended).await;
        telling.abort();
        served
    }

    async fn answer_all(
        self,
        listener: TcpListener,
        files: Option<Files>,
        ended: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()> {
        let app = Router::new()
            .route("/filter", post(filter))
            .route("/prioritize", post(prioritize))
            .route("/bind", post(bind))
            .route("/readyz", get(ready))
            .layer(DefaultBodyLimit::max(BODY))
            .with_state(Arc::new(self));
        match files {
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

    fn filter<'a>(&self, arguments: Arguments<'a>) -> Filtered<'a> {
        let names = arguments.names();
        let demand = match pods::demand(&arguments.pod) {
            Ok(Some(demand)) => demand,
            Ok(None) => return arguments.kept(names),
            // No node would have it: the author is told what to correct.
            Err(why) => {
                let why: Arc<str> = why.to_string().into();
                let all = names.into_iter().map(|name| (name, Arc::clone(&why))).collect();
                let none = arguments.kept(Vec::new());
                return Filtered { failed_and_unresolvable_nodes: Failed(all), ..none };
            }
        };
        let judged = self.books.with(|ledger, _| {
            let judged = ledger.judge_all(names.iter().map(|name| &**name), &demand);
            // In the same moment: what changes from now on is told of.
            let fits = judged.iter().any(|verdict| matches!(verdict, Verdict::Fits { .. }));
            match waiting(&arguments.pod) {
                Some(pod) if !fits => ledger.wait(pod, &demand),
                Some(pod) => ledger.leave(&pod.uid),
                None => {}
            }
            judged
        });
        let Some(judged) = judged else {
            return Filtered { error: NOT_YET, ..Filtered::default() };
        };
        let (mut keep, mut full, mut unfit) = (Vec::with_capacity(names.len()), vec![], vec![]);
        for (name, verdict) in names.into_iter().zip(judged) {
            match verdict {
                Verdict::Fits { .. } => keep.push(name),
                Verdict::Refused { why, resolvable: true } => full.push((name, why)),
                Verdict::Refused { why, resolvable: false } => unfit.push((name, why)),
            }
        }
        let (failed_nodes, failed_and_unresolvable_nodes) = (Failed(full), Failed(unfit));
        Filtered { failed_nodes, failed_and_unresolvable_nodes, ..arguments.kept(keep) }
    }

    fn prioritize<'a>(&self, arguments: &Arguments<'a>) -> Vec<Priority<'a>> {
        let names = arguments.names();
        let demand = pods::demand(&arguments.pod).ok().flatten();
        let judged = demand.and_then(|demand| {
            self.books.with(|ledger, _| ledger.judge_all(names.iter().map(|name| &**name), &demand))
        });
        let score = |verdict: &Verdict| match verdict {
            Verdict::Fits { score, .. } => (score + 500) / 1000,
            Verdict::Refused { .. } => 0,
        };
        let judged = judged.unwrap_or_default();
        let scores = judged.iter().map(score).chain(std::iter::repeat(0));
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
        if answer.as_ref().is_err_and(is_refusal) {
            self.books.with(|ledger, _| ledger.release(&arguments.pod_uid));
        }
        answer?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_taken_back_only_where_nothing_was_bound() {
        let answer = |code| {
            let status = kube::core::Status::failure("no", "No").with_code(code);
            kube::Error::Api(status.boxed())
        };
        assert!([404, 409, 429].map(answer).iter().all(is_refusal));
        assert!(![500, 503, 504].map(answer).iter().any(is_refusal));
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(!is_refusal(&kube::Error::Service(broken.into())));
    }

    #[test]
    fn as_a_scheduler_writes_and_reads() {
        let text = r#"{"Pod":{"metadata":{"name":"p"},"spec":{"containers":[]}},"Nodes":null,"NodeNames":["a","b","\u0063"]}"#;
        let arguments: Arguments<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(arguments.names(), ["a", "b", "c"]);
        let kept = arguments.kept(vec!["b".into()]);
        assert_eq!((kept.nodes, kept.node_names), (None, Some(vec!["b".into()])));
        let text = r#"{"Pod":{"metadata":{"name":"p"}},
            "Nodes":{"metadata":{},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}},{"metadata":{"name":"c"}}]}}"#;
        let arguments: Arguments<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(arguments.names(), ["a", "b", "c"]);
        let kept = arguments.kept(vec!["a".into(), "c".into()]);
        let wanted = serde_json::json!([{"metadata": {"name": "a"}}, {"metadata": {"name": "c"}}]);
        assert_eq!((kept.nodes.unwrap()["items"].take(), kept.node_names), (wanted, None));
        let text = r#"{"PodName":"p","PodNamespace":"d","PodUID":"u","Node":"n"}"#;
        let bind: BindArguments = serde_json::from_str(text).unwrap();
        assert_eq!(
            (bind.pod_name.as_str(), bind.pod_uid.as_str(), bind.node.as_str()),
            ("p", "u", "n")
        );
        let filtered = Filtered {
            node_names: Some(vec!["a".into()]),
            failed_nodes: Failed(vec![("b".into(), "full".into())]),
            ..Filtered::default()
        };
        let told = serde_json::to_string(&filtered).unwrap();
        let wanted = r#"{"Nodes":null,"NodeNames":["a"],"FailedNodes":{"b":"full"},"FailedAndUnresolvableNodes":{},"Error":""}"#;
        assert_eq!(told, wanted);
        let told = serde_json::to_string(&[Priority { host: "a".into(), score: 7 }]).unwrap();
        assert_eq!(told, r#"[{"Host":"a","Score":7}]"#);
    }
}
