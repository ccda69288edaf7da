//! A Linux guest with one interface of each kind, every one in a network namespace of its own, so that what they say to each other goes
//! through the vRouter.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::launch::Side;
use integration::machine::program;
use integration::pktgen::{Endpoint, Pktgen};
use integration::qemu::{Guest, Nic};
use integration::wait;
use vrouter_api::v1::PortStats;

use crate::bed::{Bed, Wanted};
use crate::exchange::RING_PACKED;

/// Virtio feature bits (virtio 1.2, section 5.1.3).
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;

const NETWORK: &str = "guest";
const GATEWAY: &str = "10.66.0.1";
const MEMORY_MB: u32 = 192;
/// Why frames of the guest may be dropped: traceroute asks for the second.
const MAY_DROP: [&str; 2] = ["receiver_ring_full", "ttl_exceeded"];
const SETTLE: Duration = Duration::from_secs(20);

/// An interface of the guest and what is special about it.
struct Kind {
    id: &'static str,
    ip: Ipv4Addr,
    queues: u32,
    properties: &'static str,
}

/// Two queue pairs on split rings.
const SPLIT: Kind = Kind {
    id: "guest-split",
    ip: Ipv4Addr::new(10, 66, 0, 10),
    queues: 2,
    properties: "packed=off",
};
/// Packed rings.
const PACKED: Kind = Kind {
    id: "guest-packed",
    ip: Ipv4Addr::new(10, 66, 0, 11),
    queues: 1,
    properties: "packed=on",
};
/// Takes neither checksums nor segmentation off anybody, nor frames in several buffers: everything is left to the vRouter.
const PLAIN: Kind = Kind {
    id: "guest-plain",
    ip: Ipv4Addr::new(10, 66, 0, 12),
    queues: 1,
    properties: "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,mrg_rxbuf=off",
};

/// Boots a guest with these interfaces and gives them their addresses.
fn boot(bed: &mut Bed, kinds: &[&Kind]) -> Result<Guest> {
    bed.vrouter().create_plain_network(NETWORK, "10.66.0.0/16", 1500)?;
    let mut nics = Vec::new();
    for kind in kinds {
        let (id, ip, pairs) = (kind.id, kind.ip, kind.queues);
        bed.port(Wanted { id, network: NETWORK, ip, pairs, server: false })?;
        nics.push(Nic {
            socket: bed.socket(id),
            mac: Wanted::mac(ip),
            queues: pairs,
            properties: kind.properties,
        });
    }
    let log = bed.log("qemu");
    let name = log.file_stem().and_then(|it| it.to_str()).context("no name")?.to_owned();
    let directory = log.parent().context("no directory")?;
    let mut guest = Guest::boot(bed.cgroups(), bed.pod_cpu, directory, &name, MEMORY_MB, &nics)?;
    configure(&mut guest, kinds)?;
    for kind in kinds {
        bed.wait_up(kind.id, kind.queues)?;
    }
    Ok(guest)
}

/// Namespaces, addresses, and a server of a file in each.
fn configure(guest: &mut Guest, kinds: &[&Kind]) -> Result<()> {
    guest.run("mkdir -p /www /ns && head -c 3000000 /dev/urandom >/www/file")?;
    for (n, kind) in kinds.iter().enumerate() {
        // A process that holds the namespace; its number names it.
        guest.run(&format!("unshare -n sleep 1000000 & echo $! >/ns/{n}"))?;
        // It is in its namespace when that is not ours any more.
        guest.run(&format!(
            "while [ \"$(readlink /proc/$(cat /ns/{n})/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ]; do usleep 10000; done"
        ))?;
        // Without IPv6 the kernel sends nothing by itself.
        guest.run(&format!("echo 1 >/proc/sys/net/ipv6/conf/eth{n}/disable_ipv6"))?;
        guest.run(&format!("ip link set eth{n} netns $(cat /ns/{n})"))?;
        inside(guest, n, "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")?;
        inside(guest, n, &format!("ip addr add {}/16 dev eth{n}", kind.ip))?;
        inside(guest, n, &format!("ip link set eth{n} up"))?;
        inside(guest, n, &format!("ip route add default via {GATEWAY}"))?;
        inside(guest, n, "httpd -p 80 -h /www")?;
    }
    Ok(())
}

