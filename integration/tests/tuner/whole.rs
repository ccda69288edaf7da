//! Plan, apply, revert, as an operator calls them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bed::{Bed, NIC, hugepages, mask, text};

/// What this machine can be asked for, whatever it is; eight hugepages more than it has.
pub fn profile(pages: u64) -> String {
    format!(
        "[cpus]\nreserved_cores = 1\nvrouter_cores = 1\nsplit_cores = true\n\
         [[hugepages]]\nsize = \"2Mi\"\namount = \"{pages} pages\"\nnodes = \"0\"\n\
         [memory]\ntransparent_hugepages = \"always\"\ntransparent_hugepages_defrag = \"never\"\n\
         [sysctls]\n\"vm.stat_interval\" = 7\n\
         [irqs]\nkeep_off_data_cpus = true\nworkqueues_off_data_cpus = true\n\
         [steering]\ninterfaces = [\"rwtest-*\"]\nrps = \"reserved\"\nxps = \"reserved\"\n\
         [[nics]]\nnames = [\"{NIC}\"]\nqueues = 2\nrx_ring = \"max\"\noffloads = {{ rx-gro = false }}\n\
         [power]\ngovernor = \"performance\"\nmax_idle_exit_us = 0\n\
         [kernel]\nisolate = \"data\"\n"
    )
}

fn json(text: &str) -> Result<Value> {
    Ok(serde_json::from_str(text)?)
}

/// The items of a plan whose names contain `part`: what and state.
fn items(plan: &Value, part: &str) -> Vec<(String, String)> {
    let items = plan["items"].as_array().cloned().unwrap_or_default();
    let named = items.into_iter().filter_map(|item| {
        let what = item["what"].as_str()?.to_owned();
        let state = item["state"]["state"].as_str()?.to_owned();
        what.contains(part).then_some((what, state))
    });
    named.collect()
}

pub fn applied_read_back_and_reverted() -> Result<()> {
    let bed = Bed::new()?;
    let pages = hugepages()? + 8;
    let file = bed.profile(&profile(pages))?;
    let file = file.to_str().context("path")?;

    // A plan changes nothing, and says what can't be.
    let plan = json(&bed.tuner(&["plan", "--json", "--profile", file])?)?;
    bed.is_as_before()?;
    ensure!(!bed.state().exists(), "a plan has written a journal");
    let state = |part: &str| items(&plan, part).first().map(|(_, state)| state.clone());
    ensure!(state("command line isolcpus").as_deref() == Some("needs-reboot"), "{plan:#}");
    ensure!(state("rx ring").as_deref() == Some("not-applicable"), "{plan:#}");
    if !Path::new("/sys/devices/system/cpu/cpu0/cpufreq").exists() {
        ensure!(state("frequencies").as_deref() == Some("not-applicable"), "{plan:#}");
    }

    let told = bed.tuner(&["apply", "--profile", file])?;
    ensure!(told.contains("values changed and read back"), "{told}");
    ensure!(hugepages()? == pages, "{} hugepages instead of {pages}", hugepages()?);
    let thp = text("/sys/kernel/mm/transparent_hugepage/enabled")?;
    ensure!(thp.starts_with("[always]"), "{thp}");
    ensure!(text("/sys/kernel/mm/transparent_hugepage/defrag")?.ends_with("[never]"));
    ensure!(text("/proc/sys/vm/stat_interval")? == "7");
    ensure!(mask("/sys/devices/virtual/workqueue/cpumask")? == 1);
    ensure!(mask("/proc/irq/default_smp_affinity")? == 1);
    let queues = format!("/sys/class/net/{NIC}/queues");
    ensure!(mask(format!("{queues}/rx-0/rps_cpus"))? == 1);
    ensure!(mask(format!("{queues}/tx-0/xps_cpus"))? == 1);
    // Two receive queues are left, as the kernel's own directory says.
    ensure!(!Path::new(&format!("{queues}/rx-2")).exists(), "more than two receive queues");
    let report = json(&bed.tuner(&["report", "--json"])?)?;
    let nics = report["node"]["nics"].as_array().context("no interfaces")?;
    let nic = nics.iter().find(|nic| nic["name"] == NIC).context("not reported")?;
    ensure!(nic["queues"]["rx"] == 2 && nic["offloads"]["rx-gro"]["on"] == false, "{nic:#}");
    ensure!(report["tuning"]["profile"] == "test", "{report:#}");

    // Again: nothing to do; and every interrupt is off the data CPUs, or said not to be.
    let again = bed.tuner(&["apply", "--profile", file])?;
    ensure!(again.contains("profile test: 0 values changed"), "{again}");
    let plan = json(&bed.tuner(&["plan", "--json", "--profile", file])?)?;
    ensure!(items(&plan, "").iter().all(|(_, state)| state != "change"), "{plan:#}");

    bed.tuner(&["revert"])?;
    bed.is_as_before()?;
    ensure!(!bed.state().join("journal.jsonl").exists(), "a journal is left");
    Ok(())
}

