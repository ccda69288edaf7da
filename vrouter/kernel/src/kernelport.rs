//! The kernel as a router of a virtual network: what has to be in its tables so that packets find from the network's kernel port,
//! a TAP, to what the network's table says, and back to the pods.
//!
//! [`Spec`] says which network it is; `plan` makes messages of that and is pure; [`KernelPort`] sends them. Everything but the
//! rules goes with the TAP, which the kernel removes with the process that made it. A rule for a device that is gone matches
//! nothing; [`sweep`] takes those away.

mod plan;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;

use crate::fib::{Mac, Prefix};
use crate::hostif::netlink::{CREATE, EXCLUSIVE, Netlink, NetlinkError};
use crate::hostif::settings;
use crate::hostif::wire::{Attribute, Message, attribute, kind};

/// `RTPROT_*` of what is written here (`ip route show proto 82`), so that it can be told from what others write.
pub const PROTOCOL: u8 = 82;
/// Priority of the rules, and the one after it: behind those of VRF devices (1000), before `main` (32766).
pub const RULE_PRIORITY: u32 = 1500;

/// `RT_TABLE_UNSPEC`, which the kernel takes for `main`.
const NONE: u32 = 0;

/// Which of the kernel's tables the network has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// By number: a rule sends what comes from the TAP there.
    Number(u32),
    /// That of a VRF device, whose port the TAP becomes.
    Vrf(String),
}

