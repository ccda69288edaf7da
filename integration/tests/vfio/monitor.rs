//! QEMU's monitor, at the machine's second serial line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};

use anyhow::{Context, Result, bail};
use integration::process::run;
use serde_json::{Value, json};

const LINE: &str = "/dev/ttyS1";

/// How long the line may be silent, tenths of seconds. The emulated machine may stand still for seconds.
const SILENCE: &str = "200";

/// A connection to it. There is one line, so there can be one of them.
pub struct Monitor {
    line: BufReader<File>,
    asked: u32,
}

impl Monitor {
    pub fn open() -> Result<Self> {
        // A read ends empty after that time (termios(3), TIME without MIN).
        run("stty", &["-F", LINE, "raw", "-echo", "min", "0", "time", SILENCE].map(AsRef::as_ref))?;
        let line = File::options().read(true).write(true).open(LINE).context(LINE)?;
        let mut monitor = Self { line: BufReader::new(line), asked: 0 };
        // Once for the machine: an error where a test before has said so already. What is said or answered while the line is being
        // opened gets lost, so silence is no answer yet.
        for _ in 0..3 {
            if monitor.asked("qmp_capabilities", &json!({}))?.is_some() {
                return Ok(monitor);
            }
        }
        bail!("QEMU's monitor at {LINE} does not answer")
    }

    /// Has something done.
    ///
    /// # Errors
    /// QEMU's, in its words, or that it is silent.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let said = self.asked(command, arguments)?;
        let said = said.with_context(|| format!("QEMU is silent about {command} {arguments}"))?;
        match said.get("error") {
            Some(error) => bail!("QEMU: {command} {arguments}: {error}"),
            None => Ok(()),
        }
    }

    /// The answer; `None`: there is none.
    fn asked(&mut self, command: &str, arguments: &Value) -> Result<Option<Value>> {
        self.asked += 1;
        let asked = json!({"execute": command, "arguments": arguments, "id": self.asked});
        // What may be left of another sentence ends here.
        self.line.get_mut().write_all(format!("\n{asked}\n").as_bytes())?;
        loop {
            let mut said = String::new();
            self.line.read_line(&mut said)?;
            if !said.ends_with('\n') {
                return Ok(None);
            }
            // The greeting, events, and what was cut off before anybody read it.
            let Ok(said) = serde_json::from_str::<Value>(&said) else { continue };
            if said.get("id").and_then(Value::as_u64) == Some(self.asked.into()) {
                return Ok(Some(said));
            }
        }
    }
}
