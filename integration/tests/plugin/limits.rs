//! What the administrator does not allow: one line that kubelet shows.

use anyhow::Result;
use integration::containerd::Version;
use integration::leftovers::refused;
use integration::node::{PluginStart, Setup};
use integration::pod::Pod;

use integration::stage::Stage;

const LIMITS: &str = "
[limits]
namespaces = ['other', 'dem*']
unlisted_networks = false
interfaces = 2
queues = 2
cpus = 0
hugepages = '16Mi'
mac = false
ip = false
[networks.red]
namespaces = ['demo']
[networks.blue]
namespaces = ['other']
";

pub fn refuse(stage: &mut Stage) -> Result<()> {
    let mut setup = Setup::new(Version::V2_1, PluginStart::External);
    setup.plugin_settings = LIMITS;
    let node = stage.node(&setup)?;
    let pod = |network: &str| Pod::idle("greedy").annotate("network.ringway.dev", network);
    let full = |text: &str| pod("red").annotate("interfaces.ringway.dev", text);
    let cases: [(Pod, &[&str]); 8] = [
        (pod("blue"), &["\"demo\"", "\"blue\"", "networks.blue.namespaces"]),
        (pod("green"), &["\"green\"", "networks.green.namespaces"]),
        (pod("red,red,red"), &["3 interfaces", "allows 2", "limits.interfaces"]),
        (full(r#"[{"queues": 3}]"#), &["3 queues", "allows 2", "limits.queues"]),
        (full(r#"[{"mac": "02:00:00:00:00:07"}]"#), &["02:00:00:00:00:07", "limits.mac"]),
        (full(r#"[{"ip": "10.66.0.77"}]"#), &["10.66.0.77", "limits.ip"]),
        (pod("red").annotate("cpus.ringway.dev", "1"), &["1 exclusive", "allows 0", "limits.cpus"]),
        (
            pod("red").annotate("hugepages-2mi.ringway.dev", "18Mi"),
            &["18Mi", "allows 16Mi", "limits.hugepages"],
        ),
    ];
    for (pod, words) in cases {
        refused(node, pod, words)?;
    }
    let modest = node.start_pod(
        pod("red,red")
            .annotate("hugepages-2mi.ringway.dev", "16Mi")
            .annotate("cpus.ringway.dev", "shared"),
    )?;
    node.vrouter()?.port(&modest.sandbox)?;
    node.delete(&modest)
}
