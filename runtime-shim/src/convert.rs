//! Between the node API and `runtime-shim-core`. By hand, without IO.

use std::path::Path;

use nri_plugin_api::v1;
use runtime_shim_core::Adjustment;
use runtime_shim_core::edit::Mount;
use runtime_shim_core::wish::Wish;

/// containerd's shim tells its runtime which namespace the container is in.
const NAMESPACE: &str = "NAMESPACE";
/// Where nobody says.
const HOST: &str = "host";

/// containerd's namespace of the container whose configuration is `file`, if containerd started this program.
pub fn namespace(file: &Path, id: &str) -> Option<String> {
    std::env::var(NAMESPACE).ok().or_else(|| namespace_of(file, id))
}

/// The request for a container in `namespace`, if its configuration names no other.
pub fn request(root: &str, id: &str, namespace: Option<String>, wish: &Wish) -> v1::CreateRequest {
    let namespace = wish.namespace.clone().or(namespace);
    v1::CreateRequest {
        key: Some(key(root, id)),
        namespace: namespace.filter(|name| !name.is_empty()).unwrap_or_else(|| HOST.to_owned()),
        pod: wish.pod.clone().unwrap_or_else(|| id.to_owned()),
        name: wish.name.clone().unwrap_or_else(|| id.to_owned()),
        annotations: wish.annotations.clone().into_iter().collect(),
        cgroups_path: wish.cgroups_path.clone(),
        resources: Some(v1::Resources {
            cpu_shares: wish.cpu_shares,
            cpu_quota: wish.cpu_quota,
            cpu_period: wish.cpu_period,
            cpuset_cpus: wish.cpuset_cpus.clone(),
            cpuset_mems: wish.cpuset_mems.clone(),
            hugepages: wish
                .hugepages
                .iter()
                .map(|(page_size, limit)| v1::HugepageLimit {
                    page_size: page_size.clone(),
                    limit: *limit,
                })
                .collect(),
        }),
    }
}

/// The namespace in the path of a bundle of containerd, `.../io.containerd.runtime.v2.task/<namespace>/<id>`: before 1.7 its shim
/// does not tell it otherwise.
fn namespace_of(file: &Path, id: &str) -> Option<String> {
    let bundle = std::path::absolute(file).ok()?.parent()?.to_owned();
    let namespace = bundle.parent().filter(|_| bundle.ends_with(id))?;
    let tasks = namespace.parent()?.file_name()?.to_str()?;
    let name = namespace.file_name()?.to_str()?;
    tasks.starts_with("io.containerd.runtime.").then(|| name.to_owned())
}

/// A container's name in the node API.
pub fn key(root: &str, id: &str) -> v1::ContainerKey {
    v1::ContainerKey { root: root.to_owned(), id: id.to_owned() }
}

/// What the node granted.
pub fn adjustment(wire: v1::Adjustment) -> Adjustment {
    let mount = |it: v1::Mount| Mount {
        destination: it.destination,
        kind: it.r#type,
        source: it.source,
        options: it.options,
    };
    Adjustment {
        mounts: wire.mounts.into_iter().map(mount).collect(),
        env: wire.env.into_iter().map(|it| (it.name, it.value)).collect(),
        annotations: wire.annotations.into_iter().collect(),
        cpuset_cpus: wire.cpuset_cpus,
        cpuset_mems: wire.cpuset_mems,
        hugepages: wire.hugepages.into_iter().map(|it| (it.page_size, it.limit)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerds_namespace_is_in_its_bundles_path() {
        for (file, expected) in [
            (
                "/run/containerd/io.containerd.runtime.v2.task/default/c1/config.json",
                Some("default"),
            ),
            ("/run/containerd/io.containerd.runtime.v2.task/default/c2/config.json", None),
            ("/run/tasks/default/c1/config.json", None),
            ("/c1/config.json", None),
            ("config.json", None),
        ] {
            assert_eq!(namespace_of(Path::new(file), "c1").as_deref(), expected, "{file}");
        }
    }
}
