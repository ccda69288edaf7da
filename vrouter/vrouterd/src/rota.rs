//! Which of its ports a worker looks at. Pure.
//!
//! A port that sends is looked at in every round. One that has been quiet for a while is asked to kick, and then not
//! looked at until it has: many idle ports cost nothing, whether the worker is busy, idle or asleep.

/// What can be done with a worker's ports, each named by its place in the worker's list.
pub trait Ports {
    /// Takes what a port has; says how much that was.
    fn look(&mut self, port: usize) -> usize;
    /// Asks a port to kick; `false` when it has something after all, or can't be asked now.
    fn ask(&mut self, port: usize) -> bool;
}

/// Whose turn it is.
pub struct Rota {
    /// First those that are looked at, then the quiet ones.
    order: Vec<usize>,
    /// Where in `order` each is.
    position: Vec<usize>,
    looked_at: usize,
    /// When each last had packets; 0: long ago.
    last: Vec<u64>,
    /// How long a port without packets is looked at.
    patience: u64,
}

impl Rota {
    /// A patience that does not end.
    pub const NEVER: u64 = u64::MAX;

    /// `patience`: how long a port without packets is looked at, in any unit above zero.
    pub fn new(patience: u64) -> Self {
        let (order, position, last) = (Vec::new(), Vec::new(), Vec::new());
        Self { order, position, looked_at: 0, last, patience }
    }

    /// From now on a port is looked at for another time without packets. [`NEVER`] asks none to kick; those that have been asked
    /// are looked at, too.
    ///
    /// [`NEVER`]: Self::NEVER
    pub fn set_patience(&mut self, patience: u64) {
        self.patience = patience;
        if patience == Self::NEVER {
            self.doubt();
        }
    }

    /// The worker has another list: for each port, where it was in the old one. Nobody in it has been asked to kick.
    pub fn restart(&mut self, old_places: impl Iterator<Item = Option<usize>>) {
        let old = std::mem::take(&mut self.last);
        let last = |place: Option<usize>| place.and_then(|place| old.get(place)).copied();
        self.last.extend(old_places.map(|place| last(place).unwrap_or(0)));
        self.order.clear();
        self.order.extend(0..self.last.len());
        self.position.clone_from(&self.order);
        self.looked_at = self.order.len();
    }

    /// It is not certain that quiet ports kick: all are looked at again, and asked again if they have nothing.
    pub fn doubt(&mut self) {
        let quiet = self.order.get(self.looked_at..).unwrap_or(&[]);
        for &port in quiet {
            if let Some(last) = self.last.get_mut(port) {
                *last = 0;
            }
        }
        self.looked_at = self.order.len();
    }

    /// Whether there are ports that nobody looks at.
    #[inline]
    pub fn has_quiet(&self) -> bool {
        self.looked_at < self.order.len()
    }

    /// A port has kicked. It is looked at for a while even if it has nothing, as it may be in the middle of a change.
    pub fn kicked(&mut self, port: usize, now: u64) {
        let Some(&position) = self.position.get(port) else { return };
        if position >= self.looked_at {
            self.swap(position, self.looked_at);
            self.looked_at += 1;
            self.note(port, now);
        }
    }

    /// One round at the time `now`, which never goes back and is not 0. Returns how much was taken.
    #[inline]
    pub fn round(&mut self, now: u64, ports: &mut impl Ports) -> usize {
        let mut taken = 0;
        let mut position = 0;
        while position < self.looked_at {
            let Some(&port) = self.order.get(position) else { break };
            let found = ports.look(port);
            taken += found;
            if found != 0 {
                self.note(port, now);
            } else if self.is_overdue(port, now) && ports.ask(port) {
                // The last of those that are looked at comes here, and its turn now.
                self.looked_at -= 1;
                self.swap(position, self.looked_at);
                continue;
            }
            position += 1;
        }
        taken
    }

    /// Asks everybody who has not been asked; `false` when one of them has something, or can't be asked now.
    pub fn ask_all(&mut self, ports: &mut impl Ports) -> bool {
        while let Some(position) = self.looked_at.checked_sub(1) {
            let Some(&port) = self.order.get(position) else { break };
            if !ports.ask(port) {
                return false;
            }
            self.looked_at = position;
        }
        true
    }

    #[inline]
    fn note(&mut self, port: usize, now: u64) {
        if let Some(last) = self.last.get_mut(port) {
            *last = now;
        }
    }

