//! What happens without an event of the runtime: a vRouter that is there again gets the ports of the pods that run, and
//! pods are noticed that are gone.

use std::sync::Arc;
use std::time::Duration;

use vrouter_api::v1::Event;
use vrouter_api::v1::event::Event as Change;

use crate::allocator::Allocator;

/// The wait before the second attempt to reach the vRouter; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait: a vRouter that was started again is without its ports for no longer.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How often pods are looked for whose end nobody announces: some calls of stat(2) for each. They keep addresses and CPUs from
/// others, nothing worse.
const LOOK: Duration = Duration::from_secs(3);

/// Takes back what pods have that are gone, until the process ends.
pub async fn pods(allocator: Arc<Allocator>) {
    loop {
        tokio::time::sleep(LOOK).await;
        allocator.release_gone().await;
    }
}

/// How often it is tried to give addresses back that could not be.
const RETURN: Duration = Duration::from_secs(10);

/// Gives addresses back that no pod holds, until the process ends.
pub async fn leases(allocator: Arc<Allocator>) {
    loop {
        if allocator.return_leases().await {
            allocator.stale_leases.notified().await;
        } else {
            tokio::time::sleep(RETURN).await;
        }
    }
}

/// Keeps the vRouter's ports what they shall be, until the process ends.
pub async fn vrouter(allocator: Arc<Allocator>) {
    let mut backoff = BACKOFF_MIN;
    let mut last = String::new();
    loop {
        let mut connected = false;
        let why = follow(&allocator, &mut connected).await;
        if connected {
            backoff = BACKOFF_MIN;
            last.clear();
        }
        // A vRouter that stays away is said once.
        if why != last {
            tracing::warn!(reason = why, "no vRouter; trying again");
            last = why;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// One connection; returns why it ended.
async fn follow(allocator: &Allocator, connected: &mut bool) -> String {
    let mut changes = match allocator.vrouter().watch().await {
        Ok(changes) => changes,
        Err(error) => return error.to_string(),
    };
    // Ports are compared only when the vRouter has told all it has: its own start is over then.
    loop {
        match tokio::time::timeout(allocator.vrouter().timeout, changes.message()).await {
            Ok(Ok(Some(Event { event: Some(Change::Synced(_)) }))) => break,
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return "it closed the connection".to_owned(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return "it does not say what it has".to_owned(),
        }
    }
    *connected = true;
    tracing::info!(socket = %allocator.vrouter().socket.display(), "vRouter connected");
    if let Err(error) = allocator.reconcile_ports().await {
        return error.to_string();
    }
    loop {
        tokio::select! {
            change = changes.message() => match change {
                // Only that it is there counts; its changes are our own or an operator's.
                Ok(Some(_)) => {}
                Ok(None) => return "it closed the connection".to_owned(),
                Err(status) => return status.message().to_owned(),
            },
            () = allocator.stale_ports.notified() => {
                if let Err(error) = allocator.reconcile_ports().await {
                    return error.to_string();
                }
            }
        }
    }
}
