//! What of `vrouter.toml` cannot be.

use super::{
    KernelTable, LOCAL_TABLE, MAIN_TABLE, NetworkMode, NetworkSettings, PolicerSettings,
    RouteAction, VrouterConfig,
};
use crate::check::{self, Problem};
use crate::instance::LAST_NODE;
use crate::tunnel::label_range;
use crate::{kernel_port, uplink};

impl VrouterConfig {
    pub(super) fn check(&self) -> Result<(), Problem> {
        check::socket("control_socket", &self.control_socket)?;
        if let Some(group) = &self.control_group {
            check::group("control_group", group)?;
        }
        check::directory("run_dir", &self.run_dir)?;
        check::log("log", &self.log)?;
        check::range("dpdk.memory_mb", self.dpdk.memory_mb, 16, 1 << 20)?;
        check::range("dpdk.numa_node", self.dpdk.numa_node.unwrap_or(0), 0, LAST_NODE)?;
        check::range("dpdk.buffers", self.dpdk.buffers, 1023, 1 << 22)?;
        check::range("dpdk.buffer_bytes", self.dpdk.buffer_bytes, 2048, 16_384)?;
        for (index, word) in self.dpdk.extra_args.iter().enumerate() {
            if word.is_empty() || word.contains(char::is_whitespace) || word.contains('\0') {
                return Err(Problem::new(
                    format!("dpdk.extra_args[{index}]"),
                    word,
                    "must be one word; give each EAL argument its own entry, as [\"-a\", \"0000:01:00.0\"]",
                ));
            }
        }
        for (index, cpu) in self.workers.cpus.iter().enumerate() {
            let key = format!("workers.cpus[{index}]");
            check::range(&key, *cpu, 0, check::LAST_CPU)?;
            if self.workers.cpus[..index].contains(cpu) {
                return Err(Problem::new(key, cpu, "is there twice; each CPU has one worker"));
            }
        }
        check::range("workers.idle_spin_us", self.workers.idle_spin_us, 0, 1_000_000)?;
        check::range("workers.max_sleep_ms", self.workers.max_sleep_ms, 1, 60_000)?;
        check::range("workers.max_rest_us", self.workers.max_rest_us, 0, 400)?;
        check::range("workers.uplink_poll_us", self.workers.uplink_poll_us, 10, 60_000_000)?;
        check::range("limits.ports", self.limits.ports, 1, 65_535)?;
        self.networks
            .iter()
            .enumerate()
            .try_for_each(|(index, network)| self.check_network(index, network))?;
        uplink::check(self)?;
        self.check_instances()
    }

    fn check_kernel_table(
        &self,
        key: &dyn Fn(&str) -> String,
        index: usize,
        network: &NetworkSettings,
    ) -> Result<(), Problem> {
        let has_table = network.kernel_table.is_some() || network.kernel_vrf.is_some();
        if network.announce_pods && (network.external || !has_table) {
            let remedy =
                "needs a kernel_table or kernel_vrf, and pods: leave it out in an external network";
            return Err(Problem::new(key("announce_pods"), true, remedy));
        }
        let gateways = network.tunnel.as_ref().filter(|tunnel| tunnel.gateways);
        if let Some(tunnel) = gateways
            && (tunnel.vni.is_none() || !has_table)
        {
            let remedy =
                "is about routes of a kernel_table or kernel_vrf, and needs that and a vni";
            return Err(Problem::new(key("tunnel.gateways"), true, remedy));
        }
        if let Some(name) = &network.kernel_vrf {
            uplink::interface(&key("kernel_vrf"), name)?;
            if network.kernel_table.is_some() {
                let remedy = "leave one of kernel_table and kernel_vrf out";
                return Err(Problem::new(key("kernel_vrf"), name, remedy));
            }
            if self.networks[..index].iter().any(|other| other.kernel_vrf.as_ref() == Some(name)) {
                return Err(Problem::new(key("kernel_vrf"), name, "another network has it"));
            }
        }
        let Some(table) = network.kernel_table.map(KernelTable::number) else { return Ok(()) };
        let same = |other: &NetworkSettings| {
            other.kernel_table.is_some_and(|other| other.number() == table)
        };
        let remedy = if table == 0 || table == LOCAL_TABLE {
            "use 1 to 4294967295 but 255, which belongs to \"main\""
        } else if table == MAIN_TABLE && !network.external {
            "only an external network can have the node's own table; give this one a table of its own"
        } else if self.networks[..index].iter().any(same) {
            "another network has it"
        } else {
            return Ok(());
        };
        Err(Problem::new(key("kernel_table"), table, remedy))
    }

