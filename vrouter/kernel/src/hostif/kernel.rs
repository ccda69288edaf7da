//! Reads an interface, and takes the steps of a plan.

use std::io;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use super::netlink::{APPEND, CREATE, Netlink, NetlinkError, REPLACE};
use super::plan::{Link, Step};
use super::snapshot::{Dump, Snapshot};
use super::wire::{Attribute, Message, attribute, kind};
use super::{ethtool, filter, settings};

/// `AF_INET`, `AF_INET6`.
const FAMILIES: [u8; 2] = [2, 10];
/// Bytes of an interface's name with its zero.
const IFNAMSIZ: usize = 16;
/// `IFF_UP`.
const IFF_UP: u32 = 1;
/// `RTEXT_FILTER_SKIP_STATS`: nobody reads the counters here.
const SKIP_STATS: u32 = 1 << 3;

/// A step that could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot do {step:?}")]
pub struct StepError {
    /// Which one.
    step: Box<Step>,
    /// Why.
    #[source]
    source: StepFault,
}

/// Why a step could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum StepFault {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// How much of the routing tables is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All routes: those of other interfaces may prefer an address of this one.
    All,
    /// Routes by the interface itself, which the kernel picks.
    Own,
}

/// The sockets by which the kernel is asked and told.
#[derive(Debug)]
pub struct Kernel {
    route: Netlink,
    /// Owns the filter; opened with the first one.
    netfilter: Option<Netlink>,
}

