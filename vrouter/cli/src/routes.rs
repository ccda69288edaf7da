//! Routes as people write and read them, line by line. Pure.

use std::net::IpAddr;
use std::str::FromStr;

use serde::Serialize;
use vrouter_api::v1;

/// Words of `ip route` that say nothing a vRouter could do, each followed by a value.
const PAIRS: [&str; 6] = ["dev", "proto", "scope", "src", "metric", "pref"];
/// Such a word without a value.
const ONLINK: &str = "onlink";

/// Destinations. Whether bits are set behind the length is for the vRouter to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// With a length.
    Some(String),
    /// All of a family, which the next hop decides.
    Default,
}

impl FromStr for Prefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "default" {
            return Ok(Self::Default);
        }
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: Option<IpAddr> = address.parse().ok();
        let most = if address.is_some_and(|address| address.is_ipv6()) { 128 } else { 32 };
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let length = match length {
            None => Some(most),
            Some(text) => Some(text).filter(digits).and_then(|text| text.parse().ok()),
        };
        match (address, length) {
            (Some(address), Some(length)) if length <= most => {
                Ok(Self::Some(format!("{address}/{length}")))
            }
            _ => Err("use a prefix as 10.1.0.0/16 or fd00:1::/32, an address, or `default`"),
        }
    }
}

impl Prefix {
    /// As the vRouter wants it, for a route that leads to `target`.
    pub(crate) fn text(&self, target: Option<&Target>) -> String {
        match (self, target) {
            (Self::Some(text), _) => text.clone(),
            (Self::Default, Some(Target::Via(IpAddr::V6(_)))) => "::/0".to_owned(),
            // A tunnel carries both families, whatever its own: `::/0` has to be written out.
            (Self::Default, _) => "0.0.0.0/0".to_owned(),
        }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the pod with this address.
    Via(IpAddr),
    /// Through the network's tunnel.
    Vxlan {
        /// The other end.
        vtep: IpAddr,
        /// The router behind it; without, it has the MAC address of the network's gateway.
        mac: Option<String>,
    },
    /// The same by MPLS over UDP.
    Mpls {
        /// The other end.
        end: IpAddr,
        /// What it knows the network by.
        label: u32,
    },
    /// The same by IP in IP.
    Ipip(IpAddr),
    /// To this host's kernel, in an external network.
    Local,
    /// To a neighbour behind an uplink, in an external network.
    Link {
        /// The uplink.
        uplink: String,
        /// The neighbour's address.
        mac: String,
    },
    /// To the kernel, which routes it on.
    Kernel,
    /// Nowhere; senders are told.
    Unreachable,
    /// Nowhere.
    Drop,
}

impl Target {
    /// From what follows a prefix.
    pub(crate) fn from_words(words: &[impl AsRef<str>]) -> Result<Self, String> {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        match words[..] {
            ["via", address] => address
                .parse()
                .map(Self::Via)
                .map_err(|_| format!("{address:?} is no address; use that of a pod, as 10.66.0.7")),
            ["vxlan", vtep, ref mac @ ..] if matches!(mac, [] | ["mac", _]) => Ok(Self::Vxlan {
                vtep: tunnel_end(vtep)?,
                mac: mac.last().map(|&mac| mac.to_owned()),
            }),
            ["ipip", end] => tunnel_end(end).map(Self::Ipip),
            ["mpls", end, "label", label] => Ok(Self::Mpls {
                end: tunnel_end(end)?,
                label: label
                    .parse()
                    .map_err(|_| format!("{label:?} is no label; use 16 to 1048575"))?,
            }),
            ["link", uplink, "mac", mac] => {
                Ok(Self::Link { uplink: uplink.to_owned(), mac: mac.to_owned() })
            }
            ["local"] => Ok(Self::Local),
            ["kernel"] => Ok(Self::Kernel),
            ["unreachable"] => Ok(Self::Unreachable),
            ["drop" | "blackhole"] => Ok(Self::Drop),
            _ => Err(format!(
                "{:?} is no way for packets; use `via ADDRESS`, `vxlan ADDRESS [mac MAC]`, `mpls ADDRESS label N`, `ipip ADDRESS`, `unreachable` or `drop`; in an external \
                 network `local` or `link UPLINK mac MAC`",
                words.join(" ")
            )),
        }
    }
}

fn tunnel_end(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is no address; use that of the tunnel's other end, as 192.0.2.2")
    })
}

