//! Receive rings by what a card drops, on a captured machine: no card here has rings that can be set.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::agent::{Agent, PATIENCE, is};
use crate::bed::{Bed, NIC};

fn ring(tree: &Path) -> Result<u64> {
    let text = fs::read_to_string(tree.join("ethtool.json"))?;
    let all: Value = serde_json::from_str(&text)?;
    all[NIC]["rings"]["rx"].as_u64().context("no ring")
}

pub fn a_ring_follows_what_its_card_drops() -> Result<()> {
    let bed = Bed::new()?;
    let tree = bed.run.path().join("tree");
    let root = tree.to_str().context("path")?;
    bed.tuner(&["capture", root])?;
    let record = tree.join("ethtool.json");
    let mut all: Value = serde_json::from_str(&fs::read_to_string(&record)?)?;
    all[NIC]["rings"] = json!({"rx": 256, "rx_max": 4096, "tx": 256, "tx_max": 4096});
    fs::write(&record, all.to_string())?;
    let counter = tree.join(format!("sys/class/net/{NIC}/statistics/rx_missed_errors"));
    let drop = |packets: u32| fs::write(&counter, format!("{packets}\n"));
    drop(5000)?;

    let file = bed.profile(&format!(
        "[[nics]]\nnames = [\"{NIC}\"]\nrx_ring = 512\nrx_ring_max = 2048\n\
         [agent]\ninterval_s = 1\n[agent.rings]\nsettle_s = 1\nshrink_after_s = 5"
    ))?;
    let file = file.to_str().context("path")?;
    let mut agent = Agent::start(&bed, &["--root", root, "run", "--profile", file])?;
    let what = format!("{NIC} rx ring");
    let (event, mut seen) =
        agent.wait("the least size is set", 0, |event| is(event, "changed", "what", &what))?;
    ensure!(event["from"] == "256" && event["to"] == "512", "{event}");
    for (dropped, from, to) in [(6000, 512, 1024), (7000, 1024, 2048)] {
        drop(dropped)?;
        let (event, next) = agent.wait("it grows", seen, |event| event["event"] == "ring")?;
        ensure!(event["nic"] == NIC && event["from"] == from && event["to"] == to, "{event}");
        ensure!(ring(&tree)? >= to, "{} is there", ring(&tree)?);
        seen = next;
    }
    // No more than the profile allows, and back to the least after quiet.
    for (from, to) in [(2048, 1024), (1024, 512)] {
        let (event, next) = agent.wait("it shrinks", seen, |event| event["event"] == "ring")?;
        ensure!(event["from"] == from && event["to"] == to, "{event}");
        seen = next;
    }
    let ended = agent.process.stop(PATIENCE)?;
    ensure!(ended.success(), "{ended}");
    ensure!(ring(&tree)? == 512);
    bed.tuner(&["--root", root, "revert"])?;
    ensure!(ring(&tree)? == 256, "{} is left", ring(&tree)?);
    bed.is_as_before()
}
