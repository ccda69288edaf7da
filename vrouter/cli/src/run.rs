//! The commands: ask, convert, print.

mod cdi;
mod explain;
mod networks;
mod pods;
mod routes;
mod uplinks;

use std::io::Write;
use std::time::Duration;

use clap::CommandFactory as _;
use serde::Serialize;
use tokio::time::Instant;

use crate::args::{Args, Command, NetworkAction, StatsArgs, WorkerAction};
use crate::call::Vrouter;
use crate::doctor;
use crate::failure::Failure;
use crate::targets::{self, Target};
use crate::text;
use crate::view::{self, Event, Info, Network, Rates, Stats};

pub(crate) async fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    if let Command::Completions { shell } = args.command {
        // Not straight to `out`: the generator panics when it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Args::command(), "ringway", &mut script);
        return print(out, &script);
    }
    if let Command::Doctor(doctor) = &args.command {
        return doctor::run(args, doctor, out).await;
    }
    if let Command::Cdi(cdi) = &args.command {
        return cdi::run(cdi, &args.run_dir, args.json, out).await;
    }
    if let Command::Uplinks { action: Some(action) } = &args.command
        && action.is_about_machine()
    {
        return uplinks::run_on_machine(action, args.json, out);
    }
    if let Command::Pods = args.command {
        return pods::run(args, out).await;
    }
    match targets::of(args).as_slice() {
        [only] => on(only, args, out).await,
        several => on_each(several, args, out).await,
    }
}

/// Asks several, and shows what each says: under a heading of its own, or as one array.
async fn on_each(targets: &[Target], args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    if !targets::is_for_all(&args.command) {
        return Err(targets::which(targets));
    }
    let (mut all, mut failed) = (Vec::new(), None);
    for (at, target) in targets.iter().enumerate() {
        let mut said = Vec::new();
        if let Err(failure) = on(target, args, &mut said).await {
            failed = failed.or(Some(failure));
            continue;
        }
        if args.json {
            all.extend(targets::numbered(target, &said).map_err(std::io::Error::from)?);
        } else {
            let gap = if at == 0 { "" } else { "\n" };
            print(out, format!("{gap}{}:\n", target.heading()).as_bytes())?;
            print(out, &said)?;
        }
    }
    if args.json {
        show(out, true, &all, |_| String::new())?;
    }
    failed.map_or(Ok(()), Err)
}

/// One command and one vRouter.
async fn on(target: &Target, args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let mut vrouter = Vrouter::connect(target.socket.clone()).await?;
    match &args.command {
        Command::Info => {
            let info = Info::from(vrouter.info().await?);
            show(out, args.json, &info, text::info)
        }
        Command::Ports => {
            let ports = view::ports(vrouter.ports().await?);
            show(out, args.json, &ports, |ports| text::ports(ports))
        }
        Command::Networks { action: None } => {
            let networks = view::networks(vrouter.networks().await?);
            show(out, args.json, &networks, |networks| text::networks(networks))
        }
        Command::Networks { action: Some(NetworkAction::Add(network)) } => {
            let created = Network::from(vrouter.add_network(networks::request(network)).await?);
            show(out, args.json, &created, |network| text::networks(std::slice::from_ref(network)))
        }
        Command::Networks { action: Some(NetworkAction::Delete { name }) } => {
            vrouter.delete_network(name).await?;
            let deleted = Deleted { deleted: name.clone() };
            show(out, args.json, &deleted, |_| format!("network {name} is gone\n"))
        }
        Command::Uplinks { action } => {
            uplinks::run(&mut vrouter, action.as_ref(), args.json, out).await
        }
        Command::Routes(routes) => routes::run(&mut vrouter, routes, args.json, out).await,
        Command::Explain(packet) => explain::run(&mut vrouter, packet, args.json, out).await,
        Command::Workers { action: None } => show_workers(&mut vrouter, args.json, out).await,
        Command::Workers { action: Some(WorkerAction::Set { cpus }) } => {
            vrouter.set_workers(cpus.clone()).await?;
            show_workers(&mut vrouter, args.json, out).await
        }
        Command::Workers { action: Some(WorkerAction::Mode { mode }) } => {
            vrouter.set_worker_mode((*mode).into()).await?;
            show_workers(&mut vrouter, args.json, out).await
        }
        Command::Workers { action: Some(WorkerAction::Pin { port, worker }) } => {
            let port = view::ports(vec![vrouter.pin(port, worker.0).await?]);
            show(out, args.json, &port, |ports| text::ports(ports))
        }
        Command::Stats(StatsArgs { watch: None, .. }) => {
            let stats = look(&mut vrouter).await?;
            show(out, args.json, &stats, text::stats)
        }
        Command::Stats(StatsArgs { watch: Some(seconds), count }) => {
            let interval = Duration::from_secs(u64::from(*seconds));
            watch_rates(&mut vrouter, interval, *count, args.json, out).await
        }
        Command::Drops => {
            let drops = look(&mut vrouter).await?.drops();
            show(out, args.json, &drops, text::drops)
        }
        Command::Watch => watch(&mut vrouter, args.json, out).await,
        Command::Doctor(_) | Command::Pods | Command::Cdi(_) | Command::Completions { .. } => {
            Ok(())
        }
    }
}

