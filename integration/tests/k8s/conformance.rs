//! critest, the conformance tests of container runtimes: the same tests pass with and without Ringway.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::containerd::Version;
use integration::machine;
use integration::node::{Node, PluginStart, Setup};
use integration::stage::Stage;
use integration::{image, kubernetes};
use serde_json::Value;

/// Tests that need no other image than ours: no registry can be reached.
const FOCUS: &str =
    "PodSandbox|basic operations on container|adding volume|Idempotence|execSync|runtime info";
/// What this machine or our one image lacks.
const SKIP: &str = "image|Image|portforward|streaming|sysctls|DNS";

/// Why this machine can't run it, or nothing when it can.
pub fn unfit() -> Option<String> {
    let version = Version::from_environment().unwrap_or(Version::V2_1);
    machine::unfit(version).or_else(|| kubernetes::missing("critest"))
}

pub fn same_with_and_without(stage: &mut Stage) -> Result<()> {
    let version = Version::from_environment()?;
    let node = stage.node(&Setup::new(version, PluginStart::External))?;
    kubernetes::write_network(node.run())?;
    let with = outcomes(node, "with")?;
    node.stop_plugin()?;
    let without = outcomes(node, "without")?;
    let passed = without.values().filter(|state| *state == "passed").count();
    println!("    {passed} of {} tests passed", without.len());
    ensure!(passed > 10, "only {passed} tests passed: {without:#?}");
    ensure!(with == without, "with Ringway {with:#?}, without {without:#?}");
    Ok(())
}

/// How each test ended.
fn outcomes(node: &Node, name: &str) -> Result<BTreeMap<String, String>> {
    let run = node.run().path();
    let (images, report) = (run.join("images.yaml"), run.join(format!("critest-{name}.json")));
    let ours = image::BUSYBOX;
    fs::write(&images, format!("defaultTestContainerImage: {ours}\nwebServerTestImage: {ours}\n"))?;
    let endpoint = format!("unix://{}", node.containerd()?.socket().display());
    let output = Command::new(kubernetes::program("critest"))
        .args(["--runtime-endpoint", &endpoint])
        .arg("--test-images-file")
        .arg(&images)
        .arg(format!("--ginkgo.focus={FOCUS}"))
        .arg(format!("--ginkgo.skip={SKIP}"))
        .args(["--ginkgo.timeout=10m", "--ginkgo.seed=1"])
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .output()?;
    fs::write(run.join(format!("critest-{name}.log")), &output.stdout)?;
    let text = fs::read_to_string(&report)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let suites: Value = serde_json::from_str(&text)?;
    let specs = suites[0]["SpecReports"].as_array().context("no reports of tests")?;
    let mut found = BTreeMap::new();
    for spec in specs.iter().filter(|spec| spec["LeafNodeType"] == "It") {
        let parents = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
        let words: Vec<_> =
            parents.chain([&spec["LeafNodeText"]]).filter_map(Value::as_str).collect();
        let state = spec["State"].as_str().unwrap_or_default();
        if state != "skipped" {
            found.insert(words.join(" "), state.to_owned());
        }
    }
    Ok(found)
}