    fn check_network(&self, index: usize, network: &NetworkSettings) -> Result<(), Problem> {
        let key = |field: &str| format!("networks[{index}].{field}");
        check::network_name(&key("name"), &network.name)?;
        if self.networks[..index].iter().any(|other| other.name == network.name) {
            return Err(Problem::new(key("name"), &network.name, "another network has that name"));
        }
        self.check_kernel_table(&key, index, network)?;
        kernel_port::check(self, &key, index, network)?;
        if network.external {
            return Self::check_external(&key, network);
        }
        let Some(ipv4) = network.ipv4 else {
            let remedy = "is required: the prefix of its addresses, as \"10.66.0.0/24\"";
            return Err(Problem::new(key("ipv4"), "", remedy));
        };
        if let Some(gateway) = network.gateway
            && !ipv4.is_host(gateway)
        {
            return Err(Problem::new(
                key("gateway"),
                gateway,
                format!("must be a host address inside {ipv4}, or left out"),
            ));
        }
        check::range(&key("mtu"), network.mtu, 68, 9216)?;
        Self::check_ipv6(&key, network)?;
        Self::check_limits(&key, network)?;
        self.check_tunnel(&key, network)?;
        for (index, route) in network.routes.iter().enumerate() {
            let key = |field: &str| key(&format!("routes[{index}].{field}"));
            check::prefix(&key("prefix"), &route.prefix)?;
            match (route.action, route.via) {
                (RouteAction::Via, None) => {
                    let remedy = "is missing; name the address of a pod, or set an `action`";
                    return Err(Problem::new(key("via"), "", remedy));
                }
                (RouteAction::Vxlan | RouteAction::Mpls | RouteAction::Ipip, None) => {
                    let remedy = "is missing; name the address of the tunnel's other end";
                    return Err(Problem::new(key("via"), "", remedy));
                }
                (RouteAction::Vxlan, Some(via))
                    if network.tunnel.as_ref().is_none_or(|tunnel| tunnel.vni.is_none()) =>
                {
                    let remedy = "cannot be reached: the network has no `tunnel` with a `vni`";
                    return Err(Problem::new(key("via"), via, remedy));
                }
                (RouteAction::Ipip, Some(via))
                    if network.tunnel.as_ref().is_none_or(|tunnel| !tunnel.ipip) =>
                {
                    let remedy =
                        "cannot be reached: the network has no `tunnel` with `ipip = true`";
                    return Err(Problem::new(key("via"), via, remedy));
                }
                (RouteAction::Mpls, Some(via)) if network.tunnel.is_none() => {
                    let remedy = "cannot be reached: the network has no `tunnel`";
                    return Err(Problem::new(key("via"), via, remedy));
                }
                (RouteAction::Unreachable | RouteAction::Drop, Some(via)) => {
                    let remedy = "must be left out: with this `action` the route leads nowhere";
                    return Err(Problem::new(key("via"), via, remedy));
                }
                _ => {}
            }
            match (route.action, route.label) {
                (RouteAction::Mpls, None) => {
                    let remedy =
                        "is missing; give the label that the other end knows the network by";
                    return Err(Problem::new(key("label"), "", remedy));
                }
                (RouteAction::Mpls, Some(label)) => label_range(&key("label"), label)?,
                (_, Some(label)) => {
                    let remedy = "must be left out: only a route with the action `mpls` has one";
                    return Err(Problem::new(key("label"), label, remedy));
                }
                (_, None) => {}
            }
            if let Some(mac) = &route.mac
                && route.action != RouteAction::Vxlan
            {
                let remedy = "must be left out: only a route with the action `vxlan` has one";
                return Err(Problem::new(key("mac"), mac, remedy));
            }
        }
        Ok(())
    }

