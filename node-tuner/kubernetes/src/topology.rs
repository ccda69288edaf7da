//! `NodeResourceTopology`, the object by which schedulers of the ecosystem know NUMA nodes (group `topology.node.k8s.io`,
//! v1alpha2; its fields are those of github.com/k8stopologyawareschedwg/noderesourcetopology-api).

use kube::CustomResource;
use node_tuner_cluster::zones::Zone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The resources of a node by zone.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource,
)]
#[kube(
    group = "topology.node.k8s.io",
    version = "v1alpha2",
    kind = "NodeResourceTopology",
    plural = "noderesourcetopologies",
    shortname = "node-res-topo",
    no_spec,
    annotation(
        "api-approved.kubernetes.io",
        "https://github.com/kubernetes/enhancements/pull/1870"
    ),
    doc = "The resources of a node by zone."
)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeResourceTopologyFields {
    /// Not used any more; kept for readers of v1alpha1.
    pub topology_policies: Vec<String>,
    /// One for each NUMA node.
    pub zones: Vec<NrtZone>,
    /// What else is known of the node.
    pub attributes: Vec<Attribute>,
}

/// One zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NrtZone {
    /// `node-0`.
    pub name: String,
    /// `Node`: a NUMA node.
    #[serde(rename = "type")]
    pub kind: String,
    /// The zone it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Distances.
    pub costs: Vec<Cost>,
    /// What else is known of it.
    pub attributes: Vec<Attribute>,
    /// What it has.
    pub resources: Vec<NrtResource>,
}

/// Distance to a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Cost {
    /// The other zone.
    pub name: String,
    /// How far.
    pub value: i64,
}

/// A fact by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// One resource of a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NrtResource {
    /// `cpu`, `hugepages-1Gi`, ...
    pub name: String,
    /// All of it.
    #[schemars(schema_with = "quantity")]
    pub capacity: String,
    /// For pods.
    #[schemars(schema_with = "quantity")]
    pub allocatable: String,
    /// Of that, free.
    #[schemars(schema_with = "quantity")]
    pub available: String,
}

fn quantity(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "x-kubernetes-int-or-string": true })
}

/// The object of the node `name` with those zones.
#[must_use]
pub fn object(name: &str, zones: Vec<Zone>) -> NodeResourceTopology {
    let attribute =
        |name: &str, value: &str| Attribute { name: name.to_owned(), value: value.to_owned() };
    let zones = zones.into_iter().map(|zone| NrtZone {
        name: zone.name,
        kind: "Node".to_owned(),
        parent: None,
        costs: zone
            .costs
            .into_iter()
            .map(|(name, value)| Cost { name, value: value.into() })
            .collect(),
        attributes: Vec::new(),
        resources: zone
            .resources
            .into_iter()
            .map(|it| NrtResource {
                name: it.name,
                capacity: it.capacity.to_string(),
                allocatable: it.allocatable.to_string(),
                available: it.available.to_string(),
            })
            .collect(),
    });
    let fields = NodeResourceTopologyFields {
        topology_policies: Vec::new(),
        zones: zones.collect(),
        attributes: vec![
            attribute("topologyManagerScope", "pod"),
            attribute("topologyManagerPolicy", "single-numa-node"),
        ],
    };
    NodeResourceTopology::new(name, fields)
}
