//! Uplinks, host interfaces and kernel ports beside the slow router: what it does with what comes in by a wire, and the
//! same packets through both, by any routes, over links that are up or down.

use super::{GATEWAY_MAC, Recipe, TypeGenerator, VNI, copied, mac, same};
use crate::reference::{Answer, Hop, Out, Reference, Seen, adds_up, correct, drop, four, six};
use crate::reference::{is_link_local, upper_layer};
use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use vrouter_core::{
    DropReason, Ipv6Network, MplsEnd, NetworkIndex, NetworkPolicy, Path, Paths, Policy, PortIndex,
    PortLimits, PortPolicy, PortRole, PuntClass, PuntLimiter, PuntRate, PuntRates, RouteChange,
    RouteTarget, Tables, Timestamp, Tunnel, Verdict, Vtep, process,
};
use vrouter_net::mpls::Label;
use vrouter_net::vxlan::Vni;
use vrouter_net::{IpPrefix, Mac};

impl Reference<'_> {
    /// A frame that comes in by an uplink.
    pub fn by_wire(&self, seen: &Seen<'_>, host: Option<PortIndex>) -> Result<Answer, Verdict> {
        let frame = seen.frame;
        let kernel = |class| match host {
            Some(host) => Ok((Verdict::Punt(host, class), frame.to_vec())),
            None => drop(DropReason::NoHostInterface),
        };
        if frame.len() < 14 {
            return drop(DropReason::RuntFrame);
        }
        if frame[0] & 1 != 0 {
            return kernel(PuntClass::Control);
        }
        if frame[..6] != seen.port.mac.octets() {
            return drop(DropReason::NotForGatewayMac);
        }
        let ip = &frame[14..frame.len().min(seen.visible).max(14)];
        let is_six = match frame[12..14] {
            [8, 0] => false,
            [0x86, 0xdd] => true,
            _ => return kernel(PuntClass::Control),
        };
        let (from, to): (IpAddr, IpAddr);
        let (length, header, ttl, ecn);
        if is_six {
            if ip.len() < 40 {
                return drop(DropReason::RuntFrame);
            }
            let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            if ip[0] >> 4 != 6 || 40 + payload > frame.len() - 14 {
                return drop(DropReason::MalformedIpv6);
            }
            (from, to) = (six(&ip[8..24]).into(), six(&ip[24..40]).into());
            (length, header, ttl, ecn) = (40 + payload, 40, ip[7], ip[1] >> 4 & 3);
            let discovery = ip[6] == 58 && ip.get(40).is_some_and(|k| (133..=137).contains(k));
            if discovery || to.is_multicast() || is_link_local(six(&ip[24..40])) {
                return kernel(PuntClass::Control);
            }
        } else {
            if ip.len() < 20 {
                return drop(DropReason::RuntFrame);
            }
            header = usize::from(ip[0] & 15) * 4;
            if ip[0] >> 4 != 4 || header < 20 {
                return drop(DropReason::MalformedIpv4);
            }
            if ip.len() < header {
                return drop(DropReason::RuntFrame);
            }
            length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            if length < header || length > frame.len() - 14 {
                return drop(DropReason::MalformedIpv4);
            }
            if !adds_up(&[&ip[..header]]) {
                return drop(DropReason::BadIpv4Checksum);
            }
            (from, to) = (four(&ip[12..16]).into(), four(&ip[16..20]).into());
            (ttl, ecn) = (ip[8], ip[1] & 3);
        }
        let fragment = if is_six { 0 } else { u16::from_be_bytes([ip[6], ip[7]]) };
        let fragment = (fragment & 0x1fff != 0, fragment & 0x3fff != 0);
        let protocol = if is_six { ip[6] } else { ip[9] };
        let out = match self.hop(seen, to) {
            Hop::Local => return kernel(PuntClass::Local),
            Hop::Gateway => {
                let place = (14 + header, 14 + length);
                let opened = self.decapsulate(seen, (from, to), protocol, fragment, place, ecn);
                return opened.unwrap_or_else(|| kernel(PuntClass::Local));
            }
            Hop::Silent(DropReason::Multicast) => return kernel(PuntClass::Control),
            Hop::Silent(DropReason::Blackhole) => return drop(DropReason::Blackhole),
            Hop::Silent(_) | Hop::Nobody | Hop::NoRoute => return kernel(PuntClass::Exception),
            Hop::Kernel(_) | Hop::Tunnel(..) => panic!("not in this network"),
            Hop::Port(out) => out,
        };
        let martian = match from {
            IpAddr::V4(from) => {
                from.octets()[0] == 0 || from.is_loopback() || from.octets()[0] >= 224
            }
            IpAddr::V6(from) => {
                from.to_bits() >> 32 == 0 || from.is_multicast() || is_link_local(from)
            }
        };
        if martian {
            return drop(DropReason::SourceIp);
        }
        let tcp = if is_six {
            upper_layer(ip).filter(|(protocol, ..)| *protocol == 6).filter(|found| !found.2)
        } else {
            (protocol == 6 && !fragment.1).then_some((6, header, false, false))
        };
        let cut = tcp.is_some_and(|(_, at, ..)| self.segments_fit(seen, out.mtu, at, ip));
        let options = if is_six { ip[6] == 0 } else { header > 20 };
        if ttl < 2 || options || frame.len() - 14 > out.mtu && !cut {
            return kernel(PuntClass::Exception);
        }
        let mut sent = self.send(seen, out);
        if is_six {
            sent[21] -= 1;
        } else {
            sent[22] -= 1;
            correct(&mut sent[14..34], 10);
        }
        Ok((Verdict::Forward(out.port), sent))
    }

    /// A neighbour behind an uplink, if that is there and has a link.
    pub fn over_link(&self, network: &NetworkPolicy, port: PortIndex, mac: Mac) -> Hop {
        let is_it = |other: &&PortPolicy| {
            other.index == port
                && other.network == network.index
                && matches!(other.role, PortRole::Uplink { .. })
        };
        match self.policy.ports.iter().find(is_it) {
            Some(uplink) if !self.down.contains(&port) => {
                let mtu = uplink.mtu.unwrap_or(network.mtu).into();
                Hop::Port(Out { port, to: mac.octets(), from: uplink.mac.octets(), mtu })
            }
            _ => Hop::Nobody,
        }
    }
}

