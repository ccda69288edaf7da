//! Which profile a node gets.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::facts::{FACT_NAMES, Facts};

/// Which nodes a profile is for: those that meet every requirement. Empty: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// Labels that the node has, with these values.
    pub match_labels: BTreeMap<String, String>,
    /// What the node is, as its agent reports.
    #[schemars(length(max = 32))]
    pub characteristics: Vec<Requirement>,
}

/// One requirement on a node's characteristics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// `cpu.vendor`, `cpu.model`, `cpu.flags`, `cpu.sockets`, `cpu.cores`, `cpu.cpus`, `cpu.smt`, `numa.nodes`,
    /// `memory.gib`, `nic.driver`, `nic.model`, `nic.speed` (Mbit/s), `kernel.version`, `kernel.iommu`,
    /// `kernel.cgroups`, `power.driver`, `vrouter.mode`. Some have several values on a node; one that fits will do.
    pub key: String,
    /// How the values are compared.
    pub operator: Operator,
    /// With what: one number for `AtLeast` and `AtMost`, none for `Exists` and `DoesNotExist`.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub values: Vec<String>,
}

/// How values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// One value is one of these.
    In,
    /// No value is one of these.
    NotIn,
    /// There is a value.
    Exists,
    /// There is none.
    DoesNotExist,
    /// One value is a number of at least this.
    AtLeast,
    /// One value is a number of at most this.
    AtMost,
}

/// A profile, as far as choosing goes.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// The greater one wins.
    pub priority: i32,
    /// Which nodes it is for.
    pub selector: &'a Selector,
}

/// Which profile a node gets, and what else an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// No profile is for this node.
    None,
    /// This one; the others are for it too, with less priority.
    One {
        /// The chosen one.
        name: String,
        /// Those it outweighs, by name.
        over: Vec<String>,
    },
    /// Several have the same priority, so none is chosen.
    Conflict(String),
}

impl Requirement {
    /// Whether it can be used at all.
    ///
    /// # Errors
    /// What is wrong, and what would do.
    pub fn check(&self) -> Result<(), String> {
        if !FACT_NAMES.contains(&self.key.as_str()) {
            return Err(format!(
                "there is no characteristic {:?}; there are {}",
                self.key,
                FACT_NAMES.join(", ")
            ));
        }
        let fits = match self.operator {
            Operator::In | Operator::NotIn => !self.values.is_empty(),
            Operator::Exists | Operator::DoesNotExist => self.values.is_empty(),
            Operator::AtLeast | Operator::AtMost => {
                matches!(self.values.as_slice(), [value] if value.parse::<u64>().is_ok())
            }
        };
        let remedy = match self.operator {
            Operator::In | Operator::NotIn => "needs at least one value",
            Operator::Exists | Operator::DoesNotExist => "takes no values",
            Operator::AtLeast | Operator::AtMost => "takes one value, a whole number",
        };
        if fits { Ok(()) } else { Err(format!("{} {:?} {remedy}", self.key, self.operator)) }
    }

    fn is_met(&self, facts: &Facts) -> bool {
        let Some(values) = facts.values(&self.key) else { return false };
        let number = |text: &String| text.parse::<u64>().ok();
        let bound = self.values.first().and_then(number);
        let any = |fits: &dyn Fn(u64, u64) -> bool| {
            let mut numbers = values.iter().filter_map(number);
            bound.is_some_and(|bound| numbers.any(|value| fits(value, bound)))
        };
        match self.operator {
            Operator::In => values.iter().any(|value| self.values.contains(value)),
            Operator::NotIn => !values.iter().any(|value| self.values.contains(value)),
            Operator::Exists => !values.is_empty(),
            Operator::DoesNotExist => values.is_empty(),
            Operator::AtLeast => any(&|value, bound| value >= bound),
            Operator::AtMost => any(&|value, bound| value <= bound),
        }
    }
}

impl Selector {
    /// Whether it can be used at all.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        self.characteristics.iter().try_for_each(Requirement::check)
    }

    /// Whether a node with those labels that is so meets it. `facts`: `None` as long as the node has not reported.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>, facts: Option<&Facts>) -> bool {
        let labelled = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        let mut requirements = self.characteristics.iter();
        labelled && requirements.all(|one| facts.is_some_and(|facts| one.is_met(facts)))
    }
}