/// Runs a line in the namespace of interface `n`.
fn inside(guest: &mut Guest, n: usize, line: &str) -> Result<String> {
    guest.run(&format!("nsenter --net=/proc/$(cat /ns/{n})/ns/net sh -c '{line}'"))
}

/// A counter of /proc/net/snmp.
fn snmp(guest: &mut Guest, n: usize, protocol: &str, counter: &str) -> Result<u64> {
    let text = inside(guest, n, "cat /proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{protocol}: ")));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let both = names.split_whitespace().zip(values.split_whitespace());
    let value = both.filter(|(name, _)| *name == counter).map(|(_, value)| value).next();
    Ok(value.with_context(|| format!("no {protocol} {counter} in {text}"))?.parse()?)
}

/// Interface `to` gets the file from interface `from` over TCP, whole.
fn fetch(guest: &mut Guest, to: usize, from: &Kind) -> Result<()> {
    let sum = guest.run("sha256sum </www/file")?;
    let got = inside(guest, to, &format!("wget -q -O - http://{}/file | sha256sum", from.ip))?;
    ensure!(got == sum, "{} sent {sum}, {got} arrived", from.id);
    Ok(())
}

fn book(bed: &Bed, kind: &Kind) -> Result<PortStats> {
    let stats = bed.vrouter().settled_stats(SETTLE)?;
    stats.into_iter().find(|it| it.id == kind.id).with_context(|| format!("port {}", kind.id))
}

/// Everything a guest does with its network, between interfaces of each kind, and the books of both sides.
pub fn talks(bed: &mut Bed) -> Result<()> {
    let kinds = [&SPLIT, &PACKED, &PLAIN];
    let mut guest = boot(bed, &kinds)?;
    let features = |id: &str| Ok::<_, anyhow::Error>(bed.find(id)?.features);
    ensure!(features(SPLIT.id)? & (RING_PACKED | HOST_TSO4 | GUEST_TSO4) == HOST_TSO4 | GUEST_TSO4);
    ensure!(features(PACKED.id)? & RING_PACKED != 0, "packed rings were not agreed on");
    ensure!(features(PLAIN.id)? & (GUEST_CSUM | GUEST_TSO4) == 0, "offloads were agreed on");

    for n in 0..kinds.len() {
        inside(&mut guest, n, &format!("ping -q -c 2 -i 0.2 -W 5 {GATEWAY}"))?;
        for to in kinds.iter().filter(|to| to.id != kinds[n].id) {
            inside(&mut guest, n, &format!("ping -q -c 2 -i 0.2 -s 1400 -W 5 {}", to.ip))?;
        }
        // UDP, answered by ICMP of the gateway first and of the other end then.
        let to = kinds[(n + 1) % kinds.len()].ip.to_string();
        let path = inside(&mut guest, n, &format!("traceroute -n -q 1 -w 5 {to}"))?;
        let hops: Vec<_> =
            path.lines().skip(1).filter_map(|it| it.split_whitespace().nth(1)).collect();
        ensure!(hops == [GATEWAY, &to], "{path}");
    }

    // Segments larger than the MTU go from one end to the other where both agree.
    for (to, from) in [(0, &PACKED), (1, &SPLIT)] {
        let before = book(bed, from)?;
        fetch(&mut guest, to, from)?;
        let after = book(bed, from)?;
        let frames = after.rx_packets - before.rx_packets;
        let mean = (after.rx_bytes - before.rx_bytes) / frames.max(1);
        ensure!(mean > 1514, "{}: {frames} frames of {mean} bytes on average", from.id);
    }
    // They are cut, and their checksums made, for the one that has not agreed.
    for from in [&SPLIT, &PACKED] {
        let (before, plain) = (book(bed, from)?, book(bed, &PLAIN)?);
        fetch(&mut guest, 2, from)?;
        let (after, plain_after) = (book(bed, from)?, book(bed, &PLAIN)?);
        let sent = after.rx_packets - before.rx_packets;
        let got = plain_after.tx_packets - plain.tx_packets;
        let mean = (plain_after.tx_bytes - plain.tx_bytes) / got.max(1);
        ensure!(got > sent && mean <= 1514, "{sent} frames became {got} of {mean} bytes");
    }
    fetch(&mut guest, 0, &PLAIN)?;
    fetch(&mut guest, 1, &PLAIN)?;

    pod_to_guest(bed, &mut guest)?;
    for (n, kind) in kinds.into_iter().enumerate() {
        for (protocol, counter) in [
            ("Ip", "InHdrErrors"),
            ("Icmp", "InCsumErrors"),
            ("Tcp", "InCsumErrors"),
            ("Udp", "InCsumErrors"),
        ] {
            let bad = snmp(&mut guest, n, protocol, counter)?;
            ensure!(bad == 0, "{}: {protocol} {counter} {bad}", kind.id);
        }
        agree(bed, &mut guest, n, kind)?;
    }
    Ok(())
}

