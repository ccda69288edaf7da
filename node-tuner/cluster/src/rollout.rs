//! Which nodes are tuned when.

/// How far a node is with what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has been given nothing, or something else than it should have now.
    Waiting,
    /// It was given what it should have, and has not said how that went.
    Underway,
    /// It has done so.
    Done {
        /// The kernel has to be started again for the rest.
        reboot: bool,
    },
    /// It could not: why.
    Failed(String),
}

/// A node of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub phase: Phase,
}

/// What comes next, and what an operator should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Nodes to be given their parameters now.
    pub start: Vec<String>,
    /// Nodes that wait for their turn.
    pub waiting: usize,
    /// Nodes that are at it, those of `start` included.
    pub underway: Vec<String>,
    /// Nodes that are done.
    pub done: usize,
    /// Nodes that failed, and why. As long as there is one, nobody starts.
    pub failed: Vec<(String, String)>,
    /// Nodes that are done but for a reboot, which somebody has to do.
    pub reboot: Vec<String>,
}

/// The next step, with at most `at_once` nodes at it, at least one.
#[must_use]
pub fn next(members: &[Member], at_once: u32) -> Step {
    let mut step = Step::default();
    let mut waiting = Vec::new();
    for member in members {
        match &member.phase {
            Phase::Waiting => waiting.push(member.name.clone()),
            Phase::Underway => step.underway.push(member.name.clone()),
            Phase::Done { reboot } => {
                step.done += 1;
                if *reboot {
                    step.reboot.push(member.name.clone());
                }
            }
            Phase::Failed(why) => step.failed.push((member.name.clone(), why.clone())),
        }
    }
    if step.failed.is_empty() {
        let room = usize::try_from(at_once.max(1)).unwrap_or(usize::MAX);
        let room = room.saturating_sub(step.underway.len());
        waiting.sort_unstable();
        let rest = waiting.split_off(room.min(waiting.len()));
        step.underway.extend(waiting.iter().cloned());
        step.start = waiting;
        step.waiting = rest.len();
    } else {
        step.waiting = waiting.len();
    }
    step
}

impl Step {
    /// One line for an operator.
    #[must_use]
    pub fn describe(&self) -> String {
        if let Some((name, why)) = self.failed.first() {
            let more = match self.failed.len() - 1 {
                0 => String::new(),
                more => format!(" ({more} more failed)"),
            };
            return format!(
                "stopped: {name} failed: {why}{more}; {} nodes wait; correct the profile or the node",
                self.waiting
            );
        }
        let total = self.done + self.underway.len() + self.waiting;
        format!(
            "{} of {total} nodes done, {} underway, {} waiting",
            self.done,
            self.underway.len(),
            self.waiting
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(phases: &[(&str, Phase)]) -> Vec<Member> {
        phases
            .iter()
            .map(|(name, phase)| Member { name: (*name).into(), phase: phase.clone() })
            .collect()
    }

    const DONE: Phase = Phase::Done { reboot: false };

    #[test]
    fn at_most_so_many_at_once_in_the_order_of_their_names() {
        let nodes = members(&[
            ("d", Phase::Waiting),
            ("b", Phase::Underway),
            ("c", Phase::Waiting),
            ("a", DONE),
        ]);
        assert_eq!(next(&nodes, 2).start, ["c"]);
        assert_eq!(next(&nodes, 3).start, ["c", "d"]);
        assert_eq!(next(&nodes, 1).start, [""; 0]);
        let step = next(&nodes, 2);
        assert_eq!(step.describe(), "1 of 4 nodes done, 2 underway, 1 waiting");
        // Nothing would ever happen with none at once.
        assert_eq!(next(&members(&[("a", Phase::Waiting)]), 0).start, ["a"]);
    }

    #[test]
    fn one_that_fails_stops_the_rest_and_reboots_are_listed() {
        let nodes = members(&[
            ("a", Phase::Done { reboot: true }),
            ("b", Phase::Failed("no pages".into())),
            ("c", Phase::Waiting),
            ("d", Phase::Underway),
        ]);
        let step = next(&nodes, 10);
        assert_eq!(step.start, [""; 0]);
        assert_eq!(step.reboot, ["a"]);
        assert_eq!(
            step.describe(),
            "stopped: b failed: no pages; 1 nodes wait; correct the profile or the node"
        );
    }

    #[test]
    fn never_more_than_allowed_and_never_past_a_failure() {
        bolero::check!().with_type::<(Vec<u8>, u8)>().for_each(|(phases, at_once)| {
            let nodes: Vec<Member> = phases
                .iter()
                .enumerate()
                .map(|(index, phase)| Member {
                    name: format!("n{index}"),
                    phase: match phase % 16 {
                        0 => Phase::Failed("x".into()),
                        1..=4 => Phase::Underway,
                        5..=8 => DONE,
                        _ => Phase::Waiting,
                    },
                })
                .collect();
            let before = nodes.iter().filter(|node| node.phase == Phase::Underway).count();
            let step = next(&nodes, u32::from(*at_once));
            let most = usize::from((*at_once).max(1)).max(before);
            assert!(step.underway.len() <= most);
            assert!(step.failed.is_empty() || step.start.is_empty());
            let told = step.waiting + step.underway.len() + step.done + step.failed.len();
            assert_eq!(told, nodes.len());
        });
    }
}
