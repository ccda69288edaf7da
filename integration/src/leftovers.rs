//! What pods leave behind, and pods that must be refused.

use std::fs;

use anyhow::{Result, bail, ensure};

use crate::node::Node;
use crate::pod::Pod;

/// Creates a pod that must be refused with one line that contains every one of `words`, and leaves neither port nor directory.
pub fn refused(node: &mut Node, pod: Pod, words: &[&str]) -> Result<()> {
    let annotations = format!("{:?}", pod.annotations);
    let before = leftovers(node)?;
    let error = match node.start_pod(pod) {
        Ok(running) => {
            node.delete(&running)?;
            bail!("the pod with {annotations} was created");
        }
        Err(error) => format!("{error:#}"),
    };
    println!("    {error}");
    ensure!(!error.trim().contains('\n'), "more than one line for {annotations}: {error}");
    for word in words {
        ensure!(error.contains(word), "{word:?} is not in the error for {annotations}: {error}");
    }
    let after = leftovers(node)?;
    ensure!(
        before == after,
        "the refused pod with {annotations} left {after:?}, before {before:?}"
    );
    Ok(())
}

/// Ports of the vRouter, when it runs, and directories of pods.
pub fn leftovers(node: &Node) -> Result<(usize, Vec<String>)> {
    let ports = match node.vrouter() {
        Ok(vrouter) => vrouter.ports()?.len(),
        Err(_) => 0,
    };
    let mut directories = Vec::new();
    if let Ok(entries) = fs::read_dir(node.run().path().join("pods")) {
        for entry in entries {
            directories.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    directories.sort();
    Ok((ports, directories))
}
