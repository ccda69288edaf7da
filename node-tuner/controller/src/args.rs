//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::tls::Files;

/// Gives each node's tuner its parameters, and tells the scheduler where a pod fits.
#[derive(Debug, Parser)]
#[command(name = "ringway-controller", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to reach the API server. Default: $KUBECONFIG, ~/.kube/config, or the pod's service account.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, or a filter as `info,kube=debug`.
    #[arg(long, global = true, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Resolves profiles for nodes and rolls them out. Several may run; one of them leads.
    Run(RunArguments),
    /// Answers a kube-scheduler over HTTP: filter, prioritize, bind.
    Extender(ExtenderArguments),
    /// Prints the definitions of the objects, for `kubectl apply -f -`.
    Crds,
    /// Prints the profiles that come with Ringway, for `kubectl apply -f -`. None of them is for any node until it is given
    /// the label in its selector.
    Profiles,
}

/// Of the controller.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Namespace of the lease that says who leads.
    #[arg(long, default_value = "ringway", value_name = "NAME")]
    pub namespace: String,
    /// Name by which it leads; every instance has its own. Default: that of the host, and the process id.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// How long a leader that is gone keeps others waiting, s.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=300), value_name = "SECONDS")]
    pub lease_seconds: u32,
}

/// Of the extender.
#[derive(Debug, Args)]
pub struct ExtenderArguments {
    /// Where it listens. Whoever can reach it can bind pods that wait for a node: leave it on the loopback of the pod or
    /// machine that it shares with its kube-scheduler, or give it certificates.
    #[arg(long, default_value = "127.0.0.1:10290", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Certificate chain to be reached by TLS with, PEM. Then it listens for anybody who shows a certificate that --client-ca
    /// vouches for. Files are read anew for each connection.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "client_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificates that vouch for those who may ask, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,
    /// How long a promise holds whose binding came to nothing, s.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600), value_name = "SECONDS")]
    pub promise_seconds: u32,
}

impl ExtenderArguments {
    /// The files, if it is to be reached by TLS.
    #[must_use]
    pub fn tls(&self) -> Option<Files> {
        Some(Files {
            cert: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
            client_ca: self.client_ca.clone()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_makes_sense() {
        super::Arguments::command().debug_assert();
    }
}