const TENANT: NetworkIndex = NetworkIndex(0);
const FABRIC: NetworkIndex = NetworkIndex(3);
const LABEL: u32 = 0x6_0001;
const UP: PortIndex = PortIndex(8);
const OTHER: PortIndex = PortIndex(2);
const HOST: PortIndex = PortIndex(9);
const KERNEL: PortIndex = PortIndex(0);
/// Prefixes of the fabric's routes, near to the addresses that frames come from and go to.
const FABRIC_PREFIXES: [&str; 12] = [
    "0.0.0.0/0",
    "10.66.0.0/24",
    "10.66.0.2/32",
    "10.66.0.3/32",
    "10.66.0.4/32",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "8.0.0.0/8",
    "::/0",
    "fd00:66::/64",
    "fd00:66::3/128",
    "2001:db8::/32",
];

/// One way through everything.
#[derive(Clone, Debug, TypeGenerator)]
struct Story {
    six: bool,
    kernel: u8,
    host: bool,
    mtu: bool,
    fabric: Vec<(u8, Option<Aim>)>,
    tenant: Vec<(u8, Option<Aim>)>,
    down: u8,
    up_again: bool,
    /// Uplinks and the kernel port come after the routes that lead there.
    late: bool,
    recipes: Vec<Recipe>,
}

#[derive(Clone, Copy, Debug, TypeGenerator)]
struct Aim {
    kind: u8,
    paths: [u8; 3],
}