/// What is behind a route of the kernel's where it is listed.
const MIRRORED: &str = "# kernel's";

/// The route on a line; `None` if there is none. One that is listed as the kernel's is left to the kernel.
pub(crate) fn line(line: &str) -> Result<Option<v1::Route>, String> {
    if line.trim_end().ends_with(MIRRORED) {
        return Ok(None);
    }
    let line = line.split('#').next().unwrap_or_default();
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if words.is_empty() {
        return Ok(None);
    }
    // Where the kind comes first, `ip route` puts the prefix second.
    if matches!(words[0], "unreachable" | "blackhole") && words.len() > 1 {
        words.swap(0, 1);
    }
    let (prefix, rest) = (words[0], &words[1..]);
    let prefix: Prefix = prefix.parse().map_err(|remedy| format!("{prefix:?}: {remedy}"))?;
    let of_target = match rest {
        ["vxlan" | "link", _, "mac", ..] | ["mpls", _, "label", ..] => 4,
        ["via" | "vxlan" | "ipip", ..] => 2,
        _ => 1,
    };
    let (target, mut rest) = rest.split_at(of_target.min(rest.len()));
    let target = Target::from_words(target)?;
    while let [word, more @ ..] = rest {
        let values = usize::from(PAIRS.contains(word));
        if values == 0 && *word != ONLINK || more.len() < values {
            return Err(format!("{word:?} cannot be followed; write PREFIX via ADDRESS"));
        }
        rest = &more[values..];
    }
    Ok(Some(route(&prefix, target)))
}

/// For the wire.
pub(crate) fn route(prefix: &Prefix, target: Target) -> v1::Route {
    let prefix = prefix.text(Some(&target));
    let (mut uplink, mut label) = (String::new(), 0);
    let (kind, via, mac) = match target {
        Target::Link { uplink: behind, mac } => {
            uplink = behind;
            (v1::RouteKind::Link, String::new(), Some(mac))
        }
        Target::Local => (v1::RouteKind::Local, String::new(), None),
        Target::Kernel => (v1::RouteKind::Kernel, String::new(), None),
        Target::Via(via) => (v1::RouteKind::Via, via.to_string(), None),
        Target::Vxlan { vtep, mac } => (v1::RouteKind::Vxlan, vtep.to_string(), mac),
        Target::Mpls { end, label: known_by } => {
            label = known_by;
            (v1::RouteKind::Mpls, end.to_string(), None)
        }
        Target::Ipip(end) => (v1::RouteKind::Ipip, end.to_string(), None),
        Target::Unreachable => (v1::RouteKind::Unreachable, String::new(), None),
        Target::Drop => (v1::RouteKind::Drop, String::new(), None),
    };
    let mac = mac.unwrap_or_default();
    v1::Route { prefix, kind: kind.into(), via, mac, uplink, label, ..v1::Route::default() }
}

/// All routes of a text; the first line that is none is the error.
pub(crate) fn read(text: &str) -> Result<Vec<v1::Route>, String> {
    let mut routes = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        routes.extend(self::line(line).map_err(|why| format!("line {number}: {why}"))?);
    }
    Ok(routes)
}

/// A route as it is shown.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Route {
    pub(crate) prefix: String,
    pub(crate) kind: &'static str,
    pub(crate) via: Option<String>,
    pub(crate) mac: Option<String>,
    pub(crate) uplink: Option<String>,
    /// Of the kind `mpls`.
    pub(crate) label: Option<u32>,
    /// Of the kind `multipath`.
    pub(crate) paths: Vec<Path>,
    /// From the kernel's routing table.
    pub(crate) mirrored: bool,
}

/// One of several paths.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Path {
    pub(crate) route: Route,
    pub(crate) weight: u32,
}

