//! `ringway explain`: find out who is meant, ask, print.

use std::fs;
use std::io::{self, Read as _, Write};
use std::path::Path;

use vrouter_api::v1;
use vrouter_api::v1::explain_request::{Ingress, Packet};

use super::show;
use crate::args::{ExplainArgs, Protocol};
use crate::call::Vrouter;
use crate::failure::Failure;
use crate::pcap;
use crate::text::explain::explanations;
use crate::view::explain::Explanation;

/// Ports of packets for which none were given: one of those that clients use, and that of the discard service.
const SOURCE_PORT: u16 = 49_152;
const DESTINATION_PORT: u16 = 9;

pub(super) async fn run(
    vrouter: &mut Vrouter,
    args: &ExplainArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let packets = packets(args)?;
    let ingress = match (&args.from, &args.uplink, &args.host_interface) {
        (Some(from), ..) => {
            let found = port(&vrouter.ports().await?, from);
            Ingress::Port(found.map_err(|why| Failure::Input { what: "--from".to_owned(), why })?)
        }
        (None, Some(uplink), _) => Ingress::Uplink(uplink.clone()),
        (None, None, host) => Ingress::HostInterface(host.clone().unwrap_or_default()),
    };
    let mut all = Vec::new();
    for packet in packets {
        let (ingress, packet) = (Some(ingress.clone()), Some(packet));
        all.push(Explanation::from(vrouter.explain(v1::ExplainRequest { ingress, packet }).await?));
    }
    show(out, json, &all, |all| explanations(all))
}

fn packets(args: &ExplainArgs) -> Result<Vec<Packet>, Failure> {
    let Some(file) = &args.pcap else { return Ok(vec![Packet::Flow(flow(args))]) };
    let input =
        |why: String| Failure::Input { what: format!("capture file {}", file.display()), why };
    let bytes = read(file).map_err(|error| input(error.to_string()))?;
    let frames = pcap::frames(&bytes, args.count).map_err(input)?;
    Ok(frames.into_iter().map(Packet::Frame).collect())
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    if file.as_os_str() != "-" {
        return fs::read(file);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn flow(args: &ExplainArgs) -> v1::Flow {
    let has_ports = args.proto != Protocol::Icmp;
    let port = |given: Option<u16>, default| match given {
        Some(port) => port.into(),
        None if has_ports => u32::from(default),
        None => 0,
    };
    v1::Flow {
        source: args.source.map(|address| address.to_string()).unwrap_or_default(),
        destination: args.to.map(|address| address.to_string()).unwrap_or_default(),
        protocol: args.proto.name().to_owned(),
        source_port: port(args.sport, SOURCE_PORT),
        destination_port: port(args.dport, DESTINATION_PORT),
        bytes: args.bytes.map_or(0, u32::from),
        ttl: args.ttl.map_or(0, u32::from),
    }
}

/// The id of the one port that is meant.
fn port(ports: &[v1::Port], name: &str) -> Result<String, String> {
    let is_it = |spec: &&v1::PortSpec| {
        let v1::PortSpec { id, pod_namespace, pod_name, interface, ipv4, ipv6, .. } = spec;
        let pod = format!("{pod_namespace}/{pod_name}");
        let names = [id, pod_name, &pod, &format!("{pod}/{interface}"), ipv4, ipv6];
        names.into_iter().any(|other| !other.is_empty() && other == name)
    };
    let specs = || ports.iter().filter_map(|port| port.spec.as_ref());
    let found: Vec<_> = specs().filter(is_it).collect();
    // An id is one port's, whatever others are called.
    if let Some(spec) = found.iter().find(|spec| spec.id == name) {
        return Ok(spec.id.clone());
    }
    match found[..] {
        [spec] => Ok(spec.id.clone()),
        [] => Err(format!("no port is called {name:?}; `ringway ports` lists them")),
        _ => {
            let which = |spec: &&v1::PortSpec| format!("{} in network {}", spec.id, spec.network);
            let which: Vec<_> = found.iter().map(which).collect();
            Err(format!("{name:?} could be {}; name one by its id", which.join(", or ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn args(line: &str) -> Result<ExplainArgs, String> {
        let line = format!("ringway explain {line}");
        let args = Args::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Command::Explain(explain) = args.command else { panic!("{line}") };
        Ok(*explain)
    }

    #[test]
    fn a_packet_is_made_or_read() {
        let plain = flow(&args("--from a/b --to 10.1.0.1").unwrap());
        let expected = v1::Flow {
            destination: "10.1.0.1".into(),
            protocol: "udp".into(),
            source_port: 49_152,
            destination_port: 9,
            ..Default::default()
        };
        assert_eq!(plain, expected);
        let all = "--uplink up0 --to fd00::1 --source fd00::2 --proto tcp --sport 1 --dport 2 --bytes 900 --ttl 3";
        let all = flow(&args(all).unwrap());
        let expected = v1::Flow {
            source: "fd00::2".into(),
            destination: "fd00::1".into(),
            protocol: "tcp".into(),
            source_port: 1,
            destination_port: 2,
            bytes: 900,
            ttl: 3,
        };
        assert_eq!(all, expected);
        let ping = flow(&args("--host-interface up0 --to 10.1.0.1 --proto icmp").unwrap());
        assert_eq!((ping.source_port, ping.destination_port), (0, 0));
        let missing = packets(&args("--uplink up0 --pcap /nowhere/x").unwrap()).unwrap_err();
        assert!(missing.to_string().starts_with("capture file /nowhere/x: "), "{missing}");
        for bad in [
            "--to 10.1.0.1",
            "--from a",
            "--from a --uplink b --to 10.1.0.1",
            "--from a --to x",
            "--from a --to 10.1.0.1 --pcap x",
            "--from a --pcap x --ttl 3",
            "--from a --pcap x --proto tcp",
            "--from a --to 10.1.0.1 --ttl 0",
        ] {
            assert!(args(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_is_found_by_what_people_call_it() {
        let port = |id: &str, namespace: &str, name: &str, interface: &str, ipv4: &str| v1::Port {
            spec: Some(v1::PortSpec {
                id: id.into(),
                network: "red".into(),
                pod_namespace: namespace.into(),
                pod_name: name.into(),
                interface: interface.into(),
                ipv4: ipv4.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let ports = [
            port("aa/0/net0", "shop", "cart", "net0", "10.66.0.2"),
            port("aa/1/net1", "shop", "cart", "net1", "10.67.0.2"),
            port("bb/0/net0", "shop", "till", "net0", "10.66.0.3"),
            port("cc/0/net0", "bank", "till", "net0", "10.66.0.4"),
            port("till", "", "", "", "10.66.0.5"),
            port("dd", "", "", "", "10.66.0.2"),
        ];
        for (name, id) in [
            ("bb/0/net0", "bb/0/net0"),
            ("shop/till", "bb/0/net0"),
            ("shop/cart/net1", "aa/1/net1"),
            ("10.66.0.4", "cc/0/net0"),
            ("till", "till"),
        ] {
            assert_eq!(super::port(&ports, name).as_deref(), Ok(id));
        }
        for (name, part) in [
            ("cart", "could be aa/0/net0 in network red, or aa/1/net1 in network red"),
            ("10.66.0.2", "could be aa/0/net0"),
            ("nobody", "no port is called \"nobody\"; `ringway ports`"),
            ("", "no port is called"),
        ] {
            let error = super::port(&ports, name).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
