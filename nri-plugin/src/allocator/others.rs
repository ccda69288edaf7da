//! Containers that have not opted in, where `cpus.move_others` has them make way for exclusive CPUs.

use std::collections::BTreeMap;

use nri_plugin_core::cpuset::CpuSet;
use nri_plugin_core::plan::{Other, Others};
use nri_plugin_proto::api::Container;
use ringway_config::CpuMode;

use super::{Allocator, State};
use crate::convert;

impl Allocator {
    /// Whether other containers make way: else they are never looked at.
    pub fn moves_others(&self) -> bool {
        self.settings.cpus.move_others && self.settings.cpus.mode == CpuMode::Own
    }

    /// A container that is not ours is being created or given CPUs by others: the CPUs that it has to have instead, if any, and what
    /// has changed for the rest.
    pub async fn meet_other(
        &self,
        container: &Container,
        chosen: CpuSet,
    ) -> (Option<CpuSet>, Vec<(String, CpuSet)>) {
        if !self.moves_others() {
            return (None, Vec::new());
        }
        let mut state = self.state.lock().await;
        let instead = state.node.meet_other(&container.id, chosen);
        (instead, self.move_others(&mut state))
    }

    /// It is gone.
    pub async fn forget_other(&self, container: &Container) {
        if self.moves_others() {
            let mut state = self.state.lock().await;
            state.node.forget_other(&container.id);
            self.keep_others(&state);
        }
    }

    /// What other containers have to be told; to be attached to an answer, as everything else can deadlock a runtime.
    pub(super) fn move_others(&self, state: &mut State) -> Vec<(String, CpuSet)> {
        if !self.moves_others() {
            return Vec::new();
        }
        // Where a container is told twice, the later counts.
        let mut updates: BTreeMap<_, _> =
            std::mem::take(&mut state.untold_others).into_iter().collect();
        updates.extend(state.node.move_others());
        self.keep_others(state);
        updates.into_iter().collect()
    }

    /// After a restart: those that the runtime says exist.
    pub(super) fn adopt_others(&self, state: &mut State, containers: &[Container]) {
        if self.moves_others() {
            let found = containers.iter().map(|it| (it.id.clone(), convert::chosen(it).0));
            state.node.adopt_others(found.collect(), &self.kept_others());
        }
    }

    fn keep_others(&self, state: &State) {
        let moved = state.node.others().iter().filter_map(|(id, other)| {
            let told = other.told.as_ref()?.to_string();
            Some((id.clone(), (other.chosen.to_string(), told)))
        });
        let moved: BTreeMap<String, (String, String)> = moved.collect();
        let text = serde_json::to_string_pretty(&moved).unwrap_or_default();
        if let Err(error) = self.files.write_moved(&text) {
            tracing::warn!(%error, "cannot write down which containers were moved");
        }
    }

    fn kept_others(&self) -> Others {
        let text = self.files.read_moved().unwrap_or_default();
        let moved: BTreeMap<String, (String, String)> =
            serde_json::from_str(&text).unwrap_or_default();
        let other = |(id, (chosen, told)): (String, (String, String))| {
            let other = Other {
                chosen: chosen.parse().unwrap_or_default(),
                told: Some(told.parse().ok()?),
            };
            Some((id, other))
        };
        moved.into_iter().filter_map(other).collect()
    }
}
