//! What workers do when there is nothing to do: as it is on the wire, and here. Pure.

use vrouter_api::v1;

use super::{Refusal, invalid};
use crate::worker::Mode;

/// Reads a mode.
///
/// # Errors
/// [`Refusal::Invalid`] for one of a newer API.
pub fn read_worker_mode(wire: i32) -> Result<Mode, Refusal> {
    match v1::WorkerMode::try_from(wire) {
        Ok(v1::WorkerMode::Adaptive) => Ok(Mode::Adaptive),
        Ok(v1::WorkerMode::Poll) => Ok(Mode::Poll),
        Ok(v1::WorkerMode::Sleep) => Ok(Mode::Sleep),
        Err(_) => Err(invalid("mode", wire, "use 0 (adaptive), 1 (poll) or 2 (sleep)")),
    }
}

/// Writes a mode.
pub fn worker_mode(mode: Mode) -> v1::WorkerMode {
    match mode {
        Mode::Adaptive => v1::WorkerMode::Adaptive,
        Mode::Poll => v1::WorkerMode::Poll,
        Mode::Sleep => v1::WorkerMode::Sleep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in [Mode::Adaptive, Mode::Poll, Mode::Sleep] {
            assert_eq!(read_worker_mode(worker_mode(mode).into()).unwrap(), mode);
        }
        let refused = read_worker_mode(3).unwrap_err().to_string();
        assert_eq!(refused, "mode \"3\": use 0 (adaptive), 1 (poll) or 2 (sleep)");
    }
}
