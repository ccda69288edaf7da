//! Routes as the kernel's tables say them, as the vRouter's tables want them. Pure.

use vrouter_core::{Path, Paths, PortIndex, RouteChange, RouteTarget, Vtep, reserved_around};
use vrouter_kernel::fib::{Change, Mac as KernelMac, Prefix, Target};
use vrouter_net::{IpPrefix, Ipv4Prefix, Ipv6Prefix, Mac};

use std::net::IpAddr;

/// Uplinks by the number that the kernel gives their host interfaces.
pub type Links<'a> = &'a [(u32, PortIndex)];

/// Reads changes. Prefixes that no host can have, which the kernel has routes for, are left out.
pub fn read(changes: &[Change], external: bool, links: Links<'_>) -> Vec<RouteChange> {
    let changes = changes.iter().filter_map(|change| {
        let prefix = prefix(change.prefix);
        let target = change.target.as_ref().map(|it| target(it, external, links));
        reserved_around(prefix).is_none().then_some(RouteChange { prefix, target })
    });
    changes.collect()
}

/// The same prefix, as the tables write it.
pub fn prefix(prefix: Prefix) -> IpPrefix {
    match prefix.address() {
        IpAddr::V4(address) => IpPrefix::V4(Ipv4Prefix::containing(address, prefix.length())),
        IpAddr::V6(address) => IpPrefix::V6(Ipv6Prefix::containing(address, prefix.length())),
    }
}

fn target(target: &Target, external: bool, links: Links<'_>) -> RouteTarget {
    if external { of_external(target, links) } else { of_tenant(target) }
}

/// What an external network does not forward itself, it leaves to the host interface by having no way for it.
fn of_external(target: &Target, links: Links<'_>) -> RouteTarget {
    match target {
        Target::Local => RouteTarget::Local,
        Target::Link { uplink, mac } => {
            link(*uplink, *mac, links).unwrap_or(RouteTarget::Unreachable)
        }
        Target::Blackhole => RouteTarget::Drop,
        // An address at which a tunnel ends, or traffic that goes into one: the kernel's work, and no exception.
        Target::KernelTunnel => RouteTarget::Local,
        Target::Vxlan { .. } | Target::Kernel | Target::Unreachable => RouteTarget::Unreachable,
        // A router that the kernel has yet to ask for is left out: the others carry its flows until it answers.
        Target::Multipath(paths) => {
            let wires = several(paths.iter().filter_map(|(target, weight)| match target {
                Target::Link { uplink, mac } => Some((link(*uplink, *mac, links)?, *weight)),
                _ => None,
            }));
            let tunnels = || paths.iter().any(|(target, _)| *target == Target::KernelTunnel);
            match wires {
                RouteTarget::Unreachable if tunnels() => RouteTarget::Local,
                wires => wires,
            }
        }
    }
}

/// Other networks have tunnels of their own, and the kernel for all else.
fn of_tenant(target: &Target) -> RouteTarget {
    match target {
        Target::Vxlan { remote, mac } => {
            RouteTarget::Vxlan(Vtep { address: *remote, mac: mac.map(self::mac) })
        }
        Target::Unreachable => RouteTarget::Unreachable,
        Target::Blackhole => RouteTarget::Drop,
        Target::Local | Target::Link { .. } | Target::Kernel | Target::KernelTunnel => {
            RouteTarget::Kernel
        }
        // If the kernel has to do one of them, it does the choice, too: it would choose among all again.
        Target::Multipath(paths) => {
            if paths.iter().all(|(target, _)| matches!(target, Target::Vxlan { .. })) {
                several(paths.iter().map(|(target, weight)| (of_tenant(target), *weight)))
            } else {
                RouteTarget::Kernel
            }
        }
    }
}

fn several(paths: impl Iterator<Item = (RouteTarget, u32)>) -> RouteTarget {
    let weight = |weight: u32| u16::try_from(weight).unwrap_or(u16::MAX).max(1);
    let paths = paths.map(|(target, share)| Path { target, weight: weight(share) });
    let mut paths: Vec<_> = paths.take(Paths::MAX).collect();
    match paths.len() {
        0 => RouteTarget::Unreachable,
        1 => paths.remove(0).target,
        _ => RouteTarget::Multipath(Paths::new(paths)),
    }
}

fn link(number: u32, mac: KernelMac, links: Links<'_>) -> Option<RouteTarget> {
    let (_, port) = links.iter().find(|(interface, _)| *interface == number)?;
    Some(RouteTarget::Link { port: *port, mac: self::mac(mac) })
}

