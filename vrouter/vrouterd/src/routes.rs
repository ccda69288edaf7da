//! The operator's routes: as they are on the wire, and as the tables want them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::Bound;

use vrouter_api::v1;
use vrouter_core::{MplsEnd, Path, Paths, PortIndex, RouteChange, RouteTarget, Vtep};
use vrouter_net::IpPrefix;
use vrouter_net::mpls::Label;

use crate::convert::Refusal;

/// Most routes of a page: some 1 MB on the wire.
pub const PAGE: usize = 20_000;

/// The uplinks there are, by name.
pub type Uplinks<'a> = &'a [(String, PortIndex)];

/// The routes of one network, for people to read; what packets are judged by is in the tables.
#[derive(Clone, Default)]
pub struct Routes(BTreeMap<IpPrefix, RouteTarget>);

impl Routes {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many, with those of `other` that are for other prefixes.
    pub fn len_with(&self, other: &Self) -> usize {
        // Few are for the same, so the smaller of the two is looked through.
        let (few, many) = if self.len() < other.len() { (self, other) } else { (other, self) };
        let both = few.0.keys().filter(|prefix| many.0.contains_key(prefix)).count();
        self.len() + other.len() - both
    }

    /// Where a prefix leads.
    pub fn get(&self, prefix: IpPrefix) -> Option<&RouteTarget> {
        self.0.get(&prefix)
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

    /// Those behind a prefix, in order, with those of `mirrored` that are for other prefixes; and whether there are more.
    pub fn page(
        &self,
        mirrored: &Self,
        after: Option<IpPrefix>,
        limit: usize,
        uplinks: Uplinks<'_>,
    ) -> (Vec<v1::Route>, bool) {
        let start = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut own = self.0.range(start).peekable();
        let mut others = mirrored.0.range(start).peekable();
        let mut next = || match (own.peek(), others.peek()) {
            (Some((prefix, _)), Some((other, _))) => {
                if prefix == other {
                    others.next();
                } else if other < prefix {
                    return others.next().map(|route| (route, true));
                }
                own.next().map(|route| (route, false))
            }
            (Some(_), None) => own.next().map(|route| (route, false)),
            (None, _) => others.next().map(|route| (route, true)),
        };
        let mut page = Vec::new();
        while page.len() < limit
            && let Some(((prefix, target), mirrored)) = next()
        {
            page.push(v1::Route { mirrored, ..write(*prefix, target, uplinks) });
        }
        let more = next().is_some();
        (page, more)
    }
}

/// A route as it is listed.
pub fn write(prefix: IpPrefix, target: &RouteTarget, uplinks: Uplinks<'_>) -> v1::Route {
    let prefix = prefix.to_string();
    let route = |kind: v1::RouteKind| v1::Route {
        prefix: prefix.clone(),
        kind: kind.into(),
        ..v1::Route::default()
    };
    match target {
        RouteTarget::Vxlan(vtep) => v1::Route {
            via: vtep.address.to_string(),
            mac: vtep.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            ..route(v1::RouteKind::Vxlan)
        },
        RouteTarget::Via(via) => v1::Route { via: via.to_string(), ..route(v1::RouteKind::Via) },
        RouteTarget::Link { port, mac } => {
            let named = uplinks.iter().find(|(_, index)| index == port);
            v1::Route {
                uplink: named.map(|(name, _)| name.clone()).unwrap_or_default(),
                mac: mac.to_string(),
                ..route(v1::RouteKind::Link)
            }
        }
        RouteTarget::Multipath(paths) => {
            let path = |path: &Path| v1::Path {
                route: Some(v1::Route {
                    prefix: String::new(),
                    ..write(IpPrefix::V4(vrouter_net::Ipv4Prefix::ALL), &path.target, uplinks)
                }),
                weight: path.weight.into(),
            };
            v1::Route {
                paths: paths.paths().iter().map(path).collect(),
                ..route(v1::RouteKind::Multipath)
            }
        }
        RouteTarget::Unreachable => route(v1::RouteKind::Unreachable),
        RouteTarget::Drop => route(v1::RouteKind::Drop),
        RouteTarget::Local => route(v1::RouteKind::Local),
        RouteTarget::Kernel => route(v1::RouteKind::Kernel),
        RouteTarget::MplsUdp(end) => v1::Route {
            via: end.address.to_string(),
            label: end.label.number(),
            ..route(v1::RouteKind::Mpls)
        },
        RouteTarget::Ipip(end) => v1::Route { via: end.to_string(), ..route(v1::RouteKind::Ipip) },
    }
}

/// Reads a request.
///
/// # Errors
/// [`Refusal::Invalid`] for the first thing that is wrong.
pub fn read(
    wire: &v1::ChangeRoutesRequest,
    uplinks: Uplinks<'_>,
) -> Result<Vec<RouteChange>, Refusal> {
    let mut changes = Vec::with_capacity(wire.remove.len() + wire.set.len());
    for text in &wire.remove {
        changes.push(RouteChange { prefix: prefix(text)?, target: None });
    }
    for route in &wire.set {
        changes.push(RouteChange {
            prefix: prefix(&route.prefix)?,
            target: Some(target(route, uplinks)?),
        });
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

/// A field of a route that can't be.
fn invalid(
    route: &v1::Route,
    field: &'static str,
    value: impl Display,
    remedy: impl Into<String>,
) -> Refusal {
    let value = format!("{value} of route {}", route.prefix);
    Refusal::Invalid { field, value, remedy: remedy.into() }
}

fn target(route: &v1::Route, uplinks: Uplinks<'_>) -> Result<RouteTarget, Refusal> {
    let kind = v1::RouteKind::try_from(route.kind);
    let has_mac = matches!(kind, Ok(v1::RouteKind::Vxlan | v1::RouteKind::Link));
    for (field, text, is_fine) in
        [("mac", &route.mac, has_mac), ("uplink", &route.uplink, kind == Ok(v1::RouteKind::Link))]
    {
        if !text.is_empty() && !is_fine {
            let remedy = "only a route of the kind vxlan or link has one; leave it out";
            return Err(invalid(route, field, text, remedy));
        }
    }
    if route.label != 0 && kind != Ok(v1::RouteKind::Mpls) {
        let remedy = "only a route of the kind mpls has one; leave it out";
        return Err(invalid(route, "label", route.label, remedy));
    }
    match kind {
        Ok(v1::RouteKind::Vxlan) => vtep(route),
        Ok(v1::RouteKind::Mpls) => mpls(route),
        Ok(v1::RouteKind::Ipip) => tunnel_end(route).map(RouteTarget::Ipip),
        Ok(v1::RouteKind::Unspecified | v1::RouteKind::Via) => match route.via.parse::<IpAddr>() {
            Ok(via) => Ok(RouteTarget::Via(via)),
            Err(_) => {
                let remedy = "use the address of a port, or another kind of route";
                Err(invalid(route, "via", &route.via, remedy))
            }
        },
        Ok(_) if !route.via.is_empty() => {
            let remedy = "such a route leads nowhere; leave `via` out, or use the kind `via`";
            Err(invalid(route, "via", &route.via, remedy))
        }
        Ok(v1::RouteKind::Unreachable) => Ok(RouteTarget::Unreachable),
        Ok(v1::RouteKind::Drop) => Ok(RouteTarget::Drop),
        Ok(v1::RouteKind::Local) => Ok(RouteTarget::Local),
        Ok(v1::RouteKind::Kernel) => Ok(RouteTarget::Kernel),
        Ok(v1::RouteKind::Link) => link(route, uplinks),
        Ok(v1::RouteKind::Multipath) => multipath(route, uplinks),
        Err(_) => Err(Refusal::Invalid {
            field: "kind",
            value: route.kind.to_string(),
            remedy:
                "use via, unreachable, drop, vxlan, mpls, ipip, local, link, kernel or multipath"
                    .to_owned(),
        }),
    }
}

fn link(route: &v1::Route, uplinks: Uplinks<'_>) -> Result<RouteTarget, Refusal> {
    let found = uplinks.iter().find(|(name, _)| *name == route.uplink);
    let (_, port) = found.ok_or_else(|| {
        let known: Vec<_> = uplinks.iter().map(|(name, _)| name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let remedy = format!("unknown uplink; known uplinks: {known}");
        invalid(route, "uplink", &route.uplink, remedy)
    })?;
    let mac = route.mac.parse().map_err(|_| {
        let remedy = "use the neighbour's address, in the form 02:00:00:00:00:01";
        invalid(route, "mac", &route.mac, remedy)
    })?;
    Ok(RouteTarget::Link { port: *port, mac })
}

fn multipath(route: &v1::Route, uplinks: Uplinks<'_>) -> Result<RouteTarget, Refusal> {
    if !(1..=Paths::MAX).contains(&route.paths.len()) {
        let remedy = format!("use 1 to {}", Paths::MAX);
        return Err(invalid(route, "paths", route.paths.len(), remedy));
    }
    let path = |path: &v1::Path| {
        let wire = path.route.clone().unwrap_or_default();
        if matches!(wire.kind(), v1::RouteKind::Multipath) {
            return Err(invalid(route, "paths", "multipath", "use via, vxlan, mpls, ipip or link"));
        }
        let named = v1::Route { prefix: route.prefix.clone(), ..wire };
        let weight = u16::try_from(path.weight.max(1)).map_err(|_| {
            invalid(route, "paths", format!("weight {}", path.weight), "use 1 to 65535")
        })?;
        Ok(Path { target: target(&named, uplinks)?, weight })
    };
    let paths = route.paths.iter().map(path).collect::<Result<Vec<_>, _>>()?;
    Ok(RouteTarget::Multipath(Paths::new(paths)))
}

fn tunnel_end(route: &v1::Route) -> Result<IpAddr, Refusal> {
    let remedy = "use the address of the tunnel's other end in the underlay";
    route.via.parse().map_err(|_| invalid(route, "via", &route.via, remedy))
}

fn vtep(route: &v1::Route) -> Result<RouteTarget, Refusal> {
    let address = tunnel_end(route)?;
    let mac = match route.mac.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            invalid(route, "mac", text, "use the form 02:00:00:00:00:01, or leave it out")
        })?),
    };
    Ok(RouteTarget::Vxlan(Vtep { address, mac }))
}

