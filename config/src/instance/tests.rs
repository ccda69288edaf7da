use std::path::Path;

use super::*;

const TWO: &str = r#"
[[instances]]
number = 0
cpus = [2]
[[instances]]
number = 1
cpus = [10]
memory_mb = 128
[[networks]]
name = "red"
ipv4 = "10.66.0.0/24"
"#;

const OUTSIDE: &str = r#"
[[instances]]
number = 0
addresses = { fabric = "192.0.2.1" }
[[instances]]
number = 1
numa_node = 0
addresses = { fabric = "192.0.2.2" }
[[networks]]
name = "red"
ipv4 = "10.66.0.0/24"
tunnel = { underlay = "fabric", vni = 77 }
[[networks]]
name = "blue"
ipv4 = "10.67.0.0/24"
[[networks]]
name = "fabric"
external = true
[[uplinks]]
name = "up0"
device = "eth1"
network = "fabric"
instance = 0
[[uplinks]]
name = "up1"
device = "eth2"
network = "fabric"
instance = 1
"#;

fn read(text: &str) -> Result<VrouterConfig, String> {
    VrouterConfig::from_toml(text, Path::new("vrouter.toml")).map_err(|error| error.to_string())
}

#[test]
fn each_has_what_is_its_own() {
    let config = read(TWO).unwrap();
    let (zero, one) = (config.of_instance(0).unwrap(), config.of_instance(1).unwrap());
    assert_eq!(config.of_instance(2), None);
    assert_eq!(config.each(), [zero.clone(), one.clone()]);
    assert_eq!(VrouterConfig::default().each(), [VrouterConfig::default()]);
    let socket = |config: &VrouterConfig| config.control_socket.display().to_string();
    assert_eq!(socket(&zero), "/run/ringway/vrouter-0/api.sock");
    assert_eq!(socket(&one), "/run/ringway/vrouter-1/api.sock");
    assert_eq!((zero.workers.cpus, one.workers.cpus), (vec![2], vec![10]));
    assert_eq!((zero.dpdk.numa_node, one.dpdk.numa_node), (Some(0), Some(1)));
    assert_eq!((zero.dpdk.memory_mb, one.dpdk.memory_mb), (64, 128));
    assert_eq!((zero.instance, one.instance), (Some(0), Some(1)));
}

#[test]
fn networks_without_tunnel_are_joined_by_a_link() {
    let config = read(TWO).unwrap();
    let (zero, one) = (config.of_instance(0).unwrap(), config.of_instance(1).unwrap());
    let tunnel = |config: &VrouterConfig| {
        let network = config.networks.iter().find(|network| network.name == "red").unwrap();
        network.tunnel.clone().unwrap()
    };
    let (here, there) = (tunnel(&zero), tunnel(&one));
    assert_eq!((here.underlay.as_str(), here.vni), (LINK_NETWORK, there.vni));
    assert_eq!(
        [here.local, there.local].map(|it| it.to_string()),
        ["169.254.82.1", "169.254.82.2"]
    );
    let ([link], [back]) = (&zero.links[..], &one.links[..]) else { panic!("one link each") };
    assert_eq!((link.mac, link.peer_mac), (back.peer_mac, back.mac));
    assert_eq!((&link.socket, link.listens, back.listens), (&back.socket, true, false));
    assert_eq!((link.peer_address, back.peer_address), (there.local, here.local));
    assert_eq!((link.name.as_str(), link.mtu), ("to-vrouter-1", 1848));
    // Only the end whose memory is shared has to keep it together.
    let single = |config: &VrouterConfig| {
        config.dpdk.extra_args.iter().any(|word| word == "--single-file-segments")
    };
    assert!(!single(&zero) && single(&one));
}

#[test]
fn a_network_with_a_tunnel_is_joined_where_its_tunnels_are() {
    let config = read(OUTSIDE).unwrap();
    let one = config.of_instance(1).unwrap();
    assert_eq!(one.uplinks.len(), 1);
    assert_eq!(one.uplinks[0].name, "up1");
    let red = one.networks[0].tunnel.clone().unwrap();
    assert_eq!((red.underlay.as_str(), red.local.to_string().as_str()), ("fabric", "192.0.2.2"));
    let blue = one.networks[1].tunnel.clone().unwrap();
    assert_eq!((blue.underlay.as_str(), blue.vni), (LINK_NETWORK, Some(vni("blue"))));
    let links = one.links.iter().map(|link| {
        (link.name.as_str(), link.network.as_str(), link.peer_address.to_string(), link.mtu)
    });
    assert_eq!(
        links.collect::<Vec<_>>(),
        [
            ("to-vrouter-0", "fabric", "192.0.2.1".to_owned(), 1500),
            ("to-vrouter-0.1", LINK_NETWORK, "169.254.82.1".to_owned(), 1848),
        ]
    );
    assert_eq!(one.dpdk.numa_node, Some(0));
}