    fn check_external(
        key: &impl Fn(&str) -> String,
        network: &NetworkSettings,
    ) -> Result<(), Problem> {
        let remedy = "must be left out: the addresses of an `external` network are the kernel's";
        let texts = [
            ("ipv4", network.ipv4.map(|v| v.to_string())),
            ("gateway", network.gateway.map(|v| v.to_string())),
            ("ipv6", network.ipv6.map(|v| v.to_string())),
            ("gateway6", network.gateway6.map(|v| v.to_string())),
            ("tunnel.underlay", network.tunnel.as_ref().map(|v| v.underlay.clone())),
            (
                "flood_limit.frames_per_second",
                network.flood_limit.map(|v| v.frames_per_second.to_string()),
            ),
            (
                "policer.packets_per_second",
                network.policer.map(|v| v.packets_per_second.to_string()),
            ),
            ("routes[0].prefix", network.routes.first().map(|v| v.prefix.clone())),
            ("mode", (network.mode == NetworkMode::Bridged).then(|| "bridged".to_owned())),
        ];
        if let Some((field, value)) =
            texts.into_iter().find_map(|(field, value)| Some((field, value?)))
        {
            return Err(Problem::new(key(field), value, remedy));
        }
        // RFC 8200 section 5: IPv6 can always be among what it carries.
        check::range(&key("mtu"), network.mtu, 1280, 9216)
    }

    fn check_ipv6(key: &impl Fn(&str) -> String, network: &NetworkSettings) -> Result<(), Problem> {
        match (network.ipv6, network.gateway6) {
            (None, Some(gateway)) => {
                let remedy = "needs `ipv6`, the prefix it is inside; add that, or leave it out";
                Err(Problem::new(key("gateway6"), gateway, remedy))
            }
            (Some(prefix), Some(gateway)) if !prefix.is_host(gateway) => {
                let remedy = format!("must be inside {prefix} and not its first, or left out");
                Err(Problem::new(key("gateway6"), gateway, remedy))
            }
            // RFC 8200 section 5.
            (Some(_), _) if network.mtu < 1280 => {
                let remedy = "must be 1280 to 9216 in a network with `ipv6`";
                Err(Problem::new(key("mtu"), network.mtu, remedy))
            }
            _ => Ok(()),
        }
    }

    fn check_limits(
        key: &impl Fn(&str) -> String,
        network: &NetworkSettings,
    ) -> Result<(), Problem> {
        if let (Some(limit), NetworkMode::Routed) = (network.flood_limit, network.mode) {
            let remedy =
                "only a bridged network repeats frames; set `mode = \"bridged\"`, or leave it out";
            let field = key("flood_limit.frames_per_second");
            return Err(Problem::new(field, limit.frames_per_second, remedy));
        }
        let PolicerSettings { packets_per_second, burst_packets, bits_per_second, burst_bits } =
            network.policer.unwrap_or_default();
        // The largest frame, an IEEE 802.1Q tag included.
        let frame = (u64::from(network.mtu) + 18) * 8;
        let alone = |rate: &str| format!("belongs to a rate; set `{rate}`, or leave it out");
        if packets_per_second == 0 && burst_packets != 0 {
            let field = key("policer.burst_packets");
            return Err(Problem::new(field, burst_packets, alone("packets_per_second")));
        }
        if bits_per_second == 0 && burst_bits != 0 {
            let field = key("policer.burst_bits");
            return Err(Problem::new(field, burst_bits, alone("bits_per_second")));
        }
        if burst_bits != 0 && burst_bits < frame {
            let remedy = format!(
                "is less than one frame of the `mtu` has, which never passes; use {frame} or more"
            );
            return Err(Problem::new(key("policer.burst_bits"), burst_bits, remedy));
        }
        Ok(())
    }
}