fn end(is_six: bool, which: u8) -> IpAddr {
    if is_six { super::six(1 + which % 3).into() } else { [10, 66, 0, 2 + which % 3].into() }
}

impl Aim {
    fn link(which: u8) -> RouteTarget {
        let port = [UP, OTHER, OTHER, UP, HOST, PortIndex(77)][usize::from(which) % 6];
        RouteTarget::Link { port, mac: Mac::new([2, 9, 9, 9, 9, which % 4]) }
    }

    fn tunnel(which: u8, is_six: bool) -> RouteTarget {
        let address = end(is_six, which / 4);
        if which % 8 == 5 {
            RouteTarget::Ipip(address)
        } else if which.is_multiple_of(2) {
            let mac = (which & 2 != 0).then(|| Mac::new([2, 7, 7, 7, 7, which]));
            RouteTarget::Vxlan(Vtep { address, mac })
        } else {
            let label = Label::new(u32::from(which) + 1_000).unwrap();
            RouteTarget::MplsUdp(MplsEnd { address, label })
        }
    }

    fn several(self, target: impl Fn(u8) -> RouteTarget) -> RouteTarget {
        let path = |which| Path { target: target(which), weight: u16::from(which) + 1 };
        RouteTarget::Multipath(Paths::new(self.paths.map(path).into()))
    }

    fn in_fabric(self) -> RouteTarget {
        match self.kind % 8 {
            0 => RouteTarget::Local,
            1 => RouteTarget::Unreachable,
            2 => RouteTarget::Drop,
            3 | 4 => self.several(Self::link),
            _ => Self::link(self.paths[0]),
        }
    }

    fn in_tenant(self, is_six: bool) -> RouteTarget {
        let port = |which: u8| RouteTarget::Via(Ipv4Addr::new(10, 66, 0, 2 + which % 3).into());
        match self.kind % 8 {
            0 => RouteTarget::Kernel,
            1 => RouteTarget::Unreachable,
            2 => port(self.paths[0]),
            3 => self.several(|which| if which == 7 { RouteTarget::Kernel } else { port(which) }),
            4 | 5 => self.several(|which| Self::tunnel(which, is_six)),
            _ => Self::tunnel(self.paths[0], is_six),
        }
    }
}

impl Story {
    fn local(&self) -> IpAddr {
        if self.six { super::six(4).into() } else { [10, 66, 0, 5].into() }
    }

    fn policy(&self) -> Policy {
        let much = PuntRate { per_second: 1_000_000, burst: 1_000_000 };
        let punts = PuntRates { local: much, control: much, exception: much, kernel: much };
        let mut fabric = NetworkPolicy::external(FABRIC, 1400);
        fabric.punts = punts;
        let plain = super::policy(false, false, 0);
        let (vni, label) = (Vni::new(VNI), Label::new(LABEL));
        let tunnel = Tunnel { vni, label, ipip: true, underlay: FABRIC, local: self.local() };
        let (prefix, gateway) = ("fd00:66::/64".parse().unwrap(), super::six(0));
        let tenant = NetworkPolicy {
            tunnel: Some(tunnel),
            ipv6: Some(Ipv6Network { prefix, gateway }),
            punts,
            mtu: 1385,
            ..plain.networks[0]
        };
        let pods = plain.ports.into_iter().filter(|port| port.network == TENANT);
        let mut ports: Vec<_> = pods.collect();
        let port = |index, network, role, last| PortPolicy {
            index,
            network,
            role,
            mac: Mac::new(mac(last)),
            ipv4: Ipv4Addr::UNSPECIFIED,
            ipv6: None,
            ..ports[0].clone()
        };
        let host = self.host.then_some(HOST);
        let uplink = |index, host, last| port(index, FABRIC, PortRole::Uplink { host }, last);
        let mut more = vec![uplink(UP, host, 7), uplink(OTHER, None, 8)];
        more[1].mtu = self.mtu.then_some(1360);
        if self.host {
            more.push(port(HOST, FABRIC, PortRole::Host { uplink: UP }, 7));
        }
        if !self.kernel.is_multiple_of(4) {
            let mut kernel = port(KERNEL, TENANT, PortRole::Kernel, 4);
            if self.kernel % 4 == 2 {
                kernel.ipv4 = [10, 66, 0, 4].into();
                kernel.ipv6 = Some(super::six(3));
            }
            kernel.mtu = (self.kernel % 4 == 3).then_some(1280);
            more.push(kernel);
        }
        ports.extend(more);
        Policy { networks: vec![tenant, fabric], ports }
    }

