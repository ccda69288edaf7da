//! Entries in a bridge's forwarding database that tell EVPN of pods: one for the MAC address of each, behind a device that is
//! there for nothing else. FRR announces what it finds there as a host of the VNI (a route of type 2).
//!
//! The entries are `static`: the bridge forgets no such entry by itself, and it is no `sticky` one, so that a pod's address
//! may move to another host. Whoever is killed leaves them; the next one finds them, since all such entries of the device
//! are pods'.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::fib::Mac;
use crate::hostif::netlink::{CREATE, Netlink, NetlinkError, REPLACE};
use crate::hostif::wire::{Attribute, Message, attribute, kind};

const AF_BRIDGE: u8 = 7;
const DELNEIGH: u16 = 29;
/// `ndm_state` of an entry that no ageing takes away, and that is not an interface's own.
const NUD_NOARP: u8 = 0x40;
/// Of the bridge, not of the device itself.
const NTF_MASTER: u8 = 0x04;
const NDA_MASTER: u16 = 9;

/// Places of `struct ndmsg`. The state has two bytes, of which the upper one is 0 in all that is written here.
const INDEX: usize = 4;
const STATE: usize = 8;
const FLAGS: usize = 10;
const LOW_OF_STATE: usize = STATE + if cfg!(target_endian = "big") { 1 } else { 0 };

/// An entry can't be made or taken away, or the entries of a device can't be seen.
#[derive(Debug, thiserror::Error)]
#[error("forwarding entries of {port}")]
pub struct MacsError {
    /// The device.
    pub port: String,
    /// What the kernel said.
    pub source: NetlinkError,
}

/// Makes and takes away these entries, in the network namespace of the thread that makes it.
#[derive(Debug)]
pub struct MacAnnouncer {
    netlink: Netlink,
    /// By device: the number that it had, and what is there as far as is known.
    ports: BTreeMap<String, (u32, BTreeSet<Mac>)>,
}

impl MacAnnouncer {
    /// One that has looked at no device yet.
    ///
    /// # Errors
    /// There is no socket to be had.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { netlink: Netlink::route()?, ports: BTreeMap::new() })
    }

    /// The devices that were given entries.
    #[must_use]
    pub fn ports(&self) -> Vec<String> {
        self.ports.keys().cloned().collect()
    }

    /// Leaves a device alone from now on, whatever entries it gets.
    pub fn forget(&mut self, port: &str) {
        self.ports.remove(port);
    }

    /// Makes these the entries of a device: what is no longer wanted goes first. `look`: at what is there, as at a device that
    /// was not seen before. A device that is not there, or in no bridge, has none.
    ///
    /// # Errors
    /// The first that failed; the next call tries again.
    pub fn set(&mut self, port: &str, wanted: &BTreeSet<Mac>, look: bool) -> Result<(), MacsError> {
        let fail = |source| MacsError { port: port.to_owned(), source };
        let Ok(index) = if_nametoindex(port) else {
            self.ports.remove(port);
            return Ok(());
        };
        let known = self.ports.get(port).filter(|(known, _)| *known == index && !look);
        let mut there = match known {
            Some((_, there)) => there.clone(),
            // What is known of it stays if it can't be seen.
            None => dump(&mut self.netlink, index).map_err(fail)?,
        };
        self.ports.remove(port);
        let (gone, new): (Vec<_>, Vec<_>) = (
            there.difference(wanted).copied().collect(),
            wanted.difference(&there).copied().collect(),
        );
        let mut failed = Ok(());
        for mac in gone {
            // Somebody else may have been quicker, or the address has moved to another host.
            let done = self.ask(index, mac, DELNEIGH, 0, &[Errno::ENOENT]);
            if done.is_ok() {
                there.remove(&mac);
            }
            failed = failed.and(done);
        }
        for mac in new {
            // One that FRR has for another host gives way: the pod is here now.
            let done = self.ask(index, mac, kind::NEWNEIGH, CREATE | REPLACE, &[]);
            if done.is_ok() {
                there.insert(mac);
            }
            failed = failed.and(done);
        }
        match failed {
            Ok(()) => {}
            // In no bridge, or gone by now: who reads the bridge says so.
            Err(error) if error.errno().is_some_and(|it| NOT_THERE.contains(&it)) => return Ok(()),
            Err(error) => {
                self.ports.insert(port.to_owned(), (index, there));
                return Err(fail(error));
            }
        }
        self.ports.insert(port.to_owned(), (index, there));
        Ok(())
    }

    fn ask(
        &mut self,
        index: u32,
        mac: Mac,
        kind: u16,
        flags: u16,
        fine: &[Errno],
    ) -> Result<(), NetlinkError> {
        match self.netlink.request(&message(index, mac, kind), flags) {
            Ok(_) => Ok(()),
            Err(error) if error.errno().is_some_and(|errno| fine.contains(&errno)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What the kernel says of a device that has no bridge, or that is not there any more.
const NOT_THERE: [Errno; 2] = [Errno::EOPNOTSUPP, Errno::ENODEV];

fn message(index: u32, mac: Mac, kind: u16) -> Message {
    let mut message = Message::new(kind, vec![Attribute::new(attribute::NDA_LLADDR, mac.0)]);
    message.set_byte(0, AF_BRIDGE);
    message.set_word(INDEX, index);
    message.set_byte(LOW_OF_STATE, NUD_NOARP);
    message.set_byte(FLAGS, NTF_MASTER);
    message
}

/// Reads an entry; `None`: it is none of these.
fn read(message: &Message, index: u32) -> Option<Mac> {
    let ours = message.family() == AF_BRIDGE
        && message.word(INDEX) == index
        && message.byte(LOW_OF_STATE) == NUD_NOARP
        && message.get(NDA_MASTER).is_some();
    let mac = message.get(attribute::NDA_LLADDR).filter(|_| ours)?;
    Some(Mac(<[u8; 6]>::try_from(&mac.value[..]).ok()?))
}

fn dump(netlink: &mut Netlink, index: u32) -> Result<BTreeSet<Mac>, NetlinkError> {
    let mut asked = Message::new(kind::GETNEIGH, Vec::new());
    asked.set_byte(0, AF_BRIDGE);
    asked.set_word(INDEX, index);
    match netlink.dump(&asked) {
        Ok(entries) => Ok(entries.iter().filter_map(|it| read(it, index)).collect()),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_are_written() {
        let mac = Mac([2, 0, 0, 0, 0, 7]);
        let mut entry = message(9, mac, kind::NEWNEIGH);
        // As it is in a dump.
        entry.attributes.push(Attribute::new(NDA_MASTER, 3_u32.to_ne_bytes()));
        assert_eq!(read(&entry, 9), Some(mac));
        assert_eq!(read(&entry, 8), None);
        // The device's own, one that was learned, one that FRR has written.
        for (at, byte) in [(LOW_OF_STATE, 0x80), (LOW_OF_STATE, 2), (0, 2)] {
            let mut other = entry.clone();
            other.set_byte(at, byte);
            assert_eq!(read(&other, 9), None, "byte {at}");
        }
        let mut cut = entry.clone();
        cut.attributes[0].value.pop();
        assert_eq!(read(&cut, 9), None);
        // Of the device itself, not of its bridge.
        entry.attributes.pop();
        assert_eq!(read(&entry, 9), None);
    }
}
