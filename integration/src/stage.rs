//! The node that tests share.

use crate::containerd::Version;
use crate::kubernetes;
use crate::machine;
use crate::node::{Node, PluginStart, Setup};
use anyhow::{Context, Result};

/// What a test needs of the machine.
#[derive(Debug, Clone, Copy)]
pub enum Needs {
    /// The programs alone.
    Nothing,
    /// Root, hugepages, DPDK and this containerd.
    Node(Version),
    /// The same, and a program that `integration/setup/kubernetes.sh` builds.
    Program(Version, &'static str),
}

impl Needs {
    /// Why this machine cannot run the test, or nothing when it can.
    pub fn unmet(self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Node(version) => machine::unfit(version),
            Self::Program(version, name) => {
                machine::unfit(version).or_else(|| kubernetes::missing(name))
            }
        }
    }
}

/// Name, need, function.
pub type Test = (&'static str, Needs, fn(&mut Stage) -> Result<()>);

/// Keeps a node from test to test.
#[derive(Debug, Default)]
pub struct Stage {
    node: Option<Node>,
}

impl Stage {
    /// Runs a test; one that fails leaves no node to the next.
    pub fn play(&mut self, test: fn(&mut Self) -> Result<()>) -> Result<()> {
        let result = test(self);
        if result.is_err() {
            if let Some(node) = &self.node {
                println!("{}", node.log_ends());
            }
            self.clear();
        }
        result
    }

    /// The node with this set-up, running.
    pub fn node(&mut self, setup: &Setup) -> Result<&mut Node> {
        if self.node.as_ref().is_none_or(|node| node.setup() != setup) {
            self.clear();
            self.node = Some(Node::start(setup)?);
        }
        self.current()
    }

    /// The node that runs.
    pub fn current(&mut self) -> Result<&mut Node> {
        self.node.as_mut().context("no node")
    }

    /// The node most tests use.
    pub fn usual(&mut self) -> Result<&mut Node> {
        self.node(&Setup::new(Version::V2_1, PluginStart::External))
    }

    /// Takes the node down.
    pub fn clear(&mut self) {
        self.node = None;
    }
}
