//! The mirror against the running kernel, each test in a network namespace of its own. After every step, what the changes add up
//! to has to be what a mirror that starts only then says; a dump to make sure never comes to its help.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, reason = "a test fails by panicking, its helpers included")]

mod announce;
mod bed;
mod evpn;
mod full;
mod kernelport;
mod overrun;
mod routes;
mod stations;
mod vrf;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

type Test = fn() -> Result<()>;

/// Name, what `ip link add` is to make, and the test.
type DeviceTest = (&'static str, &'static str, fn(&str) -> Result<()>);

/// Tests of what not every kernel has.
const DEVICES: [DeviceTest; 5] = [
    ("vrf_devices", "vrf table 100", |_| vrf::devices()),
    ("gre", "gre local 10.0.0.1 remote 10.0.0.2", vrf::tunnel),
    ("ipip", "ipip local 10.0.0.1 remote 10.0.0.2", vrf::tunnel),
    ("wireguard", "wireguard", vrf::tunnel),
    ("xfrm", "xfrm dev lo if_id 7", vrf::tunnel),
];

const TESTS: [(&str, Test); 22] = [
    ("routes_come_and_go", routes::come_and_go),
    ("routes_of_one_prefix", routes::of_one_prefix),
    ("kinds", routes::kinds),
    ("several_ways", routes::several_ways),
    ("nexthop_objects", routes::nexthop_objects),
    ("neighbours_are_learned", routes::neighbours),
    ("link_goes_down", routes::link_goes_down),
    ("addresses_go", routes::addresses_go),
    ("tables_of_networks", routes::tables),
    ("encapsulations", evpn::encapsulations),
    ("evpn", evpn::evpn),
    ("gateways_are_ends_of_tunnels", evpn::gateways),
    ("pods_are_announced", announce::come_and_go),
    ("many_pods_are_announced", announce::many),
    ("stations_of_a_layer_2_vni", stations::ends_and_stations),
    ("many_stations", stations::many_stations),
    ("pods_are_announced_to_a_bridge", stations::pods_are_announced),
    ("overrun", overrun::floods),
    ("a_kernel_port_is_kept", kernelport::kept),
    ("what_a_killed_one_leaves_is_swept", kernelport::swept),
    ("an_interface_is_handed_over", kernelport::handed_over),
    ("full_table", full::table),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let unfit =
        (!nix::unistd::geteuid().is_root()).then_some("needs root to make network namespaces");
    let unfit = unfit.map(str::to_owned);
    let mut trials = Vec::new();
    let mut add =
        |name: &str, unfit: Option<String>, test: Box<dyn FnOnce() -> Result<()> + Send>| {
            if let (Some(reason), false) = (&unfit, arguments.list) {
                println!("SKIP {name}: {reason}");
            }
            let test =
                move || bed::in_namespace(test).map_err(|error| Failed::from(format!("{error:#}")));
            trials.push(Trial::test(name, test).with_ignored_flag(unfit.is_some()));
        };
    for (name, test) in TESTS {
        add(name, unfit.clone(), Box::new(test));
    }
    let keeps_names = unfit.clone().or_else(routes::keeps_names);
    add("link_is_renamed", keeps_names, Box::new(routes::link_is_renamed));
    for (name, device, test) in DEVICES {
        let unfit = unfit.clone().or_else(|| vrf::lacks(device));
        add(name, unfit, Box::new(move || test(device)));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