pub fn refused_with_nothing_done() -> Result<()> {
    let bed = Bed::new()?;
    for (text, told) in [
        (
            "[[hugepages]]\nsize = \"2Mi\"\namount = \"80%\"",
            "hugepages[0].amount = 80%: would make",
        ),
        (
            "[cpus]\nreserved_cores = 4000\nsplit_cores = true",
            "cpus.reserved_cores = 4000: NUMA node",
        ),
        ("[irqs]\nkeep_off_data_cpus = true", "set cpus.reserved_cores to 1 or more"),
    ] {
        let file = bed.profile(&format!("[sysctls]\n\"vm.stat_interval\" = 7\n{text}"))?;
        let output = bed.output(&["apply", "--profile", file.to_str().context("path")?])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(3), "{}: {error}", output.status);
        ensure!(error.contains(told), "{error}");
        bed.is_as_before()?;
    }
    // More memory than there is can't be had: everything before it is turned back.
    let all = "[limits]\nhugepage_percent = 90\n[memory]\ntransparent_hugepages = \"always\"\n\
               [[hugepages]]\nsize = \"1Gi\"\namount = \"90%\"";
    let pool = "/sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages";
    if !Path::new(pool).exists() {
        println!("SKIP: hugepages that can't be had: no pages of 1 GiB here");
        return Ok(());
    }
    let before = text(pool)?;
    let file = bed.profile(all)?;
    let output = bed.output(&["apply", "--profile", file.to_str().context("path")?])?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {error}", output.status);
    ensure!(error.contains("everything was turned back"), "{error}");
    ensure!(text(pool)? == before, "pages of 1 GiB are left");
    bed.is_as_before()
}

/// What was captured here is planned for as this machine is.
pub fn captured_and_planned_elsewhere() -> Result<()> {
    let bed = Bed::new()?;
    let pages = hugepages()? + 8;
    let file = bed.profile(&profile(pages))?;
    let file = file.to_str().context("path")?;
    let tree = bed.run.path().join("captured");
    let tree = tree.to_str().context("path")?;
    bed.tuner(&["capture", tree])?;
    let here = json(&bed.tuner(&["plan", "--json", "--profile", file])?)?;
    let there = json(&bed.tuner(&["plan", "--json", "--profile", file, "--root", tree])?)?;
    ensure!(here == there, "{here:#}\n{there:#}");
    // And a plan for the captured machine is carried out there, not here.
    bed.tuner(&["apply", "--profile", file, "--root", tree])?;
    bed.is_as_before()?;
    let path = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
    let there = fs::read_to_string(Path::new(tree).join(path))?;
    ensure!(there.trim() == pages.to_string(), "{there}");
    bed.tuner(&["revert", "--root", tree]).map(|_| ())
}
