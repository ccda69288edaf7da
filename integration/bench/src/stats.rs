//! Medians and ratios.

use serde::{Deserialize, Serialize};

/// Middle and ends of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Middle value; between two middle values, their mean.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
    /// How many values.
    pub count: usize,
}

/// Middle and ends; nothing of no values. What is not a number is left out.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len().is_multiple_of(2) {
        f64::midpoint(*values.get(middle - 1)?, *values.get(middle)?)
    } else {
        *values.get(middle)?
    };
    Some(Spread { median, min, max, count: values.len() })
}

/// Middle and ends of the quotients of values measured in the same round: slow drift of the machine cancels out. A round in
/// which one of the two is missing does not count.
pub fn ratio(over: &[(u32, f64)], under: &[(u32, f64)]) -> Option<Spread> {
    spread(over.iter().filter_map(|(round, value)| {
        let (_, reference) = under.iter().find(|(other, _)| other == round)?;
        (*reference > 0.0).then(|| value / reference)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_and_ends() {
        for (values, expected) in [
            (&[][..], None),
            (&[4.0], Some((4.0, 4.0, 4.0, 1))),
            (&[3.0, 1.0, 2.0], Some((2.0, 1.0, 3.0, 3))),
            (&[4.0, 1.0, 3.0, 2.0], Some((2.5, 1.0, 4.0, 4))),
            (&[1.0, f64::NAN, 2.0, f64::INFINITY], Some((1.5, 1.0, 2.0, 2))),
        ] {
            let got =
                spread(values.iter().copied()).map(|it| (it.median, it.min, it.max, it.count));
            assert_eq!(got, expected, "{values:?}");
        }
    }

    #[test]
    fn quotients_are_taken_within_a_round() {
        // In round 2 the whole machine was twice as slow; the quotient does not see it.
        let ours = [(1, 20.0), (2, 10.0), (3, 22.0), (5, 1.0)];
        let theirs = [(1, 10.0), (3, 10.0), (2, 5.0), (4, 9.0)];
        let got = ratio(&ours, &theirs).unwrap();
        assert_eq!((got.median, got.min, got.max, got.count), (2.0, 2.0, 2.2, 3));
        assert_eq!(ratio(&ours, &[]), None);
        assert_eq!(ratio(&[(1, 1.0)], &[(1, 0.0)]), None);
    }
}
