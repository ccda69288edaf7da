//! Real vhost-user frontends against the real vRouter, without containers: DPDK's virtio-user in its variants, memory that changes under
//! traffic, workers that change under traffic, a Linux guest in QEMU, and many idle pods.
//!
//! Every test that moves packets checks each of them and compares what the pods have counted with what the vRouter has. The tests share
//! the machine and one vRouter, so they run one after another.
#![forbid(unsafe_code)]

mod bed;
mod exchange;
mod guest;
mod idle;
mod matrix;
mod memory;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use integration::suite::{self, Case};
use integration::{idle_pods, machine, qemu};

use bed::Bed;

/// What a test needs of the machine.
#[derive(Debug, Clone, Copy)]
enum Needs {
    /// Root, hugepages, DPDK.
    Dpdk,
    /// Two CPUs besides.
    TwoCpus,
    /// QEMU and a guest's kernel besides.
    Qemu,
}

impl Needs {
    /// Why this machine cannot run the test, or nothing when it can.
    fn unmet(self) -> Option<String> {
        machine::unfit_for_dpdk().or_else(|| match self {
            Self::Dpdk => None,
            Self::TwoCpus => bed::cpus().err().map(|error| error.to_string()),
            Self::Qemu => qemu::unfit(),
        })
    }
}

type Test = fn(&mut Bed) -> Result<()>;
type Play = Box<dyn Fn(&mut Bed) -> Result<()> + Send>;

fn tests() -> Vec<(String, Needs, Play)> {
    let rings = matrix::CASES.iter().map(|case| {
        let play: Play = Box::new(|bed: &mut Bed| matrix::play(bed, case));
        (format!("rings_{}", case.name), Needs::Dpdk, play)
    });
    let others: [(&str, Needs, Test); 10] = [
        ("memory_of_several_files", Needs::Dpdk, memory::several_files),
        ("memory_changes_split", Needs::Dpdk, memory::changes_split),
        ("memory_changes_packed", Needs::Dpdk, memory::changes_packed),
        ("workers_come_and_go", Needs::TwoCpus, workers::come_and_go),
        ("workers_change_their_mode", Needs::TwoCpus, workers::change_their_mode),
        ("modes_follow_the_load", Needs::TwoCpus, workers::modes_follow_the_load),
        ("idle_pods_are_small", Needs::Dpdk, idle::pods_are_small),
        ("guest_talks", Needs::Qemu, guest::talks),
        ("guest_memory_grows", Needs::Qemu, guest::memory_grows),
        ("guest_comes_back", Needs::Qemu, guest::comes_back),
    ];
    let others = others.into_iter().map(|(name, needs, test)| {
        let play: Play = Box::new(test);
        (name.to_owned(), needs, play)
    });
    rings.chain(others).collect()
}

fn main() -> ExitCode {
    if let Some(sockets) = idle_role() {
        return match idle_pods::serve(&sockets) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let case = |(name, needs, test): (String, Needs, Play)| {
        Case::new(name, needs.unmet(), move |stage| play(stage, &*test))
    };
    suite::run(None, tests().into_iter().map(case).collect(), |stage| *stage = None)
}

/// Runs a test on the bed that is there; one that fails leaves none to the next.
fn play(stage: &mut Option<Bed>, test: &dyn Fn(&mut Bed) -> Result<()>) -> Result<()> {
    if stage.is_none() {
        *stage = Some(Bed::make()?);
    }
    let Some(bed) = stage else { return Ok(()) };
    let result = test(bed).and_then(|()| bed.clear());
    if result.is_err() {
        println!("{}", bed.log_ends());
        *stage = None;
    }
    result
}

/// The sockets, when this program is started to play idle pods: see [`idle`].
fn idle_role() -> Option<Vec<PathBuf>> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == idle::ROLE).then(|| arguments.map(PathBuf::from).collect())
}
