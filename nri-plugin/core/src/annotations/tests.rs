//! What authors of pods write, and what they are told.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use super::{
    AnnotationError, CpusRequest, MAX_INTERFACES, NumaPolicy, RawInterface, Request, Scope,
    SocketOwner, VrouterMode, effective, is_opted_in, parse, placement, vrouter_mode,
};
use crate::cpuset::NodeId;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Stands for the binary's JSON: `field=value` words, `;` between interfaces.
fn decode(text: &str) -> Result<Vec<RawInterface>, String> {
    let mut list = Vec::new();
    for part in text.split(';').filter(|_| !text.is_empty()) {
        let mut raw = RawInterface::default();
        for word in part.split_whitespace() {
            let (field, value) =
                word.split_once('=').ok_or_else(|| format!("no field in {word:?}"))?;
            let text = Some(value.to_owned());
            match field {
                "name" => raw.name = text,
                "network" => raw.network = text,
                "ip" => raw.ip = value.split(',').map(str::to_owned).collect(),
                "mac" => raw.mac = text,
                "socket" => raw.socket = text,
                "kind" => raw.kind = text,
                "routes" => raw.routes = value.split(',').map(str::to_owned).collect(),
                "queues" => raw.queues = value.parse().ok(),
                "mtu" => raw.mtu = value.parse().ok(),
                _ => return Err(format!("unknown field {field}")),
            }
        }
        list.push(raw);
    }
    Ok(list)
}

fn request(pairs: &[(&str, &str)]) -> Result<Option<Request>, AnnotationError> {
    parse(&map(pairs), "app", decode)
}

fn granted(pairs: &[(&str, &str)]) -> Request {
    request(pairs).unwrap().unwrap()
}

#[test]
fn precedence() {
    let all = map(&[
        ("k", "bare"),
        ("k/pod", "pod"),
        ("k/container.app", "own"),
        ("k/container.other", "x"),
    ]);
    let found = |map: &BTreeMap<String, String>| {
        effective(map, "k", "app")
            .map(|found| (found.key.to_owned(), found.value.to_owned(), found.scope))
    };
    let mut map = all;
    for (key, value, scope) in [
        ("k/container.app", "own", Scope::Container),
        ("k/pod", "pod", Scope::Pod),
        ("k", "bare", Scope::Pod),
    ] {
        assert_eq!(found(&map), Some((key.to_owned(), value.to_owned(), scope)));
        map.remove(key);
    }
    assert_eq!(found(&map), None);
}

#[test]
fn a_pod_without_a_network_is_left_alone() {
    for pairs in [
        &[][..],
        &[("app", "x"), ("other.dev/y", "z")],
        &[("cpus.ringway.dev", "nonsense"), ("numa.ringway.dev", "strict")],
        &[("network.ringway.dev/container.other", "red")],
        &[("network.ringway.dev.example.com", "red")],
    ] {
        assert!(!is_opted_in(&map(pairs), "app"), "{pairs:?}");
        assert_eq!(request(pairs), Ok(None), "{pairs:?}");
    }
}

#[test]
fn networks_become_interfaces() {
    let request = granted(&[("network.ringway.dev", "red, blue,red")]);
    let interfaces: Vec<_> = request
        .interfaces
        .iter()
        .map(|i| (i.name.as_str(), i.network.as_str(), i.queues))
        .collect();
    assert_eq!(interfaces, [("net0", "red", 1), ("net1", "blue", 1), ("net2", "red", 1)]);
    assert_eq!(request.scope, Scope::Pod);
    assert_eq!((request.cpus, request.numa), (CpusRequest::Default, NumaPolicy::Preferred));
    assert!(request.hugepages.is_empty());
}

#[test]
fn what_placement_reads_and_writes() {
    let request = granted(&[("network.ringway.dev", "red"), ("placement.ringway.dev", "numa=3")]);
    assert_eq!(request.promised, Some(NodeId(3)));
    assert_eq!(placement(NodeId(3)), "numa=3");
    // A hint that says nothing is as good as none.
    let request = granted(&[("network.ringway.dev", "red"), ("placement.ringway.dev", "far away")]);
    assert_eq!(request.promised, None);
    let mode = |value: &str| {
        let annotations = BTreeMap::from([("mode.ringway.dev/container.app".into(), value.into())]);
        vrouter_mode(&annotations, "app").map_err(|error| error.to_string())
    };
    assert_eq!(mode("kernel"), Ok(Some(VrouterMode::Kernel)));
    assert_eq!(mode("dpdk"), Ok(Some(VrouterMode::Dpdk)));
    let told = "annotation mode.ringway.dev/container.app: \"fast\" must be dpdk or kernel";
    assert_eq!(mode("fast"), Err(told.to_owned()));
}