fn mac(mac: KernelMac) -> Mac {
    Mac::new(mac.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const LINKS: Links<'static> = &[(7, PortIndex(3)), (8, PortIndex(5))];

    fn kernel_link(uplink: u32) -> Target {
        Target::Link { uplink, mac: KernelMac([2, 0, 0, 0, 0, 1]) }
    }

    fn our_link(port: u16) -> RouteTarget {
        RouteTarget::Link { port: PortIndex(port), mac: Mac::new([2, 0, 0, 0, 0, 1]) }
    }

    fn vxlan(last: u8) -> (Target, RouteTarget) {
        let address = IpAddr::from([192, 0, 2, last]);
        let mac = KernelMac([2, 0, 0, 0, 0, last]);
        let target = Target::Vxlan { remote: address, mac: Some(mac) };
        (target, RouteTarget::Vxlan(Vtep { address, mac: Some(Mac::new(mac.0)) }))
    }

    fn paths(paths: Vec<(RouteTarget, u16)>) -> RouteTarget {
        let paths = paths.into_iter().map(|(target, weight)| Path { target, weight });
        RouteTarget::Multipath(Paths::new(paths.collect()))
    }

    #[test]
    fn an_external_network_leaves_to_the_host_what_is_no_link() {
        let (one, _) = vxlan(1);
        for (kernel, ours) in [
            (Target::Local, RouteTarget::Local),
            (kernel_link(7), our_link(3)),
            (kernel_link(9), RouteTarget::Unreachable),
            (Target::Kernel, RouteTarget::Unreachable),
            (Target::KernelTunnel, RouteTarget::Local),
            (Target::Unreachable, RouteTarget::Unreachable),
            (Target::Blackhole, RouteTarget::Drop),
            (one, RouteTarget::Unreachable),
            (
                Target::Multipath(vec![(kernel_link(7), 65_536), (kernel_link(8), 2)]),
                paths(vec![(our_link(3), u16::MAX), (our_link(5), 2)]),
            ),
            (Target::Multipath(vec![(kernel_link(8), 1), (Target::Kernel, 1)]), our_link(5)),
            (
                Target::Multipath(vec![(kernel_link(9), 1), (Target::Kernel, 1)]),
                RouteTarget::Unreachable,
            ),
            (
                Target::Multipath(vec![(Target::Kernel, 1), (Target::KernelTunnel, 1)]),
                RouteTarget::Local,
            ),
        ] {
            assert_eq!(target(&kernel, true, LINKS), ours, "{kernel:?}");
        }
    }

    #[test]
    fn other_networks_leave_to_the_kernel_what_is_no_tunnel() {
        let ((one, ours), (two, ours_two)) = (vxlan(1), vxlan(2));
        for (kernel, ours) in [
            (Target::Local, RouteTarget::Kernel),
            (kernel_link(7), RouteTarget::Kernel),
            (Target::Kernel, RouteTarget::Kernel),
            (Target::KernelTunnel, RouteTarget::Kernel),
            (Target::Unreachable, RouteTarget::Unreachable),
            (Target::Blackhole, RouteTarget::Drop),
            (one.clone(), ours.clone()),
            (
                Target::Multipath(vec![(one.clone(), 1), (two, 3)]),
                paths(vec![(ours, 1), (ours_two, 3)]),
            ),
            (Target::Multipath(vec![(one, 1), (Target::Kernel, 1)]), RouteTarget::Kernel),
        ] {
            assert_eq!(target(&kernel, false, LINKS), ours, "{kernel:?}");
        }
    }

    #[test]
    fn what_no_host_can_have_is_left_out() {
        let change = |prefix: &str, target: Option<Target>| Change {
            prefix: prefix.parse().unwrap(),
            target: target.map(Arc::new),
        };
        let changes = [
            change("10.0.0.0/8", Some(Target::Blackhole)),
            change("127.0.0.0/8", Some(Target::Local)),
            change("2001:db8::/32", None),
            change("fe80::/64", Some(Target::Kernel)),
            change("ff00::/8", Some(Target::Kernel)),
        ];
        let read = read(&changes, true, LINKS);
        let prefixes: Vec<_> = read.iter().map(|change| change.prefix.to_string()).collect();
        assert_eq!(prefixes, ["10.0.0.0/8", "2001:db8::/32"]);
        assert_eq!(read[0].target, Some(RouteTarget::Drop));
        assert_eq!(read[1].target, None);
    }
}
