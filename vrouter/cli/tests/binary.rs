//! The binary as a shell sees it: exit codes, one line of error, closed pipes.

use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn ringway(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(args).env_remove("RINGWAY_VROUTER_SOCKET").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check(output: &Output, code: i32, parts: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in {stderr:?}");
    }
}

#[test]
fn no_vrouter_is_exit_code_3_and_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let path = socket.to_str().unwrap();
    for args in [
        &["ports"][..],
        &["stats", "--watch", "1"],
        &["networks", "delete", "red"],
        &["watch", "--json"],
    ] {
        let output = ringway(args).args(["--socket", path]).output().unwrap();
        check(&output, 3, &[path, "No such file", "start ringway-vrouter", "--socket"]);
        assert_eq!(text(&output.stderr).lines().count(), 1);
        assert!(output.stdout.is_empty());
    }
    // By the environment; a socket nobody listens on any more.
    drop(UnixListener::bind(&socket).unwrap());
    let output = ringway(&["info"]).env("RINGWAY_VROUTER_SOCKET", path).output().unwrap();
    check(&output, 3, &[path, "refused"]);
}

#[test]
fn a_peer_that_is_no_vrouter_is_exit_code_3() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("hangs-up.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let hang_up = std::thread::spawn(move || drop(listener.accept()));
    let output = ringway(&["info", "--socket", socket.to_str().unwrap()]).output().unwrap();
    check(&output, 3, &["hangs-up.sock"]);
    hang_up.join().unwrap();
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [&["prots"][..], &[], &["networks", "add", "red"], &["stats", "--watch", "soon"]] {
        check(&ringway(args).output().unwrap(), 2, &["--help"]);
    }
}

#[test]
fn help_tells_exit_codes_and_fields() {
    for (args, parts) in [
        (&["--help"][..], &["Exit codes", "RINGWAY_VROUTER_SOCKET", "networks add red"][..]),
        (&["ports", "--help"], &["peer_pid", "REASON", "waiting"]),
        (&["networks", "--help"], &["gateway6", "flood_limit", "stations"]),
        (&["networks", "add", "--help"], &["--ipv6", "bridged", "--bits-per-second", "10 ms"]),
        (&["routes", "--help"], &["ringway routes load", "unreachable", "changed"]),
        (&["routes", "load", "--help"], &["ip route", "standard input", "changes nothing"]),
        (&["stats", "--help"], &["rx_packets_per_second", "--watch"]),
    ] {
        let output = ringway(args).output().unwrap();
        check(&output, 0, &[]);
        for part in parts {
            assert!(text(&output.stdout).contains(part), "{part}");
        }
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = ringway(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let started = Instant::now();
    let output = child.wait_with_output().unwrap();
    check(&output, 0, &[]);
    assert_eq!(text(&output.stderr), "");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn output_that_cannot_be_written_is_exit_code_1() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = ringway(&["completions", "bash"]).stdout(full).output().unwrap();
    check(&output, 1, &["cannot write the output"]);
}

#[test]
fn completions() {
    let output = ringway(&["completions", "bash"]).output().unwrap();
    check(&output, 0, &[]);
    let script = text(&output.stdout);
    for word in
        ["_ringway", "--watch", "ringway__subcmd__routes__subcmd__load", "--mode", "routed bridged"]
    {
        assert!(script.contains(word), "{word}");
    }
}
