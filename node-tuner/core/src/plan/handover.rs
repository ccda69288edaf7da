//! Files of others that get the CPU sets: the vRouter's and the NRI plugin's configuration, kubelet's drop-in.

use std::path::Path;

use ringway_config::{ManagerPolicy, NriConfig, TopologyPolicy, VrouterConfig};
use toml_edit::{Array, DocumentMut, Item as TomlItem, Table, Value};

use super::{Change, Item, Planner, State};
use crate::knob::Knob;

/// Drop-in of kubelet's configuration (`--config-dir`).
pub(super) const KUBELET_FILE: &str = "60-ringway.conf";
const KUBELET_HEAD: &str = "# Written by ringway-tuner; `ringway-tuner revert` removes it.\n\
                            apiVersion: kubelet.config.k8s.io/v1beta1\n\
                            kind: KubeletConfiguration\n";
/// Where kubelet's managers keep their state.
pub(super) const KUBELET_STATES: [&str; 2] =
    ["var/lib/kubelet/cpu_manager_state", "var/lib/kubelet/memory_manager_state"];

impl Planner<'_> {
    pub(super) fn handover(&mut self) {
        let rules = &self.profile.handover;
        if rules.vrouter && !self.cpus.vrouter.is_empty() {
            let cpus: Array = self.cpus.vrouter.iter().map(i64::from).collect();
            let why = "the vRouter's workers run on its CPUs";
            self.key(
                &rules.vrouter_file,
                "workers",
                "cpus",
                cpus.into(),
                why,
                "ringway-vrouter",
                |t, f| {
                    VrouterConfig::from_toml(t, f).map(|_| ()).map_err(|error| error.to_string())
                },
            );
        }
        if rules.nri {
            let why = "no pod gets a CPU of the system";
            let cpus = Value::from(self.cpus.reserved.to_string());
            self.key(
                &rules.nri_file,
                "cpus",
                "reserved",
                cpus,
                why,
                "ringway-nri",
                |text, file| {
                    NriConfig::from_toml(text, file).map(|_| ()).map_err(|error| error.to_string())
                },
            );
        }
        if rules.kubelet {
            self.kubelet(&rules.kubelet_directory);
        }
    }

    /// One key of a TOML file; the rest of it stays as it is, comments included.
    #[expect(clippy::too_many_arguments, reason = "one row of what is alike in two files")]
    fn key(
        &mut self,
        file: &Path,
        table: &str,
        key: &str,
        value: Value,
        why: &'static str,
        who: &'static str,
        valid: fn(&str, &Path) -> Result<(), String>,
    ) {
        let path = file.to_string_lossy().trim_start_matches('/').to_owned();
        let what = format!("/{path} {table}.{key}");
        let wanted = value.to_string();
        let Some(text) = self.observed.tree.whole(&path) else {
            let reason = "the file is not there";
            return self.not_applicable("handover", what, wanted, why, reason);
        };
        let edited = valid(text, file).and_then(|()| with_key(text, table, key, value));
        let (current, edited) = match edited {
            Ok(edited) => edited,
            Err(error) => return self.not_applicable("handover", what, wanted, why, error),
        };
        let same = current.as_ref() == Some(&wanted);
        self.items.push(Item {
            area: "handover",
            what,
            current,
            wanted,
            why,
            state: if same { State::Done } else { State::ChangeForNextStart(who) },
            change: Some(Change { knob: Knob::Config { path }, value: edited }),
        });
    }

    fn kubelet(&mut self, directory: &Path) {
        let folder = directory.to_string_lossy().trim_start_matches('/').to_owned();
        let path = format!("{folder}/{KUBELET_FILE}");
        let why = "kubelet gives no pod a CPU of the system";
        let lines = self.kubelet_lines();
        let wanted = lines.join("; ");
        let what = format!("/{path}");
        if !self.observed.tree.has(&folder) {
            let reason = "the directory of kubelet's drop-ins is not there";
            return self.not_applicable("handover", what, wanted, why, reason);
        }
        let text = format!("{KUBELET_HEAD}{}\n", lines.join("\n"));
        let now = self.observed.tree.whole(&path);
        let same = now == Some(text.as_str());
        if !same {
            self.kubelet_states();
        }
        let current = now.map(|now| {
            let head = |line: &&str| KUBELET_HEAD.lines().any(|known| known == *line);
            now.lines().filter(|line| !head(line)).collect::<Vec<_>>().join("; ")
        });
        self.items.push(Item {
            area: "handover",
            what,
            current,
            wanted,
            why,
            state: if same { State::Done } else { State::ChangeForNextStart("kubelet") },
            change: Some(Change { knob: Knob::Config { path }, value: text }),
        });
    }

    /// The lines of the drop-in, each a value of its own (YAML's flow style).
    fn kubelet_lines(&self) -> Vec<String> {
        let managers = self.profile.handover.kubelet_managers;
        let mut taken = self.cpus.reserved.clone();
        taken.extend(&self.cpus.vrouter);
        let mut lines = vec![format!("reservedSystemCPUs: \"{taken}\"")];
        if let Some(policy) = managers.cpu {
            let policy = if policy == ManagerPolicy::Static { "static" } else { "none" };
            lines.push(format!("cpuManagerPolicy: {policy}"));
        }
        if let Some(policy) = managers.topology {
            let policy = match policy {
                TopologyPolicy::None => "none",
                TopologyPolicy::BestEffort => "best-effort",
                TopologyPolicy::Restricted => "restricted",
                TopologyPolicy::SingleNumaNode => "single-numa-node",
            };
            lines.push(format!("topologyManagerPolicy: {policy}"));
        }
        if let Some(policy) = managers.memory {
            let policy = if policy == ManagerPolicy::Static { "Static" } else { "None" };
            lines.push(format!("memoryManagerPolicy: {policy}"));
        }
        if let Some(bytes) = managers.reserved_memory {
            let numa =
                self.node.numa.iter().find(|numa| numa.memory.is_some_and(|bytes| bytes > 0));
            let numa = numa.map_or(0, |numa| numa.id);
            lines.push(format!(
                "reservedMemory: [{{numaNode: {numa}, limits: {{memory: \"{bytes}\"}}}}]"
            ));
        }
        lines
    }

    /// kubelet keeps what its managers have given in files, and does not start when these were written under another policy or for other
    /// CPUs. Whose pods still run is not ours to forget.
    fn kubelet_states(&mut self) {
        let managers = self.profile.handover.kubelet_managers;
        for (set, file, than) in [
            (managers.cpu, KUBELET_STATES[0], "policy or other reserved CPUs than it was"),
            (managers.memory, KUBELET_STATES[1], "policy or other reserved memory than it was"),
        ] {
            if set.is_some() && self.observed.tree.has(file) {
                self.notes.push(format!(
                    "kubelet does not start with another {than} when it wrote /{file}: drain the node, stop kubelet, delete that file, start kubelet"
                ));
            }
        }
    }
}

/// The value of `table.key` now, and the text with another.
fn with_key(
    text: &str,
    table: &str,
    key: &str,
    mut value: Value,
) -> Result<(Option<String>, String), String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        format!("the file is not valid TOML: {}", error.message())
    })?;
    let settings = document.entry(table).or_insert_with(|| TomlItem::Table(Table::new()));
    let settings =
        settings.as_table_like_mut().ok_or_else(|| format!("`{table}` is not a table there"))?;
    let mut current = None;
    match settings.get_mut(key).and_then(TomlItem::as_value_mut) {
        Some(now) => {
            let mut bare = now.clone();
            bare.decor_mut().clear();
            current = Some(bare.to_string());
            // The comment behind it stays.
            *value.decor_mut() = now.decor().clone();
            *now = value;
        }
        None => {
            settings.insert(key, TomlItem::Value(value));
        }
    }
    Ok((current, document.to_string()))
}
