//! What other schedulers read: `NodeResourceTopology` objects and labels of nodes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use node_tuner_cluster::reconcile::Node;
use node_tuner_cluster::zones::{LABELS, labels, zones};
use node_tuner_kubernetes::CONTROLLER;
use node_tuner_kubernetes::topology::{self, NodeResourceTopology, NodeResourceTopologyFields};
use serde_json::{Value, json};

/// Objects of one answer of a list.
const PAGE: u32 = 500;

/// Writes them, and knows what it wrote last.
#[derive(Debug)]
pub struct Publisher {
    topologies: Api<NodeResourceTopology>,
    nodes: Api<v1::Node>,
    /// By node; `None`: not listed yet.
    written: Mutex<Option<BTreeMap<String, NodeResourceTopologyFields>>>,
}

/// What is to be written.
#[derive(Debug)]
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

impl Publisher {
    /// Nothing is read or written yet.
    pub fn new(client: Client) -> Self {
        Self {
            topologies: Api::all(client.clone()),
            nodes: Api::all(client),
            written: Mutex::new(None),
        }
    }

    /// What differs from what `nodes` are. The objects go with those that `owner` names.
    pub async fn due(
        &self,
        nodes: &[Node],
        owner: impl Fn(&str) -> Option<OwnerReference>,
    ) -> Result<Vec<Due>> {
        let known = self.with(|known| known.clone());
        let known = match known {
            Some(known) => known,
            None => {
                let listed = self.list().await?;
                self.with(|written| *written = Some(listed.clone()));
                listed
            }
        };
        let mut due = Vec::new();
        for node in nodes {
            let Some(facts) = &node.facts else { continue };
            let mut object = topology::object(&node.name, zones(facts));
            if known.get(&node.name) != Some(&object.spec) {
                object.metadata.owner_references = owner(&node.name).map(|owner| vec![owner]);
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
        Ok(due)
    }

    /// Writes it.
    pub async fn publish(&self, due: Due) -> Result<()> {
        match due {
            Due::Zones(object) => {
                let name = object.name_any();
                let parameters = PatchParams::apply(CONTROLLER).force();
                self.topologies.patch(&name, &parameters, &Patch::Apply(&object)).await?;
                self.with(|written| {
                    written.get_or_insert_default().insert(name, object.spec);
                });
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
                    done => drop(done?),
                }
            }
        }
        Ok(())
    }

    async fn list(&self) -> Result<BTreeMap<String, NodeResourceTopologyFields>> {
        let mut listed = BTreeMap::new();
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = self.topologies.list(&parameters).await?;
            listed.extend(page.items.into_iter().map(|object| (object.name_any(), object.spec)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(listed),
            }
        }
    }

    fn with<T>(
        &self,
        look: impl FnOnce(&mut Option<BTreeMap<String, NodeResourceTopologyFields>>) -> T,
    ) -> T {
        look(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
