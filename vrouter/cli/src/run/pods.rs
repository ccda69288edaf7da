//! `ringway pods`: what ringway-nri says of them, and what their vRouters have counted.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use nri_plugin_api::v1::PodsRequest;

use super::show;
use crate::args::Args;
use crate::call::Vrouter;
use crate::failure::Failure;
use crate::targets::{self, Target};
use crate::text;
use crate::view::pods::{self, Pod};

const ANSWER: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let mut list = asked(&args.run_dir.join(nri_plugin_api::SOCKET)).await?;
    let named = args.socket.is_some() || args.instance.is_some();
    let targets = targets::of(args);
    if named {
        let is_asked = |pod: &Pod| targets.iter().any(|it| is_served_by(pod, it));
        list.retain(is_asked);
    }
    for target in &targets {
        let Ok(crossings) = crossings(target).await else { continue };
        for pod in list.iter_mut().filter(|pod| is_served_by(pod, target)) {
            pod.instance = target.instance;
            pod.numa_crossings = Some(crossings.get(&pod.sandbox).copied().unwrap_or(0));
        }
    }
    show(out, args.json, &list, |list| text::pods(list))
}

fn is_served_by(pod: &Pod, target: &Target) -> bool {
    pod.vrouter.as_ref().is_some_and(|socket| Path::new(socket) == target.socket)
}

async fn asked(socket: &Path) -> Result<Vec<Pod>, Failure> {
    let failed = |why: String| Failure::NoPlugin { socket: socket.to_owned(), why };
    let ask = async {
        let mut client =
            nri_plugin_api::connect(socket).await.map_err(|_| failed("nobody listens".into()))?;
        let answer = client.pods(PodsRequest {}).await;
        answer.map_err(|status| failed(status.message().to_owned()))
    };
    let late = || failed(format!("no answer within {} s", ANSWER.as_secs()));
    let answer = tokio::time::timeout(ANSWER, ask).await.map_err(|_| late())??;
    Ok(answer.into_inner().pods.into_iter().map(pods::pod).collect())
}

/// What the pods of one vRouter sent that crossed between NUMA nodes, by sandbox.
async fn crossings(target: &Target) -> Result<BTreeMap<String, u64>, Failure> {
    let stats = Vrouter::connect(target.socket.clone()).await?.stats().await?;
    let mut crossings = BTreeMap::new();
    for port in stats.ports {
        let sandbox = port.id.split('/').next().unwrap_or_default().to_owned();
        *crossings.entry(sandbox).or_default() += port.numa_crossings;
    }
    Ok(crossings)
}