/// The profile for a node with those labels that is so.
#[must_use]
pub fn choose(
    candidates: &[Candidate<'_>],
    labels: &BTreeMap<String, String>,
    facts: Option<&Facts>,
) -> Choice {
    let mut fitting: Vec<&Candidate<'_>> =
        candidates.iter().filter(|one| one.selector.matches(labels, facts)).collect();
    fitting.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.name.cmp(b.name)));
    let Some(first) = fitting.first() else { return Choice::None };
    let same: Vec<&str> = fitting
        .iter()
        .take_while(|one| one.priority == first.priority)
        .map(|one| one.name)
        .collect();
    if same.len() > 1 {
        return Choice::Conflict(format!(
            "profiles {} are all for this node with priority {}; give one of them a higher priority or other \
             selectors",
            same.join(", "),
            first.priority
        ));
    }
    Choice::One {
        name: first.name.to_owned(),
        over: fitting.iter().skip(1).map(|one| one.name.to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::two_nodes;

    fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        Requirement { key: key.into(), operator, values }
    }

    #[test]
    fn characteristics_are_compared() {
        use Operator::{AtLeast, AtMost, DoesNotExist, Exists, In, NotIn};
        for (key, operator, values, met) in [
            ("cpu.vendor", In, &["AuthenticAMD", "GenuineIntel"][..], true),
            ("cpu.vendor", NotIn, &["GenuineIntel"], false),
            ("cpu.flags", In, &["pdpe1gb"], true),
            ("cpu.flags", In, &["avx512f"], false),
            ("nic.speed", AtLeast, &["25000"], true),
            ("nic.speed", AtLeast, &["200000"], false),
            ("numa.nodes", AtMost, &["1"], false),
            ("power.driver", Exists, &[], false),
            ("power.driver", DoesNotExist, &[], true),
            ("kernel.version", AtLeast, &["6"], false),
        ] {
            let one = requirement(key, operator, values);
            assert_eq!(one.check(), Ok(()), "{one:?}");
            assert_eq!(one.is_met(&two_nodes()), met, "{one:?}");
        }
        for (one, why) in [
            (
                requirement("cpu.colour", Exists, &[]),
                "there is no characteristic \"cpu.colour\"; there are cpu.vendor",
            ),
            (
                requirement("cpu.cores", AtLeast, &["many"]),
                "cpu.cores AtLeast takes one value, a whole number",
            ),
            (requirement("cpu.cores", AtLeast, &[]), "cpu.cores AtLeast takes one value"),
            (requirement("cpu.vendor", In, &[]), "cpu.vendor In needs at least one value"),
            (requirement("nic.driver", Exists, &["ice"]), "nic.driver Exists takes no values"),
        ] {
            let told = one.check().unwrap_err();
            assert!(told.starts_with(why), "{told}");
        }
    }

    #[test]
    fn the_greater_priority_wins_and_equal_ones_are_told() {
        let all = Selector::default();
        let routers = Selector {
            match_labels: BTreeMap::from([("role".into(), "router".into())]),
            characteristics: vec![requirement("nic.driver", Operator::In, &["ice"])],
        };
        let labels = BTreeMap::from([("role".to_owned(), "router".to_owned())]);
        let one = |name, priority, selector| Candidate { name, priority, selector };
        let candidates = [one("balanced", 0, &all), one("dpdk-router", 10, &routers)];
        let facts = two_nodes();
        assert_eq!(
            choose(&candidates, &labels, Some(&facts)),
            Choice::One { name: "dpdk-router".into(), over: vec!["balanced".into()] }
        );
        // Without a report nothing is known of its cards.
        let balanced = Choice::One { name: "balanced".into(), over: Vec::new() };
        assert_eq!(choose(&candidates, &labels, None), balanced);
        assert_eq!(choose(&candidates, &BTreeMap::new(), Some(&facts)), balanced);
        assert_eq!(choose(&[], &labels, Some(&facts)), Choice::None);
        let equal = [one("b", 5, &all), one("a", 5, &all), one("c", 1, &all)];
        let Choice::Conflict(why) = choose(&equal, &labels, None) else { panic!("no conflict") };
        assert!(why.starts_with("profiles a, b are all for this node with priority 5; "), "{why}");
    }
}
