//! Routes that somebody writes into the kernel's tables.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::wait;
use vrouter_api::v1::{Route, RouteKind};

use crate::rig::Rig;
use integration::space::traffic;

const PATIENCE: Duration = Duration::from_secs(30);

/// `ip route` in the node's namespace says where packets of a pod go, and the node's own routes and neighbours what
/// the tunnel's packets take.
pub fn come_and_go(rig: &Rig) -> Result<()> {
    // Nothing but the kernel says any more how the far end is reached: its own address, and the neighbour that it has
    // asked for.
    rig.vrouter.remove_routes("fabric", &["192.0.2.1/32", "192.0.2.2/32"])?;
    traffic::ping(&rig.node, "192.0.2.2", 56).context("ping from the host")?;
    let own = find(rig, "fabric", "192.0.2.1/32", |route| route.kind() == RouteKind::Local)?;
    ensure!(own.mirrored, "{own:?}");
    let far = rig.far.mac("e0")?;
    find(rig, "fabric", "192.0.2.2/32", |route| {
        route.kind() == RouteKind::Link && route.uplink == "up0" && route.mac == far
    })?;
    traffic::ping(&rig.pod, "10.99.0.1", 56).context("through the tunnel")?;

    // The way to a router that the kernel knows by a VXLAN device for all networks.
    let router = rig.far.mac("vx0")?;
    let node = &rig.node;
    node.ip("link add vx type vxlan external dstport 4789")?;
    node.ip("link set vx up")?;
    node.ip(&format!("neigh add 169.254.7.7 lladdr {router} dev vx nud permanent"))?;
    ensure!(traffic::ping(&rig.pod, "10.98.0.1", 56).is_err(), "without a route");
    let route = "10.98.0.0/24 table 77 encap ip id 77 dst 192.0.2.2 via 169.254.7.7 dev vx onlink";
    let began = Instant::now();
    node.ip(&format!("route add {route}"))?;
    find(rig, "red", "10.98.0.0/24", |route| {
        route.kind() == RouteKind::Vxlan && route.via == "192.0.2.2" && route.mac == router
    })?;
    println!("`ip route add` forwards after {:?}, both programs' start included", began.elapsed());
    traffic::ping(&rig.pod, "10.98.0.1", 56).context("over a route of the kernel's")?;

    // The operator's own goes before it, and gives it free again.
    let drop = Route {
        prefix: "10.98.0.0/24".to_owned(),
        kind: RouteKind::Drop.into(),
        ..Route::default()
    };
    rig.vrouter.set_routes("red", vec![drop])?;
    ensure!(traffic::ping(&rig.pod, "10.98.0.1", 56).is_err(), "over a route that drops");
    rig.vrouter.remove_routes("red", &["10.98.0.0/24"])?;
    traffic::ping(&rig.pod, "10.98.0.1", 56).context("over the kernel's route again")?;

    node.ip("route replace blackhole 10.98.0.0/24 table 77")?;
    find(rig, "red", "10.98.0.0/24", |route| route.kind() == RouteKind::Drop)?;
    ensure!(traffic::ping(&rig.pod, "10.98.0.1", 56).is_err(), "over a route that drops");
    // A link that goes down takes its routes along without a word.
    node.ip(&format!("route replace {route}"))?;
    find(rig, "red", "10.98.0.0/24", |route| route.kind() == RouteKind::Vxlan)?;
    node.ip("link delete vx")?;
    wait::until("the route is gone", PATIENCE, || {
        let routes = rig.vrouter.routes("red")?;
        Ok(routes.iter().all(|route| route.prefix != "10.98.0.0/24").then_some(()))
    })
}

/// Waits for a route.
fn find(rig: &Rig, network: &str, prefix: &str, fits: impl Fn(&Route) -> bool) -> Result<Route> {
    let mut found = None;
    let waited = wait::until(&format!("route {prefix} of {network}"), PATIENCE, || {
        found = rig.vrouter.routes(network)?.into_iter().find(|route| route.prefix == prefix);
        Ok(found.clone().filter(|route| fits(route)))
    });
    waited.with_context(|| format!("{prefix} is {found:?}"))
}