fn mpls(route: &v1::Route) -> Result<RouteTarget, Refusal> {
    let address = tunnel_end(route)?;
    let label = Label::new(route.label).ok_or_else(|| {
        let remedy = "use the label that the other end knows the network by, 16 to 1048575";
        invalid(route, "label", route.label, remedy)
    })?;
    Ok(RouteTarget::MplsUdp(MplsEnd { address, label }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, kind: v1::RouteKind, via: &str) -> v1::Route {
        v1::Route {
            prefix: prefix.into(),
            kind: kind.into(),
            via: via.into(),
            ..Default::default()
        }
    }

    fn request(remove: &[&str], set: Vec<v1::Route>) -> v1::ChangeRoutesRequest {
        let remove = remove.iter().map(|&prefix| prefix.to_owned()).collect();
        v1::ChangeRoutesRequest { network: "red".into(), remove, set, only_new: false }
    }

    #[test]
    fn what_is_removed_comes_first_and_of_one_prefix_the_last_counts() {
        use v1::RouteKind::{Drop, Ipip, Mpls, Unreachable, Unspecified, Via, Vxlan};
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
                v1::Route { label: 1_000, ..route("10.6.0.0/16", Mpls, "192.0.2.2") },
                route("10.7.0.0/16", Ipip, "2001:db8::2"),
            ],
        );
        let far = request.set[5..].to_vec();
        let changes = read(&request, &[]).unwrap();
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
        let none = Routes::default();
        assert_eq!(
            (routes.page(&none, None, 9, &[]), routes.len()),
            ((expected.clone(), false), 8)
        );
        // Page by page, also from behind a prefix that is not there.
        assert_eq!(routes.page(&none, None, 3, &[]), (expected[..3].to_vec(), true));
        let behind = after(&expected[2].prefix).unwrap();
        assert_eq!(routes.page(&none, behind, 5, &[]), (expected[3..].to_vec(), false));
        assert_eq!(
            routes.page(&none, after("10.1.128.0/17").unwrap(), 1, &[]),
            (expected[2..3].to_vec(), true)
        );
        assert_eq!(after("").unwrap(), None);
    }

    #[test]
    fn links_and_several_paths_name_uplinks() {
        use v1::RouteKind::{Link, Local, Multipath};
        let uplinks = [("up0".to_owned(), PortIndex(3)), ("up1".to_owned(), PortIndex(5))];
        let link = |prefix: &str, uplink: &str| v1::Route {
            uplink: uplink.into(),
            mac: "02:00:00:00:00:09".into(),
            ..route(prefix, Link, "")
        };
        let path = |uplink| v1::Path { route: Some(link("", uplink)), weight: 1 };
        let both = v1::Route {
            paths: vec![path("up0"), path("up1")],
            ..route("10.3.0.0/16", Multipath, "")
        };
        let set = vec![route("10.1.0.0/16", Local, ""), link("10.2.0.0/16", "up1"), both.clone()];
        let changes = read(&request(&[], set.clone()), &uplinks).unwrap();
        let mut routes = Routes::default();
        routes.apply(&changes);
        assert_eq!(routes.page(&Routes::default(), None, 9, &uplinks), (set, false));
        for (bad, text) in [
            (link("10.2.0.0/16", "up7"), "unknown uplink; known uplinks: up0, up1"),
            (v1::Route { mac: String::new(), ..link("10.2.0.0/16", "up0") }, "the neighbour's"),
            (v1::Route { paths: vec![], ..both.clone() }, "use 1 to"),
            (v1::Route { uplink: "up0".into(), ..route("10.1.0.0/16", Local, "") }, "uplink"),
            (
                v1::Route {
                    paths: vec![v1::Path { route: Some(both.clone()), weight: 1 }],
                    ..both.clone()
                },
                "use via, vxlan, mpls, ipip or link",
            ),
        ] {
            let error = read(&request(&[], vec![bad]), &uplinks).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn those_of_the_kernel_are_listed_among_the_others() {
        use v1::RouteKind::{Drop, Unreachable};
        let routes = |prefixes: &[&str], kind| {
            let set = prefixes.iter().map(|prefix| route(prefix, kind, "")).collect();
            let mut routes = Routes::default();
            routes.apply(&read(&request(&[], set), &[]).unwrap());
            routes
        };
        let own = routes(&["10.2.0.0/16", "10.3.0.0/16"], Drop);
        let kernel = routes(&["10.1.0.0/16", "10.2.0.0/16", "10.4.0.0/16"], Unreachable);
        let theirs = |prefix| v1::Route { mirrored: true, ..route(prefix, Unreachable, "") };
        let expected = [
            theirs("10.1.0.0/16"),
            route("10.2.0.0/16", Drop, ""),
            route("10.3.0.0/16", Drop, ""),
            theirs("10.4.0.0/16"),
        ];
        assert_eq!(own.page(&kernel, None, 9, &[]), (expected.to_vec(), false));
        assert_eq!(own.page(&kernel, None, 3, &[]), (expected[..3].to_vec(), true));
        let behind = after("10.2.0.0/16").unwrap();
        assert_eq!(own.page(&kernel, behind, 1, &[]), (expected[2..3].to_vec(), true));
        assert_eq!((own.len_with(&kernel), kernel.len_with(&own)), (4, 4));
    }

    #[test]
    fn what_leads_elsewhere_is_found() {
        use v1::RouteKind::{Drop, Via};
        let mut routes = Routes::default();
        let [a, b] = ["10.1.0.0/16", "10.2.0.0/16"];
        routes.apply(
            &read(&request(&[], vec![route(a, Drop, ""), route(b, Drop, "")]), &[]).unwrap(),
        );
        let other = |prefix| route(prefix, Via, "10.66.0.2");
        for (remove, set, expected) in [
            (&[][..], vec![route(a, Drop, ""), other("10.3.0.0/16")], None),
            (&[], vec![route(a, Drop, ""), other(b)], Some(b)),
            (&[b], vec![other(b)], None),
            (&[a, b], vec![], None),
        ] {
            let changes = read(&request(remove, set), &[]).unwrap();
            let found = routes.replaced(&changes).map(|prefix| prefix.to_string());
            assert_eq!(found.as_deref(), expected);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        use v1::RouteKind::{Drop, Mpls, Via, Vxlan};
        let label = |kind, label| v1::Route { label, ..route("10.1.0.0/16", kind, "192.0.2.2") };
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
                "kind \"9\": use via, unreachable",
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
                request(&[], vec![label(Mpls, 15)]),
                "label \"15 of route 10.1.0.0/16\": use the label that the other end",
            ),
            (
                request(&[], vec![label(Mpls, 1 << 20)]),
                "label \"1048576 of route 10.1.0.0/16\": use the label",
            ),
            (
                request(&[], vec![label(Vxlan, 100)]),
                "label \"100 of route 10.1.0.0/16\": only a route of the kind mpls",
            ),
            (
                request(&[], vec![route("10.1.0.0/16", Mpls, "")]),
                "via \" of route 10.1.0.0/16\": use the address of the tunnel's other end",
            ),
            (
                request(&[], vec![mac(Via, "10.66.0.2", "02:00:00:00:00:01")]),
                "mac \"02:00:00:00:00:01 of route 10.1.0.0/16\": only a route of the kind vxlan or link",
            ),
        ] {
            let error = read(&wire, &[]).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
        assert!(after("x").is_err());
    }
}
