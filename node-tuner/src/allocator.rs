//! What the node's allocator, `ringway-nri`, has given to containers that Kubernetes does not know.

use std::path::Path;
use std::time::Duration;

use node_tuner_core::cpuset::CpuSet;
use nri_plugin_api::{SOCKET, connect, v1::ListRequest};
use ringway_config::NriConfig;

/// It answers at once; one that hangs shall not hold up the node's tuning.
const ANSWER: Duration = Duration::from_secs(5);

/// CPUs that containers of the runtime wrapper have for themselves; none, where the allocator does not run.
pub async fn taken(root: &Path) -> CpuSet {
    let file = root.join(ringway_config::NRI_FILE.trim_start_matches('/'));
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let Ok(config) = NriConfig::from_toml(&text, &file) else { return CpuSet::new() };
    let socket = config.run_dir.join(SOCKET);
    let ask = async {
        let mut client = connect(&socket).await.ok()?;
        Some(client.list(ListRequest {}).await.ok()?.into_inner().containers)
    };
    let Ok(Some(containers)) = tokio::time::timeout(ANSWER, ask).await else {
        return CpuSet::new();
    };
    let mut taken = CpuSet::new();
    for container in containers {
        taken.extend(&container.exclusive_cpus.parse().unwrap_or_default());
    }
    taken
}
