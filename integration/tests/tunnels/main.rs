//! Tunnels that only the kernel speaks, between pods of the real vRouter and plain Linux routers, each in network namespaces of the
//! test's: a pod's packets go to its network's kernel port, the kernel encapsulates them, and they leave by the uplink; and back.
#![forbid(unsafe_code)]

mod devices;
mod ipip;
mod ipsec;
mod packets;
mod port;
mod rig;
mod same;
mod srv6;
mod stretched;
mod wireguard;

use std::process::ExitCode;

use anyhow::{Context, Result};
use integration::machine;
use integration::space;
use integration::suite::{self, Case};

use devices::{GRE, IPIP, IPSEC, VXLAN, WIREGUARD};
use rig::Rig;

type Test = (&'static str, Option<String>, fn(&mut Rig) -> Result<()>);

fn main() -> ExitCode {
    let unfit = machine::unfit_for_dpdk().or_else(space::unfit);
    let kernel = |kind: &devices::Kind| if unfit.is_none() { devices::unfit(kind) } else { None };
    let tests: [Test; 14] = [
        ("srv6_both_ways", None, srv6::both_ways),
        ("vxlan_of_the_kernels", None, |rig| devices::both_ways(rig, &VXLAN)),
        ("gre_of_the_kernels", kernel(&GRE), |rig| devices::both_ways(rig, &GRE)),
        ("ipip_of_the_kernels", kernel(&IPIP), |rig| devices::both_ways(rig, &IPIP)),
        ("ip_in_ip_frame_by_frame", None, ipip::frame_by_frame),
        ("ip_in_ip_meets_segment_routing", None, ipip::to_segments),
        ("ip_in_ip_meets_devices_of_the_kernels", ipip::unfit(), ipip::to_devices),
        ("wireguard_of_the_kernels", kernel(&WIREGUARD), |rig| devices::both_ways(rig, &WIREGUARD)),
        ("ipsec_of_the_kernels", kernel(&IPSEC), |rig| devices::both_ways(rig, &IPSEC)),
        ("a_bridged_network_stretches_to_a_linux_bridge", None, stretched::over_a_linux_bridge),
        ("what_comes_out_is_what_the_kernel_alone_sends", None, same::as_the_kernel_alone),
        ("punts_are_limited_and_loops_end", None, port::limited),
        ("a_port_that_is_disturbed_is_put_right", None, port::put_right),
        ("nothing_is_left_of_a_vrouter_that_was_killed", None, port::killed),
    ];
    let case = |(name, cannot, test): Test| {
        Case::new(name, unfit.clone().or(cannot), move |rig| {
            let rig = suite::started(rig, Rig::start)?;
            test(rig).with_context(|| rig.story())
        })
    };
    suite::run(None, tests.map(case).into(), |rig| *rig = None)
}
