//! The vRouters: connections to those that answer, what they say of themselves, and the routes between them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use nri_plugin_core::paths::PortId;
use nri_plugin_core::plan::PodRecord;
use nri_plugin_core::recovery::{self, Action, Observed, Port};
use nri_plugin_core::routes::{self, Routes};
use vrouter_api::v1;

use super::state::State;
use super::{Allocator, Refusal, convert};
use crate::vrouter::{Session, VRouter, VRouterError};

/// A connection to each of the vRouters that answer.
#[derive(Debug)]
pub(super) struct Sessions<'a>(Vec<(&'a VRouter, Option<Session<'a>>)>);

impl<'a> Sessions<'a> {
    fn iter_mut(&mut self) -> impl Iterator<Item = (&'a VRouter, &mut Session<'a>)> {
        self.0.iter_mut().filter_map(|(vrouter, session)| Some((*vrouter, session.as_mut()?)))
    }

    /// That to the vRouter known by `name`; the only one's, if there is only one.
    pub(super) fn of(&mut self, name: &str) -> Option<&mut Session<'a>> {
        let only = self.0.len() == 1;
        let found = self.0.iter_mut().find(|(vrouter, _)| only || vrouter.name() == name);
        found.and_then(|(_, session)| session.as_mut())
    }

    /// Time that all their calls have taken so far.
    pub(super) fn used(&self) -> Duration {
        self.0.iter().filter_map(|(_, session)| session.as_ref()).map(Session::used).sum()
    }
}

impl Allocator {
    /// What every pod holds, by sandbox.
    pub async fn pods(&self) -> Vec<PodRecord> {
        self.state.lock().await.node.pods().cloned().collect()
    }

    /// All vRouters.
    pub fn vrouters(&self) -> &[VRouter] {
        &self.vrouters
    }

    /// Whether a pod's vRouter is a matter of where its CPUs are.
    pub(super) fn has_several(&self) -> bool {
        self.vrouters.len() > 1
    }

    /// Tells all watchers that the vRouters' ports and routes may differ from what pods hold.
    pub(super) fn stale(&self) {
        self.vrouters.iter().for_each(|vrouter| vrouter.stale.notify_one());
    }

    /// The same but for the watcher of one.
    fn stale_others(&self, vrouter: &VRouter) {
        let others = self.vrouters.iter().filter(|other| other.name() != vrouter.name());
        others.for_each(|other| other.stale.notify_one());
    }

    /// The vRouter of a pod.
    pub(super) fn vrouter_of(&self, record: &PodRecord) -> Option<&VRouter> {
        let name = record.placement.as_ref().map(|placement| placement.vrouter.as_str());
        let known = self.vrouters.iter().find(|vrouter| Some(vrouter.name()) == name);
        known.or_else(|| self.vrouters.first())
    }

