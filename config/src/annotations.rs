//! The annotations by which a pod opts in.
//!
//! The effective value for a container is that of `<key>/container.<name>`, else `<key>/pod`, else `<key>` (the
//! convention of NRI plugins). A pod with neither [`NETWORK`] nor [`INTERFACES`] is never touched.

use serde::{Deserialize, Deserializer};

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

/// One element of [`INTERFACES`] as written: a JSON object. Nothing is checked yet but names and types.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the annotation's own keys")]
pub struct WrittenInterface {
    pub name: Option<String>,
    pub network: Option<String>,
    /// One address, or a list of them.
    #[serde(deserialize_with = "one_or_several")]
    pub ip: Vec<String>,
    pub mac: Option<String>,
    pub queues: Option<u64>,
    pub mtu: Option<u64>,
    pub socket: Option<String>,
    pub kind: Option<String>,
    /// Of an interface of the kind `kernel`.
    pub routes: Vec<String>,
}

fn one_or_several<'de, D: Deserializer<'de>>(written: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "ip must be an address or a list of addresses")]
    enum Addresses {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Option::deserialize(written)? {
        None => Vec::new(),
        Some(Addresses::One(address)) => vec![address],
        Some(Addresses::Several(list)) => list,
    })
}

#[cfg(test)]
mod tests {
    use super::{ALL, WrittenInterface};

    fn interfaces(text: &str) -> Result<Vec<WrittenInterface>, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn interfaces_are_read_and_misspellings_refused() {
        let text = r#"[{"name":"wan","network":"red","ip":"10.0.0.1","mac":"02:00:00:00:00:01",
                        "queues":2,"mtu":9000,"socket":"pod","kind":"vhost-user"}, {}]"#;
        let all = interfaces(text).unwrap();
        assert_eq!(all[1], WrittenInterface::default());
        assert_eq!((all[0].queues, all[0].mtu), (Some(2), Some(9000)));
        let words = [&all[0].name, &all[0].network, &all[0].mac, &all[0].socket];
        let words: Vec<_> = words.iter().filter_map(|word| word.as_deref()).collect();
        assert_eq!(words, ["wan", "red", "02:00:00:00:00:01", "pod"]);
        assert_eq!(all[0].ip, ["10.0.0.1"]);
        let list =
            interfaces(r#"[{"ip":["10.0.0.1","fd00::1"]}, {"ip":[]}, {"ip":null}]"#).unwrap();
        assert_eq!(list[0].ip, ["10.0.0.1", "fd00::1"]);
        assert!(list[1].ip.is_empty() && list[2].ip.is_empty());
        for (bad, expected) in [
            ("{not json", "line 1"),
            (r#"[{"colour": "red"}]"#, "colour"),
            (r#"[{"queues": "two"}]"#, "two"),
            (r#"[{"ip": 7}]"#, "an address or a list"),
            (r#"[{"ip": ["10.0.0.1", 7]}]"#, "an address or a list"),
            (r#"[{"queues": -1}]"#, "-1"),
            ("{}", "sequence"),
            ("", "EOF"),
        ] {
            let error = interfaces(bad).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }

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
