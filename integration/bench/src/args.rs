//! Command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use integration::machine::repository;

/// Measures the vRouter beside testpmd and OVS-DPDK: needs root, hugepages and two CPUs.
#[derive(Debug, Parser)]
#[command(
    name = "ringway-bench",
    version,
    about,
    after_help = "\
Writes report.json and plots (SVG) to --out and prints a table. Exit code 1 when a cell failed: a packet was
damaged, reordered or not ours, more were lost than the cell allows, or a switch did not run.
How to read the results: docs/bench/README.md"
)]
pub struct Arguments {
    /// Only cells whose name matches: `*` and `?`, several separated by commas.
    #[arg(long, value_name = "GLOB", default_value = "*")]
    pub cells: String,
    /// Only these switches, as the report calls them: `ringway*,testpmd_io`.
    #[arg(long, value_name = "GLOB", default_value = "*")]
    pub switches: String,
    /// How often every switch is measured in every cell.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Length of one measurement, seconds.
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Two rounds of one second: to see that everything works, not to quote.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub quick: bool,
    /// Count samples of a machine that is not fit too: to see that everything works on a shared one, not to quote.
    #[arg(long)]
    pub any_machine: bool,
    /// Say what would be measured, and stop.
    #[arg(long)]
    pub list: bool,
    /// Directory of the report and the plots.
    #[arg(long, value_name = "DIR", default_value_os_t = repository().join("target/bench"))]
    pub out: PathBuf,
    /// After a failed cell, go on with the others.
    #[arg(long)]
    pub keep_going: bool,
    /// CPU of the generator and of everything that does not forward.
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    pub generator_cpu: u16,
    /// CPU of the switch's one worker.
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    pub switch_cpu: u16,
    /// Leave other programs on the switch's CPU. Without it all their threads stay away from there until the end.
    #[arg(long)]
    pub share_cpu: bool,
    /// What this process does instead of measuring.
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// Other roles of this program.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Plays pods that are attached and silent.
    #[command(hide = true)]
    IdlePods(IdlePods),
}

/// Pods that are attached and silent.
#[derive(Debug, Args)]
pub struct IdlePods {
    /// Their sockets, which the switch listens on.
    #[arg(long = "socket", required = true)]
    pub sockets: Vec<PathBuf>,
}

impl Arguments {
    /// Rounds to measure.
    pub fn rounds(&self) -> u32 {
        if self.quick { 2 } else { self.rounds }
    }

    /// Seconds of one measurement.
    pub fn seconds(&self) -> u32 {
        if self.quick { 1 } else { self.seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn quick_is_short() {
        let arguments = Arguments::parse_from(["ringway-bench", "--quick"]);
        assert_eq!((arguments.rounds(), arguments.seconds()), (2, 1));
        let arguments = Arguments::parse_from(["ringway-bench", "--rounds", "7", "--seconds", "2"]);
        assert_eq!((arguments.rounds(), arguments.seconds()), (7, 2));
    }
}
