//! A kube-scheduler that reaches the extender by TLS, and those who may not.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::process::run;
use integration::wait;
use serde_json::json;

use crate::api::{Api, PATIENCE, free_port, server};
use crate::placement::{extender, placed, pod, scheduler, strict};

/// Certificates of an authority and of those it vouches for.
struct Certificates(PathBuf);

impl Certificates {
    fn new(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let it = Self(directory);
        it.make("ca", "CA:TRUE", None)?;
        fs::copy(it.file("ca.crt"), it.file("clients.crt"))?;
        it.make("extender", "CA:FALSE", Some("ca"))?;
        it.make("scheduler", "CA:FALSE", Some("ca"))?;
        it.make("stranger", "CA:FALSE", None)?;
        Ok(it)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// A key and a certificate, signed by `by`, or by itself.
    fn make(&self, name: &str, constraints: &str, by: Option<&str>) -> Result<()> {
        let config = self.file(&format!("{name}.conf"));
        let text = format!(
            "[req]\nprompt = no\ndistinguished_name = dn\nx509_extensions = ext\n[dn]\nCN = {name}\n\
             [ext]\nbasicConstraints = critical,{constraints}\nsubjectAltName = IP:127.0.0.1\n"
        );
        fs::write(&config, text)?;
        let (key, cert) = (self.file(&format!("{name}.key")), self.file(&format!("{name}.crt")));
        let mut words = vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
        words.extend(["-config", &config, "-keyout", &key, "-out", &cert]);
        let by = by.map(|by| (self.file(&format!("{by}.crt")), self.file(&format!("{by}.key"))));
        if let Some((cert, key)) = &by {
            words.extend(["-CA", cert, "-CAkey", key]);
        }
        let words: Vec<&OsStr> = words.into_iter().map(OsStr::new).collect();
        run("openssl", &words)?;
        Ok(())
    }

    /// What an extender answers to somebody with that certificate, if any.
    fn ask(&self, port: u16, who: Option<&str>) -> Result<String> {
        let (address, ca) = (format!("127.0.0.1:{port}"), self.file("ca.crt"));
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-verify_return_error", "-connect", &address]);
        command.args(["-CAfile", &ca]);
        if let Some(who) = who {
            let (cert, key) = (self.file(&format!("{who}.crt")), self.file(&format!("{who}.key")));
            command.args(["-cert", &cert, "-key", &key]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let request = b"GET /readyz HTTP/1.1\r\nHost: extender\r\nConnection: close\r\n\r\n";
        // Whoever is turned away may be so before this is written.
        let _ = child.stdin.as_mut().context("stdin")?.write_all(request);
        let output = child.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

pub fn a_scheduler_asks_by_tls(api: &mut Api) -> Result<()> {
    let nodes = api.agents(&server(8), &["--count", "2"])?;
    let made = Certificates::new(api.run.path().join("tls"))?;
    let files = ["extender.crt", "extender.key", "clients.crt"].map(|name| made.file(name));
    let words = ["--tls-cert", &files[0], "--tls-key", &files[1], "--client-ca", &files[2]];
    let port = free_port()?;
    let asked = extender(api, port, &words)?;
    for who in [None, Some("stranger")] {
        let answer = made.ask(port, who)?;
        ensure!(!answer.contains("HTTP/1.1"), "{who:?} is answered: {answer}");
    }
    let answer = made.ask(port, Some("scheduler"))?;
    ensure!(answer.contains("HTTP/1.1"), "the scheduler is not answered: {answer}");
    let [cert, key, ca] = ["scheduler.crt", "scheduler.key", "ca.crt"].map(|name| made.file(name));
    let tls = json!({"certFile": cert, "keyFile": key, "caFile": ca});
    let asking = scheduler(api, &format!("https://127.0.0.1:{port}"), Some(&tls))?;
    api.apply(&pod("by-tls", &strict(2, 1)))?;
    let place = placed(api, "by-tls")?;
    ensure!(place.1.starts_with("numa="), "{place:?}");
    // A new certificate counts with the next connection, a file that is none is told and not used.
    made.make("extender", "CA:FALSE", Some("ca"))?;
    ensure!(made.ask(port, Some("scheduler"))?.contains("HTTP/1.1"), "not with a new certificate");
    fs::write(Path::new(&files[2]), "nothing")?;
    ensure!(
        !made.ask(port, Some("scheduler"))?.contains("HTTP/1.1"),
        "answered without an authority"
    );
    wait::until("the extender says what it lacks", PATIENCE, || {
        Ok(fs::read_to_string(asked.log())?.contains("--client-ca").then_some(()))
    })?;
    drop((asking, asked, nodes));
    Ok(())
}