#[derive(Serialize)]
struct Deleted {
    deleted: String,
}

async fn show_workers(
    vrouter: &mut Vrouter,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mode = vrouter.info().await?.worker_mode().into();
    let workers = look(vrouter).await?.workers(mode);
    show(out, json, &workers, |workers| text::workers(workers))
}

async fn look(vrouter: &mut Vrouter) -> Result<Stats, Failure> {
    let ports = view::ports(vrouter.ports().await?);
    Ok(Stats::new(vrouter.stats().await?, &ports))
}

async fn watch_rates(
    vrouter: &mut Vrouter,
    interval: Duration,
    count: Option<u32>,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut before = (look(vrouter).await?, Instant::now());
    let mut due = tokio::time::interval_at(before.1 + interval, interval);
    let mut done = 0;
    while count.is_none_or(|count| done < count) {
        due.tick().await;
        let after = (look(vrouter).await?, Instant::now());
        let rates = Rates::new(&before.0, &after.0, after.1 - before.1);
        if json {
            line(out, &rates)?;
        } else {
            let gap = if done == 0 { "" } else { "\n" };
            print(out, format!("{gap}{}", text::rates(&rates)).as_bytes())?;
        }
        before = after;
        done = done.saturating_add(1);
    }
    Ok(())
}

async fn watch(vrouter: &mut Vrouter, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let mut events = vrouter.watch().await?;
    loop {
        let Some(event) = Event::from_wire(vrouter.next(&mut events).await?) else { continue };
        if json {
            line(out, &event)?;
        } else {
            print(out, text::event(&event).as_bytes())?;
        }
    }
}

pub(crate) fn show<T: Serialize>(
    out: &mut impl Write,
    json: bool,
    value: &T,
    text: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    if !json {
        return print(out, text(value).as_bytes());
    }
    let mut bytes = serde_json::to_vec_pretty(value).map_err(std::io::Error::from)?;
    bytes.push(b'\n');
    print(out, &bytes)
}

/// One object per line, for streams.
fn line(out: &mut impl Write, value: &impl Serialize) -> Result<(), Failure> {
    let mut bytes = serde_json::to_vec(value).map_err(std::io::Error::from)?;
    bytes.push(b'\n');
    print(out, &bytes)
}

fn print(out: &mut impl Write, bytes: &[u8]) -> Result<(), Failure> {
    out.write_all(bytes)?;
    // What is shown belongs to this moment; a pipe would otherwise hold it back.
    out.flush()?;
    Ok(())
}
