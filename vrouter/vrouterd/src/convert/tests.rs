//! What is read from the wire, what is filled in and what is refused.

use super::*;
use vrouter_net::mpls::Label;
use vrouter_net::vxlan::Vni;

fn network() -> v1::Network {
    v1::Network { name: "red".into(), ipv4: "10.66.0.0/24".into(), ..Default::default() }
}

#[test]
fn a_network_gets_its_defaults() {
    let read = NetworkRequest::read(&network()).unwrap().write(0, 0);
    assert_eq!(read.gateway, "10.66.0.1");
    assert_eq!(read.mtu, 1500);
    assert_eq!(read.gateway_mac, NetworkRequest::read(&network()).unwrap().write(0, 0).gateway_mac);
    let blue = v1::Network { name: "blue".into(), ..network() };
    assert_ne!(read.gateway_mac, NetworkRequest::read(&blue).unwrap().write(0, 0).gateway_mac);
    let own = v1::Network { gateway_mac: "02:00:00:00:77:A1".into(), ..network() };
    let own = NetworkRequest::read(&own).unwrap().write(0, 0);
    assert_eq!(own.gateway_mac, "02:00:00:00:77:a1");
}

#[test]
fn a_bad_network_is_refused_by_field_and_value() {
    type Spoil = fn(&mut v1::Network);
    fn numbers(change: fn(&mut v1::Tunnel)) -> Option<v1::Tunnel> {
        let mut tunnel = tunnel(0, "192.0.2.1")?;
        change(&mut tunnel);
        Some(tunnel)
    }
    fn tunnel(vni: u32, local: &str) -> Option<v1::Tunnel> {
        let (underlay, local) = ("fabric".into(), local.into());
        Some(v1::Tunnel { vni, underlay, local, ..v1::Tunnel::default() })
    }
    let cases: [(Spoil, &str); 20] = [
        (
            |n| n.tunnel = numbers(|it| it.flood = vec!["192.0.2.x".into()]),
            "tunnel.flood \"192.0.2.x\": use IPv4 or IPv6",
        ),
        (|n| n.tunnel = tunnel(1 << 24, "192.0.2.1"), "tunnel.vni \"16777216\""),
        (|n| n.tunnel = tunnel(1, "x"), "tunnel.local \"x\""),
        (|n| n.tunnel = numbers(|it| it.label = 15), "tunnel.label \"15\": use 16 to 1048575"),
        (|n| n.tunnel = numbers(|it| it.label = 1 << 20), "tunnel.label \"1048576\""),
        (
            |n| n.tunnel = numbers(|it| it.no_vni = true),
            "tunnel.label \"0\": give it a VNI, a label, ipip or several",
        ),
        (
            |n| n.tunnel = numbers(|it| (it.no_vni, it.vni, it.label) = (true, 7, 99)),
            "tunnel.vni \"7\": leave it out",
        ),
        (|n| n.name = "Red".into(), "name \"Red\""),
        (|n| n.name = "red-".into(), "name \"red-\""),
        (|n| n.name = String::new(), "name \"\""),
        (|n| n.ipv4 = "10.66.0.1/24".into(), "ipv4 \"10.66.0.1/24\""),
        (|n| n.gateway = "x".into(), "gateway \"x\""),
        (|n| n.gateway_mac = "02:00".into(), "gateway_mac \"02:00\": use the form"),
        (|n| n.gateway_mac = "03:00:00:00:00:01".into(), "gateway_mac \"03:00:00:00:00:01\""),
        (|n| n.mtu = 70000, "mtu \"70000\""),
        (|n| n.ipv6 = "fd00::1/64".into(), "ipv6 \"fd00::1/64\": fd00::1/64 has bits set"),
        (|n| n.gateway6 = "fd00::1".into(), "gateway6 \"fd00::1\": is set but ipv6 is not"),
        (
            |n| (n.ipv6, n.gateway6) = ("fd00::/64".into(), "10.0.0.1".into()),
            "gateway6 \"10.0.0.1\": use an IPv6",
        ),
        (|n| n.mode = 7, "mode \"7\": use routed or bridged"),
        (|n| n.flood_limit = Some(v1::FloodLimit::default()), "flood_limit \"0\": only a bridged"),
    ];
    for (spoil, start) in cases {
        let mut wire = network();
        spoil(&mut wire);
        let error = NetworkRequest::read(&wire).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn a_network_has_both_families_and_a_mode() {
    let policer = v1::Policer { packets_per_second: 5000, ..Default::default() };
    let wire = v1::Network {
        ipv6: "FD00:66::/64".into(),
        mode: v1::NetworkMode::Bridged.into(),
        policer: Some(policer),
        tunnel: Some(v1::Tunnel {
            vni: 7,
            underlay: "fabric".into(),
            local: "192.0.2.1".into(),
            flood: vec!["192.0.2.7".into(), "192.0.2.8".into()],
            ..v1::Tunnel::default()
        }),
        ..network()
    };
    let read = NetworkRequest::read(&wire).unwrap();
    let policy = read.policy(NetworkIndex(3), |_| None);
    assert_eq!((policy.mode, policy.floods), (Mode::Bridged, FloodLimit::default()));
    assert_eq!(policy.ipv6.unwrap().gateway.to_string(), "fd00:66::1");
    let full = read.write(1, 2);
    assert_eq!((full.ipv6.as_str(), full.gateway6.as_str()), ("fd00:66::/64", "fd00:66::1"));
    assert_eq!((full.routes, full.stations, full.mode()), (1, 2, v1::NetworkMode::Bridged));
    assert_eq!(full.policer.unwrap().burst_packets, 64);
    let limit = full.flood_limit.unwrap();
    assert_eq!((limit.frames_per_second, limit.burst_frames), (1000, 100));
    assert_eq!(full.tunnel.as_ref().unwrap().flood, ["192.0.2.7", "192.0.2.8"]);
    // What is filled in asks for the same network.
    assert_eq!(NetworkRequest::read(&full).unwrap(), read);
}

#[test]
fn a_port_takes_from_its_network_what_it_leaves_out() {
    let policer = v1::Policer { packets_per_second: 5000, ..Default::default() };
    let wire = v1::Network { policer: Some(policer), ..network() };
    let network = NetworkRequest::read(&wire).unwrap();
    let policy = |policer| {
        let wire = v1::PortSpec {
            ipv6: "FD00:66::2".into(),
            allowed_sources: vec!["10.9.0.0/16".into(), "2001:DB8::/32".into()],
            trunk: true,
            policer,
            ..spec()
        };
        let mut read = PortRequest::read(wire).unwrap();
        read.join(&network).unwrap();
        assert!(PortRequest::read(read.spec.clone()).unwrap().same_port(&read));
        assert_eq!(read.spec.allowed_sources, ["10.9.0.0/16", "2001:db8::/32"]);
        read.policy(PortIndex(1), NetworkIndex(2))
    };
    let own = v1::Policer { packets_per_second: 7, burst_packets: 8, ..Default::default() };
    for (policer, rate) in
        [(None, Some((5000, 64))), (Some(own), Some((7, 8))), (Some(v1::Policer::default()), None)]
    {
        let policy = policy(policer);
        assert_eq!(policy.rates.packets.map(|rate| (rate.per_second, rate.burst)), rate);
        assert_eq!(policy.ipv6.unwrap().to_string(), "fd00:66::2");
        assert_eq!((policy.trunk, policy.allowed.len()), (true, 2));
    }
}

fn spec() -> v1::PortSpec {
    v1::PortSpec {
        id: "aa/0/net0".into(),
        network: "red".into(),
        mac: "02:00:00:00:00:0A".into(),
        ipv4: "10.66.0.2".into(),
        socket_path: "/run/x/net0.sock".into(),
        peer_cgroups: vec!["/k8s.io/aa".into()],
        ..Default::default()
    }
}

#[test]
fn a_port_is_the_same_whoever_may_connect() {
    let a = PortRequest::read(spec()).unwrap();
    assert_eq!((a.spec.queue_pairs, a.owner), (1, SocketOwner::Vrouter));
    assert_eq!(a.spec.mac, "02:00:00:00:00:0a");
    let b = PortRequest::read(v1::PortSpec {
        peer_cgroups: vec!["/k8s.io/bb".into()],
        ..a.spec.clone()
    });
    assert!(a.same_port(&b.unwrap()));
    let c = PortRequest::read(v1::PortSpec { ipv4: "10.66.0.3".into(), ..spec() }).unwrap();
    assert!(!a.same_port(&c));
}

#[test]
fn a_bad_port_is_refused_by_field_and_value() {
    type Spoil = fn(&mut v1::PortSpec);
    let cases: [(Spoil, &str); 9] = [
        (|s| s.id = String::new(), "id \"\""),
        (|s| s.id = "a b".into(), "id \"a b\""),
        (|s| s.mac = "02".into(), "mac \"02\""),
        (|s| s.ipv4 = "10.66.0.2/24".into(), "ipv4 \"10.66.0.2/24\""),
        (|s| s.queue_pairs = 17, "queue_pairs \"17\""),
        (|s| s.ipv6 = "fd00::2/64".into(), "ipv6 \"fd00::2/64\": use an IPv6 address"),
        (
            |s| s.allowed_sources = vec!["10.1.0.0/16".into(), "10.2.0.1/16".into()],
            "allowed_sources \"10.2.0.1/16\": 10.2.0.1/16 has bits set",
        ),
        (
            |s| s.policer = Some(v1::Policer { burst_bits: 1, ..Default::default() }),
            "policer.burst_bits \"1\": is a burst",
        ),
        (|s| s.peer_cgroups = vec!["/".into()], "peer_cgroups \"/\""),
    ];
    for (spoil, start) in cases {
        let mut wire = spec();
        spoil(&mut wire);
        let error = PortRequest::read(wire).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn refusals_have_the_codes_of_the_contract() {
    use tonic::Code;
    let unknown = Refusal::UnknownNetwork { name: "x".into(), known: "blue, red".into() };
    let status = tonic::Status::from(unknown);
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "unknown network \"x\"; known networks: blue, red");
    let long = SocketError::TooLong { path: "/x".into(), len: 200 };
    assert_eq!(tonic::Status::from(Refusal::Socket(long)).code(), Code::InvalidArgument);
    assert_eq!(tonic::Status::from(Refusal::Full { limit: 1 }).code(), Code::ResourceExhausted);
}

#[test]
fn stations_are_found_by_a_port_of_the_kernels_bridge() {
    let tunnel = v1::Tunnel {
        vni: 7,
        underlay: "fabric".into(),
        local: "192.0.2.1".into(),
        kernel_bridge_port: "pods7".into(),
        ..v1::Tunnel::default()
    };
    let bridged = v1::NetworkMode::Bridged.into();
    let wire = v1::Network { mode: bridged, tunnel: Some(tunnel.clone()), ..network() };
    let read = NetworkRequest::read(&wire).unwrap();
    let spec = read.kernel_bridge().unwrap();
    assert_eq!((spec.port.as_str(), spec.vni), ("pods7", 7));
    assert_eq!(NetworkRequest::read(&read.write(0, 0)).unwrap(), read);
    let refused = |wire: v1::Network| NetworkRequest::read(&wire).unwrap_err().to_string();
    let with = |tunnel| v1::Network { tunnel: Some(tunnel), ..wire.clone() };
    for (wire, words) in [
        (v1::Network { mode: 0, ..wire.clone() }, "\"pods7\": only a bridged network"),
        (
            with(v1::Tunnel { vni: 0, no_vni: true, label: 99, ..tunnel.clone() }),
            "\"pods7\": needs VXLAN",
        ),
        (with(v1::Tunnel { kernel_bridge_port: "a/b".into(), ..tunnel.clone() }), "\"a/b\": use"),
    ] {
        let error = refused(wire);
        assert!(error.starts_with(&format!("tunnel.kernel_bridge_port {words}")), "{error}");
    }
    let error = read.fits_one_of_several().unwrap_err().to_string();
    assert!(error.starts_with("tunnel.kernel_bridge_port \"pods7\": is of one vRouter"), "{error}");
    assert!(NetworkRequest::read(&network()).unwrap().fits_one_of_several().is_ok());
    let other = TunnelRequest { vni: Vni::new(8), ..read.tunnel.clone().unwrap() };
    let error = other.beside(&read.tunnel.unwrap(), "red").unwrap_err().to_string();
    assert!(error.contains("\"pods7\": network \"red\" has it"), "{error}");
}

#[test]
fn numbers_of_tunnels_are_one_networks() {
    let tunnel = |vni, label, underlay: &str| TunnelRequest {
        vni: Vni::new(vni),
        label: Label::new(label),
        ipip: false,
        underlay: underlay.into(),
        local: [192, 0, 2, 1].into(),
        gateways: false,
        flood: Vec::new(),
        kernel_bridge_port: None,
    };
    let red = tunnel(77, 700, "fabric");
    let refused = |other: TunnelRequest| other.beside(&red, "red").err().map(|it| it.to_string());
    assert_eq!(refused(tunnel(78, 701, "fabric")), None);
    assert_eq!(refused(tunnel(77, 700, "other")), None);
    // Neither has one: 15 is no label.
    let without = tunnel(78, 15, "fabric");
    assert_eq!(without.beside(&tunnel(79, 15, "fabric"), "red").ok(), Some(()));
    let vni = refused(tunnel(77, 701, "fabric"));
    assert_eq!(vni.as_deref(), Some("vni 77 is network \"red\"'s on \"fabric\"; choose another"));
    let label = refused(tunnel(78, 700, "fabric"));
    assert_eq!(
        label.as_deref(),
        Some("label 700 is network \"red\"'s on \"fabric\"; choose another")
    );
    // IP in IP has no number but the address.
    let ipip = |vni, last| TunnelRequest {
        ipip: true,
        local: [192, 0, 2, last].into(),
        ..tunnel(vni, vni, "fabric")
    };
    let beside = |last| ipip(80, last).beside(&ipip(81, 1), "red").err().map(|it| it.to_string());
    assert_eq!(beside(2), None);
    let expected =
        "ipip at local address 192.0.2.1 is network \"red\"'s on \"fabric\"; choose another";
    assert_eq!(beside(1).as_deref(), Some(expected));
    assert_eq!(ipip(80, 1).beside(&tunnel(81, 81, "fabric"), "red").ok(), Some(()));
}