#[test]
fn the_full_form() {
    let request = granted(&[
        ("network.ringway.dev", "red"),
        (
            "interfaces.ringway.dev",
            "ip=10.66.0.9 mac=02:00:00:00:00:09 queues=4 mtu=9000 socket=pod kind=vhost-user;name=wan network=blue socket=vrouter",
        ),
    ]);
    let [first, second] = request.interfaces.as_slice() else { panic!("{request:?}") };
    assert_eq!((first.name.as_str(), first.network.as_str(), first.queues), ("net0", "red", 4));
    assert_eq!((first.ip, first.mtu), (Some([10, 66, 0, 9].into()), Some(9000)));
    assert_eq!(first.mac.unwrap().to_string(), "02:00:00:00:00:09");
    assert_eq!(first.socket, Some(SocketOwner::Pod));
    assert_eq!((second.name.as_str(), second.network.as_str(), second.queues), ("wan", "blue", 1));
    assert_eq!((second.ip, second.mac, second.mtu), (None, None, None));
    assert_eq!((first.ipv6, second.ipv6), (None, None));
    assert_eq!(second.socket, Some(SocketOwner::Vrouter));
}

#[test]
fn an_interface_of_the_kernel() {
    let key = "interfaces.ringway.dev";
    let text = "network=red kind=kernel queues=1 name=eth1 routes=0.0.0.0/0,fd00::/16;network=red";
    let request = granted(&[(key, text)]);
    let [kernel, usual] = request.interfaces.as_slice() else { panic!("{request:?}") };
    let link = kernel.link.as_ref().unwrap();
    let routes: Vec<_> = link.routes.iter().map(ToString::to_string).collect();
    assert_eq!((link.netns.as_str(), routes), ("", vec!["0.0.0.0/0".into(), "fd00::/16".into()]));
    assert_eq!((kernel.name.as_str(), kernel.socket, &usual.link), ("eth1", None, &None));
    let many = vec!["10.0.0.0/8"; 17].join(",");
    let error = request_error(&[(key, &format!("network=red kind=kernel routes={many}"))]);
    assert!(error.contains("at most 16"), "{error}");
}

fn request_error(pairs: &[(&str, &str)]) -> String {
    request(pairs).unwrap_err().to_string()
}

#[test]
fn addresses_of_both_families() {
    for (text, ip, ipv6) in [
        ("10.66.0.9,fd00::9", Some("10.66.0.9"), Some("fd00::9")),
        ("fd00::9,10.66.0.9", Some("10.66.0.9"), Some("fd00::9")),
        ("fd00::9", None, Some("fd00::9")),
    ] {
        let request = granted(&[("interfaces.ringway.dev", &format!("network=red ip={text}"))]);
        let interface = &request.interfaces[0];
        assert_eq!(interface.ip, ip.map(|ip| ip.parse().unwrap()));
        assert_eq!(interface.ipv6, ipv6.map(|ip| ip.parse().unwrap()));
    }
}

#[test]
fn networks_of_the_full_form_come_in_order() {
    let request = granted(&[
        ("network.ringway.dev", "red,blue"),
        ("interfaces.ringway.dev", "name=a;name=b"),
    ]);
    let networks: Vec<_> = request.interfaces.iter().map(|i| i.network.as_str()).collect();
    assert_eq!(networks, ["red", "blue"]);
}

