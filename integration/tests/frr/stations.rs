//! EVPN of a bridged network: two Linux hosts that know nothing of Ringway find its pods by their MAC addresses, and it finds
//! their stations, without anybody learning from frames and without an end that is named.
//!
//! ```text
//!  pod 10.66.1.2    node a                       .-- w0 192.0.2.2: vxlan77 -- br77 -- hs -- station 10.66.1.21
//!  eth0 (TAP) ----- vRouter -- up0: w0 -- switch +
//!                                                '-- w0 192.0.2.3: vxlan77 -- br77 -- hs -- station 10.66.1.22
//! ```

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::machine;
use integration::rundir::RunDir;
use integration::space::{Space, traffic};
use integration::wait;
use serde_json::Value;
use vrouter_api::v1::{KernelBridge, PortKind, PortSpec};

use crate::daemons::Frr;
use crate::rig::{HUGEPAGES, Node, PATIENCE, Which, documented, silence};
use crate::wire::{Capture, dissect};

const PORT: &str = "pod/0/net0";
const POD: &str = "02:00:00:00:77:01";
const OTHER_POD: &str = "02:00:00:00:77:09";
/// Bytes of data of the pings that are captured: no others have as many.
const BYTES: usize = 333;

/// What a Linux host has for it.
const FAR_DEVICES: [&str; 9] = [
    "link add br77 type bridge",
    "link set br77 addrgenmode none",
    "link add vxlan77 type vxlan id 77 local LOCAL dstport 4789 nolearning",
    "link set vxlan77 addrgenmode none",
    "link set vxlan77 master br77",
    "link set vxlan77 type bridge_slave learning off",
    "link set vxlan77 mtu 1500",
    "link set vxlan77 up",
    "link set br77 up",
];

/// A Linux host, and who is behind its bridge. Dropped in this order.
struct Far {
    frr: Frr,
    station: Space,
    space: Space,
    dir: PathBuf,
    /// Last byte of its address, and of its station's less 19.
    number: u8,
}

impl Far {
    fn create(run: &RunDir, switch: &Space, number: u8) -> Result<Self> {
        let dir = run.path().join(format!("far-{number}"));
        std::fs::create_dir_all(&dir)?;
        let space = Space::create(run, &format!("far-{number}"))?;
        let station = Space::create(run, &format!("station-{number}"))?;
        join(switch, &space, number)?;
        space.ip("link set w0 up")?;
        space.ip(&format!("addr add 192.0.2.{number}/24 dev w0"))?;
        space.set("ipv6/conf/w0/disable_ipv6", "1")?;
        for line in FAR_DEVICES {
            space.ip(&line.replace("LOCAL", &format!("192.0.2.{number}")))?;
        }
        space.ip(&format!("link add hs type veth peer name eth0 netns {}", station.name()))?;
        space.ip("link set hs addrgenmode none master br77")?;
        space.ip("link set hs up")?;
        become_station(&station, number)?;
        let (other, own) = (5 - number, 65_000 + u32::from(number));
        let config = format!(
            "frr defaults datacenter\nhostname far-{number}\nrouter bgp {own}\n bgp router-id 192.0.2.{number}\n \
             no bgp ebgp-requires-policy\n neighbor 192.0.2.1 remote-as 65001\n neighbor 192.0.2.{other} remote-as 6500{other}\n \
             address-family ipv4 unicast\n  no neighbor 192.0.2.1 activate\n  no neighbor 192.0.2.{other} activate\n \
             exit-address-family\n address-family l2vpn evpn\n  neighbor 192.0.2.1 activate\n  \
             neighbor 192.0.2.{other} activate\n  advertise-all-vni\n exit-address-family\n"
        );
        let frr = Frr::start(&space, &dir, &config)?;
        Ok(Self { frr, station, space, dir, number })
    }

    /// Waits until FRR has told its kernel that a MAC address is behind node a, or is no more.
    fn wait_pod(&self, mac: &str, there: bool) -> Result<()> {
        wait::until(&format!("{mac} at host {}: {there}", self.number), PATIENCE, || {
            let entries = self.space.run("/usr/sbin/bridge fdb show dev vxlan77")?;
            let mut entries = entries.lines().filter(|line| line.starts_with(mac));
            let is_it = |line: &str| line.contains("dst 192.0.2.1 self extern_learn");
            Ok((entries.any(is_it) == there).then_some(()))
        })
    }
}

