//! The plugin comes while pods are being made: what is made before, during and after containerd's Synchronize.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::leftovers::leftovers;
use integration::pod::Pod;
use integration::stage::Stage;
use integration::{readback, wait};

/// Pods made at the same time, one after the other by each caller.
const CALLERS: usize = 4;
const EACH: usize = 3;
/// How often the plugin comes, each time a little later in their lives.
const TIMES: u64 = 3;
const GONE: Duration = Duration::from_secs(40);

/// Every pod either has its interfaces or is told as one that has not: none is lost between what containerd lists and what it announces.
pub fn among_pods_that_start(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let before = leftovers(node)?;
    let (run, logs) = (node.run().id().to_owned(), node.run().path().join("logs"));
    for time in 0..TIMES {
        node.stop_plugin()?;
        let cri = node.containerd()?.cri.clone();
        let make = |caller: usize| -> Result<Vec<(String, String, String)>> {
            let one = |number: usize| {
                let name = format!("meets-{time}-{caller}-{number}");
                let pod = Pod::idle(&name).annotate("network.ringway.dev", "red");
                let config = pod.sandbox(&run, &logs, 0);
                let sandbox = cri.run_pod(&config, "")?;
                let container = cri.create(&sandbox, &config, &pod.container(0))?;
                cri.start(&container)?;
                Ok((name, sandbox, container))
            };
            (0..EACH).map(one).collect()
        };
        let made = std::thread::scope(|scope| {
            let callers: Vec<_> =
                (0..CALLERS).map(|caller| scope.spawn(move || make(caller))).collect();
            // Where exactly is the kernel's to say: whatever it meets has to be right.
            std::thread::sleep(Duration::from_millis(250 + 300 * time));
            let started = node.start_plugin();
            let mut made = Vec::new();
            for caller in callers {
                made.extend(
                    caller.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a caller panicked")))?,
                );
            }
            started.map(|()| made)
        })?;

        let status = std::fs::read_to_string(node.run().path().join("nri-status.json"))?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let told = status["unserved"].as_array().context("no list")?;
        let mut served = 0;
        for (name, sandbox, container) in &made {
            let pid = node.containerd()?.cri.status(container)?.pid;
            let mounts = readback::mounts(Some(pid))?;
            let has = mounts.iter().any(|mount| mount.target.ends_with("run/ringway"));
            let is_told = told.iter().any(|it| it["id"] == container.as_str());
            ensure!(
                has != is_told,
                "{name}: interfaces {has}, told as unserved {is_told}: {status:#}"
            );
            if has {
                node.vrouter()?.port(sandbox)?;
                served += 1;
            }
        }
        println!("    {served} have interfaces, {} were told", told.len());
        ensure!(served + told.len() == made.len(), "{status:#}");
        for (_, sandbox, _) in &made {
            let cri = &node.containerd()?.cri;
            cri.stop_pod(sandbox)?;
            cri.remove_pod(sandbox)?;
        }
        wait::until("nothing is left", GONE, || Ok((leftovers(node)? == before).then_some(())))?;
        let status = std::fs::read_to_string(node.run().path().join("nri-status.json"))?;
        ensure!(!status.contains("meets-"), "{status}");
    }
    Ok(())
}
