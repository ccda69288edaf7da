use std::path::Path;

use super::*;

const PORT: &str =
    "socket=/x/a.sock,mac=02:00:00:00:00:0a,ip=10.66.0.2,to-mac=02:00:00:00:00:01,to-ip=10.67.0.0";

fn ask(words: &[&str]) -> Result<Asked, ArgsError> {
    parse(["ringway-pktgen"].iter().chain(words).map(OsString::from))
}

fn settings_of(words: &[&str]) -> Result<Settings, String> {
    match ask(&[&["--cpu", "0", "--port", PORT], words].concat()) {
        Ok(Asked::Run(settings)) => Ok(*settings),
        Ok(Asked::Text(text)) => Err(text),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn a_port_is_read() {
    let port: PortSettings = PORT.parse().unwrap();
    let expected = PortSettings {
        socket: Path::new("/x/a.sock").to_owned(),
        server: false,
        mac: Mac([2, 0, 0, 0, 0, 10]),
        ip: Ipv4Addr::new(10, 66, 0, 2),
        to_mac: Mac([2, 0, 0, 0, 0, 1]),
        to_ip: Ipv4Addr::new(10, 67, 0, 0),
        peer: None,
        tunnel: None,
        own: OwnShape::default(),
    };
    assert_eq!(port, expected);
    let port: PortSettings = format!("server,{PORT},peer=3").parse().unwrap();
    assert_eq!(port, PortSettings { server: true, peer: Some(3), ..expected });
    let far = "vni=7,vtep=192.0.2.2,to-vtep=192.0.2.1,vtep-mac=02:00:00:00:00:01";
    let port: PortSettings = format!("{PORT},{far}").parse().unwrap();
    let tunnel = port.tunnel.unwrap();
    assert_eq!((tunnel.vni, tunnel.from.octets()), (7, [192, 0, 2, 2]));
    assert_eq!((tunnel.to.octets(), tunnel.to_mac), ([192, 0, 2, 1], Mac([2, 0, 0, 0, 0, 1])));
    for bad in ["vni=7", "vni=16777216", "vtep=x", "vtep-mac=02"] {
        assert!(format!("{PORT},{bad}").parse::<PortSettings>().is_err(), "{bad}");
    }
    let own =
        format!("{PORT},queues=4,queue-size=256,packed=1,vectorized=1,mrg-rxbuf=0,in-order=0");
    let settings = settings_of(&["--port", &own, "--queues=2"]).unwrap();
    let [usual, own] = &settings.ports[..] else { unreachable!() };
    assert_eq!(settings.shape_of(usual), settings.shape);
    let expected = Shape {
        queues: 4,
        queue_size: 256,
        packed: true,
        vectorized: true,
        mrg_rxbuf: false,
        in_order: false,
    };
    assert_eq!((settings.shape.queues, settings.shape_of(own)), (2, expected));
}

#[test]
fn defaults_are_the_usual_pod() {
    let settings = settings_of(&[]).unwrap();
    assert_eq!((settings.len, settings.shape.queue_size, settings.shape.queues), (60, 1024, 1));
    assert_eq!(settings.flows, Flows { count: 1024, addresses: 1024 });
    assert_eq!(
        (
            settings.shape.packed,
            settings.shape.vectorized,
            settings.shape.mrg_rxbuf,
            settings.shape.in_order
        ),
        (false, false, true, true)
    );
    assert_eq!((settings.drain, settings.churn_mib, settings.file_per_page), (0.2, 0, false));
    assert_eq!((settings.rate, settings.verify_every, settings.touch), (None, 64, false));
    assert_eq!((settings.warmup, settings.seconds, settings.memory_mib), (1.0, 3.0, 256));
    assert_eq!((settings.send_from, settings.cpu), (SendFrom::All, CpuId(0)));
}

#[test]
fn options_arrive_where_they_belong() {
    let settings = settings_of(&[
        "--port",
        PORT,
        "--size",
        "9018",
        "--flows",
        "65536",
        "--addresses",
        "4096",
        "--queue-size=256",
        "--queues=4",
        "--vectorized",
        "--mrg-rxbuf=0",
        "--in-order=0",
        "--touch",
        "--verify-every=1",
        "--rate=1000",
        "--latency",
        "--warmup=0.5",
        "--seconds=2",
        "--memory-mb=64",
        "--send-from=1",
        "--burst=16",
        "--tx-free-threshold=256",
        "--drain=1.5",
        "--churn-mb=32",
        "--go=/x/go",
        "--file-per-page",
    ])
    .unwrap();
    assert_eq!((settings.len, settings.shape.queue_size, settings.shape.queues), (9014, 256, 4));
    assert_eq!(settings.flows, Flows { count: 65_536, addresses: 4096 });
    assert!(settings.shape.vectorized && !settings.shape.mrg_rxbuf && !settings.shape.in_order);
    assert!(settings.touch && settings.latency);
    assert_eq!((settings.rate, settings.verify_every), (Some(1000), 1));
    assert_eq!((settings.warmup, settings.seconds, settings.memory_mib), (0.5, 2.0, 64));
    assert_eq!((settings.burst, settings.tx_free_threshold), (16, 256));
    assert_eq!((settings.drain, settings.churn_mib, settings.file_per_page), (1.5, 32, true));
    assert_eq!(settings.go.as_deref(), Some(Path::new("/x/go")));
    assert_eq!([0, 1].map(|port| settings.sends(port)), [false, true]);
    assert!(settings_of(&["--packed", "--vectorized", "--burst=64"]).unwrap().shape.packed);
}

#[test]
fn neighbours_are_peers_unless_said_otherwise() {
    let other = format!("{PORT},peer=0");
    for (ports, peers) in [
        (&[][..], &[0][..]),
        (&[PORT], &[1, 0]),
        (&[PORT, PORT], &[1, 0, 2]),
        (&[PORT, PORT, PORT], &[1, 0, 3, 2]),
    ] {
        let words: Vec<_> = ports.iter().flat_map(|port| ["--port", *port]).collect();
        let settings = settings_of(&words).unwrap();
        let found: Vec<_> = (0..).take(peers.len()).map(|port| settings.peer_of(port)).collect();
        assert_eq!(found, peers);
    }
    let named = settings_of(&["--port", &other, "--send-from", "1"]).unwrap();
    assert_eq!([0, 1].map(|port| named.peer_of(port)), [1, 0]);
}

#[test]
fn wrong_arguments_are_named_in_one_line() {
    let without = |key: &str| {
        let words: Vec<_> = PORT.split(',').filter(|word| !word.starts_with(key)).collect();
        words.join(",")
    };
    let no_ip = without("ip=");
    let bad_mac = format!("{PORT},mac=02:00:00:00:00");
    let bad_ip = format!("{PORT},to-ip=10.0.0");
    let bad_key = format!("{PORT},queue=1");
    let bad_own = format!("{PORT},queues=17");
    let bad_flag = format!("{PORT},packed=yes");
    let bad_vector = format!("{PORT},vectorized=1");
    let bad_peer = format!("{PORT},peer=7");
    let same_peer = format!("{PORT},peer=1");
    for (words, parts) in [
        (&["--size", "63"][..], &["--size", "63", "64..=9018"][..]),
        (&["--size", "x"], &["--size", "x"]),
        (&["--nonsense"], &["--nonsense"]),
        (&["--mrg-rxbuf=2"], &["--mrg-rxbuf", "2", "use 0 or 1"]),
        (&["--queue-size", "1000"], &["--queue-size 1000", "power of two"]),
        (&["--seconds=-1"], &["--seconds -1", "86400"]),
        (&["--warmup=NaN"], &["--warmup NaN"]),
        (&["--vectorized"], &["--vectorized", "--mrg-rxbuf=0 --in-order=0"]),
        (
            &["--vectorized", "--mrg-rxbuf=0", "--in-order=0", "--burst=64"],
            &["--burst 64", "use 32 or less"],
        ),
        (&["--flows=50001", "--addresses=1"], &["--flows 50001", "--addresses 1", "50000"]),
        (&["--send-from=1"], &["--send-from 1", "1 ports"]),
        (&["--send-from=some"], &["--send-from", "some"]),
        (&["--port", &no_ip], &["--port", "ip= is missing"]),
        (&["--port", &bad_mac], &["mac=\"02:00:00:00:00\"", "six pairs"]),
        (&["--port", &bad_ip], &["to-ip=\"10.0.0\"", "IPv4"]),
        (&["--port", &bad_key], &["\"queue\" is unknown"]),
        (&["--port", &bad_own], &["--queues 17", "1 to 16"]),
        (&["--port", &bad_flag], &["packed=\"yes\"", "use 0 or 1"]),
        (&["--port", &bad_vector], &["--vectorized", "--mrg-rxbuf=0"]),
        (&["--drain=-1"], &["--drain -1", "86400"]),
        (&["--port", &bad_peer], &["peer 7", "2 ports"]),
        (&["--port", &same_peer], &["ports 0 and 1", "same peer"]),
        (&["--memory-mb=1"], &["--memory-mb"]),
    ] {
        let text = settings_of(words).unwrap_err();
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in parts {
            assert!(text.contains(part), "{words:?}: {part:?} is not in {text:?}");
        }
    }
    let error = ask(&["--cpu", "0"]).unwrap_err().to_string();
    assert!(error.contains("--port") && error.lines().count() == 1, "{error}");
    let error = settings_of(&[["--port", PORT]; 32].concat()).unwrap_err();
    assert!(error.contains("33 ports: use at most 32"), "{error}");
}

#[test]
fn help_is_not_an_error() {
    let Ok(Asked::Text(help)) = ask(&["--help"]) else { unreachable!() };
    for option in ["--cpu", "--port", "--touch", "--verify-every", "--latency", "--send-from"] {
        assert!(help.contains(option), "{option}");
    }
    for explained in ["busy > 0.97", "ring_full < 0.10"] {
        assert!(help.contains(explained), "{explained}");
    }
}
