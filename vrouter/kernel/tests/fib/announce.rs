//! Routes that announce pods: made, taken away, found again, and read over by the mirror.

use crate::bed::{Watch, batch, ip, main_config};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::process::Command;
use vrouter_kernel::announce::{Announced, Announcer, METRIC};
use vrouter_kernel::fib::{NetworkSpec, Source, Target};

fn wanted(addresses: &[&str]) -> Result<BTreeSet<Announced>> {
    let one = |text: &&str| {
        let (table, address) = text.split_once(' ').unwrap_or(("77", text));
        Ok(Announced { table: table.parse()?, address: address.parse()? })
    };
    addresses.iter().map(one).collect()
}

fn shown(family: &str, table: &str) -> Result<Vec<String>> {
    let output = Command::new("ip").args([family, "route", "show", "table", table]).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

pub fn come_and_go() -> Result<()> {
    ip("link add u0 type veth peer name u0-far")?;
    ip("link set u0-far up")?;
    ip("link set u0 up")?;
    ip("route add 10.66.0.9 dev u0 table 77")?;
    let mut config = main_config();
    let spec = NetworkSpec { source: Source::Table(77), tunnel: None, device: None };
    config.networks.insert("red".to_owned(), spec);
    let mut watch = Watch::start(config)?;
    watch.expect("red", "10.66.0.9", Some(Target::Kernel))?;
    let mut announcer = Announcer::open(METRIC)?;
    ensure!(announcer.there().is_empty());
    let first = wanted(&["10.66.0.2", "10.66.0.9", "fd00:66::2", "78 10.66.0.2"])?;
    announcer.set(&first)?;
    let four =
        ["10.66.0.2", "10.66.0.9"].map(|it| format!("unreachable {it} proto 83 metric 9999"));
    let own = "10.66.0.9 dev u0 scope link".to_owned();
    ensure!(shown("-4", "77")? == [four[0].clone(), own.clone(), four[1].clone()]);
    let six = shown("-6", "77")?;
    ensure!(
        six.len() == 1 && six[0].starts_with("unreachable fd00:66::2 dev lo proto 83"),
        "{six:?}"
    );
    ensure!(shown("-4", "78")?.len() == 1);
    // The mirror has seen nothing of them.
    watch.expect("red", "10.66.0.2", None)?;
    watch.expect("red", "10.66.0.9", Some(Target::Kernel))?;
    // Somebody who starts after another was killed, without knowing more than what is there.
    let mut next = Announcer::open(METRIC)?;
    ensure!(*next.there() == first, "{:?}", next.there());
    next.set(&wanted(&["10.66.0.9", "10.66.0.3"])?)?;
    let four =
        ["10.66.0.3", "10.66.0.9"].map(|it| format!("unreachable {it} proto 83 metric 9999"));
    ensure!(shown("-4", "77")? == [four[0].clone(), own.clone(), four[1].clone()]);
    ensure!(shown("-6", "77")?.is_empty() && shown("-4", "78")?.is_empty());
    // Another vRouter of this machine has its own.
    let mut other = Announcer::open(METRIC + 1)?;
    ensure!(other.there().is_empty());
    other.set(&wanted(&["10.66.0.3"])?)?;
    ensure!(shown("-4", "77")?.len() == 4);
    other.set(&BTreeSet::new())?;
    ensure!(shown("-4", "77")?.len() == 3);
    // Taken away by hand: found by looking, and made again.
    ip("route del 10.66.0.3 proto 83 table 77")?;
    let both = wanted(&["10.66.0.9", "10.66.0.3"])?;
    next.set(&both)?;
    ensure!(shown("-4", "77")?.len() == 2);
    next.look(77)?;
    next.set(&both)?;
    ensure!(shown("-4", "77")?.len() == 3);
    next.set(&BTreeSet::new())?;
    ensure!(shown("-4", "77")? == [own]);
    // A table that is gone is an empty one.
    next.look(78)?;
    ensure!(next.table_of_vrf("red")?.is_none());
    Ok(())
}

/// Many pods beside a table that is not small.
pub fn many() -> Result<()> {
    let lines: String = (0..20_000_u32)
        .map(|n| {
            format!("route add blackhole 10.{}.{}.{}/32 table 77\n", n >> 16, n >> 8 & 255, n & 255)
        })
        .collect();
    batch(&lines)?;
    let mut announcer = Announcer::open(METRIC)?;
    let pods: BTreeSet<_> = (0..1_000_u32)
        .map(|n| Announced {
            table: 77,
            address: std::net::Ipv4Addr::from_bits(0xac10_0000 + n).into(),
        })
        .collect();
    announcer.set(&pods)?;
    announcer.look(77)?;
    ensure!(*announcer.there() == pods);
    ensure!(*Announcer::open(METRIC)?.there() == pods);
    announcer.set(&BTreeSet::new())?;
    ensure!(shown("-4", "77")?.len() == 20_000);
    Ok(())
}
