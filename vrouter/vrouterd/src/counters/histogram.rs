//! Histograms whose buckets double. Pure.

use super::Tally;

/// Frames taken at once: buckets for 1, 2, up to 4, 8, 16 and 32.
pub const BURST_BUCKETS: usize = 6;

/// Times: buckets for less than 128 ns, 256 ns and so on to 2.1 ms (2^21 ns), and one for all that took longer.
pub const TIME_BUCKETS: usize = 16;
/// The first of them is for less than 2 to the power of this, in nanoseconds.
const FIRST_TIME: u32 = 7;

/// The bucket of a burst of `frames`, which are not none.
#[inline]
pub fn burst_bucket(frames: usize) -> usize {
    let bits = usize::BITS - frames.saturating_sub(1).leading_zeros();
    (bits as usize).min(BURST_BUCKETS - 1)
}

/// The bucket of a time.
#[inline]
pub fn time_bucket(nanoseconds: u64) -> usize {
    let bits = u64::BITS - nanoseconds.leading_zeros();
    (bits.saturating_sub(FIRST_TIME) as usize).min(TIME_BUCKETS - 1)
}

/// Counts by bucket, with one writer.
pub type Histogram<const N: usize> = [Tally; N];

/// Adds one; for the writer only.
#[inline]
pub fn count<const N: usize>(histogram: &Histogram<N>, bucket: usize) {
    if let Some(tally) = histogram.get(bucket) {
        tally.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_fall_into_buckets_that_double() {
        for (frames, bucket) in
            [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (16, 4), (17, 5), (32, 5)]
        {
            assert_eq!(burst_bucket(frames), bucket, "{frames}");
        }
        assert_eq!((burst_bucket(0), burst_bucket(usize::MAX)), (0, BURST_BUCKETS - 1));
    }

    #[test]
    fn times_fall_into_buckets_that_double() {
        for (nanoseconds, bucket) in [
            (0, 0),
            (127, 0),
            (128, 1),
            (255, 1),
            (256, 2),
            (1023, 3),
            (1024, 4),
            ((1 << 20) - 1, 13),
            ((1 << 21) - 1, 14),
            (1 << 21, 15),
            (u64::MAX, 15),
        ] {
            assert_eq!(time_bucket(nanoseconds), bucket, "{nanoseconds}");
        }
    }
}