/// The guest's kernel and the vRouter have counted the same.
fn agree(bed: &Bed, guest: &mut Guest, n: usize, kind: &Kind) -> Result<()> {
    let book = book(bed, kind)?;
    let statistics = format!("/sys/class/net/eth{n}/statistics");
    // A namespace sees its own interfaces only in a sysfs of its own.
    let mut count = |name: &str| -> Result<u64> {
        let line = format!("mount -t sysfs none /sys && cat {statistics}/{name} && umount /sys");
        let text = inside(guest, n, &line)?;
        text.trim().parse().with_context(|| format!("{name}: {text:?}"))
    };
    let (sent, got, dropped) = (count("tx_packets")?, count("rx_packets")?, count("rx_dropped")?);
    ensure!(sent == book.rx_packets, "{} has sent {sent}: {book:?}", kind.id);
    ensure!(got == book.tx_packets, "{} got {got}, dropped {dropped}: {book:?}", kind.id);
    for drop in &book.drops {
        let is_expected = MAY_DROP.contains(&drop.reason.as_str());
        ensure!(is_expected, "{}: {drop:?}", kind.id);
    }
    Ok(())
}

/// A DPDK pod sends UDP to the guest, where nobody listens: the kernel counts each packet, and answers some.
fn pod_to_guest(bed: &mut Bed, guest: &mut Guest) -> Result<()> {
    let ip = Ipv4Addr::new(10, 66, 0, 20);
    let id = "guest-dpdk";
    let network = bed.vrouter().network(NETWORK)?;
    bed.port(Wanted { id, network: NETWORK, ip, pairs: 1, server: false })?;
    for (n, to) in [&SPLIT, &PACKED, &PLAIN].into_iter().enumerate() {
        let before = (snmp(guest, n, "Udp", "NoPorts")?, bed.vrouter().port_stats(id)?);
        let end = Endpoint {
            socket: bed.socket(id),
            mac: Wanted::mac(ip),
            ip,
            to_mac: network.gateway_mac.clone(),
            to_ip: to.ip,
            tunnel: None,
        };
        let log = bed.log("pktgen");
        let mut command =
            bed.cgroups().command(Side::Pods, bed.pod_cpu, program("ringway-pktgen")?);
        command.args(["--cpu", &bed.pod_cpu.to_string(), "--port", &end.option()]);
        command.args(["--size", "1000", "--flows", "64", "--addresses", "1", "--rate", "500"]);
        command.args(["--seconds", "1", "--warmup", "0", "--memory-mb", "64", "--packed"]);
        let end = Pktgen::start(command, &log)?.finish(Duration::from_secs(1))?;
        let sent = end.ports.first().context("no port")?.sent;
        bed.vrouter().settled_stats(SETTLE)?;
        let after = bed.vrouter().port_stats(id)?;
        let drops = |stats: &PortStats| stats.drops.iter().map(|it| it.packets).sum::<u64>();
        let lost = drops(&after) - drops(&before.1);
        ensure!(after.rx_packets - before.1.rx_packets == sent && sent > 0, "{after:?}");
        wait::until(&format!("{} has counted {sent} less {lost}", to.id), SETTLE, || {
            Ok((snmp(guest, n, "Udp", "NoPorts")? == before.0 + sent - lost).then_some(()))
        })?;
        ensure!(after.tx_packets > before.1.tx_packets, "{} has answered nothing", to.id);
    }
    Ok(())
}

