//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Looks at a node, makes of it what a profile says, and takes it back.
#[derive(Debug, Parser)]
#[command(name = "ringway-tuner", version, after_help = AFTER)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub node: NodeArguments,
}

const AFTER: &str = "A profile is a file, or one that comes with Ringway: dpdk-router, low-latency, balanced, \
power-saving. Exit codes: 0 done, 1 failed (nothing half done is left unless said so), 2 wrong usage, 3 the profile asks \
for what this node can't or shall not do.";

/// Which node.
#[derive(Debug, Args)]
pub struct NodeArguments {
    /// Root of the node's files: `/`, or a directory that `capture` wrote.
    #[arg(long, global = true, default_value = "/", value_name = "DIR")]
    pub root: PathBuf,
    /// Where the journal is: what was there before the first change. Default: var/lib/ringway/tuner below the root.
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Control socket of a vRouter; several times for several. Default: that of vrouter.toml.
    #[arg(long, global = true, value_name = "SOCKET")]
    pub vrouter: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows what the node is: processors, memory, network cards, kernel, power, services.
    Report {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows what a profile would change here, and why; changes nothing.
    Plan {
        #[command(flatten)]
        profile: ProfileArgument,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Also what is as it should be already.
        #[arg(long)]
        all: bool,
    },
    /// Changes the node as the profile says: all of it, or nothing.
    Apply {
        #[command(flatten)]
        profile: ProfileArgument,
    },
    /// Gives everything that was changed the value it had at first.
    Revert,
    /// Applies a profile and keeps the node so, until it is stopped; events go to standard output, one JSON object a line.
    Run {
        #[command(flatten)]
        profile: ProfileArgument,
        #[command(flatten)]
        cluster: ClusterArguments,
    },
    /// Writes the files that the node is known by to a directory, for tests and for people elsewhere.
    Capture {
        /// A new or empty directory.
        directory: PathBuf,
    },
    /// Prints a profile that comes with Ringway, to start from.
    Profile {
        /// Its name; without it, all names.
        name: Option<String>,
    },
    /// Prints the completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Whether Kubernetes says what the node shall be.
#[derive(Debug, Args)]
pub struct ClusterArguments {
    /// Do what ringway-controller writes into the node's NodeTuning object, and report there; `--profile` is not read.
    #[arg(long, conflicts_with = "profile")]
    pub kubernetes: bool,
    /// The node's name in Kubernetes. Default: the host's.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// How to reach the API server. Default: $KUBECONFIG, ~/.kube/config, or the pod's service account.
    #[arg(long, requires = "kubernetes", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Which profile.
#[derive(Debug, Args)]
pub struct ProfileArgument {
    /// A file, or the name of a profile that comes with Ringway.
    #[arg(long, value_name = "FILE|NAME", default_value = ringway_config::PROFILE_FILE)]
    pub profile: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_makes_sense() {
        super::Arguments::command().debug_assert();
    }
}
