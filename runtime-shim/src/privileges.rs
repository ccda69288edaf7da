//! While this program works itself, it has only the capabilities it needs; the real runtime gets back what the caller had.

use std::collections::HashSet;

use caps::{CapSet, Capability, CapsHashSet};

/// What stays in effect: bundles and sockets may belong to others, and an edited file keeps its owner.
const KEPT: [Capability; 3] =
    [Capability::CAP_CHOWN, Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER];

/// The capabilities to give back.
#[derive(Debug)]
pub struct Lowered(Option<CapsHashSet>);

/// The real runtime would not get what its caller has.
#[derive(Debug, thiserror::Error)]
#[error("cannot take back the capabilities for the real runtime: {0}")]
pub struct RaiseError(#[from] caps::errors::CapsError);

impl Lowered {
    /// Takes everything else out of effect. A caller without capabilities has none to lose.
    pub fn new() -> Self {
        let lower = || {
            let before = caps::read(None, CapSet::Effective).ok()?;
            let kept: HashSet<_> = KEPT.into_iter().filter(|it| before.contains(it)).collect();
            caps::set(None, CapSet::Effective, &kept).ok()?;
            Some(before)
        };
        Self(lower())
    }

    /// Gives them back.
    ///
    /// # Errors
    /// [`RaiseError`] when the system refuses.
    pub fn raise(self) -> Result<(), RaiseError> {
        match self.0 {
            Some(before) => Ok(caps::set(None, CapSet::Effective, &before)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_effect_comes_back() {
        let before = caps::read(None, CapSet::Effective).unwrap();
        let lowered = Lowered::new();
        let during = caps::read(None, CapSet::Effective).unwrap();
        assert!(during.iter().all(|it| KEPT.contains(it)), "{during:?}");
        lowered.raise().unwrap();
        assert_eq!(caps::read(None, CapSet::Effective).unwrap(), before);
    }
}
