//! The shipped files, and what an operator is told about a wrong one.

use std::path::Path;

use serde::Serialize;

use crate::{
    CpuMode, NetworkMode, NriConfig, RouteAction, RuntimeConfig, SocketOwner, VrouterConfig,
};

const VROUTER_SAMPLE: &str = include_str!("../samples/vrouter.toml");
const NRI_SAMPLE: &str = include_str!("../samples/nri.toml");
const RUNTIME_SAMPLE: &str = include_str!("../samples/runtime.toml");

fn vrouter(text: &str) -> Result<VrouterConfig, String> {
    VrouterConfig::from_toml(text, Path::new("vrouter.toml")).map_err(|error| error.to_string())
}

fn nri(text: &str) -> Result<NriConfig, String> {
    NriConfig::from_toml(text, Path::new("nri.toml")).map_err(|error| error.to_string())
}

fn runtime(text: &str) -> Result<RuntimeConfig, String> {
    RuntimeConfig::from_toml(text, Path::new("runtime.toml")).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(runtime(""), Ok(RuntimeConfig::default()));
    assert_eq!(vrouter(""), Ok(VrouterConfig::default()));
    assert_eq!(nri(""), Ok(NriConfig::default()));
}

#[test]
fn samples_are_the_defaults() {
    assert_eq!(vrouter(VROUTER_SAMPLE), Ok(VrouterConfig::default()));
    assert_eq!(nri(NRI_SAMPLE), Ok(NriConfig::default()));
    assert_eq!(runtime(RUNTIME_SAMPLE), Ok(RuntimeConfig::default()));
}

/// A default that passes only because nobody checks it would be refused as soon as it is written down.
#[test]
fn samples_spell_out_every_key() {
    fn check(config: &impl Serialize, sample: &str) {
        for line in toml::to_string(config).unwrap().lines() {
            let key = line.split(" = ").next().unwrap();
            let written = |text: &str| text == key || text.starts_with(&format!("{key} = "));
            // An empty list of tables is written as `networks = []`, its sample as a comment.
            let table = format!("# [[{key}]]");
            assert!(sample.lines().any(|line| written(line) || line == table), "{key}");
        }
    }
    check(&VrouterConfig::default(), VROUTER_SAMPLE);
    check(&NriConfig::default(), NRI_SAMPLE);
    check(&RuntimeConfig::default(), RUNTIME_SAMPLE);
    assert!(VROUTER_SAMPLE.contains("# control_group = "));
}

#[test]
fn commented_parts_of_the_sample_are_valid_too() {
    let shown = VROUTER_SAMPLE.split_once("# [[networks]]").unwrap().1;
    // What is indented further explains the line above it.
    let lines = shown.lines().map(|line| line.strip_prefix("# ").unwrap_or_default());
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let config = vrouter(&format!("control_group = \"ringway\"\n[[networks]]{text}")).unwrap();
    assert_eq!(config.control_group.as_deref(), Some("ringway"));
    let [red, lan, fabric] = config.networks.as_slice() else { panic!("{config:?}") };
    assert_eq!((fabric.name.as_str(), fabric.external, fabric.mtu), ("fabric", true, 1500));
    let [uplink] = config.uplinks.as_slice() else { panic!("{config:?}") };
    assert_eq!((uplink.name.as_str(), uplink.network.as_str()), ("up0", "fabric"));
    let [instance] = config.instances.as_slice() else { panic!("{config:?}") };
    assert_eq!((instance.number, instance.node(), instance.cpus.len()), (0, 0, 2));
    assert_eq!((red.name.as_str(), red.mtu), ("red", 1500));
    assert_eq!(red.ipv4.unwrap().to_string(), "10.66.0.0/24");
    assert_eq!(red.gateway, Some([10, 66, 0, 1].into()));
    assert_eq!(red.ipv6.map(|prefix| prefix.to_string()).as_deref(), Some("fd00:66::/64"));
    assert_eq!(red.gateway6, Some("fd00:66::1".parse().unwrap()));
    assert_eq!((red.mode, lan.mode), (NetworkMode::Routed, NetworkMode::Bridged));
    let policer = red.policer.unwrap();
    assert_eq!((policer.packets_per_second, policer.burst_bits), (1_000_000, 100_000_000));
    let limit = lan.flood_limit.unwrap();
    assert_eq!((limit.frames_per_second, limit.burst_frames), (1000, 100));
    let [default, nowhere] = red.routes.as_slice() else { panic!("{red:?}") };
    assert_eq!((default.prefix.as_str(), default.action), ("0.0.0.0/0", RouteAction::Via));
    assert_eq!(default.via, Some("10.66.0.254".parse().unwrap()));
    assert_eq!((nowhere.action, nowhere.via), (RouteAction::Unreachable, None));
}

