//! Routes in the kernel's tables that tell routing daemons of pods: one for each address, for `redistribute kernel` and the
//! like. They lead nowhere: that a packet for a pod reaches it is the vRouter's affair, not the kernel's.
//!
//! They are told from all others by [`PROTOCOL`] and their metric. Whoever is killed leaves them; the next one finds them
//! by that. The mirror ([`crate::fib`]) reads over them.

pub mod macs;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use crate::hostif::netlink::{CREATE, Netlink, NetlinkError};
use crate::hostif::wire::{Attribute, Message, kind};

/// `rtm_protocol` of these routes; nobody in iproute2's `rt_protos` or FRR has it.
pub const PROTOCOL: u8 = 83;
/// Their metric, of the first of several vRouters on one machine; others count on from there and leave each other's alone. It
/// is behind whatever else there may be for the address. FRR takes the upper 8 bits of a metric for an administrative
/// distance, so that it has to be below 2^24.
pub const METRIC: u32 = 9_999;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const DELROUTE: u16 = 25;
const RTN_UNREACHABLE: u8 = 7;
const RT_SCOPE_NOWHERE: u8 = 255;
const NLM_F_EXCL: u16 = 0x200;
const RTA_DST: u16 = 1;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;

/// Places of `struct rtmsg`.
const LENGTH: usize = 1;
const ROUTE_PROTOCOL: usize = 5;
const SCOPE: usize = 6;
const TYPE: usize = 7;

/// An address that is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announced {
    /// The table that its route is in.
    pub table: u32,
    /// The address.
    pub address: IpAddr,
}

impl Announced {
    /// The route as a message.
    fn message(self, metric: u32, kind: u16) -> Message {
        let (family, octets) = match self.address {
            IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
            IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
        };
        // At most 128.
        let bits = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
        let attributes = vec![
            Attribute::new(RTA_DST, octets),
            Attribute::new(RTA_PRIORITY, metric.to_ne_bytes()),
            Attribute::new(RTA_TABLE, self.table.to_ne_bytes()),
        ];
        let mut message = Message::new(kind, attributes);
        message.set_byte(0, family);
        message.set_byte(LENGTH, bits);
        message.set_byte(ROUTE_PROTOCOL, PROTOCOL);
        message.set_byte(TYPE, RTN_UNREACHABLE);
        if kind == DELROUTE {
            message.set_byte(SCOPE, RT_SCOPE_NOWHERE);
        }
        message
    }

    /// Reads a route; `None`: it is none of these.
    fn read(message: &Message, metric: u32) -> Option<Self> {
        let ours = message.byte(ROUTE_PROTOCOL) == PROTOCOL
            && message.byte(TYPE) == RTN_UNREACHABLE
            && message.number(RTA_PRIORITY) == Some(metric);
        let address = message.get(RTA_DST).filter(|_| ours)?;
        let address: IpAddr = match message.family() {
            AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(&address.value[..]).ok()?).into(),
            AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(&address.value[..]).ok()?).into(),
            _ => return None,
        };
        Some(Self { table: message.number(RTA_TABLE)?, address })
    }
}

/// A route can't be made or taken away.
#[derive(Debug, thiserror::Error)]
#[error("the route of {} in table {}", .which.address, .which.table)]
pub struct AnnounceError {
    /// Which one.
    pub which: Announced,
    /// What the kernel said.
    pub source: NetlinkError,
}

/// Makes and takes away these routes, in the network namespace of the thread that makes it.
#[derive(Debug)]
pub struct Announcer {
    netlink: Netlink,
    metric: u32,
    there: BTreeSet<Announced>,
}

