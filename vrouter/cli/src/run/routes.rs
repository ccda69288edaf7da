//! `ringway routes`: lists them page by page, changes them one by one, loads them in parts.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _, Write};
use std::path::Path;

use serde::Serialize;
use vrouter_api::v1;

use super::{print, show};
use crate::args::{RouteAction, RoutesArgs, SetRoute};
use crate::call::Vrouter;
use crate::failure::Failure;
use crate::routes::{self, Prefix, Route};

/// Routes of one request: some 1 MB, and small fractions of a second in which nothing else changes.
const PART: usize = 20_000;

/// What was changed.
#[derive(Serialize)]
struct Changed<'a> {
    network: &'a str,
    /// How many were asked for.
    changed: usize,
    /// How many the network has now.
    routes: u64,
}

pub(super) async fn run(
    vrouter: &mut Vrouter,
    args: &RoutesArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    match (&args.action, &args.network) {
        (Some(RouteAction::Add(route)), _) => set(vrouter, route, true, json, out).await,
        (Some(RouteAction::Replace(route)), _) => set(vrouter, route, false, json, out).await,
        (Some(RouteAction::Delete { network, prefix }), _) => {
            delete(vrouter, network, prefix, json, out).await
        }
        (Some(RouteAction::Load { network, file }), _) => {
            load(vrouter, network, file, json, out).await
        }
        (Some(RouteAction::List { network }), _) | (None, Some(network)) => {
            list(vrouter, network, json, out).await
        }
        // The command line does not let this happen.
        (None, None) => Ok(()),
    }
}

/// Prints each page as it comes: a million routes are not held here.
async fn list(
    vrouter: &mut Vrouter,
    network: &str,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut after = String::new();
    let mut before = "[";
    loop {
        let (page, more) = vrouter.routes(network, after).await?;
        after = page.last().map(|route| route.prefix.clone()).unwrap_or_default();
        let mut text = String::new();
        for route in page.into_iter().map(Route::from) {
            if json {
                text.push_str(before);
                text.push_str("\n  ");
                text.push_str(&serde_json::to_string(&route).map_err(io::Error::from)?);
                before = ",";
            } else {
                text.push_str(&route.text());
            }
        }
        // A page without routes that says there are more would be asked for again and again.
        let ends = !more || after.is_empty();
        if json && ends {
            text.push_str(if before == "[" { "[]\n" } else { "\n]\n" });
        }
        print(out, text.as_bytes())?;
        if ends {
            return Ok(());
        }
    }
}

async fn set(
    vrouter: &mut Vrouter,
    wanted: &SetRoute,
    only_new: bool,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let target = wanted.target().map_err(|why| Failure::Input { what: "route".to_owned(), why })?;
    let route = routes::route(&wanted.prefix, target);
    let what = format!("route {} of network {} not set", route.prefix, wanted.network);
    let request = v1::ChangeRoutesRequest {
        network: wanted.network.clone(),
        remove: Vec::new(),
        set: vec![route],
        only_new,
    };
    let routes = vrouter.change_routes(&what, request).await?;
    changed(&wanted.network, 1, routes, json, out)
}

async fn delete(
    vrouter: &mut Vrouter,
    network: &str,
    prefix: &Prefix,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let prefix = prefix.text(None);
    let what = format!("route {prefix} of network {network} not deleted");
    let request = v1::ChangeRoutesRequest {
        network: network.to_owned(),
        remove: vec![prefix],
        ..Default::default()
    };
    let routes = vrouter.change_routes(&what, request).await?;
    changed(network, 1, routes, json, out)
}

fn changed(
    network: &str,
    changed: usize,
    routes: u64,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let told = Changed { network, changed, routes };
    show(out, json, &told, |_| format!("network {network} has {routes} routes\n"))
}

async fn load(
    vrouter: &mut Vrouter,
    network: &str,
    file: &Path,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let name = file.display().to_string();
    let text = if name == "-" {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    let input = |why: String| Failure::Input { what: format!("routes in {name}"), why };
    let text =
        text.map_err(|error| input(format!("{error}; name a text file, or - for standard input")))?;
    let all = routes::read(&text).map_err(input)?;
    drop(text);
    let total = all.len();
    let mut told = Progress::new(total);
    let (mut done, mut routes) = (0, 0);
    let mut rest = all.into_iter();
    loop {
        let set: Vec<_> = rest.by_ref().take(PART).collect();
        let part = set.len();
        // Also if there are none: the network may not exist, and how many it has is told.
        if part == 0 && done > 0 {
            break;
        }
        let what = format!(
            "routes {} to {} of {total} not loaded, those before are",
            done + 1,
            done + part
        );
        let network = network.to_owned();
        let request = v1::ChangeRoutesRequest { network, set, ..Default::default() };
        let answer = vrouter.change_routes(&what, request).await;
        if answer.is_err() {
            told.clear();
        }
        routes = answer?;
        done += part;
        told.tell(done);
        if done == total {
            break;
        }
    }
    told.clear();
    changed(network, done, routes, json, out)
}

/// How far a load is, on a terminal.
struct Progress {
    total: usize,
    is_shown: bool,
}

impl Progress {
    /// What is done with one part needs no progress.
    fn new(total: usize) -> Self {
        Self { total, is_shown: total > PART && io::stderr().is_terminal() }
    }

    fn tell(&mut self, done: usize) {
        if self.is_shown {
            let percent = done * 100 / self.total.max(1);
            // Nothing is left to be done if stderr is closed.
            let _ = write!(io::stderr(), "\r{done} of {} routes, {percent} %", self.total);
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