#[test]
fn values_reach_their_fields() {
    let config = vrouter(
        "control_socket = '/run/r/c.sock'\nlog = 'info,vrouter_vhost=debug'\n[dpdk]\nmemory_mb = 128\n\
         hugepages = false\nextra_args = ['-a', '0000:01:00.0']\n[workers]\ncpus = [3, 1]\nidle_spin_us = 0\n\
         [limits]\nports = 16\n[[networks]]\nname = 'blue'\nipv4 = '10.66.0.0/24'",
    )
    .unwrap();
    assert_eq!(config.control_socket, Path::new("/run/r/c.sock"));
    assert_eq!((config.dpdk.memory_mb, config.dpdk.hugepages), (128, false));
    assert_eq!(config.dpdk.extra_args, ["-a", "0000:01:00.0"]);
    assert_eq!((config.workers.cpus.as_slice(), config.workers.idle_spin_us), (&[3, 1][..], 0));
    // What is not written keeps its default, also beside what is.
    assert_eq!((config.workers.max_sleep_ms, config.limits.ports), (1000, 16));
    assert_eq!((config.networks[0].gateway, config.networks[0].mtu), (None, 1500));
    assert_eq!((config.networks[0].ipv6, config.networks[0].policer), (None, None));

    let config =
        nri("run_dir = '/run/r'\n[cpus]\nreserved = '0-1,8'\n[defaults]\nsocket = 'pod'").unwrap();
    assert_eq!(
        (config.run_dir.as_path(), config.cpus.reserved.as_str()),
        (Path::new("/run/r"), "0-1,8")
    );
    assert_eq!((config.defaults.socket, config.defaults.queue_size), (SocketOwner::Pod, 1024));

    let text = "cpus.mode = 'follow'\nlimits.namespaces = ['*', 'team-*']\nlimits.hugepages = '4Gi'\n\
                [networks.red]\nnamespaces = ['telco']\n[networks.blue]";
    let config = nri(text).unwrap();
    assert_eq!(
        (config.cpus.mode, config.limits.hugepage_bytes()),
        (CpuMode::Follow, Some(4 << 30))
    );
    assert_eq!(config.networks["red"].namespaces, ["telco"]);
    assert!(config.networks["blue"].namespaces.is_empty());
    assert_eq!(NriConfig::default().limits.hugepage_bytes(), None);
}

/// What the sample shows as a comment only, because it has no default.
#[test]
fn the_samples_network_section_is_right() {
    let text: String = NRI_SAMPLE
        .lines()
        .skip_while(|line| *line != "# [networks.red]")
        .filter_map(|line| line.strip_prefix("# "))
        .map(|line| format!("{line}\n"))
        .collect();
    let red = &nri(&text).unwrap().networks["red"];
    assert_eq!(red.namespaces, ["telco"]);
    assert_eq!(red.ipam.as_deref(), Some("host-local"));
}

/// Each message is one line with the place, the key, the value and the remedy.
fn check_error(result: Result<impl std::fmt::Debug, String>, text: &str, parts: &[&str]) {
    let error = result.expect_err(text);
    assert!(!error.contains('\n'), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?} for {text:?}");
    }
}

