//! How long a scheduler waits for the extender's answers about 1,000 nodes, over HTTP on the loopback, with thirty pods on each.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use criterion::{Criterion, criterion_group, criterion_main};
use kube::{Client, Config};
use node_tuner_cluster::demand::{Demand, Want};
use node_tuner_cluster::ledger::{Ledger, Placed};
use node_tuner_cluster::offer::{NumaOffer, Offer, Pool, VrouterOffer};
use node_tuner_controller::extender::Extender;
use node_tuner_controller::placement::Books;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

const NODES: usize = 1000;
const PODS: u32 = 30;
/// Of each NUMA node; the pods leave three.
const CPUS: u32 = 48;
const GIB: u64 = 1 << 30;

fn offer() -> Offer {
    let numa = |id| NumaOffer {
        id,
        cpus: CPUS,
        hugepages: BTreeMap::from([(GIB, Pool { total: 64 * GIB, free: 64 * GIB })]),
    };
    let vrouter = |numa| VrouterOffer {
        mode: "dpdk".into(),
        numa: Some(numa),
        ports: 0,
        ports_max: 256,
        networks: (0..16).map(|network| format!("net-{network}")).collect(),
    };
    Offer { numa: vec![numa(0), numa(1)], vrouters: vec![vrouter(0), vrouter(1)] }
}

fn ledger(names: &[String]) -> Ledger {
    let mut ledger = Ledger::default();
    for name in names {
        ledger.set_node(name, Some(offer()));
        for pod in 0..PODS {
            let demand = Demand {
                exclusive: 3,
                hugepages: BTreeMap::from([(GIB, 2 * GIB)]),
                ports: 2,
                networks: ["net-3".to_owned(), "net-9".to_owned()].into(),
                numa: Want::Strict,
                ..Demand::default()
            };
            let placed = Placed { node: name.clone(), numa: Some(pod % 2), demand, running: true };
            ledger.set_pod(&format!("{name}-{pod}"), placed);
        }
    }
    ledger
}

/// An extender that has read everything.
fn start(runtime: &Runtime, books: &Arc<Books>) -> Result<SocketAddr> {
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        // Nobody is bound here, so no API server is asked.
        let client = Client::try_from(Config::new("http://127.0.0.1:1".parse()?))?;
        let extender = Extender::new(Arc::clone(books), client, Duration::from_secs(30));
        tokio::spawn(extender.serve(listener, None, std::future::pending()));
        Ok(address)
    })
}

/// A question as a kube-scheduler writes it.
fn question(path: &str, cpus: u32, names: &[String]) -> Vec<u8> {
    let annotations = json!({
        "network.ringway.dev": "net-3,net-9", "numa.ringway.dev": "strict", "cpus.ringway.dev": cpus.to_string(),
        "hugepages-1gi.ringway.dev": "2Gi",
    });
    let pod = json!({
        "metadata": {"name": "asked", "namespace": "default", "annotations": annotations},
        "spec": {"schedulerName": "ringway", "containers": [{"name": "app", "image": "none.example.org/none"}]},
    });
    let body = json!({"Pod": pod, "Nodes": null, "NodeNames": names}).to_string();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: extender\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The answer's body.
fn ask(stream: &mut BufReader<TcpStream>, question: &[u8]) -> Result<Vec<u8>> {
    stream.get_mut().write_all(question)?;
    let (mut line, mut length) = (String::new(), None);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = Some(value.trim().parse()?);
            }
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut answer = vec![0; length.context("no Content-Length")?];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn extender(criterion: &mut Criterion) {
    measure(criterion).unwrap_or_else(|error| eprintln!("not measured: {error:#}"));
}

fn measure(criterion: &mut Criterion) -> Result<()> {
    let names: Vec<String> = (0..NODES).map(|index| format!("node-{index:04}")).collect();
    let books = Arc::new(Books::from(ledger(&names)));
    // As the program has it.
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let stream = TcpStream::connect(start(&runtime, &books)?)?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    for (name, cpus, fitting) in [("all fit", 3, NODES), ("none fits", 4, 0)] {
        let questions = ["/filter", "/prioritize"].map(|path| question(path, cpus, &names));
        let kept: Value = serde_json::from_slice(&ask(&mut stream, &questions[0])?)?;
        let found = kept["NodeNames"].as_array().map_or(0, Vec::len);
        let refused = kept["FailedNodes"].as_object().map_or(0, serde_json::Map::len);
        ensure!((found, refused) == (fitting, NODES - fitting), "{name}: {found}, {refused}");
        criterion.bench_function(&format!("filter and prioritize, {name}, asked before"), |b| {
            b.iter(|| questions.iter().map(|one| ask(&mut stream, one)).collect::<Result<Vec<_>>>())
        });
        // Something was reported of every node since.
        criterion.bench_function(&format!("filter and prioritize, {name}, all news"), |b| {
            b.iter_batched(
                || books.with(|ledger, _| forget(ledger, &names)),
                |_| questions.iter().map(|one| ask(&mut stream, one)).collect::<Result<Vec<_>>>(),
                criterion::BatchSize::PerIteration,
            )
        });
    }
    Ok(())
}

/// Every node changes and is as before.
fn forget(ledger: &mut Ledger, names: &[String]) {
    for name in names {
        let mut other = offer();
        other.vrouters.truncate(1);
        ledger.set_node(name, Some(other));
        ledger.set_node(name, Some(offer()));
    }
}

criterion_group!(benches, extender);
criterion_main!(benches);
