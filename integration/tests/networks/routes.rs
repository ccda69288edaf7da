//! Many routes through the operator's command.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Result, ensure};
use vrouter_api::v1::Network;

use crate::rig::Rig;

/// More than two pages of a list and two parts of a load.
const ROUTES: u32 = 45_000;

pub fn page_by_page(rig: &Rig) -> Result<()> {
    rig.network(Network {
        name: "many".into(),
        ipv4: "10.69.0.0/24".into(),
        ..Default::default()
    })?;
    let mut text = String::from("# as `ip route` prints them\ndefault via 10.69.0.254 dev eth0\n");
    let mut expected = String::from("0.0.0.0/0 via 10.69.0.254\n");
    for number in 0..ROUTES {
        let [_, a, b, c] = (number << 4).to_be_bytes();
        let via = number % 200 + 2;
        writeln!(text, "11.{a}.{b}.{c}/28 via 10.69.0.{via} proto static metric 20")?;
        writeln!(expected, "11.{a}.{b}.{c}/28 via 10.69.0.{via}")?;
    }
    let file = rig.file("many");
    fs::write(&file, &text)?;
    let file = file.display().to_string();
    let told = rig.ringway(&["routes", "load", "many", &file, "--json"])?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let all = ROUTES + 1;
    ensure!(
        told == serde_json::json!({"network": "many", "changed": all, "routes": all}),
        "{told}"
    );

    ensure!(rig.ringway(&["routes", "many"])? == expected, "the list differs from what was loaded");
    let list: Vec<serde_json::Value> =
        serde_json::from_str(&rig.ringway(&["routes", "list", "many", "--json"])?)?;
    ensure!(list.len() == usize::try_from(all)?, "{} routes", list.len());
    let last = serde_json::json!({
        "prefix": "11.10.252.112/28", "kind": "via", "via": "10.69.0.201", "mac": null,
        "uplink": null, "label": null, "paths": [], "mirrored": false,
    });
    ensure!(list.last() == Some(&last), "{:?}", list.last());

    // What is listed can be loaded, a mistake changes nothing, and one route does not take another's place unasked.
    fs::write(&file, &expected)?;
    rig.ringway(&["routes", "load", "many", &file])?;
    fs::write(&file, "12.0.0.0/8 drop\n12.1.0.0/16 via nowhere\n")?;
    let refused = |arguments: &[&str], parts: &[&str]| -> Result<()> {
        let error = match rig.ringway(arguments) {
            Ok(_) => "no error".to_owned(),
            Err(error) => error.to_string(),
        };
        for part in parts {
            ensure!(error.contains(part), "{part:?} is not in {error:?}");
        }
        Ok(())
    };
    refused(&["routes", "load", "many", &file], &["line 2", "\"nowhere\" is no address"])?;
    let default = ["many", "default", "unreachable"];
    let add = [&["routes", "add"], &default[..]].concat();
    refused(&add, &["route 0.0.0.0/0 of network many not set", "exists with other parameters"])?;
    refused(&["routes", "green"], &["unknown network", "many"])?;
    refused(&["routes", "add", "many", "12.0.0.0/8", "via", "10.70.0.1"], &["10.70.0.1"])?;
    let replaced = rig.ringway(&[&["routes", "replace"], &default[..]].concat())?;
    ensure!(replaced == format!("network many has {all} routes\n"), "{replaced}");
    let deleted = rig.ringway(&["routes", "delete", "many", "default"])?;
    ensure!(deleted == format!("network many has {ROUTES} routes\n"), "{deleted}");
    ensure!(rig.vrouter().network("many")?.routes == u64::from(ROUTES), "routes are not counted");
    Ok(())
}