#[test]
fn errors_of_vrouter_toml() {
    let long = format!("control_socket = '/{}'", "x".repeat(107));
    let ipv6 = |more: &str| format!("[[networks]]\nname = 'a'\nipv4 = '10.66.0.0/24'\n{more}");
    let tunnel = |more: &str, route: &str| {
        let tunnel = ipv6(&format!("tunnel = {{ underlay = 'f', local = '192.0.2.1'{more} }}\n"));
        let prefix = if route.is_empty() { "" } else { "prefix = '10.1.0.0/16', " };
        let routes = if route.is_empty() { "" } else { "routes = [{ PREFIX }]\n" };
        let routes = routes.replace("PREFIX", &format!("{prefix}{route}"));
        format!("{tunnel}{routes}[[networks]]\nname = 'f'\nexternal = true\n")
    };
    let bridged = |more: &str| {
        tunnel(&format!(", {more}"), "").replace("name = 'a'", "name = 'a'\nmode = 'bridged'")
    };
    let ends: Vec<_> = (2..=66).map(|last| format!("'192.0.2.{last}'")).collect();
    for (text, parts) in [
        ("log = ", &["vrouter.toml:1: not valid TOML"][..]),
        ("\n\nlog = 'info'\nlog = 'debug'", &["vrouter.toml:4: not valid TOML", "duplicate key"]),
        (
            "logg = 'info'",
            &["vrouter.toml:1: unknown key `logg`", "did you mean `log`?", "known here:"],
        ),
        (
            "[workers]\n\nidle_spin = 5",
            &["vrouter.toml:3: unknown key `workers.idle_spin`", "idle_spin_us", "max_sleep_ms"],
        ),
        (
            "[worker]\ncpus = []",
            &["vrouter.toml:1: unknown key `worker`", "did you mean `workers`?"],
        ),
        (
            "[dpdk]\nmemory_mb = 'lots'",
            &["vrouter.toml:2: bad value 'lots' for `dpdk.memory_mb`", "invalid type", "u32"],
        ),
        ("[dpdk]\nmemory_mb = -1", &["vrouter.toml:2: bad value -1 for `dpdk.memory_mb`", "u32"]),
        ("\n[dpdk]\nmemory_mb = 8", &["vrouter.toml:3: bad value 8 for `dpdk.memory_mb`", "16 to"]),
        ("[dpdk]\nhugepages = 1", &["vrouter.toml:2: bad value 1 for `dpdk.hugepages`", "boolean"]),
        (
            "[dpdk]\nextra_args = [\n'-a',\n'-a 0000:01:00.0']",
            &["vrouter.toml:4: bad value \"-a 0000:01:00.0\" for `dpdk.extra_args[1]`", "one word"],
        ),
        ("[workers]\ncpus = [1, 1]", &["bad value 1 for `workers.cpus[1]`", "twice"]),
        ("[workers]\ncpus = '1-2'", &["bad value '1-2' for `workers.cpus`", "sequence"]),
        ("[workers]\ncpus = [9000]", &["bad value 9000 for `workers.cpus[0]`", "0 to 8191"]),
        (
            "[workers]\nassignment = 'random'",
            &["bad value 'random' for `workers.assignment`", "round-robin", "load"],
        ),
        (
            "workers.max_sleep_ms = 0",
            &["vrouter.toml:1:", "bad value 0 for `workers.max_sleep_ms`", "1 to 60000"],
        ),
        ("limits = { ports = 70000 }", &["bad value 70000 for `limits.ports`", "1 to 65535"]),
        ("run_dir = 'run'", &["bad value \"run\" for `run_dir`", "absolute"]),
        ("run_dir = '/run/../etc'", &["`run_dir`", "`..`"]),
        ("run_dir = '/run/a,b'", &["`run_dir`", "commas"]),
        (&long, &["`control_socket`", "has 108 bytes", "shorter than 108"]),
        ("control_group = ''", &["bad value \"\" for `control_group`", "leave it out"]),
        ("log = 'loud'", &["bad value \"loud\" for `log`", "debug"]),
        ("[[networks]]\nname = 'red'", &["vrouter.toml:1:", "`networks[0].ipv4`", "required"]),
        (
            "[[networks]]\nname = 'red'\nipv4 = '10.66.0.1/24'",
            &[
                "vrouter.toml:3: bad value '10.66.0.1/24' for `networks[0].ipv4`",
                "\"10.66.0.0/24\"",
            ],
        ),
        (
            "[[networks]]\nname = 'Red'\nipv4 = '10.66.0.0/24'",
            &["\"Red\" for `networks[0].name`", "lower case"],
        ),
        (
            "[[networks]]\nname = 'a'\nipv4 = '10.66.0.0/24'\n[[networks]]\nname = 'a'\nipv4 = '10.67.0.0/24'",
            &["vrouter.toml:5: bad value \"a\" for `networks[1].name`", "another network"],
        ),
        (
            "[[networks]]\nname = 'a'\nipv4 = '10.66.0.0/24'\ngateway = '10.67.0.1'",
            &[
                "vrouter.toml:4: bad value \"10.67.0.1\" for `networks[0].gateway`",
                "inside 10.66.0.0/24",
            ],
        ),
        (
            "[[networks]]\nname = 'a'\nipv4 = '10.66.0.0/24'\nmtu = 60",
            &["vrouter.toml:4: bad value 60 for `networks[0].mtu`", "68 to 9216"],
        ),
        (
            "[[networks]]\nname = 'a'\nipv4 = '10.66.0.0/24'\nroutes = [\n{ prefix = '10.1.0.0/8', via = '10.66.0.9' }]",
            &[
                "vrouter.toml:5: bad value \"10.1.0.0/8\" for `networks[0].routes[0].prefix`",
                "no bits",
            ],
        ),
        (
            "[[networks]]\nname = 'a'\nipv4 = '10.66.0.0/24'\nroutes = [{ prefix = 'fd00::/129', via = '10.66.0.9' }]",
            &[
                "bad value \"fd00::/129\" for `networks[0].routes[0].prefix`",
                "a slash and a length",
            ],
        ),
        (
            "[[networks]]\nname = 'a'\nipv4 = '10.66.0.0/24'\nroutes = [{ prefix = '::/0', via = 'red' }]",
            &["bad value 'red' for `networks[0].routes[0].via`"],
        ),
        (
            "[[networks]]\nname = 'a'\nipv4 = '10.66.0.0/24'\nroutes = [{ prefix = '0.0.0.0/0' }]",
            &["`networks[0].routes[0].via`", "is missing"],
        ),
        (
            "[[networks]]\nname = 'a'\nipv4 = '10.66.0.0/24'\nroutes = [{ prefix = '0.0.0.0/0', action = 'drop', via = '10.66.0.9' }]",
            &["bad value \"10.66.0.9\" for `networks[0].routes[0].via`", "left out"],
        ),
        (
            &ipv6("ipv6 = 'fd00::1/64'"),
            &["bad value 'fd00::1/64' for `networks[0].ipv6`", "\"fd00::/64\""],
        ),
        (&ipv6("ipv6 = 'fd00::/128'"), &["`networks[0].ipv6`", "1 to 127"]),
        (
            &ipv6("ipv6 = 'fd00::/64'\ngateway6 = 'fd00::'"),
            &[
                "vrouter.toml:5: bad value \"fd00::\" for `networks[0].gateway6`",
                "inside fd00::/64",
            ],
        ),
        (&ipv6("gateway6 = 'fd00::1'"), &["`networks[0].gateway6`", "needs `ipv6`"]),
        (
            &ipv6("ipv6 = 'fd00::/64'\nmtu = 1200"),
            &["bad value 1200 for `networks[0].mtu`", "1280 to 9216"],
        ),
        (
            &ipv6("mode = 'switched'"),
            &["bad value 'switched' for `networks[0].mode`", "routed", "bridged"],
        ),
        (
            &ipv6("flood_limit = { frames_per_second = 5, burst_frames = 5 }"),
            &["bad value 5 for `networks[0].flood_limit.frames_per_second`", "mode = \"bridged\""],
        ),
        (
            &ipv6("mode = 'bridged'\nflood_limit = { frames_per_second = 5 }"),
            &["`networks[0].flood_limit.burst_frames`", "required"],
        ),
        (
            &ipv6("policer = { packets = 5 }"),
            &["unknown key `networks[0].policer.packets`", "packets_per_second"],
        ),
        (
            &ipv6("policer = { packets_per_second = 9, burst_bits = 5 }"),
            &["bad value 5 for `networks[0].policer.burst_bits`", "set `bits_per_second`"],
        ),
        (
            &ipv6("policer = { bits_per_second = 9, burst_bits = 12143 }"),
            &["bad value 12143 for `networks[0].policer.burst_bits`", "use 12144"],
        ),
        (
            &ipv6("policer = { bits_per_second = -9 }"),
            &["bad value -9 for `networks[0].policer.bits_per_second`", "u64"],
        ),
        (
            &tunnel("", ""),
            &["`networks[0].tunnel.vni`", "a `label` (MPLS over UDP), `ipip = true` or"],
        ),
        (
            &tunnel(", vni = 7, flood = ['192.0.2.7']", ""),
            &[
                "bad value \"192.0.2.7\" for `networks[0].tunnel.flood[0]`",
                "only a bridged network",
            ],
        ),
        (
            &tunnel(", vni = 7, kernel_bridge_port = 'pods7'", ""),
            &[
                "bad value \"pods7\" for `networks[0].tunnel.kernel_bridge_port`",
                "mode = \"bridged\"",
            ],
        ),
        (
            &bridged("label = 99, kernel_bridge_port = 'pods7'"),
            &["bad value \"pods7\" for `networks[0].tunnel.kernel_bridge_port`", "a `vni`"],
        ),
        (
            &bridged("vni = 7, kernel_bridge_port = 'a/b'"),
            &["bad value \"a/b\" for `networks[0].tunnel.kernel_bridge_port`"],
        ),
        (
            &bridged("label = 99, flood = ['192.0.2.7']"),
            &[
                "bad value \"192.0.2.7\" for `networks[0].tunnel.flood[0]`",
                "give the tunnel a `vni`",
            ],
        ),
        (
            &bridged("vni = 7, flood = ['192.0.2.7', '192.0.2.7']"),
            &["bad value \"192.0.2.7\" for `networks[0].tunnel.flood[1]`", "is there twice"],
        ),
        (
            &bridged("vni = 7, flood = ['192.0.2.1']"),
            &["bad value \"192.0.2.1\" for `networks[0].tunnel.flood[0]`", "another host's"],
        ),
        (
            &bridged("vni = 7, flood = ['2001:db8::1']"),
            &["bad value \"2001:db8::1\" for `networks[0].tunnel.flood[0]`", "same family"],
        ),
        (
            &bridged("vni = 7, flood = ['239.1.1.1']"),
            &["bad value \"239.1.1.1\" for `networks[0].tunnel.flood[0]`", "a host's address"],
        ),
        (
            &bridged("vni = 7, flood = ['192.0.2.x']"),
            &["bad value '192.0.2.x' for `networks[0].tunnel.flood[0]`"],
        ),
        (
            &bridged(&format!("vni = 7, flood = [{}]", ends.join(", "))),
            &["bad value \"192.0.2.66\" for `networks[0].tunnel.flood[64]`", "at most 64"],
        ),
        (
            &ipv6("announce_pods = true"),
            &["`networks[0].announce_pods`", "needs a kernel_table or kernel_vrf"],
        ),
        (
            &tunnel(", vni = 7, gateways = true", ""),
            &["`networks[0].tunnel.gateways`", "kernel_table or kernel_vrf"],
        ),
        (
            &format!(
                "{}{}",
                tunnel(", vni = 7", ""),
                ipv6("tunnel = { underlay = 'f', local = '192.0.2.1', vni = 7 }")
                    .replace("'a'", "'b'")
            ),
            &["bad value 7 for `networks[2].tunnel.vni`", "network \"a\" has it on that underlay"],
        ),
        (
            &format!(
                "{}{}",
                tunnel(", ipip = true", "action = 'ipip', via = '192.0.2.2'"),
                ipv6("tunnel = { underlay = 'f', local = '192.0.2.1', vni = 7, ipip = true }")
                    .replace("'a'", "'b'")
            ),
            &[
                "`networks[2].tunnel.ipip`",
                "network \"a\" has it at that `local` address",
                "a `vni`",
            ],
        ),
        (
            &tunnel(", vni = 7", "action = 'ipip', via = '192.0.2.2'"),
            &["`networks[0].routes[0].via`", "no `tunnel` with `ipip = true`"],
        ),
        (
            &tunnel(", ipip = true", "action = 'ipip'"),
            &["`networks[0].routes[0].via`", "is missing"],
        ),
        (&tunnel(", ipip = 1", ""), &["bad value 1 for `networks[0].tunnel.ipip`"]),
        (
            &tunnel(", label = 15", ""),
            &["bad value 15 for `networks[0].tunnel.label`", "16 to 1048575"],
        ),
        (
            &tunnel(", label = 16", "action = 'vxlan', via = '192.0.2.2'"),
            &["`networks[0].routes[0].via`", "no `tunnel` with a `vni`"],
        ),
        (
            &tunnel(", vni = 7", "action = 'mpls', via = '192.0.2.2'"),
            &["`networks[0].routes[0].label`", "is missing"],
        ),
        (
            &tunnel(", vni = 7", "action = 'mpls', label = 99"),
            &["`networks[0].routes[0].via`", "is missing"],
        ),
        (
            &tunnel(", vni = 7", "action = 'vxlan', via = '192.0.2.2', label = 99"),
            &[
                "bad value 99 for `networks[0].routes[0].label`",
                "only a route with the action `mpls`",
            ],
        ),
        (
            "[[networks]]\nname = 'a'\nipv4 = '10.66.0.0/24'\nvni = 7",
            &[
                "vrouter.toml:4: unknown key `networks[0].vni`",
                "known here: name, external, ipv4, gateway, mtu, ipv6, gateway6, mode, flood_limit, policer, routes, tunnel",
            ],
        ),
    ] {
        check_error(vrouter(text), text, parts);
    }
}