impl Kernel {
    /// Opens what is always needed.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { route: Netlink::route()?, netfilter: None })
    }

    /// All links.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn links(&mut self) -> Result<Vec<Message>, NetlinkError> {
        let mask = Attribute::new(attribute::IFLA_EXT_MASK, SKIP_STATS.to_ne_bytes());
        self.route.dump(&Message::new(kind::GETLINK, vec![mask]))
    }

    /// The link of that name, which may be one of its other names; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Message>, NetlinkError> {
        // The shorter attribute has no room for the longer of the other names.
        let kind =
            if name.len() < IFNAMSIZ { attribute::IFLA_IFNAME } else { attribute::IFLA_ALT_IFNAME };
        self.link(Message::new(kind::GETLINK, vec![Attribute::text(kind, name)]))
    }

    /// The link of that number; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Message>, NetlinkError> {
        let mut message = Message::new(kind::GETLINK, Vec::new());
        message.set_word(4, index);
        self.link(message)
    }

    fn link(&mut self, request: Message) -> Result<Option<Message>, NetlinkError> {
        match self.route.request(&request, 0) {
            Ok(frames) => {
                let links = frames.iter().filter(|frame| frame.kind == kind::NEWLINK);
                let mut links = links.filter_map(|it| Message::parse(it.kind, &it.payload));
                Ok(links.next())
            }
            Err(e) if e.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All that belongs to the interface that `link` describes; `None` if it went away meanwhile, or is no Ethernet.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn read(&mut self, link: &Message, depth: Depth) -> Result<Option<Snapshot>, NetlinkError> {
        let index = link.word(4);
        let name =
            link.get(attribute::IFLA_IFNAME).and_then(Attribute::as_text).unwrap_or_default();
        let mut dump = Dump { read_at: now(), settings: settings::read(name), ..Dump::default() };
        for family in FAMILIES {
            let mut request = Message::new(kind::GETADDR, Vec::new());
            request.set_byte(0, family);
            request.set_word(4, index);
            dump.addresses.extend(self.route.dump(&request)?);

            let oif = Attribute::new(attribute::RTA_OIF, index.to_ne_bytes());
            let filter = if depth == Depth::Own { vec![oif] } else { Vec::new() };
            let mut request = Message::new(kind::GETROUTE, filter);
            request.set_byte(0, family);
            dump.routes.extend(self.route.dump(&request)?);

            // Proxies are asked for apart: `NTF_PROXY` in `ndm_flags`.
            for flags in [0, 0x08] {
                let mut request = Message::new(kind::GETNEIGH, Vec::new());
                request.set_byte(0, family);
                request.set_byte(10, flags);
                dump.neighbours.extend(self.route.dump(&request)?);
            }
        }
        dump.nexthops = match self.route.dump(&Message::new(kind::GETNEXTHOP, Vec::new())) {
            // Kernels before 5.3 have no such objects.
            Err(e) if e.errno() == Some(Errno::EOPNOTSUPP) => Vec::new(),
            found => found?,
        };
        // Had it begun to go while this was asked, part would be missing: it is only worth something if the link is
        // still there, and as it was, after all of it.
        let Some(after) = self.link_by_index(index)? else { return Ok(None) };
        let same = after.word(8) & IFF_UP == link.word(8) & IFF_UP
            && after.get(attribute::IFLA_IFNAME) == link.get(attribute::IFLA_IFNAME);
        if !same {
            return Ok(None);
        }
        Ok(Snapshot::new(&after, after.number(attribute::IFLA_MASTER), dump))
    }

    /// Takes one step. That it was taken before is no error.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn take(&mut self, step: &Step) -> Result<(), StepError> {
        self.act(step).map_err(|source| StepError { step: Box::new(step.clone()), source })
    }

    fn act(&mut self, step: &Step) -> Result<(), StepFault> {
        match step {
            Step::Link(index, change) => self.change(*index, change)?,
            Step::Rename(index, name) => self.rename(*index, name)?,
            Step::AddAltName(index, name) => {
                let done = self.alt_name(kind::NEWLINKPROP, *index, name);
                // It is there; or this kernel, before 5.5, has no other names.
                ignore(done, &[Errno::EEXIST, Errno::EOPNOTSUPP])?;
            }
            Step::DropAltName(index, name) => {
                let done = self.alt_name(kind::DELLINKPROP, *index, name);
                ignore(done, &[Errno::EINVAL, Errno::ENOENT, Errno::EOPNOTSUPP])?;
            }
            Step::Set { interface, key, value } => settings::write(interface, key, value)?,
            Step::Add(message) => {
                let flags = match (message.kind, message.family()) {
                    // Behind others: an IPv4 destination may have several, and the order counts.
                    (kind::NEWROUTE, 2) => CREATE | APPEND,
                    (kind::NEWROUTE, _) => CREATE,
                    _ => CREATE | REPLACE,
                };
                ignore(self.route.request(message, flags).map(drop), &[Errno::EEXIST])?;
            }
            Step::Replace(message) => {
                self.route.request(message, CREATE | REPLACE)?;
            }
            Step::Delete(message) => {
                let mut request = message.clone();
                if message.kind == kind::NEWNEXTHOP {
                    // Its number is all that may be said.
                    let number = message.get(attribute::NHA_ID).cloned();
                    request = Message::new(message.kind, number.into_iter().collect());
                }
                request.kind += 1;
                let gone = [Errno::ESRCH, Errno::ENOENT, Errno::EADDRNOTAVAIL, Errno::ENODEV];
                ignore(self.route.request(&request, 0).map(drop), &gone)?;
            }
            Step::Offloads(index, names, on) => ethtool::switch(*index, names, *on)?,
            Step::Filter { table, interface } => {
                filter::close(self.netfilter()?, table, interface)?
            }
            Step::Unfilter { table } => filter::open(self.netfilter()?, table)?,
        }
        Ok(())
    }

    fn netfilter(&mut self) -> Result<&mut Netlink, NetlinkError> {
        if self.netfilter.is_none() {
            self.netfilter = Some(Netlink::netfilter()?);
        }
        let missing = || NetlinkError::Refused { errno: Errno::ENOTCONN, text: None };
        self.netfilter.as_mut().ok_or_else(missing)
    }

    /// Takes a device that a program made, a TAP, out of the kernel.
    ///
    /// # Errors
    /// What the kernel answered; that it is gone is none.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new(kind::DELLINK, Vec::new());
        message.set_word(4, index);
        ignore(self.route.request(&message, 0).map(drop), &[Errno::ENODEV])
    }

    fn change(&mut self, index: u32, change: &Link) -> Result<(), NetlinkError> {
        let attributes = match change {
            Link::Up(_) => Vec::new(),
            Link::Mac(mac) => vec![Attribute::new(attribute::IFLA_ADDRESS, *mac)],
            Link::Mtu(mtu) => vec![Attribute::new(attribute::IFLA_MTU, mtu.to_ne_bytes())],
            Link::QueueLength(length) => {
                vec![Attribute::new(attribute::IFLA_TXQLEN, length.to_ne_bytes())]
            }
            Link::Group(group) => vec![Attribute::new(attribute::IFLA_GROUP, group.to_ne_bytes())],
            Link::Alias(alias) => {
                vec![Attribute::new(attribute::IFLA_IFALIAS, alias.as_bytes())]
            }
            Link::Vrf(vrf) => {
                vec![Attribute::new(attribute::IFLA_MASTER, vrf.unwrap_or(0).to_ne_bytes())]
            }
        };
        let mut message = Message::new(kind::NEWLINK, attributes);
        message.set_word(4, index);
        if let Link::Up(up) = change {
            message.set_word(8, if *up { IFF_UP } else { 0 });
            message.set_word(12, IFF_UP);
        }
        self.route.request(&message, 0).map(drop)
    }

    fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut message =
            Message::new(kind::NEWLINK, vec![Attribute::text(attribute::IFLA_IFNAME, name)]);
        message.set_word(4, index);
        match self.route.request(&message, 0) {
            // Before Linux 6.3 an interface that is up keeps its name.
            Err(e) if e.errno() == Some(Errno::EBUSY) => {
                self.change(index, &Link::Up(false))?;
                self.route.request(&message, 0)?;
                self.change(index, &Link::Up(true))
            }
            done => done.map(drop),
        }
    }

    fn alt_name(&mut self, kind: u16, index: u32, name: &str) -> Result<(), NetlinkError> {
        let name = Attribute::text(attribute::IFLA_ALT_IFNAME, name);
        let list = Attribute::nest(attribute::IFLA_PROP_LIST, &[name]);
        let mut message = Message::new(kind, vec![list]);
        message.set_word(4, index);
        self.route.request(&message, 0).map(drop)
    }
}

/// Takes an error for success where it says that there is nothing to do.
fn ignore(done: Result<(), NetlinkError>, errors: &[Errno]) -> Result<(), NetlinkError> {
    match done {
        Err(error) if error.errno().is_some_and(|errno| errors.contains(&errno)) => Ok(()),
        done => done,
    }
}

/// Seconds of the machine's life.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).ok();
    time.and_then(|time| u64::try_from(time.tv_sec()).ok()).unwrap_or(0)
}
