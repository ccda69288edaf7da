//! What a pod needs, from its object.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use node_tuner_cluster::demand::{self, ContainerView, Demand, DemandError};
use nri_plugin_core::annotations::{PLACEMENT, RawInterface};
use ringway_config::annotations::WrittenInterface;

/// What `pod` needs of its node; `None`: nothing of ours.
///
/// # Errors
/// [`DemandError`] for annotations that no node's allocator would accept.
pub fn demand(pod: &Pod) -> Result<Option<Demand>, DemandError> {
    let empty = BTreeMap::new();
    let annotations = pod.metadata.annotations.as_ref().unwrap_or(&empty);
    if !annotations.keys().any(|key| key.contains(".ringway.dev")) {
        return Ok(None);
    }
    let Some(spec) = &pod.spec else { return Ok(None) };
    let first = spec.init_containers.iter().flatten();
    let containers: Vec<ContainerView> = first.chain(&spec.containers).map(container).collect();
    demand::demand(annotations, &containers, decode)
}

/// The NUMA node that `pod` was promised with its binding.
#[must_use]
pub fn promised(pod: &Pod) -> Option<u32> {
    pod.metadata.annotations.as_ref()?.get(PLACEMENT)?.strip_prefix("numa=")?.parse().ok()
}

/// Whether `pod` has ended and holds nothing any more.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    phase(pod).is_some_and(|phase| phase == "Succeeded" || phase == "Failed")
}

/// Whether `pod` runs.
#[must_use]
pub fn is_running(pod: &Pod) -> bool {
    phase(pod).is_some_and(|phase| phase == "Running")
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn container(container: &Container) -> ContainerView {
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let cpu = |from: Option<&BTreeMap<String, Quantity>>| {
        from.and_then(|from| from.get("cpu")).and_then(|value| thousandths(&value.0))
    };
    let limit = cpu(limits);
    let hugepages = limits.into_iter().flatten().filter_map(|(name, value)| {
        let size = name.strip_prefix("hugepages-")?;
        Some((thousandths(size)? / 1000, thousandths(&value.0)? / 1000))
    });
    ContainerView {
        name: container.name.clone(),
        // A limit without a request is also the request.
        cpu_request: cpu(requests).or(limit).unwrap_or(0),
        cpu_limit: limit.unwrap_or(0),
        hugepages: hugepages.collect(),
    }
}

/// A quantity in thousandths; `None` for what is none, is negative, or is finer than that.
fn thousandths(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let factor: u128 = match unit {
        "m" => 1,
        "" => 1000,
        "k" => 1000 * 1000,
        "M" => 1000 * 1000_u128.pow(2),
        "G" => 1000 * 1000_u128.pow(3),
        "T" => 1000 * 1000_u128.pow(4),
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let places = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    u64::try_from(digits.checked_mul(factor)? / places).ok()
}

fn decode(text: &str) -> Result<Vec<RawInterface>, String> {
    let raw = |it: WrittenInterface| {
        let WrittenInterface { name, network, ip, mac, queues, mtu, socket, kind, routes } = it;
        RawInterface { name, network, ip, mac, queues, mtu, socket, kind, routes }
    };
    let written: Vec<_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(written.into_iter().map(raw).collect())
}

#[cfg(test)]
mod tests {
    use node_tuner_cluster::demand::Want;

    use super::*;

    #[test]
    fn quantities_in_all_their_forms() {
        for (text, value) in [
            ("2", Some(2000)),
            ("500m", Some(500)),
            ("1.5", Some(1500)),
            (".5", Some(500)),
            ("1Gi", Some(1000 << 30)),
            ("2Mi", Some(1000 << 21)),
            ("1G", Some(1_000_000_000_000)),
            ("0", Some(0)),
            ("", None),
            (".", None),
            ("-1", None),
            ("1Xi", None),
            ("1.0000000001", None),
            ("99999999999999999999Ti", None),
        ] {
            assert_eq!(thousandths(text), value, "{text}");
        }
    }

    #[test]
    fn a_pod_as_the_api_server_sends_it() {
        let pod: Pod = serde_json::from_str(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"d","annotations":{
                "interfaces.ringway.dev":"[{\"network\":\"red\",\"queues\":2},{\"network\":\"blue\",\"ip\":[\"10.0.0.9\"]}]",
                "numa.ringway.dev":"strict","placement.ringway.dev":"numa=1","other.example.org/x":"y"}},
              "spec":{"nodeName":"n","containers":[
                {"name":"app","resources":{"limits":{"cpu":"4","hugepages-1Gi":"2Gi","memory":"1Gi"},
                                           "requests":{"cpu":"4","hugepages-1Gi":"2Gi","memory":"1Gi"}}},
                {"name":"side","resources":{"requests":{"cpu":"100m"}}}]},
              "status":{"phase":"Running"}}"#,
        )
        .unwrap();
        let found = demand(&pod).unwrap().unwrap();
        assert_eq!((found.exclusive, found.shared, found.ports), (4, 1, 2));
        assert_eq!(found.hugepages, BTreeMap::from([(1 << 30, 2 << 30)]));
        assert_eq!(found.numa, Want::Strict);
        assert_eq!(promised(&pod), Some(1));
        assert!(is_running(&pod) && !has_ended(&pod));
        let mut plain = pod;
        plain.metadata.annotations = None;
        assert_eq!((demand(&plain), promised(&plain)), (Ok(None), None));
    }
}