#[test]
fn what_is_written_for_the_container_outweighs_the_pod() {
    let own = ("network.ringway.dev/container.app", "blue");
    let pod = ("interfaces.ringway.dev", "network=red;network=red");
    for (pairs, scope, networks) in [
        (&[own][..], Scope::Container, "blue"),
        (&[own, ("network.ringway.dev", "red")], Scope::Container, "blue"),
        (&[own, pod], Scope::Container, "blue"),
        (&[pod], Scope::Pod, "red red"),
        (&[pod, ("network.ringway.dev/pod", "green")], Scope::Pod, "red red"),
        (&[own, ("interfaces.ringway.dev/container.app", "name=x")], Scope::Container, "blue"),
        (
            &[
                ("interfaces.ringway.dev/container.app", "network=green"),
                ("network.ringway.dev", "red"),
            ],
            Scope::Container,
            "green",
        ),
    ] {
        let request = granted(pairs);
        let found: Vec<_> = request.interfaces.iter().map(|i| i.network.as_str()).collect();
        assert_eq!((request.scope, found.join(" ").as_str()), (scope, networks), "{pairs:?}");
    }
}

#[test]
fn cpus_numa_and_hugepages() {
    let net = ("network.ringway.dev", "red");
    let exclusive = |count| CpusRequest::Exclusive(NonZeroU32::new(count).unwrap());
    for (value, cpus) in
        [("shared", CpusRequest::Shared), ("1", exclusive(1)), (" 127 ", exclusive(127))]
    {
        assert_eq!(granted(&[net, ("cpus.ringway.dev", value)]).cpus, cpus);
    }
    for (value, numa) in [
        ("strict", NumaPolicy::Strict),
        ("preferred", NumaPolicy::Preferred),
        ("off", NumaPolicy::Off),
        ("3", NumaPolicy::Node(NodeId(3))),
    ] {
        assert_eq!(granted(&[net, ("numa.ringway.dev/pod", value)]).numa, numa);
    }
    let limits = granted(&[
        net,
        ("hugepages-1gi.ringway.dev", "2Gi"),
        ("hugepages-2mi.ringway.dev", "1Gi"),
        ("hugepages-2mi.ringway.dev/container.app", "512Mi"),
    ]);
    let limits: Vec<_> =
        limits.hugepages.iter().map(|limit| (limit.size.to_string(), limit.limit)).collect();
    assert_eq!(limits, [("2MB".to_owned(), 512 << 20), ("1GB".to_owned(), 2 << 30)]);
    assert_eq!(granted(&[net, ("hugepages-2mi.ringway.dev", "0")]).hugepages[0].limit, 0);
}

