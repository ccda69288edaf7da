//! What a controller does next, from all that it knows: which nodes are given which parameters now, and what is told about
//! nodes and profiles. The same input always gives the same output, so a controller that starts anew goes on where another
//! stopped.

use std::collections::BTreeMap;

use ringway_config::ProfileParameters;
use serde::Serialize;

use crate::facts::Facts;
use crate::resolve::resolve;
use crate::rollout::{self, Member, Phase};
use crate::select::{self, Candidate, Choice, Selector};

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The greater one wins.
    pub priority: i32,
    /// Which nodes it is for.
    pub selector: Selector,
    /// What it asks for.
    pub parameters: ProfileParameters,
    /// Of those, what depends on the node.
    pub formulas: BTreeMap<String, String>,
    /// Mode that the vRouter of its nodes should run in.
    pub vrouter_mode: Option<String>,
    /// Most nodes to be tuned at once.
    pub at_once: u32,
    /// Whether no further node is to be tuned.
    pub paused: bool,
}

/// What a node is given: all that its agent acts on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Given {
    /// The profile it comes from.
    pub profile: String,
    /// With numbers for formulas.
    pub parameters: ProfileParameters,
    /// Mode that its vRouter should run in.
    pub vrouter_mode: Option<String>,
}

/// A node with an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it is, once its agent has said so.
    pub facts: Option<Facts>,
    /// What it was given last.
    pub given: Option<Given>,
    /// Whether its agent has answered to that.
    pub answered: bool,
    /// Its answer: done, or why not.
    pub applied: Option<Result<(), String>>,
    /// Whether the kernel has to be started again.
    pub reboot: bool,
}

/// A condition in the making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Whether it holds.
    pub holds: bool,
    /// One word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What is told about a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeTold {
    /// Whether one profile is for it.
    pub selected: Told,
    /// Whether that profile can be had there; `None`: none was chosen.
    pub resolved: Option<Told>,
}

/// What is told about a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileTold {
    /// Nodes it was chosen for.
    pub nodes: usize,
    /// Of those, done.
    pub done: usize,
    /// Nodes that are at it.
    pub underway: Vec<String>,
    /// Nodes that failed.
    pub failed: Vec<String>,
    /// Nodes where it can't be had.
    pub refused: Vec<String>,
    /// Nodes that somebody has to reboot.
    pub reboot: Vec<String>,
    /// Whether it can be used at all.
    pub accepted: Told,
    /// Whether every node it was chosen for has it.
    pub complete: Told,
}

/// What to do and tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Nodes and what they are given now; `None`: nothing any more.
    pub give: Vec<(String, Option<Given>)>,
    /// By node.
    pub nodes: BTreeMap<String, NodeTold>,
    /// By profile.
    pub profiles: BTreeMap<String, ProfileTold>,
}

/// A node and what it should have.
struct Wanted<'a> {
    node: &'a Node,
    given: Given,
}

/// What to do and tell now.
#[must_use]
pub fn decide(profiles: &[Profile], nodes: &[Node]) -> Decisions {
    let mut decisions = Decisions::default();
    let accepted: BTreeMap<&str, Told> =
        profiles.iter().map(|profile| (profile.name.as_str(), acceptance(profile))).collect();
    let usable =
        |profile: &&Profile| accepted.get(profile.name.as_str()).is_some_and(|told| told.holds);
    let candidates: Vec<Candidate<'_>> = profiles
        .iter()
        .filter(usable)
        .map(|it| Candidate { name: &it.name, priority: it.priority, selector: &it.selector })
        .collect();
    let mut wanted: BTreeMap<&str, Vec<Wanted<'_>>> = BTreeMap::new();
    let mut refused: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for node in nodes {
        let choice = select::choose(&candidates, &node.labels, node.facts.as_ref());
        let chosen = match &choice {
            Choice::One { name, .. } => profiles.iter().find(|profile| profile.name == *name),
            Choice::None if node.given.is_some() => {
                decisions.give.push((node.name.clone(), None));
                None
            }
            Choice::None | Choice::Conflict(_) => None,
        };
        let outcome = chosen.map(|profile| (profile, given(profile, node)));
        let resolved = outcome.map(|(profile, outcome)| match outcome {
            Ok(given) => {
                let told = Told {
                    holds: true,
                    reason: "Resolved",
                    message: format!("{} comes to what spec says", profile.name),
                };
                wanted.entry(profile.name.as_str()).or_default().push(Wanted { node, given });
                told
            }
            Err(told) => {
                refused.entry(profile.name.as_str()).or_default().push(node.name.clone());
                told
            }
        });
        let told = NodeTold { selected: selection(&choice), resolved };
        decisions.nodes.insert(node.name.clone(), told);
    }
    for profile in profiles {
        let name = profile.name.as_str();
        let wanted = wanted.remove(name).unwrap_or_default();
        let refused = refused.remove(name).unwrap_or_default();
        let accepted = acceptance(profile);
        let told = advance(profile, &wanted, refused, accepted, &mut decisions.give);
        decisions.profiles.insert(profile.name.clone(), told);
    }
    decisions
}