#[test]
fn errors_of_nri_toml() {
    let long = format!("run_dir = '/{}'", "x".repeat(25));
    for (text, parts) in [
        (long.as_str(), &["nri.toml:1:", "`run_dir`", "longer than 25 bytes"][..]),
        (
            "vrouter_soket = '/x'",
            &["unknown key `vrouter_soket`", "did you mean `vrouter_socket`?"],
        ),
        ("plugin_index = 10", &["bad value 10 for `plugin_index`", "string"]),
        ("plugin_index = '1'", &["bad value 1 for `plugin_index`", "two digits"]),
        ("plugin_name = 'a b'", &["bad value \"a b\" for `plugin_name`", "letters"]),
        (
            "vrouter_timeout_ms = 5000",
            &["bad value 5000 for `vrouter_timeout_ms`", "10 to 1500", "2000"],
        ),
        ("vrouter_timeout_ms = 9", &["bad value 9 for `vrouter_timeout_ms`", "10 to 1500"]),
        ("vrouter_timeout_ms = 1501", &["bad value 1501 for `vrouter_timeout_ms`", "10 to 1500"]),
        (
            "runtime_timeout_ms = 10000\nvrouter_timeout_ms = 7501",
            &["bad value 7501 for `vrouter_timeout_ms`", "10 to 7500"],
        ),
        ("runtime_timeout_ms = 999", &["bad value 999 for `runtime_timeout_ms`", "1000 to 60000"]),
        ("sysfs_root = ''", &["bad value \"\" for `sysfs_root`", "absolute"]),
        (
            "[cpus]\nreserved = '3-1'",
            &["nri.toml:2: bad value \"3-1\" for `cpus.reserved`", "0-1,8"],
        ),
        ("[cpus]\nreserved = '0,+1'", &["bad value \"0,+1\" for `cpus.reserved`"]),
        ("[cpus]\nreserved = '0,'", &["bad value \"0,\" for `cpus.reserved`"]),
        ("[cpus]\nreserved = [0]", &["bad value [0] for `cpus.reserved`", "string"]),
        (
            "[defaults]\nqueue_size = 1000",
            &["bad value 1000 for `defaults.queue_size`", "power of two"],
        ),
        ("[defaults]\nqueue_size = 65536", &["bad value 65536 for `defaults.queue_size`", "u16"]),
        (
            "[defaults]\nsocket = 'host'",
            &["bad value 'host' for `defaults.socket`", "vrouter", "pod"],
        ),
        ("[cpus]\nmode = 'kubelet'", &["`cpus.mode`", "own", "follow", "off"]),
        (
            "[limits]\nnamespaces = ['a', '*b']",
            &["nri.toml:2: bad value \"*b\" for `limits.namespaces`", "team-*"],
        ),
        ("[limits]\nnamespaces = ['']", &["for `limits.namespaces`"]),
        ("[limits]\ninterfaces = 0", &["bad value 0 for `limits.interfaces`", "1 to 16"]),
        ("[limits]\nqueues = 17", &["bad value 17 for `limits.queues`", "1 to 16"]),
        ("[limits]\ncpus = 128", &["bad value 128 for `limits.cpus`", "0 to 127"]),
        ("[limits]\nhugepages = '4G'", &["bad value \"4G\" for `limits.hugepages`", "4Gi"]),
        ("[networks.Red]", &["`networks.Red`", "lower case"]),
        ("[networks.red]\nnamespace = 'a'", &["`networks.red.namespace`", "`namespaces`"]),
        ("[networks.red]\nipam = '../x'", &["bad value \"../x\" for `networks.red.ipam`"]),
        (
            "[networks.red]\nipam = '..'",
            &["bad value \"..\" for `networks.red.ipam`", "host-local"],
        ),
        ("[networks.red]\nipam_file = 'x'", &["bad value \"x\" for `networks.red.ipam_file`"]),
        ("[ipam]\ntimeout_ms = 1001", &["bad value 1001 for `ipam.timeout_ms`", "10 to 1000"]),
        ("[ipam]\ndirectories = ['bin']", &["bad value \"bin\" for `ipam.directories`"]),
        (
            "[ipam]\ntimeout_ms = 501\n[networks.red]\nipam = 'host-local'",
            &["bad value 501 for `ipam.timeout_ms`", "1501", "at most 1500"],
        ),
        (
            "runtime_timeout_ms = 1600\n[networks.red]\nipam = 'host-local'",
            &["bad value 400 for `ipam.timeout_ms`", "1400", "1600 ms", "at most 1200"],
        ),
        (
            "[networks.red]\nnamespaces = ['A']",
            &["nri.toml:2: bad value \"A\" for `networks.red.namespaces`"],
        ),
    ] {
        check_error(nri(text), text, parts);
    }
}

