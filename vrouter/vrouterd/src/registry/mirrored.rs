//! Routes that the kernel has, beside those of the operator.

use vrouter_core::{NetworkIndex, PortIndex, RouteChange, RouteError, Tables};
use vrouter_kernel::fib::Change;

use super::Registry;
use crate::convert::mirrored;

impl Registry {
    /// The host interfaces of uplinks, by name, and the uplinks.
    pub fn host_interfaces(&self) -> Vec<(String, PortIndex)> {
        self.uplinks.values().filter_map(super::UplinkRecord::host_interface).collect()
    }

    /// Takes in what has changed in a network's kernel table. A route of the operator's stays before one that is
    /// mirrored, and what the tables refuse is left out.
    pub fn mirror_routes(
        &mut self,
        network: &str,
        creation: u64,
        changes: &[Change],
        links: mirrored::Links<'_>,
    ) {
        let record = self.networks.get_mut(network).filter(|it| it.creation == creation);
        let Some(record) = record else { return };
        let changes = mirrored::read(changes, record.request.external, links);
        record.mirrored.apply(&changes);
        let index = record.index;
        let count = changes.len();
        let own = &record.routes;
        let changes: Vec<_> =
            changes.into_iter().filter(|change| own.get(change.prefix).is_none()).collect();
        let mut refused = Vec::new();
        let tables = with_all_that_can_be(&self.tables, index, &changes, &mut refused);
        for (change, error) in refused {
            tracing::warn!(network, prefix = %change.prefix, %error, "a route of the kernel's is left out");
        }
        if let Some(tables) = tables {
            self.tables = tables;
            self.publish_tables();
        }
        tracing::debug!(network, changes = count, "routes of the kernel have changed");
    }

    /// Changes as they are for the tables: where a route is taken away, the kernel's may show up from behind it.
    pub(super) fn uncovered(&self, network: &str, changes: &[RouteChange]) -> Vec<RouteChange> {
        let record = self.networks.get(network);
        let mirrored = |change: &RouteChange| {
            let behind = record.and_then(|record| record.mirrored.get(change.prefix));
            let target = change.target.clone().or_else(|| behind.cloned());
            RouteChange { prefix: change.prefix, target }
        };
        changes.iter().map(mirrored).collect()
    }
}

/// The tables with all of these changes that they take, `None` if it is none; those that they don't go to `refused`.
fn with_all_that_can_be(
    tables: &Tables,
    network: NetworkIndex,
    changes: &[RouteChange],
    refused: &mut Vec<(RouteChange, RouteError)>,
) -> Option<Tables> {
    match (tables.with_routes(network, changes), changes) {
        (_, []) => None,
        (Ok(tables), _) => Some(tables),
        (Err(error), [change]) => {
            refused.push((change.clone(), error));
            None
        }
        // One refuses them all; halves find it.
        (Err(_), _) => {
            let (first, second) = changes.split_at(changes.len() / 2);
            let with_first = with_all_that_can_be(tables, network, first, refused);
            let tables = with_first.as_ref().unwrap_or(tables);
            with_all_that_can_be(tables, network, second, refused).or(with_first)
        }
    }
}
