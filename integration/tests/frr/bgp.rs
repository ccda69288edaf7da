//! FRR on both nodes: what it tells the kernel is forwarded, and what the vRouter tells the kernel it tells the other.

use anyhow::{Context, Result, ensure};
use integration::space::traffic;
use integration::wait;
use vrouter_api::v1::{Route, RouteKind};

use crate::daemons::Frr;
use crate::rig::{Node, PATIENCE, Rig};

/// A route from the kernel's table, through the tunnel to the other node.
fn through_to<'a>(end: &'a str) -> impl Fn(Option<&Route>) -> bool + 'a {
    move |route| {
        route.is_some_and(|it| it.mirrored && it.kind() == RouteKind::Vxlan && it.via == end)
    }
}

fn gone(route: Option<&Route>) -> bool {
    route.is_none()
}

/// Waits for what a router says.
fn wait_said(node: &Node, command: &str, part: &str) -> Result<()> {
    let mut said = String::new();
    let waited = wait::until(&format!("{command} says {part}"), PATIENCE, || {
        said = node.frr()?.vtysh(&["-c", command])?;
        Ok(said.contains(part).then_some(()))
    });
    waited.with_context(|| said)
}

/// The pods' routes come by BGP over the host interfaces, and pods reach each other.
pub fn pods_meet(rig: &mut Rig) -> Result<()> {
    for node in [&mut rig.a, &mut rig.b] {
        // What a test before this one may have left if it failed.
        node.ringway("routes delete red 10.66.1.0/24")?;
        node.ringway("routes delete red 10.66.2.0/24")?;
        node.start_frr()?;
    }
    let Rig { a, b, .. } = &*rig;
    a.wait_route("10.66.2.2/32", through_to("192.0.2.2")).with_context(|| told(a))?;
    b.wait_route("10.66.1.2/32", through_to("192.0.2.1")).with_context(|| told(b))?;
    traffic::ping(&a.pod, "10.66.2.2", 56).context("from pod to pod")?;
    traffic::ping(&b.pod, "10.66.1.2", 1472).context("with large packets")?;
    traffic::tcp(&a.pod, &b.pod, "10.66.2.2:5001").context("by TCP")?;
    wait_said(a, "show bfd peers", "Status: up")?;
    // Nobody tells a pod back to who has it.
    let own = a.space.ip("route show table 77 10.66.1.2")?;
    ensure!(own.contains("proto 83") && !own.contains("bgp"), "{own}");

    // A pod that comes is told of, and one that goes.
    let socket = b.file("third.sock").display().to_string();
    let mac = "02:00:00:00:77:33";
    b.create_pod_port("third/0/net0", "10.66.2.33", mac, &socket, &rig.cgroups)?;
    a.wait_route("10.66.2.33/32", through_to("192.0.2.2"))?;
    let said = a.ringway("explain --from shop/cart-a --to 10.66.2.33")?;
    for part in ["encapsulate", "10.66.2.33/32 vxlan 192.0.2.2", "from kernel", "vni 77"] {
        ensure!(said.contains(part), "{part} is not in\n{said}");
    }
    b.vrouter()?.delete_port("third/0/net0")?;
    a.wait_route("10.66.2.33/32", gone)
}

/// The routers of one node are killed: the other takes its routes back, and again when they are there again.
pub fn killed(rig: &mut Rig) -> Result<()> {
    ensure!(rig.a.frr.is_some(), "the routers were not started");
    rig.b.frr.take().context("no FRR")?.kill()?;
    let Rig { a, b, .. } = &*rig;
    a.wait_route("10.66.2.2/32", gone).with_context(|| told(a))?;
    ensure!(traffic::ping(&a.pod, "10.66.2.2", 56).is_err(), "without a route");
    b.wait_route("10.66.1.2/32", gone)?;
    rig.b.start_frr()?;
    let Rig { a, b, .. } = &*rig;
    a.wait_route("10.66.2.2/32", through_to("192.0.2.2")).with_context(|| told(a))?;
    b.wait_route("10.66.1.2/32", through_to("192.0.2.1")).with_context(|| told(b))?;
    traffic::ping(&a.pod, "10.66.2.2", 56).context("after the routers' restart")?;
    traffic::ping(&b.pod, "10.66.1.2", 56).context("after the routers' restart, from there")
}

/// zebra is killed: what it told the kernel stays, and traffic with it. FRR's return puts right what has changed meanwhile.
pub fn zebra_killed(rig: &mut Rig) -> Result<()> {
    let Rig { a, b, cgroups, .. } = rig;
    ensure!(a.frr.is_some() && b.frr.is_some(), "the routers were not started");
    let socket = b.file("third.sock").display().to_string();
    b.create_pod_port("third/0/net0", "10.66.2.33", "02:00:00:00:77:33", &socket, cgroups)?;
    a.wait_route("10.66.2.33/32", through_to("192.0.2.2")).with_context(|| told(a))?;

    a.frr.as_mut().context("no FRR")?.crash_zebra()?;
    b.vrouter()?.delete_port("third/0/net0")?;
    // bgpd hears of it, and has nobody to tell.
    wait_gone(a, "show bgp ipv4 unicast", "10.66.2.33/32")?;
    let table = a.space.ip("route show table 77 proto bgp")?;
    ensure!(table.contains("10.66.2.2 ") && table.contains("10.66.2.33 "), "{table}");
    let still = |route: &Option<Route>| through_to("192.0.2.2")(route.as_ref());
    for pod in ["10.66.2.2/32", "10.66.2.33/32"] {
        let route = a.vrouter()?.routes("red")?.into_iter().find(|it| it.prefix == pod);
        ensure!(still(&route), "{pod}: {route:?}");
    }
    traffic::ping(&a.pod, "10.66.2.2", 56).context("without zebra")?;
    traffic::ping(&b.pod, "10.66.1.2", 56).context("without zebra, from there")?;

    a.restart_frr()?;
    a.wait_route("10.66.2.33/32", gone).with_context(|| told(a))?;
    a.wait_route("10.66.2.2/32", through_to("192.0.2.2")).with_context(|| told(a))?;
    b.wait_route("10.66.1.2/32", through_to("192.0.2.1")).with_context(|| told(b))?;
    traffic::ping(&a.pod, "10.66.2.2", 56).context("after zebra's return")?;
    traffic::ping(&b.pod, "10.66.1.2", 56).context("after zebra's return, from there")
}

fn wait_gone(node: &Node, command: &str, part: &str) -> Result<()> {
    let mut said = String::new();
    let waited = wait::until(&format!("{command} says no {part}"), PATIENCE, || {
        said = node.frr()?.vtysh(&["-c", command])?;
        Ok((!said.contains(part)).then_some(()))
    });
    waited.with_context(|| said)
}

/// What a router knows.
fn told(node: &Node) -> String {
    const QUESTIONS: [&str; 4] =
        ["show bgp summary", "show bgp ipv4 unicast", "show ip route table 77", "show ip route"];
    node.frr.as_ref().map(|frr: &Frr| frr.told(&QUESTIONS)).unwrap_or_default()
}