impl From<v1::Route> for Route {
    fn from(route: v1::Route) -> Self {
        let kind = match route.kind() {
            v1::RouteKind::Unspecified | v1::RouteKind::Via => "via",
            v1::RouteKind::Unreachable => "unreachable",
            v1::RouteKind::Drop => "drop",
            v1::RouteKind::Vxlan => "vxlan",
            v1::RouteKind::Mpls => "mpls",
            v1::RouteKind::Ipip => "ipip",
            v1::RouteKind::Local => "local",
            v1::RouteKind::Link => "link",
            v1::RouteKind::Kernel => "kernel",
            v1::RouteKind::Multipath => "multipath",
        };
        let path = |path: v1::Path| Path {
            route: Self::from(path.route.unwrap_or_default()),
            weight: path.weight,
        };
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            prefix: route.prefix,
            kind,
            via: filled(route.via),
            mac: filled(route.mac),
            uplink: filled(route.uplink),
            label: (route.label != 0).then_some(route.label),
            paths: route.paths.into_iter().map(path).collect(),
            mirrored: route.mirrored,
        }
    }
}

impl Route {
    /// As a line that [`line()`] reads, but for several paths, which are only shown.
    pub(crate) fn text(&self) -> String {
        let source = if self.mirrored { format!("  {MIRRORED}") } else { String::new() };
        format!("{} {}{source}\n", self.prefix, self.target())
    }