    /// Changes of one network's routes, and what holds then.
    fn routes(
        prefixes: &[&str],
        changes: &[(u8, Option<Aim>)],
        target: impl Fn(Aim) -> RouteTarget,
    ) -> (Vec<RouteChange>, Vec<(IpPrefix, RouteTarget)>) {
        let changes = changes.iter().map(|(at, aim)| {
            let prefix = prefixes[usize::from(*at) % prefixes.len()].parse().unwrap();
            RouteChange { prefix, target: aim.map(&target) }
        });
        let changes: Vec<_> = changes.collect();
        let mut now = BTreeMap::new();
        for change in changes.clone() {
            match change.target {
                Some(target) => now.insert(change.prefix, target),
                None => now.remove(&change.prefix),
            };
        }
        (changes, now.into_iter().collect())
    }
}

/// A frame for a port: those of uplinks are for its MAC address and from anybody's.
fn frame(recipe: &Recipe, port: &PortPolicy) -> Vec<u8> {
    let own = port.mac.octets()[5];
    if !matches!(port.role, PortRole::Uplink { .. }) {
        return recipe.frame(own);
    }
    let mut frame = recipe.frame(2 + own % 3);
    if frame.len() >= 14 {
        if frame[..6] == GATEWAY_MAC {
            frame[..6].copy_from_slice(&mac(own));
        }
        if recipe.kind % 16 >= 12 {
            match recipe.padding & 6 {
                0 => {}
                2 => into_mpls(&mut frame),
                _ => into_ipip(&mut frame, recipe.padding & 1 != 0),
            }
        }
    }
    frame
}

/// Where the UDP header of VXLAN starts in a frame that has all headers up to the inner Ethernet header's.
fn vxlan_at(frame: &[u8]) -> Option<usize> {
    let udp = if frame[12] == 8 { 34 } else { 54 };
    (frame.len() >= udp + 30).then_some(udp)
}

/// Takes bytes from the length of the outer IP header and puts them right.
fn shorten(frame: &mut [u8], at: usize, by: u16) {
    let bytes = u16::from_be_bytes([frame[at], frame[at + 1]]).wrapping_sub(by);
    frame[at..at + 2].copy_from_slice(&bytes.to_be_bytes());
}

/// Makes VXLAN IP in IP: nothing in between. Over IPv6 perhaps with the options that Linux writes.
fn into_ipip(frame: &mut Vec<u8>, options: bool) {
    let Some(at) = vxlan_at(frame) else { return };
    let protocol = if frame[at + 28] == 8 { 4 } else { 41 };
    let is_six = at == 54;
    if is_six && options {
        frame.splice(at..at + 30, [protocol, 0, 4, 1, 4, 1, 1, 0]);
        frame[20] = 60;
        shorten(frame, 18, 22);
    } else {
        frame.drain(at..at + 30);
        frame[if is_six { 20 } else { 23 }] = protocol;
        shorten(frame, if is_six { 18 } else { 16 }, 30);
    }
    super::fix(frame);
}

