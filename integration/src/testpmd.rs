//! `dpdk-testpmd` as an application in a pod: how it is started, driven and read.

use anyhow::{Context, Result, bail};

/// Where a running testpmd takes its commands inside the container; the container's own /tmp.
const COMMANDS: &str = "/tmp/testpmd";

/// What testpmd does with packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Counts what comes.
    Receive,
    /// Sends UDP packets as fast as it can.
    Send {
        /// Source IPv4 address.
        from: String,
        /// Destination IPv4 address.
        to: String,
        /// Destination MAC address: the gateway's.
        gateway_mac: String,
    },
    /// Sends one UDP packet when told [`SEND_ONE`], and nothing after it.
    SendOne {
        /// Source IPv4 address.
        from: String,
        /// Destination IPv4 address.
        to: String,
        /// Destination MAC address: the gateway's.
        gateway_mac: String,
    },
}

/// What to tell a [`Role::SendOne`]: one burst of `txonly`, then the configured forwarding.
pub const SEND_ONE: &str = "start tx_first 1";

/// The shell command of the container. EAL gets `$RINGWAY_EAL_ARGS` and nothing else; testpmd waits for commands (`start`,
/// `stop`, `quit`), so that sender and receivers start and stop in a known order and every packet can be accounted for.
pub fn command(role: &Role) -> Vec<String> {
    let options = match role {
        Role::Receive => "--forward-mode=rxonly".to_owned(),
        Role::Send { from, to, gateway_mac } => {
            format!("--forward-mode=txonly --eth-peer=0,{gateway_mac} --tx-ip={from},{to}")
        }
        // io only forwards what it receives: nothing, after the first burst of one packet.
        Role::SendOne { from, to, gateway_mac } => {
            format!("--forward-mode=io --burst=1 --eth-peer=0,{gateway_mac} --tx-ip={from},{to}")
        }
    };
    let script = format!(
        "mkfifo {COMMANDS} && exec dpdk-testpmd $RINGWAY_EAL_ARGS -- \
         --interactive --no-mlockall --total-num-mbufs=8192 {options} <>{COMMANDS}"
    );
    vec!["/bin/sh".to_owned(), "-c".to_owned(), script]
}

/// The command that hands `line` to a running testpmd.
pub fn tell(line: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned(), format!("echo '{line}' >{COMMANDS}")]
}

/// testpmd's own counters of its port 0 between `start` and `stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets that arrived but were not received.
    pub rx_dropped: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that the application wanted to send while the ring was full: they never left it.
    pub tx_dropped: u64,
}

/// Reads the last forward statistics for port 0 from testpmd's output.
pub fn counters(output: &str) -> Result<Counters> {
    let start = output
        .rfind("Forward statistics for port 0")
        .context("testpmd printed no forward statistics")?;
    let mut lines = output[start..].lines().skip(1);
    let mut line = |kind: &str| -> Result<(u64, u64)> {
        let text = lines.next().unwrap_or_default();
        let fields: Vec<&str> = text.split_whitespace().collect();
        match fields.as_slice() {
            [packets, count, dropped, lost, ..]
                if *packets == format!("{kind}-packets:")
                    && *dropped == format!("{kind}-dropped:") =>
            {
                Ok((count.parse()?, lost.parse()?))
            }
            _ => bail!("unexpected line in testpmd's forward statistics: {text:?}"),
        }
    };
    let (rx_packets, rx_dropped) = line("RX")?;
    let (tx_packets, tx_dropped) = line("TX")?;
    Ok(Counters { rx_packets, rx_dropped, tx_packets, tx_dropped })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 1              RX-dropped: 0             RX-total: 1
  TX-packets: 0              TX-dropped: 0             TX-total: 0
  ----------------------------------------------------------------------------
stop
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 84698528       RX-dropped: 3             RX-total: 84698531
  TX-packets: 12             TX-dropped: 7             TX-total: 19
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 5              RX-dropped: 5             RX-total: 5
";

    #[test]
    fn reads_the_last_statistics() {
        assert_eq!(
            counters(OUTPUT).unwrap(),
            Counters { rx_packets: 84_698_528, rx_dropped: 3, tx_packets: 12, tx_dropped: 7 }
        );
        assert!(counters("testpmd> ").is_err());
        let cut = "Forward statistics for port 0 ---\n  RX-packets: many RX-dropped: 0\n";
        assert!(counters(cut).is_err());
    }

    #[test]
    fn nothing_but_the_given_arguments_reaches_eal() {
        let command = command(&Role::Send {
            from: "10.0.0.2".to_owned(),
            to: "10.0.0.3".to_owned(),
            gateway_mac: "02:00:00:00:00:01".to_owned(),
        });
        let script = &command[2];
        assert!(script.contains("dpdk-testpmd $RINGWAY_EAL_ARGS -- --interactive"), "{script}");
        assert!(script.contains("--tx-ip=10.0.0.2,10.0.0.3"), "{script}");
    }
}
