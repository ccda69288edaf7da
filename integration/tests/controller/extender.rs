//! How long the extender takes for a thousand nodes, as a kube-scheduler asks it: over one connection that stays.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::process::Daemon;
use integration::wait;
use serde_json::{Value, json};

use crate::api::{Api, PATIENCE, free_port};
use crate::placement::{self, pod, strict};

/// Pods that are asked for, each once with `filter` and once with `prioritize`.
const ASKED: usize = 300;
/// The first ones find nothing in caches.
const WARM: usize = 20;
/// Pods in turn that all want something else: more than the extender keeps verdicts for.
const DIFFERENT: u32 = 10;

/// A connection to the extender.
struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The whole answer, and how long it took from the first byte sent to the last one read.
    fn post(&mut self, path: &str, body: &str) -> Result<(Vec<u8>, Duration)> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: extender\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let request = [head.as_bytes(), body.as_bytes()].concat();
        let began = Instant::now();
        self.stream.get_mut().write_all(&request)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "{path}: {line}");
        let mut length = None;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let header = line.trim_end();
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
        }
        let mut answer = vec![0; length.context("no Content-Length")?];
        self.stream.read_exact(&mut answer)?;
        Ok((answer, began.elapsed()))
    }
}

/// An extender that has read all nodes and pods, and where it listens.
fn start(api: &Api) -> Result<(Daemon, u16)> {
    let port = free_port()?;
    let mut extender = placement::extender(api, port, &[])?;
    extender.wait_for("the extender is ready", PATIENCE, || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return Ok(None) };
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: extender\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
    })?;
    Ok((extender, port))
}

fn summary(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |share: usize| {
        let index = (times.len() * share / 100).min(times.len().saturating_sub(1));
        times.get(index).map(|time| (time.as_secs_f64() * 1e6).round() / 1e3)
    };
    json!({"p50": at(50), "p90": at(90), "p99": at(99), "max": at(100)})
}

/// Asks for `nodes` nodes, of which each has room on both its NUMA nodes for `fits` CPUs and fewer, and not for `too_many`.
pub fn measure(api: &Api, nodes: u32, pods: usize, fits: u32, too_many: u32) -> Result<Value> {
    let (mut extender, port) = start(api)?;
    let names: Vec<String> = (0..nodes).map(|index| format!("sim-{index:04}")).collect();
    let mut connection = Connection::open(port)?;
    let mut report = serde_json::Map::new();
    let lowest = fits.checked_sub(DIFFERENT).context("too few CPUs")? + 1;
    for (name, cpus, different, room) in [
        ("all_fit", lowest, DIFFERENT, true),
        ("none_fits", too_many, DIFFERENT, false),
        ("all_fit_asked_before", fits, 1, true),
        ("none_fits_asked_before", too_many, 1, false),
    ] {
        let asks: Vec<String> = (cpus..cpus + different)
            .map(|cpus| {
                let pod = pod("asked", &strict(cpus, 1));
                json!({"Pod": pod, "Nodes": null, "NodeNames": names}).to_string()
            })
            .collect();
        let (mut filter, mut prioritize, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for (turn, ask) in asks.iter().cycle().take(WARM + ASKED).enumerate() {
            wait::check_stop()?;
            let (kept, first) = connection.post("/filter", ask)?;
            let kept: Value = serde_json::from_slice(&kept)?;
            let found = kept["NodeNames"].as_array().map_or(0, Vec::len);
            let failed = kept["FailedNodes"].as_object().map_or(0, serde_json::Map::len);
            let wanted = if room { (names.len(), 0) } else { (0, names.len()) };
            ensure!((found, failed) == wanted, "{name}: {found} fit, {failed} do not: {kept}");
            let (scores, second) = connection.post("/prioritize", ask)?;
            let scores: Vec<Value> = serde_json::from_slice(&scores)?;
            ensure!(scores.len() == names.len(), "{} of {} scores", scores.len(), names.len());
            let best = scores.iter().filter_map(|score| score["Score"].as_i64()).max();
            ensure!(best.is_some_and(|best| (best > 0) == room), "{name}: best score {best:?}");
            if turn >= WARM {
                filter.push(first);
                prioritize.push(second);
                both.push(first + second);
            }
        }
        report.insert(
            name.to_owned(),
            json!({
                "filter_ms": summary(filter), "prioritize_ms": summary(prioritize), "both_ms": summary(both),
            }),
        );
    }
    let memory = super::scale::peak(extender.pid())?;
    ensure!(extender.stop(PATIENCE)?.success(), "the extender failed");
    let note = "over HTTP on the loopback, one connection; JSON read and written on both sides is in it; names of nodes only (nodeCacheCapable); ten pods in turn that each want something else, or the same pod again and again";
    report.insert(
        "conditions".to_owned(),
        json!({"nodes": nodes, "pods": pods, "requests": ASKED, "note": note}),
    );
    report.insert("peak_memory_bytes".to_owned(), json!(memory));
    Ok(Value::Object(report))
}