/// The station behind a host; another one may become it.
fn station_mac(number: u8) -> String {
    format!("02:00:00:00:77:2{number}")
}

fn become_station(space: &Space, number: u8) -> Result<()> {
    let last = 19 + number;
    for line in [
        "link set eth0 down".to_owned(),
        "addr flush dev eth0".to_owned(),
        format!("link set eth0 addrgenmode none address {}", station_mac(number)),
        "link set eth0 up".to_owned(),
        format!("addr add 10.66.1.{last}/24 broadcast 10.66.1.255 dev eth0"),
        format!("addr add fd00:66:1::{last}/64 dev eth0 nodad"),
    ] {
        space.ip(&line)?;
    }
    Ok(())
}

/// A wire to the switch.
fn join(switch: &Space, space: &Space, number: u8) -> Result<()> {
    let other = space.name();
    switch.ip(&format!(
        "link add s{number} mtu 1600 type veth peer name w0 mtu 1600 netns {other}"
    ))?;
    space.run("/usr/sbin/ethtool -K w0 tx off rx off tso off gso off gro off")?;
    switch.ip(&format!("link set s{number} addrgenmode none master sw"))?;
    switch.ip(&format!("link set s{number} up")).map(drop)
}

/// Everything. Dropped in this order.
pub struct Lan {
    a: Node,
    far: [Far; 2],
    _switch: Space,
    _run: RunDir,
}

impl Lan {
    /// Builds it, FRR included.
    pub fn start() -> Result<Self> {
        let run = RunDir::create()?;
        Space::sweep()?;
        machine::prepare(&run.path(), HUGEPAGES)?;
        let switch = Space::create(&run, "switch")?;
        switch.ip("link add sw mtu 1600 type bridge")?;
        switch.ip("link set sw addrgenmode none")?;
        switch.ip("link set sw up")?;
        let mut a = Node::create(&run, Which::A)?;
        join(&switch, &a.space, 1)?;
        silence(&a.space)?;
        let far = [Far::create(&run, &switch, 2)?, Far::create(&run, &switch, 3)?];
        a.start_vrouter(&configured()?)?;
        let mut lan = Self { a, far, _switch: switch, _run: run };
        lan.fill().with_context(|| lan.story())?;
        Ok(lan)
    }

    /// The kernel's devices, a pod, and FRR.
    fn fill(&mut self) -> Result<()> {
        make_devices(self)?;
        self.pod(PORT, POD, 2, "eth0")?;
        let frr = Frr::start(&self.a.space, &self.a.file(""), &documented("frr bridged")?)?;
        self.a.frr = Some(frr);
        self.wait_bridge("both ends", |it| it.ends == ["192.0.2.2", "192.0.2.3"])?;
        self.far.iter().try_for_each(|far| far.wait_pod(POD, true))
    }

    /// What the programs and the hosts' kernels said last.
    pub fn story(&self) -> String {
        const QUESTIONS: [&str; 4] =
            ["show bgp summary", "show evpn vni", "show evpn mac vni 77", "show bgp l2vpn evpn"];
        let routers = self.a.frr.iter().chain(self.far.iter().map(|far| &far.frr));
        let routers: String = routers.map(|frr| frr.told(&QUESTIONS)).collect();
        let spaces = [&self.a.space, &self.far[0].space, &self.far[1].space, &self.a.pod];
        let kernels = spaces.map(|space| {
            let entries = space.run("/usr/sbin/bridge fdb show").unwrap_or_default();
            format!("-- {}\n{entries}{}", space.name(), space.ip("neigh").unwrap_or_default())
        });
        let networks = self.a.ringway("networks").unwrap_or_default();
        format!("{}\n{networks}\n{routers}\n{}", self.a.story(), kernels.join("\n"))
    }

    /// Waits for what the vRouter says of the kernel's forwarding database.
    fn wait_bridge(&self, what: &str, fits: impl Fn(&KernelBridge) -> bool) -> Result<()> {
        let mut seen = None;
        let waited = wait::until(what, PATIENCE, || {
            seen = self.a.vrouter()?.network("red")?.kernel_bridge;
            Ok(seen.as_ref().is_some_and(&fits).then_some(()))
        });
        waited.with_context(|| format!("last seen: {seen:?}"))
    }

