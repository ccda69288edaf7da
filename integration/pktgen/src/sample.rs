//! Which packets are checked when not all are.

/// Chooses every n-th packet on average, at irregular distances: neither bursts nor flows fall in step with them.
#[derive(Debug)]
pub struct Sampler {
    /// Mean distance; 0: none is chosen.
    every: u32,
    /// Packets before the next chosen one.
    skip: u64,
    state: u64,
}

impl Sampler {
    /// With mean distance `every`, 0 for none. Samplers of different `seed` choose differently.
    pub fn new(every: u32, seed: u8) -> Self {
        // Any state but 0 will do for an xorshift generator.
        let mut sampler =
            Self { every, skip: u64::MAX, state: 0x2545_f491_4f6c_dd1d ^ u64::from(seed) };
        if every > 0 {
            sampler.skip = sampler.distance() - 1;
        }
        sampler
    }

    /// The next chosen one among the packets `from` to `count` of a burst. `from` moves behind it, or to the end; then
    /// the burst is over.
    #[inline]
    pub fn next(&mut self, from: &mut u16, count: u16) -> Option<u16> {
        let rest = u64::from(count.saturating_sub(*from));
        if self.skip >= rest {
            self.skip -= rest;
            *from = count;
            return None;
        }
        let place = *from + u16::try_from(self.skip).unwrap_or(0);
        *from = place + 1;
        self.skip = self.distance() - 1;
        Some(place)
    }

    /// 1 to twice the mean less 1, all equally likely.
    fn distance(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        1 + (self.state >> 11) % (2 * u64::from(self.every.max(1)) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(every: u32, bursts: &[u16]) -> Vec<u64> {
        let mut sampler = Sampler::new(every, 0);
        let (mut before, mut all) = (0, Vec::new());
        for &count in bursts {
            let mut from = 0;
            while let Some(place) = sampler.next(&mut from, count) {
                assert!(place < count, "{place} of {count}");
                all.push(before + u64::from(place));
            }
            before += u64::from(count);
        }
        all
    }

    #[test]
    fn one_means_all_and_zero_none() {
        assert_eq!(chosen(1, &[3, 0, 1, 5]), (0..9).collect::<Vec<_>>());
        assert!(chosen(0, &[32; 1000]).is_empty());
    }

    #[test]
    fn bursts_make_no_difference_and_no_place_is_left_out() {
        let large = chosen(64, &[32; 20_000]);
        assert_eq!(large, chosen(64, &[1; 640_000]));
        assert!((9_500..10_500).contains(&large.len()), "{} of 10000", large.len());
        assert!(large.windows(2).all(|pair| pair[0] < pair[1]));
        for places in [32, 64, 256] {
            let seen: std::collections::HashSet<_> = large.iter().map(|at| at % places).collect();
            assert_eq!(u64::try_from(seen.len()).unwrap(), places);
        }
        let (mut other, mut from) = (Sampler::new(64, 1), 0);
        let places = std::iter::from_fn(|| other.next(&mut from, u16::MAX)).map(u64::from);
        assert_ne!(places.take(10).collect::<Vec<_>>(), large[..10]);
    }
}
