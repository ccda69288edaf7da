//! The histogram of time spent in the vRouter.

use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};

/// The first bucket is for less than 2 to the power of this, in nanoseconds; each further one doubles, and the last is
/// for all that took longer (vrouter.proto, PortStats.latency).
const FIRST: u32 = 7;

/// Numbers of bursts, by bucket, as they are on the wire.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Latency(pub(crate) Vec<u64>);

impl Latency {
    fn below(&self, bucket: usize) -> Option<u64> {
        let shift = u32::try_from(bucket).ok()?.checked_add(FIRST)?;
        1u64.checked_shl(shift).filter(|_| bucket + 1 < self.0.len())
    }

    /// The bound, in nanoseconds, that `percent` of the bursts did not exceed; `None` before the first sample.
    /// `Some(None)`: longer than any bound.
    pub(crate) fn percentile(&self, percent: u64) -> Option<Option<u64>> {
        let all = self.0.iter().fold(0u128, |sum, n| sum + u128::from(*n));
        let wanted = (all * u128::from(percent)).div_ceil(100);
        let mut seen = 0u128;
        let reached = |n: &u64| {
            seen += u128::from(*n);
            seen >= wanted
        };
        let bucket = self.0.iter().position(reached).filter(|_| all > 0)?;
        Some(self.below(bucket))
    }
}

#[derive(Serialize)]
struct Bucket {
    below_ns: Option<u64>,
    bursts: u64,
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (bucket, bursts) in self.0.iter().enumerate() {
            list.serialize_element(&Bucket { below_ns: self.below(bucket), bursts: *bursts })?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::Latency;

    #[test]
    fn percentiles_are_the_bounds_of_their_buckets() {
        for (counts, percent, expected) in [
            (&[][..], 99, None),
            (&[0, 0, 0], 99, None),
            (&[1, 0, 0], 99, Some(Some(128))),
            (&[50, 50, 0], 50, Some(Some(128))),
            (&[50, 50, 0], 51, Some(Some(256))),
            (&[98, 1, 1], 99, Some(Some(256))),
            (&[98, 0, 2], 99, Some(None)),
            (&[u64::MAX, u64::MAX, 0], 99, Some(Some(256))),
        ] {
            assert_eq!(Latency(counts.to_vec()).percentile(percent), expected, "{counts:?}");
        }
    }

    #[test]
    fn json_names_the_bounds() {
        let json = serde_json::to_value(Latency(vec![3, 0, 1])).unwrap();
        assert_eq!(
            json,
            serde_json::json!([
                {"below_ns": 128, "bursts": 3}, {"below_ns": 256, "bursts": 0}, {"below_ns": null, "bursts": 1},
            ])
        );
    }
}
