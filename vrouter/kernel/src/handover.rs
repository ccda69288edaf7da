//! Handing an interface to another network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use crate::hostif::netlink::{Netlink, NetlinkError};
use crate::hostif::wire::{Attribute, Message, attribute, kind};

/// `IFLA_NET_NS_FD`.
const NET_NS_FD: u16 = 28;

/// Why an interface could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The namespace can't be had.
    #[error("network namespace {}", path.display())]
    Namespace {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("interface {link:?} in network namespace {}", path.display())]
    Refused {
        /// What it was to be called.
        link: String,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// Moves an interface of this namespace into the one at `netns`, where it is called `link`. It is down there.
///
/// # Errors
/// [`HandoverError`]. If the name is taken there, the interface has been moved under its old one: give it up.
pub fn hand_over(interface: &str, netns: &Path, link: &str) -> Result<(), HandoverError> {
    let path = netns.to_owned();
    // Whatever else is there, the kernel does not take it for a namespace.
    let namespace = File::open(netns)
        .map_err(|source| HandoverError::Namespace { path: path.clone(), source })?;
    let refused =
        |source| HandoverError::Refused { link: link.to_owned(), path: path.clone(), source };
    let descriptor = namespace.as_raw_fd().to_ne_bytes();
    let mut netlink = Netlink::route().map_err(&refused)?;
    let find =
        Message::new(kind::GETLINK, vec![Attribute::text(attribute::IFLA_IFNAME, interface)]);
    let index = netlink.request(&find, 0).map_err(&refused)?;
    let index = index
        .iter()
        .filter(|frame| frame.kind == kind::NEWLINK)
        .find_map(|it| Message::parse(it.kind, &it.payload))
        .map_or(0, |link| link.word(4));
    let mut message = Message::new(
        kind::NEWLINK,
        vec![Attribute::new(NET_NS_FD, descriptor), Attribute::text(attribute::IFLA_IFNAME, link)],
    );
    message.set_word(4, index);
    netlink.request(&message, 0).map(drop).map_err(&refused)
}
