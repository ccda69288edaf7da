//! Rings, queues and offloads of network cards that the kernel drives.

use std::collections::BTreeMap;

use ringway_config::{Count, CountRule};

use super::Planner;
use crate::knob::{Knob, QueueKind, RingKind};
use crate::node::Nic;
use crate::rings::Span;

/// What the rules together say of one card, with the index of the rule that said it.
#[derive(Default)]
struct Wanted<'a> {
    rx_ring: Option<(usize, Count)>,
    rx_ring_max: Option<(usize, Count)>,
    tx_ring: Option<(usize, Count)>,
    queues: Option<(usize, Count)>,
    offloads: BTreeMap<&'a str, bool>,
}

/// `eth*` or a whole name.
pub(super) fn names_match(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

impl<'a> Planner<'a> {
    pub(super) fn nics(&mut self) {
        let node = self.node;
        for nic in &node.nics {
            let Some(name) = nic.name.as_deref() else { continue };
            let wanted = self.wanted(nic, name);
            // The number of queues first: some drivers allocate rings anew for it.
            self.queues(nic, name, &wanted);
            self.rings(nic, name, &wanted);
            self.offloads(nic, name, &wanted);
        }
    }

    fn wanted(&self, nic: &Nic, name: &str) -> Wanted<'a> {
        let mut wanted = Wanted::default();
        let profile: &'a ringway_config::NodeProfile = self.profile;
        for (index, rule) in profile.nics.iter().enumerate() {
            // What has no hardware behind it is meant only by name.
            let named = (rule.names.is_empty() && nic.physical)
                || rule.names.iter().any(|n| names_match(n, name));
            let driven = rule.drivers.is_empty()
                || nic.driver.as_ref().is_some_and(|driver| rule.drivers.contains(driver));
            if !named || !driven {
                continue;
            }
            for (slot, count) in [
                (&mut wanted.rx_ring, rule.rx_ring),
                (&mut wanted.rx_ring_max, rule.rx_ring_max),
                (&mut wanted.tx_ring, rule.tx_ring),
                (&mut wanted.queues, rule.queues),
            ] {
                *slot = count.map(|count| (index, count)).or(*slot);
            }
            wanted.offloads.extend(rule.offloads.iter().map(|(name, on)| (name.as_str(), *on)));
        }
        wanted
    }

    fn rings(&mut self, nic: &Nic, name: &str, wanted: &Wanted<'_>) {
        let rings = nic.ethtool.rings.unwrap_or_default();
        let why = "longer rings hold bursts, shorter ones stay in the cache";
        let rx = Knob::Ring { nic: name.to_owned(), kind: RingKind::Rx };
        match (wanted.rx_ring, wanted.rx_ring_max) {
            (Some(least), Some(most)) if rings.rx_max > 0 => {
                self.growing_ring(nic, name, rx, least, most);
            }
            (rx_ring, _) => self.count("rx_ring", rx, rx_ring, rings.rx, rings.rx_max, 0, why),
        }
        let tx = Knob::Ring { nic: name.to_owned(), kind: RingKind::Tx };
        self.count("tx_ring", tx, wanted.tx_ring, rings.tx, rings.tx_max, 0, why);
    }

    /// A ring that is as it should be at any size within its bounds: which one it needs, the agent finds out.
    fn growing_ring(
        &mut self,
        nic: &Nic,
        name: &str,
        knob: Knob,
        least: (usize, Count),
        most: (usize, Count),
    ) {
        let rings = nic.ethtool.rings.unwrap_or_default();
        let bound = |(_, count): (usize, Count)| match count {
            Count::Exactly(count) => count,
            Count::Rule(CountRule::Max | CountRule::Reserved) => rings.rx_max,
        };
        for (field, (index, _), count) in
            [("rx_ring", least, bound(least)), ("rx_ring_max", most, bound(most))]
        {
            if count > rings.rx_max {
                let remedy =
                    format!("{knob}: the driver has at most {}; say \"max\" or less", rings.rx_max);
                return self.refuse(format!("nics[{index}].{field}"), count, remedy);
            }
        }
        // Of two rules, where they contradict each other the later one's least counts.
        let (least, most) = (bound(least), bound(most).max(bound(least)));
        let now = rings.rx.clamp(least, most);
        let why = "long enough for what the card drops, no longer";
        let unwritable = self.unwritable.contains_key(&knob);
        self.turn("nics", knob, rings.rx.to_string(), now.to_string(), why);
        if let (Some(drops), false) = (nic.rx_starved, unwritable) {
            self.rings.push(Span { nic: name.to_owned(), now, least, most, drops });
        }
    }

    fn queues(&mut self, nic: &Nic, name: &str, wanted: &Wanted<'_>) {
        let queues = nic.ethtool.queues.unwrap_or_default();
        let kinds = if queues.combined_max == 0 && queues.rx_max > 0 {
            vec![
                (QueueKind::Rx, queues.rx, queues.rx_max),
                (QueueKind::Tx, queues.tx, queues.tx_max),
            ]
        } else {
            vec![(QueueKind::Combined, queues.combined, queues.combined_max)]
        };
        let reserved = self.cpus.reserved_near(nic.numa).len();
        let reserved = u32::try_from(reserved).unwrap_or(u32::MAX);
        for (kind, now, most) in kinds {
            let why =
                "one queue, and one interrupt, for each CPU that handles packets of the kernel";
            let knob = Knob::Queues { nic: name.to_owned(), kind };
            self.count("queues", knob, wanted.queues, now, most, reserved, why);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one row of what is alike in rings and queues")]
    fn count(
        &mut self,
        field: &str,
        knob: Knob,
        wanted: Option<(usize, Count)>,
        now: u32,
        most: u32,
        reserved: u32,
        why: &'static str,
    ) {
        let Some((index, count)) = wanted else { return };
        let told = match count {
            Count::Exactly(count) => count.to_string(),
            Count::Rule(CountRule::Max) => "max".to_owned(),
            Count::Rule(CountRule::Reserved) => "one per reserved CPU".to_owned(),
        };
        if most == 0 {
            let reason = "the driver has none that can be set";
            return self.not_applicable("nics", knob.to_string(), told, why, reason);
        }
        let count = match count {
            Count::Exactly(count) => count,
            Count::Rule(CountRule::Max) => most,
            Count::Rule(CountRule::Reserved) => reserved.clamp(1, most),
        };
        if count > most {
            let remedy = format!("{knob}: the driver has at most {most}; say \"max\" or less");
            return self.refuse(format!("nics[{index}].{field}"), count, remedy);
        }
        self.turn("nics", knob, now.to_string(), count.to_string(), why);
    }

    fn offloads(&mut self, nic: &Nic, name: &str, wanted: &Wanted<'_>) {
        for (offload, on) in &wanted.offloads {
            let why = "the profile says so";
            let word = |on: bool| if on { "on" } else { "off" }.to_owned();
            let knob = Knob::Offload { nic: name.to_owned(), name: (*offload).to_owned() };
            match nic.ethtool.offloads.get(*offload) {
                None => {
                    let reason = "the interface does not have it";
                    self.not_applicable("nics", knob.to_string(), word(*on), why, reason);
                }
                Some(now) if now.fixed && now.on != *on => {
                    let reason = format!("the driver has fixed it to {}", word(now.on));
                    self.not_applicable("nics", knob.to_string(), word(*on), why, reason);
                }
                Some(now) => self.turn("nics", knob, word(now.on), word(*on), why),
            }
        }
    }
}
