//! `ringway-frames` as a child process: a DPDK pod that sends the frames a test gives it and gives back those it gets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Time for EAL to start and for any answer; the CPUs may be busy.
const ANSWER: Duration = Duration::from_secs(60);

/// Frames and how often each came.
pub type Got = BTreeMap<Vec<u8>, u64>;

/// A running pod; dropping it ends it.
#[derive(Debug)]
pub struct FramePod {
    name: String,
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl FramePod {
    /// Starts `command`, which runs `ringway-frames` with its arguments, and waits until its device has started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let errors = File::create(log).with_context(|| log.display().to_string())?;
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().with_context(|| format!("cannot start pod {name}"))?;
        let orders = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let pod = Self { name: name.to_owned(), child, orders, answers };
        let ready = pod.answer().with_context(|| {
            format!("{}:\n{}", log.display(), std::fs::read_to_string(log).unwrap_or_default())
        })?;
        ensure!(ready == "ready", "pod {name} said {ready:?}");
        Ok(pod)
    }

    fn answer(&self) -> Result<String> {
        let answer = self.answers.recv_timeout(ANSWER);
        answer.with_context(|| format!("pod {} does not answer, or has ended", self.name))
    }

    /// Sends a frame so many times on a queue; returns when the ring has taken all.
    pub fn send(&mut self, queue: u16, count: u64, frame: &[u8]) -> Result<()> {
        let mut order = format!("send {queue} {count} ");
        frame.iter().try_for_each(|byte| write!(order, "{byte:02x}"))?;
        writeln!(self.orders, "{order}")?;
        let answer = self.answer()?;
        ensure!(answer == format!("sent {count}"), "pod {} said {answer:?}", self.name);
        Ok(())
    }

    /// Sends a frame that leaves work to its device; the pod must have been started with `--offloads`. `work`: see
    /// `ringway-frames`.
    pub fn leave(&mut self, queue: u16, work: &str, frame: &[u8]) -> Result<()> {
        let mut order = format!("leave {queue} {work} ");
        frame.iter().try_for_each(|byte| write!(order, "{byte:02x}"))?;
        writeln!(self.orders, "{order}")?;
        let answer = self.answer()?;
        ensure!(answer == "sent 1", "pod {} said {answer:?}", self.name);
        Ok(())
    }

    /// Frames received since the start whose checksum the pod's device calls good.
    pub fn checked(&mut self) -> Result<u64> {
        writeln!(self.orders, "checked")?;
        let answer = self.answer()?;
        let count = answer.strip_prefix("checked ").and_then(|count| count.parse().ok());
        count.with_context(|| format!("pod {} said {answer:?}", self.name))
    }

    /// The frames received since the last time this was asked.
    pub fn received(&mut self) -> Result<Got> {
        writeln!(self.orders, "report")?;
        let mut got = Got::new();
        loop {
            let answer = self.answer()?;
            let words: Vec<&str> = answer.split_whitespace().collect();
            match words[..] {
                ["end"] => return Ok(got),
                ["got", count, hex] => {
                    let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
                    let frame: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
                    got.insert(frame.context("no frame")?, count.parse()?);
                }
                _ => bail!("pod {} said {answer:?}", self.name),
            }
        }
    }
}

impl Drop for FramePod {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
