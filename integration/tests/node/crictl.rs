//! A pod by hand: `crictl runp`, `create`, `start`, with the JSON that its manual shows.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::leftovers::leftovers;
use integration::node::Node;
use integration::testpmd::{self, Role};
use integration::{image, kubernetes, traffic, wrapper};
use serde_json::json;

use integration::stage::Stage;

fn crictl(node: &Node, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(kubernetes::program("crictl"));
    command.arg("--timeout=120s").arg("--runtime-endpoint");
    command.arg(format!("unix://{}", node.containerd()?.socket().display()));
    command.args(words).env("HOME", node.run().path());
    Ok(command)
}

pub fn runs_a_pod(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let before = leftovers(node)?;
    let run = node.run().path();
    // As 2 is the node's network in CRI, no CNI plugin is asked.
    let pod = |network: &str| {
        json!({
            "metadata": {"name": "by-hand", "namespace": "demo", "uid": "by-hand", "attempt": 1},
            "annotations": {"network.ringway.dev": network, "hugepages-2mi.ringway.dev": "64Mi"},
            "log_directory": run.join("logs/by-hand"),
            "linux": {
                "cgroup_parent": format!("/{}/by-hand", node.run().id()),
                "security_context": {"namespace_options": {"network": 2}},
            },
        })
    };
    let container = json!({
        "metadata": {"name": "app", "attempt": 1},
        "image": {"image": image::TESTPMD},
        "command": testpmd::command(&Role::Receive),
        "log_path": "app.log",
        "linux": {"security_context": {
            "run_as_user": {"value": 65534}, "capabilities": {"drop_capabilities": ["ALL"]},
            "no_new_privs": true,
        }},
    });
    let write = |name: &str, value: &serde_json::Value| -> Result<String> {
        let path = run.join(name);
        std::fs::write(&path, value.to_string())?;
        Ok(path.display().to_string())
    };
    let (pod_file, container_file) =
        (write("pod.json", &pod("red"))?, write("container.json", &container)?);

    let sandbox = wrapper::run(&mut crictl(node, &["runp", &pod_file])?)?;
    let sandbox = sandbox.trim();
    let create = ["create", sandbox, &container_file, &pod_file];
    let id = wrapper::run(&mut crictl(node, &create)?)?;
    wrapper::run(&mut crictl(node, &["start", id.trim()])?)?;
    let port = node.vrouter()?.wait_up(sandbox, traffic::UP)?;
    let address = port.spec.context("no specification")?.ipv4;
    let exec = ["exec", id.trim(), "cat", "/run/ringway/interfaces.json"];
    let told = wrapper::run(&mut crictl(node, &exec)?)?;
    ensure!(told.contains(&address), "no {address} in {told}");
    wrapper::run(&mut crictl(node, &["rmp", "--force", sandbox])?)?;
    ensure!(leftovers(node)? == before, "{:?} is left", leftovers(node)?);

    let lost = write("lost.json", &pod("green"))?;
    let said = wrapper::fail(&mut crictl(node, &["runp", &lost])?)?;
    println!("    {said}");
    ensure!(said.contains("\"green\"") || said.contains("\\\"green\\\""), "{said}");
    ensure!(leftovers(node)? == before, "{:?} is left", leftovers(node)?);
    Ok(())
}