/// QEMU tells of each memory device by ADD_MEM_REG (CONFIGURE_MEM_SLOTS), while packets flow.
pub fn memory_grows(bed: &mut Bed) -> Result<()> {
    const DEVICES: u32 = 10;
    const DEVICE_MB: u32 = 128;
    let kinds = [&SPLIT, &PACKED];
    let mut guest = boot(bed, &kinds)?;
    let before = bed.find(SPLIT.id)?.memory_regions;
    // One side fetches all the time, and keeps what it got, so that the new memory is used.
    guest.run("mkdir -p /got && mount -t tmpfs -o size=1g none /got")?;
    let url = format!("http://{}/file", PACKED.ip);
    let script = format!(
        "n=0; while [ ! -e /end ]; do n=$((n + 1)); wget -q -O /got/$n {url} || touch /failed; done; touch /ended"
    );
    guest.run(&format!("echo \"{}\" >/fetch", script.replace('$', "\\$")))?;
    inside(&mut guest, 0, "sh /fetch >/dev/null 2>&1 &")?;
    for device in 0..DEVICES {
        guest.plug_memory(&format!("more{device}"), DEVICE_MB)?;
        for kind in kinds {
            bed.wait_port(kind.id, "has more memory", |port| {
                port.memory_regions == before + device + 1
            })?;
        }
        // Debian's kernel leaves it to user space to take new memory into use; some of it may not be there yet.
        guest.run("for m in /sys/devices/system/memory/memory*/state; do grep -q online $m || echo online >$m; done 2>/dev/null; true")?;
    }
    let got = "ls /got | wc -l";
    let sofar: u64 = guest.run(got)?.trim().parse()?;
    wait::until("more files arrive with all the memory there", SETTLE, || {
        Ok((guest.run(got)?.trim().parse::<u64>()? > sofar + 2).then_some(()))
    })?;
    guest.run("touch /end")?;
    wait::until("the last file is there", SETTLE, || {
        Ok(guest.run("ls / | grep -c ended || true")?.trim().eq("1").then_some(()))
    })?;
    guest.run("! test -e /failed")?;
    let files: u64 = guest.run(got)?.trim().parse()?;
    let kinds_of_content = guest.run("cat /www/file /dev/null | sha256sum | cut -c1-64 >/sum; for f in /got/*; do sha256sum <$f | cut -c1-64; done | sort | uniq -c; cat /sum")?;
    let words: Vec<_> = kinds_of_content.split_whitespace().collect();
    let [count, one, other] = words[..] else {
        anyhow::bail!("files differ: {kinds_of_content}");
    };
    ensure!(count == files.to_string() && one == other, "{files} files: {kinds_of_content}");
    let total = guest.run("grep MemTotal /proc/meminfo")?;
    println!(
        "    {} regions, {files} files of 3 MB meanwhile; in the guest {}",
        before + DEVICES,
        total.trim()
    );
    for (n, kind) in kinds.into_iter().enumerate() {
        agree(bed, &mut guest, n, kind)?;
    }
    Ok(())
}

/// The guest starts anew; then the vRouter does, below a guest that goes on.
///
/// Packed rings are not asked for the latter: QEMU 7.2 knows no position of theirs after its backend has crashed, and begins at zero
/// where the guest does not.
pub fn comes_back(bed: &mut Bed) -> Result<()> {
    let kinds = [&SPLIT, &PLAIN, &PACKED];
    let mut guest = boot(bed, &kinds)?;
    fetch(&mut guest, 0, &PACKED)?;
    guest.reset()?;
    configure(&mut guest, &kinds)?;
    for kind in kinds {
        bed.wait_up(kind.id, kind.queues)?;
    }
    for (to, from) in [(0, &PACKED), (1, &SPLIT), (2, &PLAIN)] {
        fetch(&mut guest, to, from)?;
    }

    bed.restart()?;
    bed.vrouter().create_plain_network(NETWORK, "10.66.0.0/16", 1500)?;
    let kinds = [&SPLIT, &PLAIN];
    for kind in kinds {
        let (id, ip, pairs) = (kind.id, kind.ip, kind.queues);
        bed.port(Wanted { id, network: NETWORK, ip, pairs, server: false })?;
    }
    for kind in kinds {
        bed.wait_up(kind.id, kind.queues)?;
    }
    fetch(&mut guest, 0, &PLAIN)?;
    fetch(&mut guest, 1, &SPLIT)
}
