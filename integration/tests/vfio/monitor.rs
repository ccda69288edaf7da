//! QEMU's monitor, at the machine's second serial line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};

use anyhow::{Context, Result, bail};
use integration::process::run;
use serde_json::{Value, json};

const LINE: &str = "/dev/ttyS1";

/// A connection to it. There is one line, so there can be one of them.
pub struct Monitor {
    line: BufReader<File>,
    asked: u32,
}

impl Monitor {
    pub fn open() -> Result<Self> {
        run("stty", &["-F", LINE, "raw", "-echo"].map(AsRef::as_ref))?;
        let line = File::options().read(true).write(true).open(LINE).context(LINE)?;
        let mut monitor = Self { line: BufReader::new(line), asked: 0 };
        // Once for the machine: an error where a test before has said so already.
        let _ = monitor.ask("qmp_capabilities", &json!({}));
        Ok(monitor)
    }

    /// Has something done.
    ///
    /// # Errors
    /// QEMU's, in its words.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Result<()> {
        self.asked += 1;
        let asked = json!({"execute": command, "arguments": arguments, "id": self.asked});
        // What may be left of another sentence ends here.
        self.line.get_mut().write_all(format!("\n{asked}\n").as_bytes())?;
        loop {
            let mut said = String::new();
            if self.line.read_line(&mut said)? == 0 {
                bail!("the monitor is gone");
            }
            // The greeting, events, and what was cut off before anybody read it.
            let Ok(said) = serde_json::from_str::<Value>(&said) else { continue };
            if said.get("id").and_then(Value::as_u64) != Some(self.asked.into()) {
                continue;
            }
            return match said.get("error") {
                Some(error) => bail!("QEMU: {asked}: {error}"),
                None => Ok(()),
            };
        }
    }
}
