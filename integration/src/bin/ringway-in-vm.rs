//! Runs a program in a virtual machine with two NUMA nodes: `ringway-in-vm PROGRAM ARGUMENTS`. Meant as cargo's runner for live tests
//! (`make test-numa`).
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use integration::qemu::numa;
use integration::wait;

fn main() -> ExitCode {
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("ringway-in-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().context("which program? ringway-in-vm PROGRAM ARGUMENTS")?;
    let program = PathBuf::from(program);
    let program = program.canonicalize().with_context(|| program.display().to_string())?;
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(reason) = numa::unfit() {
        println!("SKIP {name}: {reason}");
        return Ok(0);
    }
    wait::stop_on_signals()?;
    println!("booting a machine with two NUMA nodes for {name}");
    let status = numa::run_inside(&program, &arguments.collect::<Vec<_>>())?;
    Ok(u8::try_from(status).unwrap_or(1))
}