fn acceptance(profile: &Profile) -> Told {
    let known =
        profile.vrouter_mode.as_deref().is_none_or(|mode| ["dpdk", "kernel"].contains(&mode));
    let mode = if known { Ok(()) } else { Err("vrouterMode must be dpdk or kernel".to_owned()) };
    match profile.selector.check().and(mode) {
        Ok(()) => Told { holds: true, reason: "Accepted", message: "it can be used".to_owned() },
        Err(why) => Told { holds: false, reason: "Refused", message: format!("not used: {why}") },
    }
}

fn selection(choice: &Choice) -> Told {
    match choice {
        Choice::One { name, over } if over.is_empty() => {
            Told { holds: true, reason: "Selected", message: format!("profile {name}") }
        }
        Choice::One { name, over } => Told {
            holds: true,
            reason: "Selected",
            message: format!("profile {name}; {} would fit with less priority", over.join(", ")),
        },
        Choice::None => Told {
            holds: false,
            reason: "NoProfile",
            message: "no profile is for this node".to_owned(),
        },
        Choice::Conflict(why) => Told { holds: false, reason: "Conflict", message: why.clone() },
    }
}

/// What `node` is to have by `profile`.
fn given(profile: &Profile, node: &Node) -> Result<Given, Told> {
    let Some(facts) = &node.facts else {
        let message = "waits for the node's ringway-tuner to say what the node is".to_owned();
        return Err(Told { holds: false, reason: "NoReport", message });
    };
    match resolve(&profile.name, &profile.parameters, &profile.formulas, facts) {
        Ok(parameters) => Ok(Given {
            profile: profile.name.clone(),
            parameters,
            vrouter_mode: profile.vrouter_mode.clone(),
        }),
        Err(refused) => {
            let message =
                format!("profile {} can't be had here: {}", profile.name, refused.join("; "));
            Err(Told { holds: false, reason: "Refused", message })
        }
    }
}

fn phase(wanted: &Wanted<'_>) -> Phase {
    let node = wanted.node;
    if node.given.as_ref() != Some(&wanted.given) {
        return Phase::Waiting;
    }
    match &node.applied {
        _ if !node.answered => Phase::Underway,
        None => Phase::Underway,
        Some(Ok(())) => Phase::Done { reboot: node.reboot },
        Some(Err(why)) => Phase::Failed(why.clone()),
    }
}

fn advance(
    profile: &Profile,
    wanted: &[Wanted<'_>],
    refused: Vec<String>,
    accepted: Told,
    give: &mut Vec<(String, Option<Given>)>,
) -> ProfileTold {
    let members: Vec<Member> = wanted
        .iter()
        .map(|one| Member { name: one.node.name.clone(), phase: phase(one) })
        .collect();
    let mut step = rollout::next(&members, profile.at_once);
    if profile.paused {
        step.waiting += step.start.len();
        let start = std::mem::take(&mut step.start);
        step.underway.retain(|name| !start.contains(name));
    }
    for one in wanted.iter().filter(|one| step.start.contains(&one.node.name)) {
        give.push((one.node.name.clone(), Some(one.given.clone())));
    }
    let all = step.failed.is_empty() && step.underway.is_empty() && step.waiting == 0;
    let reason = match () {
        () if !step.failed.is_empty() => "Stopped",
        () if all => "Complete",
        () if profile.paused => "Paused",
        () => "Progressing",
    };
    let mut message = step.describe();
    if !refused.is_empty() {
        message.push_str(&format!("; it can't be had on {}, see there", listed(&refused)));
    }
    if !step.reboot.is_empty() {
        message.push_str(&format!("; to be rebooted by somebody: {}", listed(&step.reboot)));
    }
    ProfileTold {
        nodes: members.len() + refused.len(),
        done: step.done,
        complete: Told { holds: all && refused.is_empty(), reason, message },
        underway: step.underway,
        failed: step.failed.into_iter().map(|(name, _)| name).collect(),
        refused,
        reboot: step.reboot,
        accepted,
    }
}

/// The first names, and how many more.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let first = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
