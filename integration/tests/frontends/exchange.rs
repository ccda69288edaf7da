//! Two DPDK pods that send to each other and check everything, and the vRouter's books beside theirs.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::launch::Side;
use integration::machine::program;
use integration::pktgen::{End, Endpoint, Pktgen};
use vrouter_api::v1::{Port, PortStats};

use crate::bed::{Bed, Wanted};

/// Time for the vRouter's counters to stand still after the end of all traffic.
const SETTLE: Duration = Duration::from_secs(10);

/// Virtio feature bits (virtio 1.2, sections 5.1.3 and 6).
pub const MRG_RXBUF: u64 = 1 << 15;
pub const RING_PACKED: u64 = 1 << 34;
pub const IN_ORDER: u64 = 1 << 35;

/// What is exchanged.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// Name: of network and ports.
    pub name: &'a str,
    /// Options of the two pods' rings, as in the generator's `--port`.
    pub rings: [&'a str; 2],
    /// Queue pairs of the two.
    pub pairs: [u32; 2],
    /// The pods listen.
    pub server: bool,
    /// Bytes of a frame with its check sequence.
    pub size: u16,
    /// Flows of each pod.
    pub flows: u32,
    /// Packets per second and pod; 0: as many as possible.
    pub rate: u64,
    /// Seconds.
    pub seconds: u32,
    /// Memory of the pods, MiB.
    pub memory_mb: u32,
    /// Further options of the generator.
    pub more: &'a [&'a str],
    /// The only reasons for which packets may be lost.
    pub may_drop: &'a [&'a str],
}

/// Without other wishes: every packet may only be lost because its receiver had no buffer free.
pub const USUAL: Exchange<'static> = Exchange {
    name: "",
    rings: ["", ""],
    pairs: [1, 1],
    server: false,
    size: 64,
    flows: 256,
    rate: 0,
    seconds: 1,
    memory_mb: 192,
    more: &[],
    may_drop: &["receiver_ring_full"],
};

/// Pods that are exchanging.
#[derive(Debug)]
pub struct Running<'a> {
    order: Exchange<'a>,
    ids: [String; 2],
    pktgen: Pktgen,
    /// The two ports as they came up.
    pub ports: [Port; 2],
}

impl<'a> Exchange<'a> {
    /// Starts the pods and returns when they send.
    pub fn start(self, bed: &mut Bed) -> Result<Running<'a>> {
        let mtu = u32::from(self.size.max(1518)) - 18;
        let network = bed.vrouter().create_plain_network(self.name, "10.66.0.0/16", mtu)?;
        let ips = [Ipv4Addr::new(10, 66, 0, 2), Ipv4Addr::new(10, 66, 0, 3)];
        let ids = ["a", "b"].map(|pod| format!("{}-{pod}", self.name));
        let mut options = Vec::new();
        for (side, id) in ids.iter().enumerate() {
            let ip = ips[side];
            let server = self.server;
            bed.port(Wanted { id, network: self.name, ip, pairs: self.pairs[side], server })?;
            let end = Endpoint {
                socket: bed.socket(id),
                mac: Wanted::mac(ip),
                ip,
                to_mac: network.gateway_mac.clone(),
                to_ip: ips[1 - side],
                tunnel: None,
            };
            let mut option = end.option();
            for part in [self.rings[side], &format!("queues={}", self.pairs[side])] {
                if !part.is_empty() {
                    option.push(',');
                    option.push_str(part);
                }
            }
            if self.server {
                option.push_str(",server");
            }
            options.extend(["--port".to_owned(), option]);
        }
        let log = bed.log("pktgen");
        let go = log.with_extension("go");
        let mut command =
            bed.cgroups().command(Side::Pods, bed.pod_cpu, program("ringway-pktgen")?);
        command.args(["--cpu", &bed.pod_cpu.to_string()]).args(options);
        for (name, value) in [
            ("--size", u64::from(self.size)),
            ("--flows", self.flows.into()),
            ("--rate", self.rate),
            ("--seconds", self.seconds.into()),
            ("--memory-mb", self.memory_mb.into()),
            // Counters of both sides start at zero with the first packet.
            ("--warmup", 0),
            // Long against anything that holds the vRouter up, and not waited for when all have arrived.
            ("--drain", 2),
        ] {
            command.args([name, &value.to_string()]);
        }
        // One address, told apart by ports; every byte of every packet is written anew and checked.
        command.args(["--addresses", "1", "--touch", "--go"]).arg(&go).args(self.more);
        let mut pktgen = Pktgen::start(command, &log)?;
        pktgen.wait_ready()?;
        let [first, second] = &ids;
        let ports = [bed.wait_up(first, self.pairs[0])?, bed.wait_up(second, self.pairs[1])?];
        // A pod that sends to one whose queues do not run yet would lose packets for that reason.
        fs::write(&go, "")?;
        pktgen.wait_start(Duration::ZERO)?;
        Ok(Running { order: self, ids, pktgen, ports })
    }

    /// Starts the pods, lets them finish, and checks the books.
    pub fn play(self, bed: &mut Bed) -> Result<([Port; 2], End)> {
        let running = self.start(bed)?;
        let ports = running.ports.clone();
        Ok((ports, running.finish(bed)?))
    }
}

impl Running<'_> {
    /// Waits for the end of the traffic and checks that the pods' books and the vRouter's agree to the packet.
    pub fn finish(self, bed: &Bed) -> Result<End> {
        let end = self.pktgen.finish(Duration::from_secs(self.order.seconds.into()))?;
        let stats = bed.vrouter().settled_stats(SETTLE)?;
        let of = |id: &str| stats.iter().find(|it| it.id == id).cloned().unwrap_or_default();
        let books = [of(&self.ids[0]), of(&self.ids[1])];
        agree(&end, &books, self.order.may_drop)?;
        Ok(end)
    }
}

/// Nothing damaged, nothing out of order, nothing lost without a name.
fn agree(end: &End, books: &[PortStats; 2], may_drop: &[&str]) -> Result<()> {
    let whole = format!("pods: {:?}\nvRouter: {books:?}", end.ports);
    ensure!(end.ports.len() == 2, "two pods: {whole}");
    ensure!(end.damage().is_empty(), "{}: {whole}", end.damage().join(", "));
    for (side, pod) in end.ports.iter().enumerate() {
        let (book, peer, peer_book) = (&books[side], &end.ports[1 - side], &books[1 - side]);
        let arrived = pod.sent - peer.lost;
        ensure!(pod.foreign == 0, "packets of nobody here: {whole}");
        // Those that came after the end of the measurement were checked as well.
        ensure!(peer.checked == arrived, "pod {side}: {arrived} arrived, not all checked: {whole}");
        ensure!(2 * arrived > pod.sent, "pod {side}: {arrived} of {} arrived: {whole}", pod.sent);
        ensure!(book.rx_packets == pod.sent, "pod {side} sent {}: {whole}", pod.sent);
        ensure!(peer_book.tx_packets == arrived, "{arrived} of pod {side}'s arrived: {whole}");
        let dropped: u64 = book.drops.iter().map(|drop| drop.packets).sum();
        ensure!(dropped == peer.lost, "pod {side} lost {}: {whole}", peer.lost);
        for drop in &book.drops {
            let is_named = may_drop.contains(&drop.reason.as_str());
            ensure!(is_named || drop.packets == 0, "dropped for {}: {whole}", drop.reason);
        }
    }
    Ok(())
}
