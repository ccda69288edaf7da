//! Bounded waiting for real conditions, and the wish to stop early.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::qemu::numa;

/// How often a condition is looked at: short against every limit, long against the cost of a look.
const INTERVAL: Duration = Duration::from_millis(25);

static STOP: AtomicBool = AtomicBool::new(false);

/// The one tokio runtime of this process; everything else is synchronous, so that guards can clean up in `Drop`.
pub fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
    });
    match made {
        Ok(runtime) => Ok(runtime),
        Err(error) => bail!("cannot start the async runtime: {error}"),
    }
}

/// From now on SIGINT and SIGTERM make every wait end with an error, so that the guards clean up on the way out. A second
/// signal changes nothing: the clean-up is bounded.
pub fn stop_on_signals() -> Result<()> {
    let _inside = runtime()?.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut stream = signal(kind)?;
        runtime()?.spawn(async move {
            while stream.recv().await.is_some() {
                STOP.store(true, Ordering::Relaxed);
            }
        });
    }
    Ok(())
}

/// Fails once a signal asked to stop.
pub fn check_stop() -> Result<()> {
    if STOP.load(Ordering::Relaxed) {
        bail!("stopped by a signal");
    }
    Ok(())
}

/// How many times as long as elsewhere things may take here.
fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| if std::env::var_os(numa::VARIABLE).is_some() { 10 } else { 1 })
}

/// Calls `probe` until it gives a value, at most for `limit`; ten times that in a machine without KVM.
///
/// # Errors
/// The probe's own error at once; at the limit an error that names `what` was waited for.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = limit * slowness();
    let end = Instant::now() + limit;
    loop {
        check_stop()?;
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what}: did not happen within {} s", limit.as_secs_f32());
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Sleeps, but not past a signal.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        check_stop()?;
        std::thread::sleep(INTERVAL.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_or_names_what_was_missing() {
        let mut calls = 0;
        let value = until("three calls", Duration::from_secs(5), || {
            calls += 1;
            Ok((calls == 3).then_some(calls))
        });
        assert_eq!(value.unwrap(), 3);

        let late = until::<()>("the moon", Duration::from_millis(60), || Ok(None)).unwrap_err();
        assert!(late.to_string().starts_with("the moon: did not happen within 0.06"), "{late}");

        let broken = until::<()>("x", Duration::from_secs(5), || bail!("broken")).unwrap_err();
        assert_eq!(broken.to_string(), "broken");
    }
}