/// A kernel port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Name of the TAP.
    pub interface: String,
    /// Whose table it is.
    pub table: Table,
    /// The network's prefixes, one of each family at most.
    pub prefixes: Vec<Prefix>,
    /// The vRouter in the network, behind the TAP: the next hop of each family.
    pub gateways: Vec<IpAddr>,
    /// Its MAC address.
    pub gateway_mac: Mac,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum KernelPortError {
    /// There is no such interface.
    #[error("there is no interface {0:?}")]
    NoInterface(String),
    /// There is no such VRF device.
    #[error("there is no VRF device {0:?}; make it (ip link add {0} type vrf table NUMBER)")]
    NoVrf(String),
    /// A file could not be written.
    #[error("{key} of {interface:?}")]
    Setting {
        /// The interface.
        interface: String,
        /// Which, below `/proc/sys/net`.
        key: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{what}")]
    Refused {
        /// What was asked.
        what: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// Files of the TAP's, and what has to be in them. The kernel forwards what comes from it, whatever it thinks of the sources,
/// which the vRouter has checked; it has no address, looks for no router and tells pods of no better one.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4/conf//rp_filter", "0"),
    ("ipv4/conf//forwarding", "1"),
    ("ipv4/conf//send_redirects", "0"),
    ("ipv4/conf//accept_redirects", "0"),
    ("ipv6/conf//accept_ra", "0"),
];
/// The same where the network has IPv6. No address of its own: an interface without needs none to forward.
const SETTINGS6: [(&str, &str); 4] = [
    ("ipv6/conf//addr_gen_mode", "1"),
    ("ipv6/conf//disable_ipv6", "0"),
    ("ipv6/conf//forwarding", "1"),
    ("ipv6/conf//accept_redirects", "0"),
];
/// And where it has none.
const NO_IPV6: [(&str, &str); 1] = [("ipv6/conf//disable_ipv6", "1")];

/// The kernel's tables for one network, kept as they have to be. Dropping it takes its rules away.
#[derive(Debug)]
pub struct KernelPort {
    spec: Spec,
    netlink: Netlink,
    /// The TAP's number.
    index: u32,
    /// [`NONE`] while there is none.
    table: u32,
    /// Addresses of pods that have a route.
    hosts: BTreeSet<IpAddr>,
}

impl KernelPort {
    /// Prepares a TAP that exists and is down. What of it can only be done once it is up, [`Self::establish`] does.
    ///
    /// # Errors
    /// [`KernelPortError`]; rules may be left over, which [`sweep`] finds when the TAP is gone.
    pub fn prepare(spec: Spec) -> Result<Self, KernelPortError> {
        let mut netlink = Netlink::route().map_err(|source| refused("netlink", source))?;
        let index = link(&mut netlink, &spec.interface)?
            .map(|link| link.word(4))
            .ok_or_else(|| KernelPortError::NoInterface(spec.interface.clone()))?;
        let mut port = Self { spec, netlink, index, table: NONE, hosts: BTreeSet::new() };
        port.set_files()?;
        port.set_rules()?;
        match port.follow_table() {
            // It may come: what comes from the TAP goes nowhere until then.
            Ok(()) | Err(KernelPortError::NoVrf(_)) => Ok(port),
            Err(e) => Err(e),
        }
    }

    /// Says again what has to be in the tables and is not there: at first, and whenever somebody may have taken it away.
    ///
    /// # Errors
    /// [`KernelPortError`]; the rest is tried the next time.
    pub fn establish(&mut self) -> Result<(), KernelPortError> {
        self.set_files()?;
        self.follow_table()?;
        self.set_rules()?;
        for neighbour in plan::neighbours(&self.spec, self.index) {
            self.add("the vRouter as a neighbour", &neighbour)?;
        }
        let mut flushed = false;
        for route in plan::prefixes(&self.spec, self.index, self.table) {
            flushed |= self.add("a route to the network", &route)?;
        }
        if flushed {
            // Whoever takes that away takes all.
            for host in self.hosts.clone() {
                self.add_host(host)?;
            }
        }
        Ok(())
    }

    /// Has a route for each of these addresses, and for no others.
    ///
    /// # Errors
    /// [`KernelPortError`]; the rest is tried the next time.
    pub fn set_hosts(&mut self, hosts: &BTreeSet<IpAddr>) -> Result<(), KernelPortError> {
        if self.table == NONE {
            return Ok(());
        }
        let gone: Vec<_> = self.hosts.difference(hosts).copied().collect();
        for host in gone {
            if let Some(mut route) = plan::host(&self.spec, self.index, self.table, host) {
                route.kind = kind::DELROUTE;
                match self.netlink.request(&route, 0) {
                    // ESRCH: it is gone already.
                    Err(e) if e.errno() != Some(Errno::ESRCH) => {
                        return Err(refused(&format!("the route to {host}, away"), e));
                    }
                    _ => {}
                }
            }
            self.hosts.remove(&host);
        }
        for host in hosts {
            if !self.hosts.contains(host) {
                self.add_host(*host)?;
                self.hosts.insert(*host);
            }
        }
        Ok(())
    }

    /// What is wrong beyond this port, one line each: things the operator has to decide on.
    pub fn obstacles(&self) -> Vec<String> {
        let mut found = Vec::new();
        let six = self.spec.prefixes.iter().any(Prefix::is_v6);
        let wrong = |key: &str, wanted: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap_or_default();
            !text.is_empty() && text.trim() != wanted
        };
        if wrong("ipv4/ip_forward", "1") {
            found.push("net.ipv4.ip_forward is 0: nothing comes back from tunnels".to_owned());
        }
        if wrong("ipv4/conf/all/rp_filter", "0") {
            let text = "net.ipv4.conf.all.rp_filter is not 0: the kernel drops what pods send";
            found.push(text.to_owned());
        }
        if six && wrong("ipv6/conf/all/forwarding", "1") {
            found.push("net.ipv6.conf.all.forwarding is 0: no IPv6 is forwarded".to_owned());
        }
        found
    }

    fn set_files(&self) -> Result<(), KernelPortError> {
        let six = self.spec.prefixes.iter().any(Prefix::is_v6);
        let others = if six { &SETTINGS6[..] } else { &NO_IPV6[..] };
        for (key, value) in SETTINGS.iter().chain(others) {
            settings::write(&self.spec.interface, key, value).map_err(|source| {
                KernelPortError::Setting { interface: self.spec.interface.clone(), key, source }
            })?;
        }
        Ok(())
    }

    /// Looks which table it is, and that the TAP is a port of the VRF device if it is one's.
    fn follow_table(&mut self) -> Result<(), KernelPortError> {
        let name = match &self.spec.table {
            Table::Number(number) => {
                self.table = *number;
                return Ok(());
            }
            Table::Vrf(name) => name.clone(),
        };
        let vrf = link(&mut self.netlink, &name)?;
        let found = vrf.and_then(|vrf| Some((vrf.word(4), plan::table_of_vrf(&vrf)?)));
        let Some((device, table)) = found else {
            self.table = NONE;
            self.hosts.clear();
            return Err(KernelPortError::NoVrf(name));
        };
        let own = link(&mut self.netlink, &self.spec.interface)?
            .ok_or_else(|| KernelPortError::NoInterface(self.spec.interface.clone()))?;
        if own.number(attribute::IFLA_MASTER) != Some(device) {
            let mut message = Message::new(kind::NEWLINK, Vec::new());
            message.set_word(4, self.index);
            message.set_number(attribute::IFLA_MASTER, device);
            let done = self.netlink.request(&message, 0);
            done.map_err(|source| refused("the TAP as a port of the VRF device", source))?;
        }
        if table != self.table {
            // Routes by the TAP went with the old one.
            self.hosts.clear();
            self.table = table;
        }
        Ok(())
    }

    fn set_rules(&mut self) -> Result<(), KernelPortError> {
        for rule in plan::rules(&self.spec) {
            self.add("a rule for the TAP", &rule)?;
        }
        Ok(())
    }

    fn add_host(&mut self, host: IpAddr) -> Result<(), KernelPortError> {
        match plan::host(&self.spec, self.index, self.table, host) {
            Some(route) => self.add(&format!("the route to {host}"), &route).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Says whether it was not there.
    fn add(&mut self, what: &str, message: &Message) -> Result<bool, KernelPortError> {
        match self.netlink.request(message, CREATE | EXCLUSIVE) {
            Ok(_) => Ok(true),
            Err(e) if e.errno() == Some(Errno::EEXIST) => Ok(false),
            Err(e) => Err(refused(what, e)),
        }
    }
}

impl Drop for KernelPort {
    fn drop(&mut self) {
        for mut rule in plan::rules(&self.spec) {
            rule.kind = kind::DELRULE;
            // One that somebody else took away is no loss.
            let _ = self.netlink.request(&rule, 0);
        }
    }
}

/// Takes away rules that were left by processes that could not; says how many there were.
///
/// # Errors
/// [`KernelPortError::Refused`].
pub fn sweep() -> Result<usize, KernelPortError> {
    let asked = |source| refused("the rules", source);
    let mut netlink = Netlink::route().map_err(asked)?;
    let mut gone = 0;
    for family in [plan::AF_INET, plan::AF_INET6] {
        let mut request = Message::new(kind::GETRULE, Vec::new());
        request.set_byte(0, family);
        for mut rule in netlink.dump(&request).map_err(asked)? {
            if plan::is_left_over(&rule) {
                rule.kind = kind::DELRULE;
                plan::strip_findings(&mut rule);
                netlink.request(&rule, 0).map_err(|e| refused("a left-over rule, away", e))?;
                gone += 1;
            }
        }
    }
    Ok(gone)
}

fn refused(what: &str, source: NetlinkError) -> KernelPortError {
    KernelPortError::Refused { what: what.to_owned(), source }
}

/// The link of that name, if there is one.
fn link(netlink: &mut Netlink, name: &str) -> Result<Option<Message>, KernelPortError> {
    let request = Message::new(kind::GETLINK, vec![Attribute::text(attribute::IFLA_IFNAME, name)]);
    match netlink.request(&request, 0) {
        Ok(frames) => {
            let links = frames.iter().filter(|frame| frame.kind == kind::NEWLINK);
            Ok(links.filter_map(|it| Message::parse(it.kind, &it.payload)).next())
        }
        Err(e) if e.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(e) => Err(refused(&format!("interface {name:?}"), e)),
    }
}
