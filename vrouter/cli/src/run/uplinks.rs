//! `ringway uplinks`: ask, convert, print.

use std::io::Write;

use vrouter_api::v1;

use super::{Deleted, show};
use crate::args::{AddUplink, Driver, UplinkAction};
use crate::call::Vrouter;
use crate::failure::Failure;
use crate::nics;
use crate::text;
use crate::view::uplinks::{Uplink, uplinks};

pub(super) async fn run(
    vrouter: &mut Vrouter,
    action: Option<&UplinkAction>,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    match action {
        None | Some(UplinkAction::List) => {
            let list = uplinks(vrouter.uplinks().await?, vrouter.stats().await?.uplinks);
            show(out, json, &list, |list| text::uplinks(list))
        }
        Some(UplinkAction::Add(uplink)) => {
            let made = Uplink::new(vrouter.add_uplink(request(uplink)).await?, None);
            show(out, json, &made, |uplink| text::uplinks(std::slice::from_ref(uplink)))
        }
        Some(UplinkAction::Delete { name }) => {
            vrouter.delete_uplink(name).await?;
            let deleted = Deleted { deleted: name.clone() };
            show(out, json, &deleted, |_| format!("uplink {name} is gone\n"))
        }
        Some(about_machine) => run_on_machine(about_machine, json, out),
    }
}

/// What needs no vRouter.
pub(super) fn run_on_machine(
    action: &UplinkAction,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    match action {
        UplinkAction::Devices(devices) => nics::devices(devices, json, out),
        UplinkAction::Bind(bind) => nics::bind(bind, json, out),
        UplinkAction::Unbind(unbind) => nics::unbind(unbind, json, out),
        UplinkAction::List | UplinkAction::Add(_) | UplinkAction::Delete { .. } => Ok(()),
    }
}

fn request(uplink: &AddUplink) -> v1::UplinkSpec {
    let driver = match uplink.driver {
        Driver::Auto => v1::UplinkDriver::Unspecified,
        Driver::Pci => v1::UplinkDriver::Pci,
        Driver::AfPacket => v1::UplinkDriver::AfPacket,
        Driver::AfXdp => v1::UplinkDriver::AfXdp,
        Driver::Tap => v1::UplinkDriver::Tap,
    };
    v1::UplinkSpec {
        name: uplink.name.clone(),
        device: uplink.device.clone(),
        driver: driver.into(),
        network: uplink.network.clone(),
        host_interface: uplink.host_interface.clone().unwrap_or_default(),
        queues: uplink.queues.unwrap_or(0),
        mtu: uplink.mtu.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    #[test]
    fn what_is_left_out_is_left_to_the_vrouter() {
        let add = |line: &str| {
            let args = Args::try_parse_from(format!("ringway uplinks add {line}").split(' '));
            let Command::Uplinks { action: Some(UplinkAction::Add(uplink)) } =
                args.unwrap().command
            else {
                panic!("{line}")
            };
            request(&uplink)
        };
        let plain = v1::UplinkSpec {
            name: "up0".into(),
            device: "eth1".into(),
            network: "fabric".into(),
            ..Default::default()
        };
        assert_eq!(add("up0 eth1 --network fabric"), plain);
        let all = add(
            "up0 eth1 --network fabric --driver af-xdp --host-interface host0 --queues 4 --mtu 9000",
        );
        let expected = v1::UplinkSpec {
            driver: v1::UplinkDriver::AfXdp.into(),
            host_interface: "host0".into(),
            queues: 4,
            mtu: 9000,
            ..plain
        };
        assert_eq!(all, expected);
    }
}