impl Announcer {
    /// Takes stock of what is there with this metric, in all tables: what another left counts, too.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub fn open(metric: u32) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::route()?;
        let there = dump(&mut netlink, metric, None)?;
        Ok(Self { netlink, metric, there })
    }

    /// What is there, as far as is known.
    #[must_use]
    pub fn there(&self) -> &BTreeSet<Announced> {
        &self.there
    }

    /// Looks which routes are there in one table: others may take them away.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub fn look(&mut self, table: u32) -> Result<(), NetlinkError> {
        let there = dump(&mut self.netlink, self.metric, Some(table))?;
        self.there.retain(|route| route.table != table);
        self.there.extend(there);
        Ok(())
    }

    /// Makes these the routes that are there: what is no longer wanted goes first. Goes on where one fails.
    ///
    /// # Errors
    /// The first that failed; the next call tries again.
    pub fn set(&mut self, wanted: &BTreeSet<Announced>) -> Result<(), AnnounceError> {
        let gone: Vec<_> = self.there.difference(wanted).copied().collect();
        let new: Vec<_> = wanted.difference(&self.there).copied().collect();
        let mut failed = Ok(());
        for which in gone {
            // Somebody else may have been quicker, or the table's VRF is gone.
            let done = self.ask(which, DELROUTE, 0, &[Errno::ESRCH, Errno::ENOENT]);
            if done.is_ok() {
                self.there.remove(&which);
            }
            failed = failed.and(done);
        }
        for which in new {
            let done = self.ask(which, kind::NEWROUTE, CREATE | NLM_F_EXCL, &[Errno::EEXIST]);
            if done.is_ok() {
                self.there.insert(which);
            }
            failed = failed.and(done);
        }
        failed
    }

    fn ask(
        &mut self,
        which: Announced,
        kind: u16,
        flags: u16,
        fine: &[Errno],
    ) -> Result<(), AnnounceError> {
        match self.netlink.request(&which.message(self.metric, kind), flags) {
            Ok(_) => Ok(()),
            Err(error) if error.errno().is_some_and(|errno| fine.contains(&errno)) => Ok(()),
            Err(source) => Err(AnnounceError { which, source }),
        }
    }

    /// The table of a VRF device; `None`: there is no such device.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub fn table_of_vrf(&mut self, name: &str) -> Result<Option<u32>, NetlinkError> {
        let links = self.netlink.dump(&Message::new(kind::GETLINK, Vec::new()))?;
        Ok(links.iter().find_map(|link| vrf(link, name)))
    }
}

/// The table of the VRF device with a name.
fn vrf(link: &Message, name: &str) -> Option<u32> {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_VRF_TABLE: u16 = 1;
    if link.get(IFLA_IFNAME)?.as_text() != Some(name) {
        return None;
    }
    let info = link.get(IFLA_LINKINFO)?.inner();
    let of =
        |attributes: &[Attribute], kind| attributes.iter().find(|it| it.kind() == kind).cloned();
    if of(&info, IFLA_INFO_KIND)?.as_text() != Some("vrf") {
        return None;
    }
    of(&of(&info, IFLA_INFO_DATA)?.inner(), IFLA_VRF_TABLE)?.u32()
}

fn dump(
    netlink: &mut Netlink,
    metric: u32,
    table: Option<u32>,
) -> Result<BTreeSet<Announced>, NetlinkError> {
    let mut found = BTreeSet::new();
    for family in [AF_INET, AF_INET6] {
        let attributes = table.map(|table| Attribute::new(RTA_TABLE, table.to_ne_bytes()));
        let mut asked = Message::new(kind::GETROUTE, attributes.into_iter().collect());
        asked.set_byte(0, family);
        asked.set_byte(ROUTE_PROTOCOL, PROTOCOL);
        match netlink.dump(&asked) {
            Ok(routes) => found.extend(routes.iter().filter_map(|it| Announced::read(it, metric))),
            // A table exists once it has a route.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_they_are_written() {
        for address in ["10.66.0.2", "fd00:66::2"] {
            let announced = Announced { table: 7_000, address: address.parse().unwrap() };
            let message = announced.message(METRIC, kind::NEWROUTE);
            assert_eq!(Announced::read(&message, METRIC), Some(announced));
            assert_eq!(Announced::read(&message, METRIC + 1), None);
            for (at, byte) in [(ROUTE_PROTOCOL, 4), (TYPE, 1), (0, 7)] {
                let mut other = message.clone();
                other.set_byte(at, byte);
                assert_eq!(Announced::read(&other, METRIC), None, "byte {at}");
            }
            let mut cut = message;
            cut.attributes[0].value.pop();
            assert_eq!(Announced::read(&cut, METRIC), None);
        }
    }

    #[test]
    fn the_table_of_a_vrf() {
        let link = |name: &str, kind_of: &str, table: u32| {
            let data = Attribute::nest(2, &[Attribute::new(1, table.to_ne_bytes())]);
            let info = Attribute::nest(18, &[Attribute::text(1, kind_of), data]);
            Message::new(kind::NEWLINK, vec![Attribute::text(3, name), info])
        };
        assert_eq!(vrf(&link("red", "vrf", 77), "red"), Some(77));
        assert_eq!(vrf(&link("red", "vrf", 77), "re"), None);
        assert_eq!(vrf(&link("red", "vxlan", 77), "red"), None);
        assert_eq!(vrf(&Message::new(kind::NEWLINK, vec![Attribute::text(3, "red")]), "red"), None);
    }
}