    /// Where it leads.
    pub(crate) fn target(&self) -> String {
        let kind = self.kind;
        let to = self.via.as_ref().or(self.uplink.as_ref());
        let mac = self.mac.as_ref().map(|mac| format!(" mac {mac}")).unwrap_or_default();
        let label = self.label.map(|label| format!(" label {label}")).unwrap_or_default();
        let path = |Path { route, weight }: &Path| format!(" {} weight {weight}", route.target());
        let paths: Vec<_> = self.paths.iter().map(path).collect();
        let to = to.map(|to| format!(" {to}")).unwrap_or_default();
        format!("{kind}{to}{mac}{label}{}", paths.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::{Route, line, read};

    fn shown(text: &str) -> Result<String, String> {
        let route = line(text)?;
        Ok(route.map(|route| Route::from(route).text()).unwrap_or_default())
    }

    #[test]
    fn several_paths_are_shown() {
        use vrouter_api::v1;
        let path = |uplink: &str, weight| v1::Path {
            route: Some(v1::Route {
                kind: v1::RouteKind::Link.into(),
                uplink: uplink.into(),
                mac: "02:00:00:00:00:09".into(),
                ..v1::Route::default()
            }),
            weight,
        };
        let route = v1::Route {
            prefix: "10.1.0.0/16".into(),
            kind: v1::RouteKind::Multipath.into(),
            paths: vec![path("up0", 1), path("up1", 2)],
            ..v1::Route::default()
        };
        assert_eq!(
            Route::from(route).text(),
            "10.1.0.0/16 multipath link up0 mac 02:00:00:00:00:09 weight 1, link up1 mac \
             02:00:00:00:00:09 weight 2\n"
        );
    }

    #[test]
    fn those_of_the_kernel_are_marked_and_not_loaded() {
        use vrouter_api::v1;
        let route = v1::Route {
            prefix: "10.1.0.0/16".into(),
            kind: v1::RouteKind::Vxlan.into(),
            via: "192.0.2.2".into(),
            mirrored: true,
            ..v1::Route::default()
        };
        let text = Route::from(route).text();
        assert_eq!(text, "10.1.0.0/16 vxlan 192.0.2.2  # kernel's\n");
        assert_eq!(line(text.trim_end()), Ok(None));
        assert_eq!(read(&format!("{text}10.2.0.0/16 drop\n")).unwrap().len(), 1);
    }

    #[test]
    fn what_ip_route_prints_and_what_is_listed() {
        for (text, expected) in [
            ("10.1.0.0/16 via 10.66.0.7", "10.1.0.0/16 via 10.66.0.7\n"),
            ("default via 10.66.0.7 dev eth0 proto static", "0.0.0.0/0 via 10.66.0.7\n"),
            ("default via fd00:66::7 dev e metric 1024 pref medium", "::/0 via fd00:66::7\n"),
            ("10.1.2.3 via 10.66.0.7 onlink", "10.1.2.3/32 via 10.66.0.7\n"),
            ("FD00:1::1 via fd00:66::7", "fd00:1::1/128 via fd00:66::7\n"),
            ("unreachable 10.3.0.0/16 metric 5", "10.3.0.0/16 unreachable\n"),
            ("blackhole default", "0.0.0.0/0 drop\n"),
            ("10.3.0.0/16 unreachable", "10.3.0.0/16 unreachable\n"),
            ("10.4.0.0/16 vxlan 192.0.2.2", "10.4.0.0/16 vxlan 192.0.2.2\n"),
            (
                "default vxlan 2001:DB8::2 mac 02:0:0:0:0:9",
                "0.0.0.0/0 vxlan 2001:db8::2 mac 02:0:0:0:0:9\n",
            ),
            ("  2001:db8::/32\tdrop  # for now", "2001:db8::/32 drop\n"),
            ("10.5.0.0/16 link up0 mac 02:0:0:0:0:9", "10.5.0.0/16 link up0 mac 02:0:0:0:0:9\n"),
            ("10.7.0.0/16 mpls 192.0.2.2 label 0100", "10.7.0.0/16 mpls 192.0.2.2 label 100\n"),
            ("10.7.0.0/16 ipip 192.0.2.2 metric 9", "10.7.0.0/16 ipip 192.0.2.2\n"),
            ("10.8.0.0/16 via 10.66.0.7  # kernel's", ""),
            ("192.0.2.1 local", "192.0.2.1/32 local\n"),
            ("10.6.0.0/16 kernel", "10.6.0.0/16 kernel\n"),
            ("# nothing", ""),
            ("", ""),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
            assert_eq!(shown(expected).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_route_is_told_by_line_and_word() {
        for (text, parts) in [
            ("10.1.0.0/16", &["\"\" is no way", "via ADDRESS"][..]),
            ("10.1.0.0/16 via", &["\"via\" is no way"]),
            ("10.1.0.0/16 via red", &["\"red\" is no address", "10.66.0.7"]),
            ("10.1.0.0/33 via 10.66.0.7", &["\"10.1.0.0/33\"", "use a prefix"]),
            ("10.1.0.0/+8 drop", &["\"10.1.0.0/+8\"", "use a prefix"]),
            ("ten via 10.66.0.7", &["\"ten\"", "use a prefix"]),
            ("10.1.0.0/16 nowhere", &["\"nowhere\" is no way", "unreachable"]),
            ("10.1.0.0/16 via 10.66.0.7 weight 3", &["\"weight\" cannot be followed"]),
            ("10.1.0.0/16 via 10.66.0.7 dev", &["\"dev\" cannot be followed"]),
            ("unreachable", &["\"unreachable\"", "use a prefix"]),
            ("10.1.0.0/16 mpls red label 99", &["\"red\" is no address", "192.0.2.2"]),
            ("10.1.0.0/16 mpls 192.0.2.2 label x", &["\"x\" is no label", "16 to 1048575"]),
            ("10.1.0.0/16 mpls 192.0.2.2", &["mpls ADDRESS label N"]),
            ("10.1.0.0/16 ipip", &["\"ipip\" is no way", "ipip ADDRESS"]),
            ("10.1.0.0/16 ipip red", &["\"red\" is no address", "192.0.2.2"]),
            ("10.1.0.0/16 vxlan red", &["\"red\" is no address", "192.0.2.2"]),
            ("10.1.0.0/16 vxlan 192.0.2.2 mac", &["\"vxlan 192.0.2.2 mac\" is no way"]),
            ("10.1.0.0/16 vxlan 192.0.2.2 via 1.2.3.4", &["\"via\" cannot be followed"]),
        ] {
            let error = read(&format!("10.0.0.0/8 drop\n\n{text}")).unwrap_err();
            assert!(error.starts_with("line 3: "), "{error}");
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        }
        assert_eq!(read("10.0.0.0/8 drop\n\n::/0 drop\n").unwrap().len(), 2);
    }
}