/// Makes VXLAN MPLS: another shim, and no inner Ethernet header.
fn into_mpls(frame: &mut Vec<u8>) {
    let Some(udp) = vxlan_at(frame) else { return };
    let vni = u32::from_be_bytes([0, frame[udp + 12], frame[udp + 13], frame[udp + 14]]);
    let label = if vni == VNI { LABEL } else { vni & 0xf_ffff };
    let shim = (label << 12 | 1 << 8 | u32::from(frame[udp])).to_be_bytes();
    frame.splice(udp + 8..udp + 30, shim);
    frame[udp + 2..udp + 4].copy_from_slice(&[0x19, 0xeb]);
    shorten(frame, udp + 4, 18);
    shorten(frame, if udp == 34 { 16 } else { 18 }, 18);
    super::fix(frame);
}

/// What random input has reached, in all stories.
const KINDS: [&str; 12] = [
    "local",
    "control",
    "exception",
    "kernel",
    "from wire to wire",
    "over one of several",
    "into VXLAN",
    "into MPLS",
    "out of VXLAN",
    "out of MPLS",
    "into IPIP",
    "out of IPIP",
];
static REACHED: [AtomicUsize; KINDS.len()] = [const { AtomicUsize::new(0) }; KINDS.len()];

fn count(verdict: &Verdict, from_wire: bool, several: bool, frame: &[u8], sent: &[u8]) {
    let port = |frame: &[u8]| {
        let (at, protocol) = if frame[12] == 8 { (36, frame[23]) } else { (56, frame[20]) };
        if protocol == 17 { u16::from_be_bytes([frame[at], frame[at + 1]]) } else { 0 }
    };
    let kind = match verdict {
        Verdict::Punt(_, class) => *class as usize,
        Verdict::Forward(_) if from_wire => 4,
        Verdict::Encapsulate(_) if port(sent) == 4789 => 6,
        Verdict::Encapsulate(_) if port(sent) == 6635 => 7,
        Verdict::Encapsulate(_) => 10,
        Verdict::Decapsulate(_) if port(frame) == 4789 => 8,
        Verdict::Decapsulate(_) if port(frame) == 6635 => 9,
        Verdict::Decapsulate(_) => 11,
        _ => return,
    };
    REACHED[kind].fetch_add(1, Ordering::Relaxed);
    if several {
        REACHED[5].fetch_add(1, Ordering::Relaxed);
    }
}

/// So many choices show every way that a packet can take.
const CHOICES: usize = 36;

fn check(reference: &Reference<'_>, tables: &Tables, recipes: &[Recipe]) {
    for (ingress, port) in reference.policy.ports.iter().enumerate() {
        let frames: Vec<_> = recipes
            .iter()
            .map(|recipe| (frame(recipe, port), recipe.segment.map_or(0, |s| s % 1500)))
            .collect();
        let mut batch: Vec<_> = frames.iter().map(|(f, segment)| copied(f, *segment)).collect();
        let before = batch.clone();
        let mut limits = PortLimits {
            errors: vrouter_core::IcmpLimiter::new(1_000_000, 100_000),
            punts: PuntLimiter::new(&reference.policy.networks[0].punts),
            ..PortLimits::default()
        };
        let now = Timestamp::default();
        let outcome = process(tables, now, port.index, &mut batch, &mut limits);
        for (i, (frame, segment)) in frames.iter().enumerate() {
            let after = &batch[i];
            crate::explain::check(tables, port.index, &before[i], after);
            let visible = usize::from(before[i].header_len);
            let start = after.removed();
            let end = start + usize::try_from(after.frame_len).unwrap();
            let rest = start + after.sent_head().len();
            let mut got = [after.outer(), after.sent_head(), &frame[rest..end]].concat();
            if matches!(after.verdict, Verdict::Encapsulate(_)) {
                hide_entropy(&mut got, after.outer().len(), *segment);
            }
            let answer = |choice| {
                let reference = Reference { choice, ..*reference };
                reference.decide(ingress, frame, visible, *segment)
            };
            let fits = |(_, (verdict, sent)): &(usize, Answer)| {
                *verdict == after.verdict && got.len() == sent.len() && same(&got, sent, verdict)
            };
            let mut answers = (0..CHOICES).map(|choice| (choice, answer(choice)));
            let Some((choice, (verdict, sent))) = answers.find(fits) else {
                let (verdict, sent) = answer(0);
                panic!(
                    "port {:?}, frame {frame:02x?}\n {:?} {got:02x?}\n not {verdict:?} {sent:02x?}",
                    port.role, after.verdict
                );
            };
            let from_wire = matches!(port.role, PortRole::Uplink { .. });
            count(&verdict, from_wire, choice != 0, frame, &sent);
            // What the caller is told of all holds for each.
            let targets = match verdict {
                Verdict::Forward(to) | Verdict::Encapsulate(to) | Verdict::Decapsulate(to) => {
                    Some(to)
                }
                _ => None,
            };
            assert!(outcome.all_to.is_none() || outcome.all_to == targets);
            // The next packet of the flow goes the same way.
            let mut again = [before[i]];
            process(tables, now, port.index, &mut again, &mut limits);
            assert_eq!(again[0].verdict, after.verdict);
        }
    }
}

