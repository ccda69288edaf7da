//! What a pod needs of the node it goes to, from its annotations and its containers' requests, as the node's allocator
//! will read them.

use std::collections::{BTreeMap, BTreeSet};

use nri_plugin_core::annotations::{
    self, AnnotationError, CpusRequest, NumaPolicy, RawInterface, Scope, VrouterMode,
};

/// A container, as far as its needs go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerView {
    /// Its name in the pod.
    pub name: String,
    /// CPUs requested, thousandths.
    pub cpu_request: u64,
    /// Most CPU time, thousandths of a CPU; 0: no limit.
    pub cpu_limit: u64,
    /// Hugepages, bytes by the bytes of one page.
    pub hugepages: BTreeMap<u64, u64>,
}

/// What a pod needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// CPUs that nobody else has.
    pub exclusive: u32,
    /// Containers that share CPUs.
    pub shared: u32,
    /// Hugepages, bytes by the bytes of one page.
    pub hugepages: BTreeMap<u64, u64>,
    /// vhost-user ports.
    pub ports: u32,
    /// Networks it is to be in.
    pub networks: BTreeSet<String>,
    /// How near everything has to be.
    pub numa: Want,
    /// Mode of the vRouter, if it matters.
    pub mode: Option<VrouterMode>,
}

/// How near everything has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// Anywhere.
    Off,
    /// On one NUMA node, if that can be.
    #[default]
    Preferred,
    /// On one NUMA node with its vRouter.
    Strict,
    /// On this one.
    Node(u32),
}

/// A pod's needs can't be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DemandError {
    /// An annotation can't be used.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// Two containers ask for different NUMA nodes.
    #[error("its containers ask for NUMA nodes {0} and {1}; all of a pod is on one")]
    TwoNodes(u32, u32),
}

/// What a pod with those annotations and containers needs, init containers included, as they keep theirs until the pod
/// ends; `None`: nothing of ours. `decode` is that of [`annotations::parse`].
///
/// # Errors
/// [`DemandError`] for what no node's allocator would accept.
pub fn demand(
    annotations: &BTreeMap<String, String>,
    containers: &[ContainerView],
    decode: impl Fn(&str) -> Result<Vec<RawInterface>, String> + Copy,
) -> Result<Option<Demand>, DemandError> {
    let mut total = Demand { numa: Want::Off, ..Demand::default() };
    let (mut asked, mut pod_ports) = (false, 0);
    for container in containers {
        let Some(request) = annotations::parse(annotations, &container.name, decode)? else {
            continue;
        };
        asked = true;
        let ports = u32::try_from(request.interfaces.len()).unwrap_or(u32::MAX);
        match request.scope {
            // The same interfaces for all containers of the pod.
            Scope::Pod => pod_ports = ports,
            Scope::Container => total.ports = total.ports.saturating_add(ports),
        }
        total.networks.extend(request.interfaces.into_iter().map(|interface| interface.network));
        match request.cpus {
            CpusRequest::Exclusive(count) => {
                total.exclusive = total.exclusive.saturating_add(count.get())
            }
            CpusRequest::Default if whole(container) > 0 => {
                total.exclusive = total.exclusive.saturating_add(whole(container));
            }
            CpusRequest::Default | CpusRequest::Shared => total.shared += 1,
        }
        let mut hugepages = container.hugepages.clone();
        hugepages.extend(request.hugepages.iter().map(|limit| (limit.size.bytes(), limit.limit)));
        for (size, bytes) in hugepages.into_iter().filter(|(_, bytes)| *bytes > 0) {
            let sum: &mut u64 = total.hugepages.entry(size).or_default();
            *sum = sum.saturating_add(bytes);
        }
        let want = match request.numa {
            NumaPolicy::Off => Want::Off,
            NumaPolicy::Preferred => Want::Preferred,
            NumaPolicy::Strict => Want::Strict,
            NumaPolicy::Node(node) => Want::Node(node.0),
        };
        if let (Want::Node(one), Want::Node(other)) = (total.numa, want)
            && one != other
        {
            return Err(DemandError::TwoNodes(one, other));
        }
        total.numa = total.numa.max(want);
        total.mode = annotations::vrouter_mode(annotations, &container.name)?.or(total.mode);
    }
    total.ports = total.ports.saturating_add(pod_ports);
    Ok(asked.then_some(total))
}

/// CPUs that the allocator makes exclusive without an annotation: a whole number with an equal limit.
fn whole(container: &ContainerView) -> u32 {
    let request = container.cpu_request;
    let whole = request.is_multiple_of(1000) && request == container.cpu_limit;
    if whole { u32::try_from(request / 1000).unwrap_or(u32::MAX) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn container(name: &str, request: u64, limit: u64) -> ContainerView {
        ContainerView {
            name: name.into(),
            cpu_request: request,
            cpu_limit: limit,
            hugepages: BTreeMap::new(),
        }
    }

    fn none(_: &str) -> Result<Vec<RawInterface>, String> {
        Ok(Vec::new())
    }

    #[test]
    fn a_pod_that_has_not_opted_in_needs_nothing() {
        let found =
            demand(&annotations(&[("numa.ringway.dev", "strict")]), &[container("a", 0, 0)], none);
        assert_eq!(found, Ok(None));
    }

    #[test]
    fn containers_add_up_and_share_the_pods_interfaces() {
        let mut second = container("b", 500, 1000);
        second.hugepages.insert(1 << 30, 1 << 30);
        let found = demand(
            &annotations(&[
                ("network.ringway.dev", "red,blue"),
                ("network.ringway.dev/container.c", "green"),
                ("cpus.ringway.dev/container.a", "3"),
                ("numa.ringway.dev/container.a", "strict"),
                ("hugepages-1gi.ringway.dev/container.a", "2Gi"),
                ("mode.ringway.dev", "dpdk"),
            ]),
            &[container("a", 0, 0), second, container("c", 2000, 2000)],
            none,
        );
        let networks = ["blue", "green", "red"].map(str::to_owned);
        assert_eq!(
            found,
            Ok(Some(Demand {
                exclusive: 5,
                shared: 1,
                hugepages: BTreeMap::from([(1 << 30, 3 << 30)]),
                ports: 3,
                networks: networks.into(),
                numa: Want::Strict,
                mode: Some(VrouterMode::Dpdk),
            }))
        );
    }

    #[test]
    fn what_no_node_would_accept_is_told() {
        let two = annotations(&[
            ("network.ringway.dev", "red"),
            ("numa.ringway.dev/container.a", "0"),
            ("numa.ringway.dev/container.b", "1"),
        ]);
        let both = [container("a", 0, 0), container("b", 0, 0)];
        assert_eq!(demand(&two, &both, none), Err(DemandError::TwoNodes(0, 1)));
        let bad = annotations(&[("network.ringway.dev", "red"), ("mode.ringway.dev", "fast")]);
        let told = demand(&bad, &both, none).unwrap_err().to_string();
        assert_eq!(told, "annotation mode.ringway.dev: \"fast\" must be dpdk or kernel");
    }
}