#[test]
fn errors_of_runtime_toml() {
    for (text, parts) in [
        ("runtime = ''", &["runtime.toml:1: bad value \"\" for `runtime`", "runc"][..]),
        ("runtime = 'bin/runc'", &["bad value \"bin/runc\" for `runtime`", "absolute"]),
        ("run_dir = 'run'", &["bad value \"run\" for `run_dir`", "absolute"]),
        ("timeout_ms = 7", &["bad value 7 for `timeout_ms`", "100 to 60000"]),
        ("runtimes = ['runc']", &["unknown key `runtimes`", "did you mean `runtime`?"]),
    ] {
        check_error(runtime(text), text, parts);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_its_remedy() {
    let source = std::io::Error::from(std::io::ErrorKind::NotFound);
    let error = crate::ConfigError::Unreadable { file: "/etc/ringway/nri.toml".into(), source };
    check_error(Err::<(), _>(error.to_string()), "", &["/etc/ringway/nri.toml", "--config"]);
}

#[test]
fn containerd_drop_ins_enable_nri() {
    for (text, version) in [
        (include_str!("../containerd/ringway-1.7.toml"), 2),
        (include_str!("../containerd/ringway-2.x.toml"), 3),
    ] {
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["version"].as_integer(), Some(version));
        let nri = &table["plugins"]["io.containerd.nri.v1.nri"];
        assert_eq!(nri["disable"].as_bool(), Some(false));
        assert_eq!(nri["disable_connections"].as_bool(), Some(false));
        assert_eq!(nri["socket_path"].as_str(), NriConfig::default().nri_socket.to_str());
    }
}

#[test]
fn systemd_units_agree_with_the_defaults() {
    for (unit, binary) in [
        (include_str!("../systemd/ringway-vrouter.service"), "/usr/bin/ringway-vrouter"),
        (
            include_str!("../systemd/ringway-vrouter@.service"),
            "/usr/bin/ringway-vrouter --instance %i",
        ),
        (include_str!("../systemd/ringway-nri.service"), "/usr/bin/ringway-nri"),
    ] {
        let value =
            |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        assert_eq!(value("ExecStart"), Some(binary));
        // ProtectSystem=strict leaves only the run directory writable, and it has to outlive the service.
        let run_dir = format!("/run/{}", value("RuntimeDirectory").unwrap());
        assert_eq!(Path::new(&run_dir), NriConfig::default().run_dir);
        assert_eq!(Path::new(&run_dir), VrouterConfig::default().run_dir);
        assert_eq!(value("RuntimeDirectoryPreserve"), Some("yes"));
    }
}
