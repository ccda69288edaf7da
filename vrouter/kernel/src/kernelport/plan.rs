//! The messages that make the kernel a router of a network. Pure.
//!
//! All that is for the network goes to the vRouter's gateway in it, whose MAC address is known: the kernel asks nobody for pods, has
//! one neighbour for all of them, and hears from the gateway when there is none of that address.

use std::net::IpAddr;

use super::{PROTOCOL, RULE_PRIORITY, Spec, Table};
use crate::fib::Prefix;
use crate::hostif::wire::{Attribute, Message, ONLINK, attribute, kind};

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
/// `RTN_UNICAST`.
const UNICAST: u8 = 1;
/// `NUD_PERMANENT`.
const PERMANENT: u8 = 0x80;
/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;
/// `FR_ACT_UNREACHABLE`.
const UNREACHABLE: u8 = 7;
/// `FIB_RULE_IIF_DETACHED`: the device that the rule names is not there.
const DETACHED: u32 = 8;

fn family(v6: bool) -> u8 {
    if v6 { AF_INET6 } else { AF_INET }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The rules that send what comes from the TAP to its table, unless a VRF device does, and to no other.
pub(super) fn rules(spec: &Spec) -> Vec<Message> {
    let rule = |v6: bool, action: u8, behind: u32| {
        let priority = RULE_PRIORITY + behind;
        let mut rule = Message::new(
            kind::NEWRULE,
            vec![
                Attribute::text(attribute::FRA_IIFNAME, &spec.interface),
                Attribute::new(attribute::FRA_PRIORITY, priority.to_ne_bytes()),
                Attribute::new(attribute::FRA_PROTOCOL, [PROTOCOL]),
            ],
        );
        rule.set_byte(0, family(v6));
        rule.set_byte(7, action);
        rule
    };
    let table = match spec.table {
        Table::Number(table) => Some(table),
        Table::Vrf(_) => None,
    };
    let of_family = |v6| {
        let to_table = table.map(|table| {
            let mut rule = rule(v6, TO_TABLE, 0);
            rule.set_number(attribute::FRA_TABLE, table);
            rule
        });
        // What is not there is nowhere: not in the node's own table.
        to_table.into_iter().chain([rule(v6, UNREACHABLE, 1)])
    };
    families(spec).into_iter().flat_map(of_family).collect()
}

/// Those that the network has; IPv6 is the second.
fn families(spec: &Spec) -> Vec<bool> {
    let has = |v6| spec.prefixes.iter().any(|prefix| prefix.is_v6() == v6);
    [false, true].into_iter().filter(|v6| has(*v6)).collect()
}

/// The gateways as neighbours.
pub(super) fn neighbours(spec: &Spec, index: u32) -> Vec<Message> {
    let neighbour = |gateway: &IpAddr| {
        let mut message = Message::new(
            kind::NEWNEIGH,
            vec![
                Attribute::new(attribute::NDA_DST, bytes(*gateway)),
                Attribute::new(attribute::NDA_LLADDR, spec.gateway_mac.0),
            ],
        );
        message.set_byte(0, family(gateway.is_ipv6()));
        message.set_word(4, index);
        message.set_byte(8, PERMANENT);
        message
    };
    spec.gateways.iter().map(neighbour).collect()
}

/// Routes to the network's prefixes.
pub(super) fn prefixes(spec: &Spec, index: u32, table: u32) -> Vec<Message> {
    let prefixes = spec.prefixes.iter();
    prefixes.filter_map(|prefix| route(spec, index, table, *prefix)).collect()
}

/// The route to a pod.
pub(super) fn host(spec: &Spec, index: u32, table: u32, host: IpAddr) -> Option<Message> {
    route(spec, index, table, Prefix::host(host))
}

fn route(spec: &Spec, index: u32, table: u32, prefix: Prefix) -> Option<Message> {
    let v6 = prefix.is_v6();
    let gateway = spec.gateways.iter().find(|gateway| gateway.is_ipv6() == v6)?;
    let mut message = Message::new(
        kind::NEWROUTE,
        vec![
            Attribute::new(attribute::RTA_DST, bytes(prefix.address())),
            Attribute::new(attribute::RTA_GATEWAY, bytes(*gateway)),
            Attribute::new(attribute::RTA_OIF, index.to_ne_bytes()),
            Attribute::new(attribute::RTA_TABLE, table.to_ne_bytes()),
        ],
    );
    message.set_byte(0, family(v6));
    message.set_byte(1, prefix.length());
    // The table is in its attribute, which holds numbers above 255, too.
    message.set_byte(5, PROTOCOL);
    message.set_byte(7, UNICAST);
    // The kernel has no address in the network by which the gateway would be on the link.
    message.set_word(8, u32::from(ONLINK));
    Some(message)
}

/// The table of a VRF device; `None` if it is something else.
pub(super) fn table_of_vrf(link: &Message) -> Option<u32> {
    let info = link.get(attribute::IFLA_LINKINFO)?.inner();
    let find = |kind| info.iter().find(|attribute| attribute.kind() == kind);
    (find(attribute::IFLA_INFO_KIND)?.as_text()? == "vrf").then_some(())?;
    let data = find(attribute::IFLA_INFO_DATA)?.inner();
    data.iter().find(|it| it.kind() == attribute::IFLA_VRF_TABLE)?.u32()
}

/// Whether a rule is one of these whose device is gone.
pub(super) fn is_left_over(rule: &Message) -> bool {
    let ours = rule.get(attribute::FRA_PROTOCOL).and_then(|it| it.value.first()) == Some(&PROTOCOL);
    let priority =
        rule.number(attribute::FRA_PRIORITY).and_then(|it| it.checked_sub(RULE_PRIORITY));
    ours && rule.word(8) & DETACHED != 0 && priority.is_some_and(|behind| behind <= 1)
}

/// Leaves out of a rule that the kernel has told what only it can say.
pub(super) fn strip_findings(rule: &mut Message) {
    rule.set_word(8, 0);
    let named = [
        attribute::FRA_IIFNAME,
        attribute::FRA_PRIORITY,
        attribute::FRA_TABLE,
        attribute::FRA_PROTOCOL,
    ];
    rule.attributes.retain(|attribute| named.contains(&attribute.kind()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fib::Mac;

    fn spec(table: Table) -> Spec {
        Spec {
            interface: "red0".into(),
            table,
            prefixes: vec!["10.66.0.0/24".parse().unwrap(), "fd00:66::/64".parse().unwrap()],
            gateways: vec!["10.66.0.1".parse().unwrap(), "fe80::52:57ff:fe00:1".parse().unwrap()],
            gateway_mac: Mac([2, 0x52, 0x57, 0, 0, 1]),
        }
    }

    #[test]
    fn what_comes_from_the_tap_has_its_table_and_no_other() {
        let rules = rules(&spec(Table::Number(1077)));
        let actions: Vec<_> = rules.iter().map(|rule| (rule.family(), rule.byte(7))).collect();
        let both = |family| [(family, TO_TABLE), (family, UNREACHABLE)];
        assert_eq!(actions, [both(AF_INET), both(AF_INET6)].concat());
        for rule in &rules {
            let table = (rule.byte(7) == TO_TABLE).then_some(1077);
            assert_eq!(rule.number(attribute::FRA_TABLE), table);
            assert_eq!(rule.get(attribute::FRA_IIFNAME).and_then(Attribute::as_text), Some("red0"));
            // Not yet, and not somebody else's.
            assert!(!is_left_over(rule));
            let mut detached = rule.clone();
            detached.set_word(8, DETACHED);
            assert!(is_left_over(&detached));
            strip_findings(&mut detached);
            assert_eq!(detached, *rule);
            let mut other = rule.clone();
            other.set_word(8, DETACHED);
            other.remove(&[attribute::FRA_PROTOCOL]);
            assert!(!is_left_over(&other));
        }
        let rules = super::rules(&spec(Table::Vrf("red".into())));
        assert!(rules.iter().all(|rule| rule.byte(7) == UNREACHABLE) && rules.len() == 2);
        let four =
            Spec { prefixes: vec!["10.66.0.0/24".parse().unwrap()], ..spec(Table::Number(7)) };
        assert_eq!(super::rules(&four).len(), 2);
    }

    #[test]
    fn all_of_the_network_is_behind_the_gateway() {
        let spec = spec(Table::Number(77));
        let routes = prefixes(&spec, 9, 77);
        let host = host(&spec, 9, 77, "fd00:66::5".parse().unwrap()).unwrap();
        assert_eq!((routes[0].byte(1), routes[1].byte(1), host.byte(1)), (24, 64, 128));
        for (route, gateway) in [(&routes[0], 0), (&routes[1], 1), (&host, 1)] {
            let gateway = bytes(spec.gateways[gateway]);
            assert_eq!(route.get(attribute::RTA_GATEWAY).unwrap().value, gateway);
            assert_eq!(route.number(attribute::RTA_OIF), Some(9));
            assert_eq!((route.byte(5), route.word(8)), (PROTOCOL, u32::from(ONLINK)));
        }
        let neighbours = neighbours(&spec, 9);
        assert_eq!(neighbours.len(), 2);
        for neighbour in neighbours {
            assert_eq!(neighbour.get(attribute::NDA_LLADDR).unwrap().value, spec.gateway_mac.0);
            assert_eq!((neighbour.word(4), neighbour.byte(8)), (9, PERMANENT));
        }
        // A network without the family has no way there.
        let four = Spec { gateways: vec!["10.66.0.1".parse().unwrap()], ..spec };
        assert_eq!(super::host(&four, 9, 77, "fd00:66::5".parse().unwrap()), None);
    }

    #[test]
    fn a_vrf_is_told_from_other_links() {
        let link = |kind: &str| {
            let data = Attribute::nest(
                attribute::IFLA_INFO_DATA,
                &[Attribute::new(attribute::IFLA_VRF_TABLE, 77u32.to_ne_bytes())],
            );
            let info = [Attribute::text(attribute::IFLA_INFO_KIND, kind), data];
            let info = Attribute::nest(attribute::IFLA_LINKINFO, &info);
            Message::new(kind::NEWLINK, vec![info])
        };
        assert_eq!(table_of_vrf(&link("vrf")), Some(77));
        assert_eq!(table_of_vrf(&link("bridge")), None);
        assert_eq!(table_of_vrf(&Message::new(kind::NEWLINK, Vec::new())), None);
    }
}
