//! What other schedulers read: `NodeResourceTopology` objects and labels of nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use node_tuner_cluster::reconcile::Node;
use node_tuner_cluster::zones::{LABELS, labels, zones};
use node_tuner_kubernetes::CONTROLLER;
use node_tuner_kubernetes::topology::{self, NodeResourceTopology, NodeResourceTopologyFields};
use serde::Serialize;
use serde_json::{Value, json};

use crate::mirror::Mirror;

/// What counts of a `NodeResourceTopology`: what it says, and the uids of the objects that it goes with.
#[derive(Debug, PartialEq)]
pub struct Zones {
    fields: NodeResourceTopologyFields,
    owners: Vec<String>,
}

/// Writes them.
#[derive(Debug)]
pub struct Publisher {
    topologies: Api<NodeResourceTopology>,
    nodes: Api<v1::Node>,
    zones: Arc<Mirror<Zones>>,
    labels: Arc<Mirror<BTreeMap<String, String>>>,
}

/// What is to be written.
#[derive(Debug, Serialize)]
pub enum Due {
    /// The zones of a node.
    Zones(Box<NodeResourceTopology>),
    /// Labels of the node of that name; `null` takes one away.
    Labels(String, BTreeMap<String, Value>),
}

impl Due {
    /// Of which node.
    pub fn node(&self) -> &str {
        match self {
            Self::Zones(object) => object.metadata.name.as_deref().unwrap_or_default(),
            Self::Labels(name, _) => name,
        }
    }
}

impl Zones {
    /// Of the object.
    pub fn of(object: NodeResourceTopology) -> Self {
        let owners = object.metadata.owner_references.into_iter().flatten();
        Self { fields: object.spec, owners: owners.map(|owner| owner.uid).collect() }
    }
}

impl Publisher {
    /// Nothing is written yet; `zones` and `labels` are what is there, by node.
    pub fn new(
        client: Client,
        zones: Arc<Mirror<Zones>>,
        labels: Arc<Mirror<BTreeMap<String, String>>>,
    ) -> Self {
        let (topologies, nodes) = (Api::all(client.clone()), Api::all(client));
        Self { topologies, nodes, zones, labels }
    }

    /// What differs from what `nodes` are. The objects go with those that `owner` names.
    pub fn due(&self, nodes: &[Node], owner: impl Fn(&str) -> Option<OwnerReference>) -> Vec<Due> {
        let mut due = Vec::new();
        // Where nobody has defined those objects, they are never listed.
        let listed = self.zones.is_complete();
        for node in nodes {
            let Some(facts) = &node.facts else { continue };
            let mut object = topology::object(&node.name, zones(facts));
            object.metadata.owner_references = owner(&node.name).map(|owner| vec![owner]);
            let wanted = Zones::of(object.clone());
            if listed && self.zones.with(|there| there.get(&node.name) != Some(&wanted)) {
                due.push(Due::Zones(Box::new(object)));
            }
            let profile = node.given.as_ref().map(|given| given.profile.as_str());
            let wanted = labels(facts, profile);
            let ours = node.labels.iter().filter(|(key, _)| key.starts_with(LABELS));
            let gone = ours
                .filter(|(key, _)| !wanted.contains_key(*key))
                .map(|(key, _)| (key.clone(), Value::Null));
            let mut changes: BTreeMap<String, Value> = gone.collect();
            let new = wanted.into_iter().filter(|(key, value)| node.labels.get(key) != Some(value));
            changes.extend(new.map(|(key, value)| (key, Value::String(value))));
            if !changes.is_empty() {
                due.push(Due::Labels(node.name.clone(), changes));
            }
        }
        due
    }

    /// Writes it.
    pub async fn publish(&self, due: Due) -> Result<()> {
        match due {
            Due::Zones(object) => {
                let name = object.name_any();
                let parameters = PatchParams::apply(CONTROLLER).force();
                let after =
                    self.topologies.patch(&name, &parameters, &Patch::Apply(&object)).await?;
                let version = after.metadata.resource_version.clone();
                self.zones.wrote(&name, version.as_deref(), Zones::of(after));
            }
            Due::Labels(name, changes) => {
                let patch = Patch::Merge(json!({ "metadata": { "labels": changes } }));
                let parameters = PatchParams {
                    field_manager: Some(CONTROLLER.to_owned()),
                    ..PatchParams::default()
                };
                match self.nodes.patch_metadata(&name, &parameters, &patch).await {
                    // It has gone in between.
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    done => {
                        let after = done?.metadata;
                        let labels = after.labels.unwrap_or_default();
                        self.labels.wrote(&name, after.resource_version.as_deref(), labels);
                    }
                }
            }
        }
        Ok(())
    }
}
