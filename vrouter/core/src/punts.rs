//! What is handed to the kernel, by class, and how much of it.

use crate::Timestamp;
use crate::limiter::Bucket;

/// Why a packet is the kernel's. Each class has a limit of its own and is one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PuntClass {
    /// It is for an address of this host.
    Local,
    /// It keeps the link going: ARP, Neighbor Discovery, groups and broadcasts, and everything that is not IP.
    Control,
    /// It would be forwarded but needs more than that: an ICMP error, options to be looked at, a route that only the
    /// kernel may know.
    Exception,
    /// A route says that the kernel routes it: a tunnel that only the kernel speaks.
    Kernel,
}

impl PuntClass {
    /// Every class, in the order of its counters.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Local, Self::Control, Self::Exception, Self::Kernel];
    /// Number of classes.
    pub const COUNT: usize = 4;

    /// Stable name in snake_case, for APIs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Control => "control",
            Self::Exception => "exception",
            Self::Kernel => "kernel",
        }
    }
}

/// How many packets of one port one worker hands to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PuntRate {
    /// Packets per second in the long run; zero: none.
    pub per_second: u32,
    /// Packets at once after a rest; zero: none.
    pub burst: u32,
}

/// The same by class.
///
/// By default the host's own traffic may take what a kernel takes from a TAP on one CPU, what keeps links going is never
/// pushed out by it, and what a stranger can provoke with any packet, an ICMP error, costs no more than a host's own
/// limit for those does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PuntRates {
    /// [`PuntClass::Local`].
    pub local: PuntRate,
    /// [`PuntClass::Control`].
    pub control: PuntRate,
    /// [`PuntClass::Exception`].
    pub exception: PuntRate,
    /// [`PuntClass::Kernel`].
    pub kernel: PuntRate,
}

impl Default for PuntRates {
    fn default() -> Self {
        let rate = |per_second, burst| PuntRate { per_second, burst };
        Self {
            local: rate(500_000, 4_096),
            control: rate(10_000, 1_000),
            exception: rate(1_000, 100),
            kernel: rate(500_000, 4_096),
        }
    }
}

impl PuntRates {
    /// The rate of a class.
    pub const fn of(&self, class: PuntClass) -> PuntRate {
        match class {
            PuntClass::Local => self.local,
            PuntClass::Control => self.control,
            PuntClass::Exception => self.exception,
            PuntClass::Kernel => self.kernel,
        }
    }
}

/// Limits the packets of one port that one worker hands to the kernel, by class.
#[derive(Clone, Copy, Debug)]
pub struct PuntLimiter([Bucket; PuntClass::COUNT]);

impl PuntLimiter {
    /// All buckets are full at first.
    pub fn new(rates: &PuntRates) -> Self {
        Self(PuntClass::ALL.map(|class| {
            let PuntRate { per_second, burst } = rates.of(class);
            Bucket::new(per_second, burst)
        }))
    }

    /// Takes one token of a class if there is one, at the rate and burst of another limiter; what was taken stays taken.
    pub(crate) fn allow(&mut self, now: Timestamp, class: PuntClass, rates: &Self) -> bool {
        let bucket = &mut self.0[class as usize];
        bucket.follow(&rates.0[class as usize]);
        bucket.allow(now)
    }
}

impl Default for PuntLimiter {
    fn default() -> Self {
        Self::new(&PuntRates::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_takes_nothing_from_another() {
        let few = PuntRate { per_second: 10, burst: 2 };
        let rates = PuntLimiter::new(&PuntRates { local: few, ..PuntRates::default() });
        let mut limiter = PuntLimiter::default();
        let mut allowed = |now, class, tries| {
            let now = Timestamp::from_nanoseconds(now);
            (0..tries).filter(|_| limiter.allow(now, class, &rates)).count()
        };
        assert_eq!(allowed(0, PuntClass::Local, 100), 2);
        assert_eq!(allowed(0, PuntClass::Control, 5_000), 1_000);
        assert_eq!(allowed(0, PuntClass::Exception, 5_000), 100);
        assert_eq!(allowed(0, PuntClass::Kernel, 5_000), 4_096);
        assert_eq!(allowed(100_000_000, PuntClass::Local, 100), 1);
        assert_eq!(allowed(100_000_000, PuntClass::Exception, 5_000), 100);
        assert_eq!(allowed(100_000_000, PuntClass::Exception, 5_000), 0);
    }

    #[test]
    fn names_are_stable() {
        let names = PuntClass::ALL.map(PuntClass::name);
        assert_eq!(names, ["local", "control", "exception", "kernel"]);
        for (at, class) in PuntClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, at);
        }
    }
}
