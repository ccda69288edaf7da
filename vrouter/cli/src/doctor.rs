//! `ringway doctor`: looks at the node and says what stands in the way, in plain sentences with a remedy.

mod facts;
mod judge;
mod repair;
mod runtime;

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::args::{Args, DoctorArgs};
use crate::call::Vrouter;
use crate::failure::Failure;
use crate::run::show;
use crate::targets::{self, Target};
use crate::view;
use facts::{Facts, Served};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// Works, but not well, or not everything.
    Warning,
    /// Something that was asked for does not work.
    Failure,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "WARNING",
            Self::Failure => "FAILURE",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Stable name of the check.
    pub(crate) check: &'static str,
    pub(crate) status: Status,
    /// One sentence.
    pub(crate) what: String,
    /// What to do; `None` where nothing has to be done.
    pub(crate) remedy: Option<String>,
}

pub(crate) async fn run(
    args: &Args,
    doctor: &DoctorArgs,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let targets = targets::of(args);
    let mut facts = look(args, doctor, &targets).await;
    let mut findings = Vec::new();
    if doctor.repair {
        findings = repair::repair(&facts, &targets).await;
        facts = look(args, doctor, &targets).await;
    }
    findings.extend(judge::judge(&facts));
    show(out, args.json, &findings, |findings| text(findings))?;
    let failures = findings.iter().filter(|finding| finding.status == Status::Failure).count();
    if failures == 0 {
        return Ok(());
    }
    Err(Failure::Unwell { failures })
}

async fn look(args: &Args, doctor: &DoctorArgs, targets: &[Target]) -> Facts {
    let mut all = Vec::new();
    for target in targets {
        all.push(served(&target.socket).await);
    }
    let mut facts = Facts::gather(doctor, &args.run_dir, all);
    if !facts.unserved.is_empty() {
        let ids = facts.unserved.iter().map(|container| container.id.clone()).collect();
        match runtime::running(&facts.containerd.socket, ids).await {
            Ok(running) => facts.unserved.retain(|container| running.contains(&container.id)),
            // What the plugin says has to do.
            Err(why) => facts.containerd.unasked = Some(why),
        }
    }
    facts
}

/// What the vRouter says of itself.
async fn served(socket: &Path) -> Result<Served, String> {
    let asked = async {
        let mut vrouter = Vrouter::connect(socket.to_owned()).await?;
        let info = view::Info::from(vrouter.info().await?);
        let (networks, uplinks) = (vrouter.networks().await?, vrouter.uplinks().await?);
        Ok(Served { info, networks, uplinks, ports: vrouter.ports().await? })
    };
    asked.await.map_err(|failure: Failure| failure.to_string())
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for Finding { check, status, what, remedy } in findings {
        let status = status.name();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{status:<7}  {check:<width$}  {what}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:<7}  {:<width$}  -> {remedy}", "", "");
        }
    }
    text
}

#[cfg(test)]
mod tests;
