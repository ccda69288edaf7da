//! What happens without an event of the runtime: a vRouter that is there again gets the ports of the pods that run, and
//! pods are noticed that are gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use vrouter_api::v1::Event;
use vrouter_api::v1::event::Event as Change;

use crate::allocator::Allocator;
use crate::vrouter::VRouter;

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

/// Keeps the vRouters' ports and routes what they shall be, until the process ends.
pub async fn vrouters(allocator: Arc<Allocator>) {
    let mut all = JoinSet::new();
    for at in 0..allocator.vrouters().len() {
        all.spawn(one(Arc::clone(&allocator), at));
    }
    while all.join_next().await.is_some() {}
}

async fn one(allocator: Arc<Allocator>, at: usize) {
    let Some(vrouter) = allocator.vrouters().get(at) else { return };
    let mut backoff = BACKOFF_MIN;
    let mut last = String::new();
    loop {
        let mut connected = false;
        let why = follow(&allocator, vrouter, &mut connected).await;
        // Whoever comes next to ask it something finds out at once whether it is there.
        vrouter.lost();
        if connected {
            backoff = BACKOFF_MIN;
            last.clear();
        }
        // A vRouter that stays away is said once.
        if why != last {
            tracing::warn!(socket = vrouter.name(), reason = why, "no vRouter; trying again");
            last = why;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// One connection; returns why it ended.
async fn follow(allocator: &Allocator, vrouter: &VRouter, connected: &mut bool) -> String {
    let mut changes = match vrouter.watch().await {
        Ok(changes) => changes,
        Err(error) => return error.to_string(),
    };
    // Ports are compared only when the vRouter has told all it has: its own start is over then.
    loop {
        match tokio::time::timeout(vrouter.timeout, changes.message()).await {
            Ok(Ok(Some(Event { event: Some(Change::Synced(_)) }))) => break,
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return "it closed the connection".to_owned(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return "it does not say what it has".to_owned(),
        }
    }
    *connected = true;
    tracing::info!(socket = vrouter.name(), "vRouter connected");
    if let Err(error) = allocator.reconcile(vrouter).await {
        return error.to_string();
    }
    loop {
        tokio::select! {
            change = changes.message() => match change {
                Ok(Some(Event { event })) => match event {
                    Some(Change::PortRemoved(id)) => vrouter.removed(&id),
                    Some(Change::WorkersChanged(_)) => allocator.workers_changed().await,
                    // That it is there is what counts; its other changes are our own or an operator's.
                    _ => {}
                },
                Ok(None) => return "it closed the connection".to_owned(),
                Err(status) => return status.message().to_owned(),
            },
            () = vrouter.stale.notified() => {
                if let Err(error) = allocator.reconcile(vrouter).await {
                    return error.to_string();
                }
            }
        }
    }
}