/// Others are ends of a bridged network beside those that the file names.
#[test]
fn bridged_networks_stretch_to_the_other_instances() {
    let ends = |text: &str, number| {
        let config = read(text).unwrap().of_instance(number).unwrap();
        let tunnel = config.networks[0].tunnel.clone().unwrap();
        tunnel.flood.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let bridged =
        |text: &str| text.replacen("name = \"red\"", "name = \"red\"\nmode = \"bridged\"", 1);
    for number in [0, 1] {
        assert!(ends(TWO, number).is_empty() && ends(OUTSIDE, number).is_empty());
    }
    assert_eq!(ends(&bridged(TWO), 0), ["169.254.82.2"]);
    assert_eq!(ends(&bridged(TWO), 1), ["169.254.82.1"]);
    let outside = bridged(OUTSIDE).replace("vni = 77", "vni = 77, flood = [\"192.0.2.7\"]");
    assert_eq!(ends(&outside, 0), ["192.0.2.7", "192.0.2.2"]);
    assert_eq!(ends(&outside, 1), ["192.0.2.7", "192.0.2.1"]);
    let own = read(&outside.replace("192.0.2.7", "192.0.2.2")).unwrap_err();
    assert!(own.contains("`networks[0].tunnel.flood[0]`: must be another host's"), "{own}");
}

#[test]
fn one_instance_has_no_links_and_no_tunnels_of_its_own_accord() {
    let config =
        read("[[instances]]\nnumber = 3\n[[networks]]\nname = 'red'\nipv4 = '10.6.0.0/24'");
    let three = config.unwrap().of_instance(3).unwrap();
    assert!(three.links.is_empty() && three.networks[0].tunnel.is_none());
}

#[test]
fn numbers_of_networks_fit() {
    for name in ["red", "blue", "a", "0"] {
        assert!(vni(name) < 1 << 24, "{name}");
    }
    assert_ne!(vni("red"), vni("blue"));
}

#[test]
fn what_is_wrong_is_named() {
    for (text, expected) in [
        (TWO.replace("number = 1", "number = 0"), "`instances[1].number`: another"),
        (TWO.replace("number = 1", "number = 16"), "`instances[1].number`: must be 0 to 15"),
        (TWO.replace("[10]", "[2]"), "`instances[1].cpus[0]`: is there twice"),
        (TWO.replace("128", "1"), "`instances[1].memory_mb`"),
        (format!("{TWO}[workers]\ncpus = [3]"), "`workers.cpus[0]`: must be left out"),
        (format!("{TWO}[dpdk]\nnuma_node = 3"), "`dpdk.numa_node`: must be left out"),
        (format!("control_socket = '/run/x.sock'\n{TWO}"), "`control_socket`: must be left out"),
        (TWO.replace("red", LINK_NETWORK), "`networks[0].name`: must be another"),
        (OUTSIDE.replace("instance = 1", ""), "`uplinks[1].instance`: must say which"),
        (OUTSIDE.replace("instance = 1", "instance = 2"), "one of 0, 1"),
        (OUTSIDE.replace("eth2", "eth1"), "`uplinks[1].device`: another uplink"),
        (OUTSIDE.replace("\"up1\"", "\"to-vrouter-0\""), "`uplinks[1].name`: must not begin so"),
        (OUTSIDE.replace("192.0.2.2", "192.0.2.1"), "`instances[1].addresses.fabric`: another"),
        (OUTSIDE.replace("{ fabric = \"192.0.2.2\" }", "{}"), "`instances[1].addresses`: needs"),
        (OUTSIDE.replace("192.0.2.2\" }", "192.0.2.2\", blue = \"::1\" }"), "addresses.blue`: must be left out"),
        (OUTSIDE.replace("vni = 77", "vni = 77, local = \"192.0.2.1\""), "tunnel.local`: must be left out"),
        (OUTSIDE.replace("vni = 77", "label = 77"), "`networks[0].tunnel.vni`: is missing"),
        (
            "[[networks]]\nname = 'red'\nipv4 = '10.6.0.0/24'\ntunnel = { underlay = 'f', vni = 7 }\n\
             [[networks]]\nname = 'f'\nexternal = true".to_owned(),
            "`networks[0].tunnel.local`: is missing",
        ),
        (
            "[[networks]]\nname = 'f'\nexternal = true\n[[uplinks]]\nname = 'a'\ndevice = 'eth1'\n\
             network = 'f'\ninstance = 0".to_owned(),
            "`uplinks[0].instance`: must be left out",
        ),
    ] {
        let error = read(&text).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
