//! The annotations by which a pod opts in.
//!
//! The effective value for a container is that of `<key>/container.<name>`, else `<key>/pod`, else `<key>` (the
//! convention of NRI plugins). A pod with neither [`NETWORK`] nor [`INTERFACES`] is never touched.

/// `network.ringway.dev`: a network's name, or `a,b` for one interface each. Opts the pod in.
pub const NETWORK: &str = "network.ringway.dev";

/// `interfaces.ringway.dev`: the full form, a JSON list of objects with `name`, `network`, `ip` (an IPv4 or IPv6 address,
/// or a list of one of each), `mac`, `queues`, `mtu`, `socket` (`vrouter` or `pod`), `kind` (`vhost-user` or `kernel`) and, for the latter, `routes`. Every field is optional; what is missing is
/// derived from [`NETWORK`]. Opts the pod in.
pub const INTERFACES: &str = "interfaces.ringway.dev";

/// `cpus.ringway.dev`: a number of exclusive CPUs, or `shared`. Default: the container's own request when it is a
/// whole number of CPUs with an equal limit, else `shared`.
pub const CPUS: &str = "cpus.ringway.dev";

/// `numa.ringway.dev`: `strict`, `preferred`, `off`, or the number of a NUMA node. Default: `preferred`.
pub const NUMA: &str = "numa.ringway.dev";

/// `hugepages-2mi.ringway.dev`: limit of 2 MiB pages, in bytes or with `Ki`, `Mi`, `Gi`. Default: the container's own
/// request.
pub const HUGEPAGES_2MI: &str = "hugepages-2mi.ringway.dev";

/// `hugepages-1gi.ringway.dev`: limit of 1 GiB pages, in bytes or with `Ki`, `Mi`, `Gi`. Default: the container's own
/// request.
pub const HUGEPAGES_1GI: &str = "hugepages-1gi.ringway.dev";

/// `mode.ringway.dev`: `dpdk` or `kernel`, the mode that the vRouter of the pod's node has to run in. Read where pods are
/// placed. Default: any.
pub const MODE: &str = "mode.ringway.dev";

/// Every key, for messages and for finding misspelt ones.
pub const ALL: [&str; 7] = [NETWORK, INTERFACES, CPUS, NUMA, HUGEPAGES_2MI, HUGEPAGES_1GI, MODE];

/// `placement.ringway.dev`: the NUMA node that the pod was promised, as `numa=1`. Written by Ringway's scheduler extender
/// with the binding; the node's allocator tries that NUMA node first.
pub const PLACEMENT: &str = "placement.ringway.dev";

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn keys_are_legal_kubernetes_annotation_prefixes() {
        for key in ALL {
            // `<key>/pod` makes the key a DNS subdomain prefix: lower case, at most 253 characters.
            assert!(key.ends_with(".ringway.dev") && key.len() <= 253, "{key}");
            assert!(
                key.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c)),
                "{key}"
            );
        }
    }
}