    #[inline]
    fn is_overdue(&self, port: usize, now: u64) -> bool {
        self.last.get(port).is_some_and(|last| now.saturating_sub(*last) >= self.patience)
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.order.swap(a, b);
        for position in [a, b] {
            let port = self.order.get(position).copied();
            if let Some(known) = port.and_then(|port| self.position.get_mut(port)) {
                *known = position;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const PATIENCE: u64 = 100;

    fn rota(ports: usize) -> Rota {
        let mut rota = Rota::new(PATIENCE);
        rota.restart((0..ports).map(|_| None));
        rota
    }

    /// Ports of which some have packets and some agree to kick, by bit.
    #[derive(Default)]
    struct Pods {
        busy: u16,
        willing: u16,
        looked_at: Vec<usize>,
        asked: Vec<usize>,
    }

    impl Ports for Pods {
        fn look(&mut self, port: usize) -> usize {
            self.looked_at.push(port);
            usize::from(self.busy >> port & 1)
        }

        fn ask(&mut self, port: usize) -> bool {
            let willing = self.willing >> port & 1 == 1;
            if willing {
                self.asked.push(port);
            }
            willing
        }
    }

    fn bits(ports: &[usize]) -> u16 {
        ports.iter().fold(0, |bits, port| bits | 1 << port)
    }

    /// Runs a round in which `busy` ports have packets and the others agree to kick; who was looked at.
    fn looks(rota: &mut Rota, now: u64, busy: &[usize]) -> Vec<usize> {
        let mut ports = Pods { busy: bits(busy), willing: u16::MAX, ..Pods::default() };
        assert_eq!(
            rota.round(now, &mut ports),
            ports.looked_at.iter().filter(|p| busy.contains(p)).count()
        );
        ports.looked_at.sort_unstable();
        ports.looked_at
    }

    #[test]
    fn who_sends_is_looked_at_and_who_is_quiet_is_not_until_it_kicks() {
        let mut rota = rota(5);
        assert_eq!(looks(&mut rota, 1000, &[1, 3]), [0, 1, 2, 3, 4]);
        assert!(rota.has_quiet());
        for now in 1001..1100 {
            assert_eq!(looks(&mut rota, now, &[3]), [1, 3], "{now}");
        }
        assert_eq!(looks(&mut rota, 1100, &[3]), [1, 3], "1 has its last look");
        assert_eq!(looks(&mut rota, 1100, &[3]), [3]);
        rota.kicked(4, 1200);
        rota.kicked(4, 1200);
        rota.kicked(3, 1200);
        rota.kicked(99, 1200);
        for now in 1200..1300 {
            assert_eq!(looks(&mut rota, now, &[3]), [3, 4], "a kick without packets counts, too");
        }
        looks(&mut rota, 1300, &[3]);
        assert_eq!(looks(&mut rota, 1300, &[3]), [3]);
    }

    #[test]
    fn who_cannot_be_asked_is_looked_at() {
        let mut rota = rota(3);
        let unwilling = |not: &[usize]| Pods { willing: !bits(not), ..Pods::default() };
        assert_eq!(rota.round(1000, &mut unwilling(&[1])), 0);
        assert_eq!(looks(&mut rota, 1000, &[1]), [1]);
        assert!(!rota.ask_all(&mut unwilling(&[0, 1, 2])));
        assert_eq!(looks(&mut rota, 1001, &[1]), [1]);
        let mut willing = unwilling(&[]);
        assert!(rota.ask_all(&mut willing));
        assert_eq!(willing.asked, [1], "the others had been asked");
        assert_eq!(looks(&mut rota, 1002, &[]), [0; 0]);
    }

    #[test]
    fn in_doubt_all_are_asked_again() {
        let mut rota = rota(4);
        looks(&mut rota, 1000, &[2]);
        assert_eq!(looks(&mut rota, 1001, &[2]), [2]);
        rota.doubt();
        let mut ports = Pods { willing: u16::MAX, ..Pods::default() };
        rota.round(1002, &mut ports);
        ports.asked.sort_unstable();
        assert_eq!(ports.asked, [0, 1, 3], "but not who has just sent");
        assert_eq!(looks(&mut rota, 1003, &[2]), [2]);
    }

    #[test]
    fn whoever_polls_for_ever_asks_nobody() {
        let mut rota = rota(3);
        assert_eq!(looks(&mut rota, 1000, &[1]), [0, 1, 2]);
        assert!(rota.has_quiet());
        rota.set_patience(Rota::NEVER);
        for now in [1001, 1_000_000, u64::MAX - 1] {
            let mut ports = Pods { willing: u16::MAX, ..Pods::default() };
            assert_eq!((rota.round(now, &mut ports), rota.has_quiet()), (0, false));
            assert_eq!((ports.asked, ports.looked_at.len()), (vec![], 3), "{now}");
        }
        rota.restart((0..4).map(|_| None));
        assert_eq!(looks(&mut rota, u64::MAX - 1, &[]), [0, 1, 2, 3]);
        assert!(!rota.has_quiet());
        rota.set_patience(PATIENCE);
        assert_eq!(looks(&mut rota, u64::MAX - 1, &[]), [0, 1, 2, 3]);
        assert!(rota.has_quiet(), "they are asked again");
    }

    #[test]
    fn who_sends_goes_on_in_a_new_list() {
        let mut rota = rota(3);
        looks(&mut rota, 1000, &[1]);
        rota.restart([None, Some(2), Some(1), Some(7)].into_iter());
        assert_eq!(looks(&mut rota, 1001, &[]), [0, 1, 2, 3]);
        assert_eq!(looks(&mut rota, 1002, &[]), [2]);
        rota.restart(std::iter::empty());
        assert_eq!((looks(&mut rota, 1003, &[]).len(), rota.has_quiet()), (0, false));
        assert!(rota.ask_all(&mut Pods::default()));
    }

    /// Whatever happens: who is not looked at has been asked since it was last looked at, nobody twice in a round.
    #[test]
    fn nobody_is_forgotten() {
        bolero::check!().with_type().for_each(|steps: &Vec<(u8, u16, u16)>| {
            let count = 9;
            let mut rota = rota(count);
            let mut asked = BTreeSet::new();
            let mut now = 1000;
            for &(what, busy, willing) in steps {
                now += u64::from(what) % 70;
                let mut ports = Pods { busy, willing, ..Pods::default() };
                match what % 5 {
                    0 => {
                        rota.doubt();
                        asked.clear();
                    }
                    1 => {
                        let port = usize::from(what) % count;
                        rota.kicked(port, now);
                        asked.remove(&port);
                    }
                    2 => {
                        rota.ask_all(&mut ports);
                    }
                    _ => {
                        rota.round(now, &mut ports);
                        let mut all = asked.clone();
                        for port in &ports.looked_at {
                            assert!(all.insert(*port), "{port} twice, or after it was asked");
                        }
                        assert_eq!(all.len(), count);
                    }
                }
                for port in ports.asked {
                    assert!(asked.insert(port), "{port} was asked twice");
                }
            }
        });
    }
}
