//! What a container may be and still work: nothing of it needs a privilege.

use anyhow::{Context, Result};
use integration::node::Node;
use integration::wrapper::{self, held_of, sender, wait_nothing_left};

use crate::bare::NOTICED;
use crate::ctr::{self, PACKETS};
use integration::stage::Stage;

/// Where testpmd of the tests takes its commands; writable for everybody.
const TMP: [&str; 2] = ["--mount", "type=tmpfs,src=tmpfs,dst=/tmp,options=rw:mode=1777"];

pub fn every_way(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let ways: [(&str, &[&str]); 4] = [
        ("nobody", &["--user", "65534:65534"]),
        ("readonly", &["--user", "65534:65534", "--read-only"]),
        ("userns", &["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]),
        ("seccomp", &["--user", "65534:65534", "--seccomp"]),
    ];
    for (name, options) in ways {
        let options = [&TMP[..], options].concat();
        one_way(node, name, &options).with_context(|| name.to_owned())?;
    }
    wait_nothing_left(node, NOTICED)
}

fn one_way(node: &Node, name: &str, options: &[&str]) -> Result<()> {
    let receiver = ctr::start_receiver(node, name, "10.66.0.60", options)?;
    let words = sender(node, "red", "10.66.0.61", "10.66.0.60")?;
    let sender = ctr::start_sender(node, "tells", "10.66.0.61", &words)?;
    let outcome = wrapper::traffic(node, &sender, &receiver, PACKETS)?;
    println!("    {name}: {outcome:?}");
    for id in [name, "tells"] {
        held_of(node, id)?;
        ctr::remove_container(node, id)?;
    }
    Ok(())
}
