//! The operator's routes: as they are on the wire, and as the tables want them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use vrouter_api::v1;
use vrouter_core::{RouteChange, RouteTarget, Vtep};
use vrouter_net::IpPrefix;

use crate::convert::Refusal;

/// Most routes of a page: some 1 MB on the wire.
pub const PAGE: usize = 20_000;

/// The routes of one network, for people to read; what packets are judged by is in the tables.
#[derive(Default)]
pub struct Routes(BTreeMap<IpPrefix, RouteTarget>);

impl Routes {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Notes changes that the tables have taken.
    pub fn apply(&mut self, changes: &[RouteChange]) {
        for RouteChange { prefix, target } in changes {
            match target {
                Some(target) => self.0.insert(*prefix, target.clone()),
                None => self.0.remove(prefix),
            };
        }
    }

    /// The first prefix whose route these changes would make lead elsewhere.
    pub fn replaced(&self, changes: &[RouteChange]) -> Option<IpPrefix> {
        let removed = changes.iter().filter(|change| change.target.is_none());
        let removed: BTreeSet<_> = removed.map(|change| change.prefix).collect();
        let replaces = |change: &&RouteChange| {
            let known = self.0.get(&change.prefix).filter(|_| !removed.contains(&change.prefix));
            change.target.is_some()
                && known.is_some_and(|known| Some(known) != change.target.as_ref())
        };
        changes.iter().find(replaces).map(|change| change.prefix)
    }

    /// Those behind a prefix, in order; and whether there are more.
    pub fn page(&self, after: Option<IpPrefix>, limit: usize) -> (Vec<v1::Route>, bool) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.0.range((start, Bound::Unbounded));
        let page = rest.by_ref().take(limit).map(|(prefix, target)| write(*prefix, target));
        let page = page.collect();
        (page, rest.next().is_some())
    }
}

fn write(prefix: IpPrefix, target: &RouteTarget) -> v1::Route {
    let mut mac = String::new();
    let (kind, via) = match target {
        RouteTarget::Vxlan(vtep) => {
            mac = vtep.mac.map(|mac| mac.to_string()).unwrap_or_default();
            (v1::RouteKind::Vxlan, vtep.address.to_string())
        }
        RouteTarget::Via(via) => (v1::RouteKind::Via, via.to_string()),
        RouteTarget::Unreachable => (v1::RouteKind::Unreachable, String::new()),
        RouteTarget::Drop => (v1::RouteKind::Drop, String::new()),
        // Nothing that is on the wire yet sets one of these.
        RouteTarget::MplsUdp(_)
        | RouteTarget::Local
        | RouteTarget::Link { .. }
        | RouteTarget::Kernel
        | RouteTarget::Multipath(_) => (v1::RouteKind::Unspecified, String::new()),
    };
    v1::Route { prefix: prefix.to_string(), kind: kind.into(), via, mac }
}

/// Reads a request.
///
/// # Errors
/// [`Refusal::Invalid`] for the first thing that is wrong.
pub fn read(wire: &v1::ChangeRoutesRequest) -> Result<Vec<RouteChange>, Refusal> {
    let mut changes = Vec::with_capacity(wire.remove.len() + wire.set.len());
    for text in &wire.remove {
        changes.push(RouteChange { prefix: prefix(text)?, target: None });
    }
    for route in &wire.set {
        changes.push(RouteChange { prefix: prefix(&route.prefix)?, target: Some(target(route)?) });
    }
    Ok(changes)
}

/// Reads where a page begins; empty: at the beginning.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn after(text: &str) -> Result<Option<IpPrefix>, Refusal> {
    if text.is_empty() { Ok(None) } else { prefix(text).map(Some) }
}

fn prefix(text: &str) -> Result<IpPrefix, Refusal> {
    text.parse().map_err(|e: vrouter_net::PrefixError| Refusal::Invalid {
        field: "prefix",
        value: text.to_owned(),
        remedy: e.to_string(),
    })
}

fn target(route: &v1::Route) -> Result<RouteTarget, Refusal> {
    let invalid = |remedy: &str| {
        let value = format!("{} of route {}", route.via, route.prefix);
        Err(Refusal::Invalid { field: "via", value, remedy: remedy.to_owned() })
    };
    let kind = v1::RouteKind::try_from(route.kind);
    if kind != Ok(v1::RouteKind::Vxlan) && !route.mac.is_empty() {
        return Err(Refusal::Invalid {
            field: "mac",
            value: format!("{} of route {}", route.mac, route.prefix),
            remedy: "only a route of the kind vxlan has one; leave it out".to_owned(),
        });
    }
    match kind {
        Ok(v1::RouteKind::Vxlan) => vtep(route),
        Ok(v1::RouteKind::Unspecified | v1::RouteKind::Via) => match route.via.parse::<IpAddr>() {
            Ok(via) => Ok(RouteTarget::Via(via)),
            Err(_) => invalid("use the address of a port, or another kind of route"),
        },
        Ok(_) if !route.via.is_empty() => {
            invalid("such a route leads nowhere; leave `via` out, or use the kind `via`")
        }
        Ok(v1::RouteKind::Unreachable) => Ok(RouteTarget::Unreachable),
        Ok(v1::RouteKind::Drop) => Ok(RouteTarget::Drop),
        Err(_) => Err(Refusal::Invalid {
            field: "kind",
            value: route.kind.to_string(),
            remedy: "use via, unreachable, drop or vxlan".to_owned(),
        }),
    }
}

