//! The events a plugin can ask for.

use crate::api;

/// One kind of event; its value is the bit's number, counted from 1.
pub use crate::api::Event;

/// What every runtime knows: NRI 0.6 to 0.9.
const KNOWN_TO_ALL: EventSet = EventSet(0x7ff);
/// NRI 0.10 and later.
const KNOWN_SINCE_0_10: EventSet = EventSet(0x3fff);

/// A set of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventSet(u32);

impl EventSet {
    /// The set of these events.
    #[must_use]
    pub fn of(events: &[Event]) -> Self {
        Self(events.iter().fold(0, |mask, event| mask | bit(*event)))
    }

    /// Whether `event` is in it.
    #[must_use]
    pub fn contains(self, event: Event) -> bool {
        self.0 & bit(event) != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The mask to answer `Configure` with: what was asked for and the runtime knows. A runtime refuses a plugin that
    /// asks for an event it does not know. 0 would mean all events, so an empty set asks for the rarest one, whose
    /// default method does nothing.
    #[must_use]
    pub fn mask_for(self, runtime: &api::ConfigureRequest) -> i32 {
        let mask = self.0 & known_to(runtime).0;
        let mask = if mask == 0 { bit(Event::RemovePodSandbox) } else { mask };
        // The highest bit is 13.
        mask.cast_signed()
    }
}

fn bit(event: Event) -> u32 {
    match event as i32 {
        number @ 1..=31 => 1 << (number - 1),
        _ => 0,
    }
}

/// Runtimes say their NRI version from 0.12 on; before that only their own version tells.
fn known_to(runtime: &api::ConfigureRequest) -> EventSet {
    let recent = match version(&runtime.nri_version) {
        Some(nri) => nri >= (0, 10),
        // containerd 2.2.0 has NRI 0.10.
        None => {
            runtime.runtime_name == "containerd"
                && version(&runtime.runtime_version).is_some_and(|containerd| containerd >= (2, 2))
        }
    };
    if recent { KNOWN_SINCE_0_10 } else { KNOWN_TO_ALL }
}

/// Major and minor of `v1.2.3-something`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_wire() {
        for (event, expected) in [
            (Event::RunPodSandbox, 0x1),
            (Event::StopPodSandbox, 0x2),
            (Event::RemovePodSandbox, 0x4),
            (Event::CreateContainer, 0x8),
            (Event::PostCreateContainer, 0x10),
            (Event::StartContainer, 0x20),
            (Event::PostStartContainer, 0x40),
            (Event::UpdateContainer, 0x80),
            (Event::PostUpdateContainer, 0x100),
            (Event::StopContainer, 0x200),
            (Event::RemoveContainer, 0x400),
            (Event::UpdatePodSandbox, 0x800),
            (Event::PostUpdatePodSandbox, 0x1000),
            (Event::ValidateContainerAdjustment, 0x2000),
        ] {
            assert_eq!(EventSet::of(&[event]).0, expected, "{event:?}");
        }
    }

    #[test]
    fn the_mask_never_holds_what_the_runtime_does_not_know() {
        let everything = EventSet(0x3fff);
        for (name, version, nri, expected) in [
            ("containerd", "v1.7.24", "", 0x7ff),
            ("containerd", "2.1.9", "", 0x7ff),
            ("containerd", "v2.1.4~ds1", "", 0x7ff),
            ("containerd", "v2.2.1", "", 0x3fff),
            ("containerd", "v2.3.0", "v0.12.0", 0x3fff),
            ("containerd", "v9.9.9", "v0.9.0", 0x7ff),
            ("cri-o", "1.34.0", "", 0x7ff),
            ("cri-o", "1.36.0", "0.12.0", 0x3fff),
            ("containerd", "", "", 0x7ff),
            ("containerd", "unknown", "", 0x7ff),
            ("", "", "nonsense", 0x7ff),
        ] {
            let request = api::ConfigureRequest {
                runtime_name: name.into(),
                runtime_version: version.into(),
                nri_version: nri.into(),
                ..Default::default()
            };
            assert_eq!(everything.mask_for(&request), expected, "{name} {version} {nri}");
        }
    }

    #[test]
    fn an_empty_mask_is_never_sent_because_it_means_all() {
        let runtime = api::ConfigureRequest::default();
        assert_eq!(EventSet::default().mask_for(&runtime), 0x4);
        assert_eq!(EventSet::of(&[Event::UpdatePodSandbox]).mask_for(&runtime), 0x4);
    }
}
