use std::os::unix::fs::PermissionsExt;

use super::*;

fn network(ipv6: bool) -> Network {
    Network {
        name: "red".into(),
        prefix: "10.66.0.0/29".parse().unwrap(),
        gateway: [10, 66, 0, 1].into(),
        gateway_mac: None,
        mtu: 1500,
        used_addresses: BTreeSet::new(),
        used_macs: BTreeSet::new(),
        ipv6: ipv6.then(|| nri_plugin_core::net::Network6 {
            prefix: "fd00:66::/64".parse().unwrap(),
            gateway: "fd00:66::1".parse().unwrap(),
            used_addresses: BTreeSet::new(),
        }),
    }
}

fn holder<'a>(wanted: &'a [IpAddr]) -> Holder<'a> {
    Holder { namespace: "demo", pod: "a", sandbox: "abc", interface: "net0", wanted }
}

fn ipam(directories: &[&Path], plugin: &str, run_dir: &Path) -> Ipam {
    Ipam {
        directories: directories.iter().map(|it| it.to_path_buf()).collect(),
        timeout: Duration::from_millis(400),
        networks: BTreeMap::from([("red".to_owned(), (plugin.to_owned(), None))]),
        data: run_dir.join("ipam"),
    }
}

#[test]
fn a_lease_says_all_that_the_specification_wants() {
    let ipam = ipam(&[], "host-local", Path::new("/run/r"));
    let wanted = ["10.66.0.5".parse().unwrap()];
    let lease = ipam.lease(&network(true), holder(&wanted)).unwrap().unwrap();
    assert_eq!(
        lease.input,
        json!({
            "cniVersion": "1.0.0", "name": "ringway-red", "type": "ringway",
            "ipam": {
                "type": "host-local", "dataDir": "/run/r/ipam",
                "ranges": [
                    [{"subnet": "10.66.0.0/29", "gateway": "10.66.0.1"}],
                    [{"subnet": "fd00:66::/64", "gateway": "fd00:66::1"}],
                ],
            },
            "args": {"cni": {"ips": ["10.66.0.5"]}},
        })
    );
    assert!(lease.arguments.contains("K8S_POD_NAME=a;"), "{}", lease.arguments);
    let text = serde_json::to_string(&lease).unwrap();
    assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease);

    let other = Network { name: "blue".into(), ..network(false) };
    assert_eq!(ipam.lease(&other, holder(&[])).unwrap(), None);
}

#[test]
fn settings_of_a_file_are_taken_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ipam.json");
    let mut ipam = ipam(&[], "whereabouts", dir.path());
    ipam.networks.insert("red".into(), ("whereabouts".into(), Some(file.clone())));
    std::fs::write(&file, r#"{"range": "10.66.0.0/29"}"#).unwrap();
    let lease = ipam.lease(&network(false), holder(&[])).unwrap().unwrap();
    assert_eq!(lease.input["ipam"], json!({"type": "whereabouts", "range": "10.66.0.0/29"}));
    for bad in ["[1]", "{", ""] {
        std::fs::write(&file, bad).unwrap();
        let error = ipam.lease(&network(false), holder(&[])).unwrap_err().to_string();
        assert!(error.contains("networks.red.ipam_file") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn the_first_address_of_each_family_counts() {
    let ips = |list: &[&str]| {
        let ips: Vec<_> = list.iter().map(|ip| Ip { address: (*ip).to_owned() }).collect();
        addresses(&ips).map(|found| (found.ip.to_string(), found.ipv6.map(|ip| ip.to_string())))
    };
    assert_eq!(ips(&["10.0.0.2/24", "10.0.0.3/24"]), Some(("10.0.0.2".into(), None)));
    assert_eq!(ips(&["fd00::2/64", "10.0.0.2"]), Some(("10.0.0.2".into(), Some("fd00::2".into()))));
    assert_eq!(ips(&["fd00::2/64"]), None);
    assert_eq!(ips(&["nonsense", ""]), None);
}

#[test]
fn leases_that_nobody_holds_are_forgotten_ones() {
    let written: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let held = BTreeSet::from(["b", "z"]);
    assert_eq!(forgotten(&written, &held), ["a", "c"]);
}

/// A program that misbehaves in every way a program can; each ends with one line.
#[tokio::test]
async fn plugins_that_fail_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("rogue");
    let ipam = ipam(&[Path::new("/nonexistent"), dir.path()], "rogue", dir.path());
    let lease = ipam.lease(&network(false), holder(&[])).unwrap().unwrap();
    let missing = ipam.add("abc-0-1", &lease).await.unwrap_err().to_string();
    assert!(missing.contains("/nonexistent, ") && missing.contains("install it"), "{missing}");
    for (script, expected) in [
        (
            "printf '%s' '{\"code\": 7, \"msg\": \"no more\\naddresses\", \"details\": \"full\"}'; exit 1",
            "no more addresses: full",
        ),
        ("exit 3", "ADD ended with exit status: 3"),
        ("echo nonsense; exit 1", "ADD ended with"),
        ("echo '{}'", "gave no IPv4 address"),
        ("exec sleep 30", "did not answer within 400 ms"),
        ("yes | head -c 1000000", "gave no IPv4 address"),
    ] {
        std::fs::write(&program, format!("#!/bin/sh\ncat > /dev/null\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = ipam.add("abc-0-1", &lease).await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{script}: {error}");
    }
}

/// The real one, where it is installed.
#[tokio::test]
async fn host_local_gives_and_takes_back() {
    let directory = Path::new("/usr/lib/cni");
    if !directory.join("host-local").is_file() {
        println!("SKIP host_local_gives_and_takes_back: {} has no host-local", directory.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ipam = ipam(&[directory], "host-local", dir.path());
    let ask = |wanted: &[IpAddr]| ipam.lease(&network(true), holder(wanted)).unwrap().unwrap();
    let all = ask(&[]);
    let mut given = BTreeSet::new();
    for number in 0..5 {
        let found = ipam.add(&format!("abc-0-{number}"), &all).await.unwrap();
        assert!(network(true).prefix.contains(found.ip) && found.ipv6.is_some(), "{found:?}");
        assert!(given.insert(found.ip), "{found:?} twice");
    }
    assert!(!given.contains(&network(true).gateway));
    let full = ipam.add("abc-0-9", &all).await.unwrap_err().to_string();
    assert!(full.contains("host-local of network red") && !full.contains('\n'), "{full}");
    // Given back twice, and one that never was.
    for id in ["abc-0-2", "abc-0-2", "never"] {
        ipam.delete(id, &all).await.unwrap();
    }
    let again = ipam.add("abc-0-9", &all).await.unwrap();
    assert!(given.contains(&again.ip), "{again:?} {given:?}");

    ipam.delete("abc-0-9", &all).await.unwrap();
    let wanted = [IpAddr::V4(again.ip)];
    assert_eq!(ipam.add("abc-0-10", &ask(&wanted)).await.unwrap().ip, again.ip);
    let taken = ipam.add("abc-0-11", &ask(&wanted)).await.unwrap_err().to_string();
    assert!(taken.contains(&again.ip.to_string()), "{taken}");
}