    /// Connects to all of them.
    ///
    /// # Errors
    /// None answers: what the first had to say.
    pub(super) async fn sessions(&self, state: &mut State) -> Result<Sessions<'_>, VRouterError> {
        let mut sessions = Vec::new();
        let mut failed = None;
        for vrouter in &self.vrouters {
            let session = match vrouter.session().await {
                Ok(session) => Some(session),
                Err(error) => {
                    failed = failed.or(Some(error));
                    None
                }
            };
            state.node.set_away(vrouter.name(), session.is_none());
            sessions.push((vrouter, session));
        }
        match failed {
            Some(error) if sessions.iter().all(|(_, session)| session.is_none()) => Err(error),
            _ => Ok(Sessions(sessions)),
        }
    }

    /// Asks those that answer what they are. One that does not after all is away.
    ///
    /// # Errors
    /// None does.
    pub(super) async fn ask(
        &self,
        state: &mut State,
        sessions: &mut Sessions<'_>,
    ) -> Result<(), VRouterError> {
        let mut failed = None;
        let mut some = false;
        for (vrouter, place) in &mut sessions.0 {
            let Some(session) = place else { continue };
            match session.info().await {
                Ok(info) => {
                    state.learn(vrouter.name(), &info);
                    some = true;
                }
                Err(error) => {
                    state.node.set_away(vrouter.name(), true);
                    failed = failed.or(Some(error));
                    *place = None;
                }
            }
        }
        match failed {
            Some(error) if !some => Err(error),
            _ => Ok(()),
        }
    }

    /// The networks and ports of all that answer. They share what they have of one name.
    ///
    /// # Errors
    /// None answers.
    pub(super) async fn networks(
        &self,
        state: &mut State,
        sessions: &mut Sessions<'_>,
    ) -> Result<(Vec<v1::Network>, Vec<v1::Port>), VRouterError> {
        let (mut networks, mut ports) = (Vec::<v1::Network>::new(), Vec::new());
        let mut failed = None;
        let mut some = false;
        for (vrouter, place) in &mut sessions.0 {
            let Some(session) = place else { continue };
            let both = async {
                Ok::<_, VRouterError>((session.networks().await?, session.ports().await?))
            };
            let (list, more) = match both.await {
                Ok(both) => both,
                Err(error) => {
                    state.node.set_away(vrouter.name(), true);
                    failed = failed.or(Some(error));
                    *place = None;
                    continue;
                }
            };
            some = true;
            ports.extend(more);
            if self.has_several() && state.ends.learn(vrouter.name(), convert::ends(&list)) {
                self.stale();
            }
            for network in list {
                if networks.iter().all(|known| known.name != network.name) {
                    networks.push(network);
                }
            }
        }
        match failed {
            Some(error) if !some => Err(error),
            _ => Ok((networks, ports)),
        }
    }

    /// Tells the other vRouters the way to a pod. What cannot be told now is told by the watcher.
    pub(super) async fn announce(
        &self,
        state: &State,
        sessions: &mut Sessions<'_>,
        record: &PodRecord,
    ) {
        let Some(own) = self.vrouter_of(record).filter(|_| self.has_several()) else { return };
        let routes = routes::to_pod(record, &state.ends);
        for (vrouter, session) in sessions.iter_mut() {
            if vrouter.name() == own.name() {
                continue;
            }
            for (network, ways) in &routes {
                let set = ways.iter().map(|(address, end)| (*address, *end)).collect();
                let change = routes::Change { network: network.clone(), set, remove: Vec::new() };
                if let Err(error) = session.change_routes(convert::route_change(&change)).await {
                    tracing::warn!(network, %error, "cannot tell a vRouter the way to a pod now");
                    vrouter.stale.notify_one();
                }
            }
        }
    }

    pub(super) async fn create_ports(&self, ports: Vec<Port>, record: &PodRecord) {
        let Some(vrouter) = self.vrouter_of(record) else { return };
        let create = async {
            let mut session = vrouter.session().await?;
            for port in ports {
                self.create_port(&mut session, port, record).await?;
            }
            Ok::<_, Refusal>(())
        };
        if let Err(error) = create.await {
            tracing::warn!(sandbox = %record.sandbox, %error, "cannot update ports now");
            vrouter.stale.notify_one();
        }
    }

    /// Deletes some of a pod's ports; what leads to it elsewhere is taken back by the watchers.
    pub(super) async fn delete_ports(&self, ids: Vec<PortId>, record: &PodRecord) {
        let Some(vrouter) = self.vrouter_of(record).filter(|_| !ids.is_empty()) else { return };
        let deleted = match vrouter.session().await {
            Ok(mut session) => delete(&mut session, &ids).await,
            Err(error) => Err(error),
        };
        self.deleted(vrouter, deleted);
    }

    /// The same in the time that a failed attempt has left: the runtime waits for both together.
    pub(super) async fn take_back_ports(
        &self,
        ids: Vec<PortId>,
        record: &PodRecord,
        sessions: &mut Sessions<'_>,
    ) {
        let Some(vrouter) = self.vrouter_of(record).filter(|_| !ids.is_empty()) else { return };
        let deleted = match sessions.of(vrouter.name()) {
            Some(session) => delete(session, &ids).await,
            None => Err(VRouterError::away(Some(vrouter))),
        };
        self.deleted(vrouter, deleted);
    }

    fn deleted(&self, vrouter: &VRouter, outcome: Result<(), VRouterError>) {
        if let Err(error) = outcome {
            tracing::warn!(%error, "cannot delete ports now");
            vrouter.stale.notify_one();
        }
        self.stale_others(vrouter);
    }

    /// Makes a vRouter's ports what the pods hold that it serves, and its routes those to all others.
    ///
    /// # Errors
    /// When the vRouter does not answer in time; what was done is done, and doing it again completes it.
    pub async fn reconcile(&self, vrouter: &VRouter) -> Result<(), VRouterError> {
        // Asked before the lock is taken: a vRouter that hangs must not keep pods waiting. A port that comes or goes in
        // between is created or deleted once more, which does no harm.
        let mut session = vrouter.session().await?;
        let info = session.info().await?;
        let ports = session.ports().await?.into_iter().filter_map(convert::own_port).collect();
        let networks = if self.has_several() { session.networks().await? } else { Vec::new() };
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        state.learn(vrouter.name(), &info);
        if self.has_several() && state.ends.learn(vrouter.name(), convert::ends(&networks)) {
            // The others' routes to its pods lead elsewhere now.
            self.stale_others(vrouter);
        }
        let mine = |record: &PodRecord| {
            self.vrouter_of(record).is_some_and(|it| it.name() == vrouter.name())
        };
        let records = state.node.pods().cloned().map(|mut record| {
            if !mine(&record) {
                // What it has of this pod is too much.
                record.slots.clear();
            }
            record
        });
        let observed = Observed {
            directories: Default::default(),
            records: records.collect(),
            sandboxes: state.sandboxes.clone(),
            containers: state.containers.clone(),
            ports: Some(ports),
        };
        for action in recovery::plan(self.files.run_dir(), observed) {
            match action {
                Action::DeletePort { id } => {
                    tracing::info!(id, "deleting a port that no pod owns");
                    session.delete(&id).await?;
                }
                Action::CreatePort { port, namespace, pod } => {
                    let id = port.id.clone();
                    tracing::info!(id, "creating a port again");
                    let sandbox = PortId::parse(&id).map(|id| id.sandbox);
                    let record = sandbox.and_then(|sandbox| state.node.pod(&sandbox)).cloned();
                    let created = match &record {
                        Some(record) => self.create_port(&mut session, port, record).await,
                        None => {
                            let spec = convert::port_spec(port, &namespace, &pod);
                            session.create(spec).await.map_err(Refusal::from)
                        }
                    };
                    match created {
                        Err(Refusal::VRouter(error)) if !is_refusal(&error) => return Err(error),
                        // A network may be missing now, or a pod's namespace gone: the other pods shall not suffer.
                        Err(error) => tracing::error!(id, %error, "cannot serve a pod"),
                        Ok(()) => {}
                    }
                }
                Action::Report { sandbox, problem } => {
                    tracing::error!(%sandbox, %problem, "cannot serve a pod");
                }
                // These are about what this process holds itself.
                Action::Adopt { .. } | Action::RemovePodDirectory { .. } => {}
            }
        }
        self.reconcile_routes(state, vrouter, &mut session, &networks).await
    }

    async fn reconcile_routes(
        &self,
        state: &State,
        vrouter: &VRouter,
        session: &mut Session<'_>,
        networks: &[v1::Network],
    ) -> Result<(), VRouterError> {
        let wanted = routes::wanted(state.node.pods(), vrouter.name(), &state.ends);
        let mut there = Routes::new();
        for network in networks.iter().filter(|network| network.tunnel.is_some()) {
            let list = session.routes(&network.name).await?;
            let ways: BTreeMap<IpAddr, IpAddr> =
                list.iter().filter_map(convert::way_to_host).collect();
            there.insert(network.name.clone(), ways);
        }
        for change in routes::changes(&wanted, &there, vrouter.name(), &state.ends) {
            // Without a network of the name there is nobody who would go the way.
            if !there.contains_key(&change.network) {
                continue;
            }
            tracing::debug!(
                network = change.network,
                set = change.set.len(),
                removed = change.remove.len(),
                "routes to pods of other vRouters"
            );
            match session.change_routes(convert::route_change(&change)).await {
                Err(error @ VRouterError::Refused { .. }) => {
                    tracing::error!(network = change.network, %error, "a vRouter can't reach pods of another");
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }
}

async fn delete(session: &mut Session<'_>, ids: &[PortId]) -> Result<(), VRouterError> {
    for id in ids {
        session.delete(&id.to_string()).await?;
    }
    Ok(())
}

/// Whether the vRouter has answered, if only with a refusal.
fn is_refusal(error: &VRouterError) -> bool {
    matches!(error, VRouterError::Refused { .. })
}