/// The slow router does not hash flows, and has no outer header for what is to be cut up.
fn hide_entropy(frame: &mut Vec<u8>, outer: usize, segment_bytes: u16) {
    let overlap = vrouter_net::vxlan::overlap(outer);
    if overlap != 0 {
        frame.drain(outer..outer + overlap);
    }
    if segment_bytes != 0 {
        let bytes = frame.len() - outer + overlap;
        // One whose end is in the frame, too: it has whole lengths.
        vrouter_net::vxlan::set_frame_bytes(&mut frame[..outer], bytes).unwrap();
    }
    let is_six = frame[12] == 0x86;
    let (udp, protocol) = if is_six { (54, frame[20]) } else { (34, frame[23]) };
    if protocol == 17 {
        assert!(frame[udp] >= 0xc0, "a dynamic port");
        frame[udp..udp + 2].copy_from_slice(&crate::tunnel::ANY_PORT.to_be_bytes());
    }
    if is_six {
        frame[16..18].fill(0);
    }
}

#[test]
fn uplinks_agree_with_a_slow_router() {
    let input = bolero::check!().with_type::<Story>().with_iterations(1500);
    input.for_each(|story| {
        let policy = story.policy();
        let mut first = policy.clone();
        if story.late {
            first.ports.retain(|port| port.role == PortRole::Pod);
            first.networks[0].mtu += 10;
        }
        let tables = Tables::build(&first).unwrap();
        let in_fabric = Aim::in_fabric;
        let (changes, fabric) = Story::routes(&FABRIC_PREFIXES, &story.fabric, in_fabric);
        let tables = tables.with_routes(FABRIC, &changes).unwrap();
        let in_tenant = |aim: Aim| aim.in_tenant(story.six);
        let (changes, routes) = Story::routes(&super::PREFIXES, &story.tenant, in_tenant);
        let tables = tables.with_routes(TENANT, &changes).unwrap();
        let tables = tables.update(&policy).unwrap();
        let down: Vec<_> =
            [UP, OTHER].into_iter().zip([1, 2]).filter(|(_, bit)| story.down & bit != 0).collect();
        let down: Vec<_> = down.into_iter().map(|(port, _)| port).collect();
        let lost =
            down.iter().fold(tables.clone(), |tables, port| tables.with_link_state(*port, false));
        let reference =
            Reference { policy: &policy, routes: &routes, fabric: &fabric, down: &down, choice: 0 };
        let recipes = story.recipes.get(..12).unwrap_or(&story.recipes);
        check(&reference, &lost, recipes);
        if story.up_again && !down.is_empty() {
            let up = down.iter().fold(lost, |tables, port| tables.with_link_state(*port, true));
            check(&Reference { down: &[], ..reference }, &up, recipes);
        }
    });
    let reached = REACHED.each_ref().map(|count| count.load(Ordering::Relaxed));
    let reached: Vec<_> = KINDS.iter().zip(reached).collect();
    assert!(reached.iter().all(|(_, count)| *count > 20), "{reached:?}");
}