    /// Whether `ringway doctor` on node a has a finding with such words. The node has no NRI: it is never well.
    fn doctor_has(&self, check: &str, status: &str, words: &str) -> Result<bool> {
        let run = self.a.file("");
        let mut command = Command::new(machine::program("ringway")?);
        command.arg("--socket").arg(self.a.file("vrouter.sock"));
        let output = command.args(["--json", "doctor", "--run-dir"]).arg(run).output()?;
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let said = |it: &Value| it["what"].as_str().is_some_and(|what| what.contains(words));
        Ok(findings.iter().any(|it| it["check"] == check && it["status"] == status && said(it)))
    }

    /// `ringway explain` of a frame from the pod.
    fn explained(&self, to: &str) -> Result<String> {
        let bytes = |mac: &str| mac.split(':').map(|it| u8::from_str_radix(it, 16)).collect();
        let (to, from): (Result<Vec<u8>, _>, Result<Vec<u8>, _>) = (bytes(to), bytes(POD));
        let frame = [&to?[..], &from?, &[0x88, 0xb5], &[7; 50]].concat();
        let size = u32::try_from(frame.len())?.to_ne_bytes();
        let head: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1];
        let head = head.map(u32::to_ne_bytes).concat();
        let file = self.a.file("frame.pcap");
        std::fs::write(&file, [&head[..], &[0; 8], &size, &size, &frame].concat())?;
        let told = self.a.ringway(&format!("explain --from {PORT} --pcap {}", file.display()))?;
        Ok(told.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    fn pod(&self, id: &str, mac: &str, last: u8, link: &str) -> Result<()> {
        let space = &self.a.pod;
        self.a.vrouter()?.create_port(PortSpec {
            id: id.to_owned(),
            network: "red".to_owned(),
            mac: mac.to_owned(),
            ipv4: format!("10.66.1.{last}"),
            ipv6: format!("fd00:66:1::{last}"),
            kind: PortKind::Kernel.into(),
            netns: format!("/run/netns/{}", space.name()),
            link: link.to_owned(),
            ..PortSpec::default()
        })?;
        space.ip(&format!("link set {link} addrgenmode none"))?;
        space.set(&format!("ipv6/conf/{link}/disable_ipv6"), "0")?;
        for line in [
            format!("link set {link} up"),
            format!("addr add 10.66.1.{last}/24 broadcast 10.66.1.255 dev {link}"),
            format!("addr add fd00:66:1::{last}/64 dev {link} nodad"),
        ] {
            space.ip(&line)?;
        }
        Ok(())
    }

    /// MAC addresses of pods that the kernel of node a is told of.
    fn announced(&self) -> Result<Vec<String>> {
        let entries = self.a.space.run("/usr/sbin/bridge fdb show dev pods77")?;
        let entries =
            entries.lines().filter(|line| line.trim_end().ends_with("master br77 static"));
        let mut macs: Vec<_> =
            entries.filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
        macs.sort();
        Ok(macs)
    }
}

/// `docs/frr.md`: the pods' network as its part about bridged networks has it, the rest as for plain routes.
fn configured() -> Result<String> {
    let whole = documented("toml")?;
    let at = whole.find("# The node's own network").context("the documented file has changed")?;
    Ok(documented("toml bridged")? + whole.get(at..).unwrap_or_default())
}

/// Makes the documented devices, one by one, while the vRouter says what is missing.
fn make_devices(lan: &Lan) -> Result<()> {
    let space = &lan.a.space;
    let mut devices = documented("sh bridged")?;
    // Not every kernel has dummies: any device that takes no packet does.
    if space.ip("link add probe type dummy").is_ok() {
        space.ip("link delete probe")?;
    } else {
        devices = devices.replace("type dummy", "type ifb");
    }
    let says = |words: &'static str| move |it: &KernelBridge| it.reason.contains(words);
    lan.wait_bridge("no device yet", says("there is no such device"))?;
    let missing = "network red: stations of other hosts, by the kernel's bridge: ";
    ensure!(lan.doctor_has("networks", "warning", missing)?, "the doctor has not seen it");
    for line in devices.lines() {
        match line {
            "ip link set vxlan77 master br77" => {
                lan.wait_bridge("no bridge yet", says("it is in no bridge"))?;
                // The other way round.
                space.ip("link set pods77 master br77")?;
                lan.wait_bridge("no VXLAN yet", says("bridge br77 has no VXLAN device"))?;
                space.ip("link set pods77 nomaster")?;
            }
            "ip link set vxlan77 up" => {
                lan.wait_bridge("VXLAN is down", says("vxlan77 is down"))?;
            }
            _ => {}
        }
        space.run(line)?;
    }
    lan.wait_bridge("it works", |it| it.device == "vxlan77" && it.reason.is_empty())?;
    ensure!(!lan.doctor_has("networks", "warning", "")?, "the doctor sees something yet");
    ensure!(lan.doctor_has("uplinks", "ok", "all 1 uplinks have a link")?, "no uplink is seen");
    Ok(())
}

/// Pods and stations find each other, by ARP and Neighbor Discovery that cross, each frame to whom it is for.
pub fn meet(lan: &mut Lan) -> Result<()> {
    ensure!(lan.announced()? == [POD], "{:?}", lan.announced()?);
    for (far, last) in lan.far.iter().zip([21, 22]) {
        for (from, last) in [(&far.station, 2), (&lan.a.pod, last)] {
            for address in [format!("10.66.1.{last}"), format!("fd00:66:1::{last}")] {
                from.ip("neigh flush dev eth0")?;
                traffic::ping(from, &address, 56)
                    .with_context(|| format!("{address}, host {}", far.number))?;
            }
        }
        let largest = format!("10.66.1.{last}");
        traffic::ping(&lan.a.pod, &largest, 1472).context("the largest")?;
        traffic::tcp(&lan.a.pod, &far.station, &format!("{largest}:5001"))?;
        // By what FRR says alone: no host has learned the pod from frames.
        far.wait_pod(POD, true)?;
    }
    lan.wait_bridge("both stations", |it| it.stations == 2)?;
    for (number, end) in [(2, "192.0.2.2"), (3, "192.0.2.3")] {
        let told = lan.explained(&station_mac(number))?;
        let words = format!("into the tunnel to {end} as it is, because the kernel's forwarding");
        ensure!(told.contains(&words), "{told}");
    }
    let shown = lan.a.ringway("networks")?;
    let words = "2 stations by vxlan77, by it bridged to 192.0.2.2, 192.0.2.3";
    ensure!(shown.contains(words), "{shown}");
    // Heard of they were, but nothing was learned of them.
    ensure!(lan.a.vrouter()?.network("red")?.stations == 0, "{shown}");
    each_to_whom_it_is_for(lan)
}

/// A broadcast goes to each end once, what is for a known station to its end alone.
fn each_to_whom_it_is_for(lan: &Lan) -> Result<()> {
    let outer = 14 + 20 + 8 + 8;
    let length = outer + 14 + 20 + 8 + BYTES;
    let captures = lan.far.each_ref().map(|far| {
        let filter = format!("src host 192.0.2.1 and udp dst port 4789 and len = {length}");
        Capture::start_in(&far.space, &far.dir, &filter, 5)
    });
    let [first, second] = captures;
    let captures = [first?, second?];
    let broadcast = format!("/bin/busybox ping -c 1 -W 1 -s {BYTES} 10.66.1.255");
    for _ in 0..2 {
        // Nobody answers.
        let _ = lan.a.pod.run(&broadcast);
    }
    // One by one in turns, so that what went to both would be among the first of either.
    for _ in 0..3 {
        for to in ["10.66.1.21", "10.66.1.22"] {
            lan.a.pod.run(&format!("/bin/busybox ping -c 1 -W 5 -s {BYTES} {to}"))?;
        }
    }
    for ((capture, far), last) in captures.into_iter().zip(&lan.far).zip([21, 22]) {
        let frames = dissect(&capture.finish()?)?;
        let to = |it: &crate::wire::Dissected| it.fields.get("ip2.dst").cloned();
        let to: Vec<_> = frames.iter().filter_map(to).collect();
        let own = format!("10.66.1.{last}");
        let expected = ["10.66.1.255", "10.66.1.255", &own, &own, &own];
        ensure!(to == expected, "host {} got {to:?}", far.number);
    }
    Ok(())
}

/// A station goes, comes back, and goes over to the other host.
pub fn stations_go(lan: &mut Lan) -> Result<()> {
    let [near, far] = &lan.far;
    let mac = station_mac(2);
    let flooded = "nobody in it was heard of with that MAC address";
    near.space.ip("link set hs down")?;
    wait_explained(lan, &mac, flooded)?;
    near.space.ip("link set hs up")?;
    traffic::ping(&near.station, "10.66.1.2", 56).context("the station is back")?;
    wait_explained(lan, &mac, "into the tunnel to 192.0.2.2 as it is, because the kernel's")?;
    // It is heard at the other host before its own has forgotten it.
    near.station.ip("addr flush dev eth0")?;
    become_station(&far.station, 2)?;
    traffic::ping(&far.station, "10.66.1.2", 56).context("from the other host")?;
    wait_explained(lan, &mac, "into the tunnel to 192.0.2.3 as it is, because the kernel's")?;
    traffic::ping(&lan.a.pod, "10.66.1.21", 56).context("to the other host")?;
    become_station(&far.station, 3)?;
    become_station(&near.station, 2)
}

fn wait_explained(lan: &Lan, to: &str, words: &str) -> Result<()> {
    let mut told = String::new();
    let waited = wait::until(&format!("{to}: {words}"), PATIENCE, || {
        told = lan.explained(to)?;
        Ok(told.contains(words).then_some(()))
    });
    waited.with_context(|| format!("last told: {told}"))
}

/// What is said of pods ends with them, also when nobody is there to take it back.
pub fn pods_go(lan: &mut Lan) -> Result<()> {
    const OTHER: &str = "other/0/net0";
    lan.pod(OTHER, OTHER_POD, 9, "eth1")?;
    lan.far[0].wait_pod(OTHER_POD, true)?;
    lan.a.vrouter()?.delete_port(OTHER)?;
    lan.far[0].wait_pod(OTHER_POD, false)?;
    ensure!(lan.announced()? == [POD], "{:?}", lan.announced()?);
    // Taken away by hand it comes again.
    lan.a.space.run(&format!("/usr/sbin/bridge fdb del {POD} dev pods77 master"))?;
    wait::until("the entry is there again", PATIENCE, || {
        Ok((lan.announced()? == [POD]).then_some(()))
    })?;
    lan.far[0].wait_pod(POD, true)?;
    // As long as a network has the device nobody else has entries there.
    lan.a.space.run(&format!("/usr/sbin/bridge fdb add {OTHER_POD} dev pods77 master static"))?;
    wait::until("the entry of somebody else goes", PATIENCE, || {
        Ok((lan.announced()? == [POD]).then_some(()))
    })?;

    lan.a.vrouter.as_mut().context("no vRouter")?.process().crash()?;
    ensure!(lan.announced()? == [POD], "somebody has taken it away");
    lan.a.start_vrouter(&configured()?)?;
    lan.far[0].wait_pod(POD, false)?;
    ensure!(lan.announced()?.is_empty(), "{:?}", lan.announced()?);
    let known = lan.a.frr()?.vtysh(&["-c", "show evpn mac vni 77"])?;
    ensure!(!known.contains(POD), "{known}");
    // The sessions come back over the new host interface, and all is read again.
    lan.wait_bridge("both ends", |it| it.ends == ["192.0.2.2", "192.0.2.3"])?;
    lan.pod(PORT, POD, 2, "eth0")?;
    lan.far.iter().try_for_each(|far| far.wait_pod(POD, true))?;
    traffic::ping(&lan.a.pod, "10.66.1.21", 56).context("after the restart")?;
    // One that ends in order leaves nothing.
    let ended = lan.a.vrouter.as_mut().context("no vRouter")?.process().stop(PATIENCE)?;
    ensure!(ended.success(), "the vRouter ended with {ended}");
    ensure!(lan.announced()?.is_empty(), "{:?} are left", lan.announced()?);
    lan.a.start_vrouter(&configured()?)?;
    lan.pod(PORT, POD, 2, "eth0")
}
