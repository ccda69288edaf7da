//! One node, the running one or a captured one: observed, planned for, changed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;
use node_tuner_core::engine::{self, Outcome};
use node_tuner_core::knob::Knob;
use node_tuner_core::node::{Node, Observed};
use node_tuner_core::plan::{Change, Plan, files, plan};
use ringway_config::NodeProfile;

use crate::args::NodeArguments;
use crate::ethtool::{Ethtool, Live, Recorded};
use crate::machine::Knobs;
use crate::store::Store;
use crate::{observe, text, vrouters};

/// One node.
pub struct Target {
    arguments: NodeArguments,
    state: PathBuf,
    ethtool: Box<dyn Ethtool>,
}

/// Where the journal is, below the root.
const STATE: &str = "var/lib/ringway/tuner";

impl Target {
    /// The node that the command line means.
    pub fn open(arguments: NodeArguments) -> Result<Self> {
        let ethtool: Box<dyn Ethtool> = if arguments.root == Path::new("/") {
            Box::new(Live::open().context("netlink")?)
        } else {
            Box::new(Recorded::of(&arguments.root))
        };
        let state = arguments.state.clone().unwrap_or_else(|| arguments.root.join(STATE));
        Ok(Self { arguments, state, ethtool })
    }

    /// Where its journal is.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Control sockets of its vRouters.
    pub fn sockets(&self) -> Vec<PathBuf> {
        if self.is_live() {
            vrouters::sockets(&self.arguments.root, &self.arguments.vrouter)
        } else {
            Vec::new()
        }
    }

    /// Where its files are.
    pub fn root(&self) -> &Path {
        &self.arguments.root
    }

    /// Whether it is the machine this program runs on.
    pub fn is_live(&self) -> bool {
        self.arguments.root == Path::new("/")
    }

    /// What it is now; `more` are files beside the usual ones.
    pub async fn node(&mut self, more: &[String]) -> Result<(Observed, Node)> {
        let running = vrouters::running(&self.arguments.root, &self.sockets()).await;
        let root = &self.arguments.root;
        let observed = observe::machine(root, more, self.ethtool.as_mut(), running)?;
        let node = Node::parse(&observed)?;
        Ok((observed, node))
    }

    /// What `profile` makes of it.
    pub async fn plan(
        &mut self,
        profile: &NodeProfile,
        unwritable: &BTreeMap<Knob, String>,
    ) -> Result<(Node, Plan)> {
        let (observed, node) = self.node(&files(profile)).await?;
        let plan = plan(&observed, &node, profile, unwritable)?;
        Ok((node, plan))
    }

    /// What turns its knobs.
    pub fn knobs(&mut self) -> Knobs<'_> {
        Knobs { root: &self.arguments.root, ethtool: self.ethtool.as_mut() }
    }

    /// Only root may change the running machine; others would fail half way.
    pub fn check_rights(&self) -> Result<()> {
        if self.is_live() && !Uid::effective().is_root() {
            bail!("only root may change this node; `ringway-tuner plan` shows what it would do");
        }
        Ok(())
    }

    /// Changes it as `profile` says, and tells.
    pub async fn apply(&mut self, profile: &NodeProfile, out: &mut impl io::Write) -> Result<()> {
        self.check_rights()?;
        let (mut store, mut journal) = Store::open(self.state())?;
        if journal.is_open() {
            writeln!(out, "the last run was cut off; going on from what is there now")?;
        }
        let (node, plan) = self.plan(profile, journal.unwritable()).await?;
        let changes: Vec<Change> = plan.changes().cloned().collect();
        let boot_id = boot_id(&node);
        let name = &profile.name;
        let outcome =
            engine::apply(&changes, &boot_id, name, &mut journal, &mut self.knobs(), &mut store);
        store.close(&journal)?;
        write!(out, "{}", text::applied(&plan, &outcome))?;
        good(&outcome, "not applied")
    }

    /// Gives everything its first value back, and tells.
    pub async fn revert(&mut self, out: &mut impl io::Write) -> Result<()> {
        self.check_rights()?;
        let (mut store, mut journal) = Store::open(self.state())?;
        let (_, node) = self.node(&[]).await?;
        let outcome = engine::revert(&boot_id(&node), &mut journal, &mut self.knobs(), &mut store);
        store.close(&journal)?;
        write!(out, "{}", text::reverted(&outcome))?;
        good(&outcome, "not wholly reverted")
    }
}

/// New with every boot; captured trees may lack it.
pub fn boot_id(node: &Node) -> String {
    node.kernel.boot_id.clone().unwrap_or_else(|| "unknown".to_owned())
}

fn good(outcome: &Outcome, what: &str) -> Result<()> {
    if let Some((where_, fault)) = &outcome.failed {
        let rest = if outcome.left.is_empty() { "everything was turned back" } else { "see above" };
        bail!("{what}: {where_}: {fault}; {rest}");
    }
    if !outcome.left.is_empty() {
        bail!(
            "{what}: {} values are left, see above; run `ringway-tuner revert` again",
            outcome.left.len()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
