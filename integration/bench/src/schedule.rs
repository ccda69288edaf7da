//! In which order samples are taken, and how long that will take.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cells::Cell;

/// One sample to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// From 1.
    pub round: u32,
    /// Index of the cell.
    pub cell: usize,
    /// Index of the subject in the cell.
    pub subject: usize,
}

/// Rounds over all cells. Within a cell the switches take turns, and who begins changes from round to round, so that neither a
/// slow drift of the machine nor what one switch leaves in its caches favours anybody.
pub fn steps(rounds: u32, cells: &[Cell]) -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 1..=rounds {
        for (cell, it) in cells.iter().enumerate() {
            let number = it.subjects.len();
            let first = (usize::try_from(round - 1).unwrap_or(0) + cell) % number.max(1);
            let order = (0..number).map(|place| (first + place) % number);
            steps.extend(order.map(|subject| Step { round, cell, subject }));
        }
    }
    steps
}

/// Remembers how long steps took, to say how long the rest will take.
#[derive(Debug, Default)]
pub struct Pace {
    taken: BTreeMap<usize, (Duration, u32)>,
}

impl Pace {
    /// A step of a cell took `time`.
    pub fn note(&mut self, cell: usize, time: Duration) {
        let (sum, count) = self.taken.entry(cell).or_default();
        *sum += time;
        *count += 1;
    }

    /// Time for `steps`; those of a cell that was not measured yet take `guess`.
    pub fn left(&self, steps: &[Step], guess: Duration) -> Duration {
        steps
            .iter()
            .map(|step| self.taken.get(&step.cell).map_or(guess, |(sum, n)| *sum / *n))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::all;

    #[test]
    fn everybody_comes_once_a_round_and_begins_in_turn() {
        let cells = &all()[..2];
        let number = cells[0].subjects.len();
        let rounds = u32::try_from(number).unwrap();
        let steps = steps(rounds, cells);
        assert_eq!(steps.len(), 2 * number * number);
        let mut beginners = Vec::new();
        for round in 1..=rounds {
            for cell in 0..2 {
                let order: Vec<_> = steps
                    .iter()
                    .filter(|step| step.round == round && step.cell == cell)
                    .map(|step| step.subject)
                    .collect();
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..number).collect::<Vec<_>>(), "round {round} cell {cell}");
                if cell == 0 {
                    beginners.push(order[0]);
                }
            }
        }
        beginners.sort_unstable();
        assert_eq!(beginners, (0..number).collect::<Vec<_>>());
        // A round is over before the next begins.
        assert!(steps.is_sorted_by_key(|step| (step.round, step.cell)));
    }

    #[test]
    fn the_rest_is_estimated_from_what_was_measured() {
        let mut pace = Pace::default();
        let step = |cell| Step { round: 1, cell, subject: 0 };
        let guess = Duration::from_secs(9);
        assert_eq!(pace.left(&[step(0), step(1)], guess), Duration::from_secs(18));
        pace.note(0, Duration::from_secs(2));
        pace.note(0, Duration::from_secs(4));
        assert_eq!(pace.left(&[step(0), step(1), step(0)], guess), Duration::from_secs(15));
        assert_eq!(pace.left(&[], guess), Duration::ZERO);
    }
}