fn vtep(route: &v1::Route) -> Result<RouteTarget, Refusal> {
    let invalid = |field, text: &str, remedy: &str| Refusal::Invalid {
        field,
        value: format!("{text} of route {}", route.prefix),
        remedy: remedy.to_owned(),
    };
    let address = route.via.parse().map_err(|_| {
        invalid("via", &route.via, "use the address of the tunnel's other end in the underlay")
    })?;
    let mac = match route.mac.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            invalid("mac", text, "use the form 02:00:00:00:00:01, or leave it out")
        })?),
    };
    Ok(RouteTarget::Vxlan(Vtep { address, mac }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, kind: v1::RouteKind, via: &str) -> v1::Route {
        v1::Route { prefix: prefix.into(), kind: kind.into(), via: via.into(), mac: String::new() }
    }

    fn request(remove: &[&str], set: Vec<v1::Route>) -> v1::ChangeRoutesRequest {
        let remove = remove.iter().map(|&prefix| prefix.to_owned()).collect();
        v1::ChangeRoutesRequest { network: "red".into(), remove, set, only_new: false }
    }

    #[test]
    fn what_is_removed_comes_first_and_of_one_prefix_the_last_counts() {
        use v1::RouteKind::{Drop, Unreachable, Unspecified, Via, Vxlan};
        let request = request(
            &["10.1.0.0/16", "10.9.0.0/16"],
            vec![
                route("10.1.0.0/16", Via, "10.66.0.2"),
                route("0.0.0.0/0", Unspecified, "10.66.0.3"),
                route("10.2.0.0/16", Unreachable, ""),
                route("10.3.0.0/16", Drop, ""),
                route("10.3.0.0/16", Unreachable, ""),
                route("10.4.0.0/16", Vxlan, "2001:db8::2"),
                v1::Route {
                    mac: "02:00:00:00:00:09".into(),
                    ..route("10.5.0.0/16", Vxlan, "192.0.2.2")
                },
            ],
        );
        let far = request.set[5..].to_vec();
        let changes = read(&request).unwrap();
        assert_eq!(changes[0].target, None);
        let mut routes = Routes::default();
        routes.apply(&changes);
        let expected = [
            route("0.0.0.0/0", Via, "10.66.0.3"),
            route("10.1.0.0/16", Via, "10.66.0.2"),
            route("10.2.0.0/16", Unreachable, ""),
            route("10.3.0.0/16", Unreachable, ""),
        ];
        let expected = [&expected[..], &far].concat();
        assert_eq!((routes.page(None, 9), routes.len()), ((expected.clone(), false), 6));
        // Page by page, also from behind a prefix that is not there.
        assert_eq!(routes.page(None, 3), (expected[..3].to_vec(), true));
        let behind = after(&expected[2].prefix).unwrap();
        assert_eq!(routes.page(behind, 3), (expected[3..].to_vec(), false));
        assert_eq!(
            routes.page(after("10.1.128.0/17").unwrap(), 1),
            (expected[2..3].to_vec(), true)
        );
        assert_eq!(after("").unwrap(), None);
    }

    #[test]
    fn what_leads_elsewhere_is_found() {
        use v1::RouteKind::{Drop, Via};
        let mut routes = Routes::default();
        let [a, b] = ["10.1.0.0/16", "10.2.0.0/16"];
        routes.apply(&read(&request(&[], vec![route(a, Drop, ""), route(b, Drop, "")])).unwrap());
        let other = |prefix| route(prefix, Via, "10.66.0.2");
        for (remove, set, expected) in [
            (&[][..], vec![route(a, Drop, ""), other("10.3.0.0/16")], None),
            (&[], vec![route(a, Drop, ""), other(b)], Some(b)),
            (&[b], vec![other(b)], None),
            (&[a, b], vec![], None),
        ] {
            let changes = read(&request(remove, set)).unwrap();
            let found = routes.replaced(&changes).map(|prefix| prefix.to_string());
            assert_eq!(found.as_deref(), expected);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        use v1::RouteKind::{Drop, Via, Vxlan};
        let mac = |kind, via: &str, mac: &str| v1::Route {
            mac: mac.into(),
            ..route("10.1.0.0/16", kind, via)
        };
        for (wire, text) in [
            (request(&["10.1.0.0"], vec![]), "prefix \"10.1.0.0\": not an IPv4 prefix"),
            (
                request(&[], vec![route("10.1.0.1/16", Via, "10.66.0.2")]),
                "prefix \"10.1.0.1/16\": 10.1.0.1/16 has bits set beyond its length: write 10.1.0.0/16",
            ),
            (
                request(&[], vec![route("10.1.0.0/16", Via, "red")]),
                "via \"red of route 10.1.0.0/16\": use the address of a port, or another kind of route",
            ),
            (
                request(&[], vec![route("10.1.0.0/16", Drop, "10.66.0.2")]),
                "via \"10.66.0.2 of route 10.1.0.0/16\": such a route leads nowhere",
            ),
            (
                request(&[], vec![v1::Route { kind: 9, ..route("10.1.0.0/16", Drop, "") }]),
                "kind \"9\": use via, unreachable, drop or vxlan",
            ),
            (
                request(&[], vec![mac(Vxlan, "red", "")]),
                "via \"red of route 10.1.0.0/16\": use the address of the tunnel's other end",
            ),
            (
                request(&[], vec![mac(Vxlan, "192.0.2.2", "02")]),
                "mac \"02 of route 10.1.0.0/16\": use the form",
            ),
            (
                request(&[], vec![mac(Via, "10.66.0.2", "02:00:00:00:00:01")]),
                "mac \"02:00:00:00:00:01 of route 10.1.0.0/16\": only a route of the kind vxlan",
            ),
        ] {
            let error = read(&wire).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
        assert!(after("x").is_err());
    }
}
