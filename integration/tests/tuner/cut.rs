//! The program is killed in the middle of its work, at every place its journal can have got to.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::wait;
use nix::sys::signal::Signal;

use crate::bed::{Bed, hugepages};
use crate::whole;

/// Bytes between two places; no length of a record is a multiple of it, so records are cut everywhere.
const STEP: usize = 211;

/// A limit on the size of files kills the program (SIGXFSZ) exactly when its journal would grow beyond: before a record,
/// or with a part of it written. Files of the kernel have no size.
pub fn killed_at_every_byte_of_its_journal() -> Result<()> {
    let bed = Bed::new()?;
    let pages = hugepages()? + 8;
    let file = bed.profile(&whole::profile(pages))?;
    let file = file.to_str().context("path")?;
    bed.tuner(&["apply", "--profile", file])?;
    let whole = fs::metadata(bed.state().join("journal.jsonl"))?.len();
    bed.tuner(&["revert"])?;
    bed.is_as_before()?;
    let whole = usize::try_from(whole)?;
    ensure!(whole > 10 * STEP, "the journal has {whole} bytes only");
    for (turn, limit) in (0..whole).step_by(STEP).enumerate() {
        wait::check_stop()?;
        let command = bed.command(&["apply", "--profile", file])?;
        let killed = Command::new("prlimit")
            .arg(format!("--fsize={limit}"))
            .arg("--core=0")
            .arg(command.get_program())
            .args(command.get_args())
            .output()?;
        let error = String::from_utf8_lossy(&killed.stderr).into_owned();
        let signal = killed.status.signal();
        ensure!(signal == Some(Signal::SIGXFSZ as i32), "{limit}: {}: {error}", killed.status);
        if turn % 2 == 0 {
            let told = bed.tuner(&["apply", "--profile", file])?;
            ensure!(hugepages()? == pages, "{limit}: {told}");
        }
        bed.tuner(&["revert"])?;
        bed.is_as_before().with_context(|| format!("killed with {limit} bytes written"))?;
    }
    Ok(())
}