#[test]
fn every_error_names_key_value_and_remedy() {
    let long = "a,".repeat(5000);
    let many = ["red"; MAX_INTERFACES + 1].join(",");
    let many_full = ["network=red"; MAX_INTERFACES + 1].join(";");
    let key = "interfaces.ringway.dev";
    for (pairs, parts) in [
        (
            &[("network.ringway.dev", "")][..],
            &["network.ringway.dev", "\"\"", "no network name"][..],
        ),
        (&[("network.ringway.dev/pod", "red,")], &["network.ringway.dev/pod", "\"\"", "\"a,b\""]),
        (&[("network.ringway.dev", "Red")], &["\"Red\"", "lower case"]),
        (&[("network.ringway.dev", "../red")], &["\"../red\""]),
        (&[("network.ringway.dev", &many)], &["more than 16"]),
        (&[("network.ringway.dev", &long)], &["longer than 8192"]),
        (&[(key, "")], &["interfaces.ringway.dev", "1 to 16"]),
        (&[(key, &many_full)], &["1 to 16"]),
        (&[(key, "oops")], &["\"oops\"", "cannot be read (no field", "[{\"network\":\"red\"}]"]),
        (
            &[(key, "name=a")],
            &["interfaces.ringway.dev[0].network", "is missing", "network.ringway.dev"],
        ),
        (
            &[(key, "network=red;network=blue name=net0")],
            &["interfaces.ringway.dev[1].name", "\"net0\"", "once"],
        ),
        (&[(key, "network=red name=../x")], &["[0].name", "\"../x\"", "letter first"]),
        (&[(key, "network=red name=abcdefghijklmnop")], &["[0].name", "1 to 15"]),
        (&[(key, "network=red kind=kernel socket=pod")], &["[0].socket", "must be left out"]),
        (&[(key, "network=red kind=kernel queues=2")], &["[0].queues", "\"2\"", "one queue"]),
        (&[(key, "network=red kind=kernel routes=10.0.0.0")], &["[0].routes", "must be a prefix"]),
        (
            &[(key, "network=red routes=10.0.0.0/8")],
            &["[0].routes", "only an interface of the kind"],
        ),
        (&[(key, "network=red kind=tap")], &["[0].kind", "\"tap\"", "vhost-user"]),
        (&[(key, "network=red socket=host")], &["[0].socket", "\"host\"", "vrouter or pod"]),
        (
            &[(key, "network=red ip=10.66.0.9/24")],
            &["[0].ip", "\"10.66.0.9/24\"", "without prefix length"],
        ),
        (
            &[(key, "network=red ip=10.66.0.9,fd00::9,10.66.0.8")],
            &["[0].ip", "\"10.66.0.8\"", "second of its family"],
        ),
        (
            &[(key, "network=red ip=fd00::9,fd00::9")],
            &["[0].ip", "\"fd00::9\"", "second of its family"],
        ),
        (&[(key, "network=red ip=fd00::9/64")], &["[0].ip", "\"fd00::9/64\""]),
        (&[(key, "network=red mac=01:00:5e:00:00:01")], &["[0].mac", "unicast"]),
        (&[(key, "network=red mac=xx")], &["[0].mac", "\"xx\""]),
        (&[(key, "network=red queues=0")], &["[0].queues", "\"0\"", "1 to 16"]),
        (&[(key, "network=red queues=17")], &["[0].queues", "\"17\"", "1 to 16"]),
        (&[(key, "network=red mtu=67")], &["[0].mtu", "68 to 65535"]),
        (&[(key, "network=red mtu=4294968796")], &["[0].mtu", "\"4294968796\""]),
        (
            &[("network.ringway.dev", "a,b"), (key, "name=x;name=y;name=z")],
            &["3 interfaces", "2 networks"],
        ),
        (
            &[("network.ringway.dev", "a"), ("cpus.ringway.dev", "0")],
            &["cpus.ringway.dev", "\"0\"", "1 to 127", "shared"],
        ),
        (&[("network.ringway.dev", "a"), ("cpus.ringway.dev", "1.5")], &["\"1.5\""]),
        (&[("network.ringway.dev", "a"), ("cpus.ringway.dev", "+2")], &["\"+2\""]),
        (
            &[("network.ringway.dev", "a"), ("cpus.ringway.dev/container.app", "128")],
            &["cpus.ringway.dev/container.app"],
        ),
        (
            &[("network.ringway.dev", "a"), ("numa.ringway.dev", "-1")],
            &["numa.ringway.dev", "\"-1\"", "strict, preferred, off"],
        ),
        (
            &[("network.ringway.dev", "a"), ("hugepages-2mi.ringway.dev", "512M")],
            &["hugepages-2mi.ringway.dev", "\"512M\"", "Mi"],
        ),
        (
            &[("network.ringway.dev", "a"), ("hugepages-2mi.ringway.dev", "1Mi")],
            &["multiple of the page size, 2MB"],
        ),
        (
            &[("network.ringway.dev", "a"), ("hugepages-1gi.ringway.dev", "512Mi")],
            &["hugepages-1gi", "1GB"],
        ),
        (
            &[("network.ringway.dev", "a"), ("cpu.ringway.dev", "2")],
            &["unknown annotation cpu.ringway.dev", "cpus.ringway.dev"],
        ),
        (
            &[("network.ringway.dev", "a"), ("cpus.ringway.dev/app", "2")],
            &["unknown annotation cpus.ringway.dev/app", "/container.NAME"],
        ),
    ] {
        let error = request(pairs).unwrap_err().to_string();
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
}

#[test]
fn any_text_is_a_bounded_request_or_an_error() {
    bolero::check!().with_type::<[String; 5]>().for_each(|values| {
        let keys = ["network", "cpus", "numa", "hugepages-2mi", "interfaces"];
        let pairs: BTreeMap<String, String> = keys
            .iter()
            .zip(values)
            .map(|(key, value)| (format!("{key}.ringway.dev"), value.clone()))
            .collect();
        if let Ok(Some(request)) = parse(&pairs, "app", decode) {
            assert!((1..=MAX_INTERFACES).contains(&request.interfaces.len()));
        }
    });
}
