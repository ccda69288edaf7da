//! Interfaces of the kind `kernel`: what only whoever enters the pod's network namespace can do. The vRouter makes the interface and
//! hands it over; addresses and routes come from here.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nri_plugin_core::net::AnyPrefix;
use nri_plugin_core::plan::Interface;

use message::Request;

mod message;

/// An interface did not get what it should have.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The pod has no network of its own.
    #[error(
        "interface {0:?} of the kind kernel needs a pod with a network of its own, and a runtime that says where: not hostNetwork, not ringway-runtime"
    )]
    NoNetns(String),
    /// The namespace can't be entered.
    #[error("cannot enter the pod's network namespace {}: {source}", path.display())]
    Namespace {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot give interface {name:?} its {what}: {source}")]
    Refused {
        /// Which interface.
        name: String,
        /// What it should get.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A thread could not do it.
    #[error("cannot set up interface {0:?}: the thread ended")]
    Thread(String),
}

/// Gives an interface that the vRouter has handed over its addresses and routes, and brings it up. What it has already is left as it is.
///
/// # Errors
/// [`LinkError`]; part of it may be done.
pub async fn set_up(interface: &Interface) -> Result<(), LinkError> {
    let Some(link) = &interface.link else { return Ok(()) };
    let (interface, path) = (interface.clone(), PathBuf::from(&link.netns));
    let name = interface.name.clone();
    // A thread of its own, which ends in that namespace: nobody else may find himself there.
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let work = move || {
        let done = enter(&path)
            .map_err(|source| LinkError::Namespace { path, source })
            .and_then(|()| Inside::new(&interface)?.set_up());
        // Nobody waits any more if the caller has given up.
        let _ = sender.send(done);
    };
    let spawned = thread::Builder::new().name("pod-link".to_owned()).spawn(work);
    spawned.map_err(|_| LinkError::Thread(name.clone()))?;
    receiver.await.map_err(|_| LinkError::Thread(name))?
}

fn enter(path: &PathBuf) -> io::Result<()> {
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
}

/// A thread in the pod's namespace.
struct Inside<'a> {
    interface: &'a Interface,
    socket: Socket,
    index: u32,
    sequence: u32,
}

impl<'a> Inside<'a> {
    fn new(interface: &'a Interface) -> Result<Self, LinkError> {
        let refused = |source| Self::refused(interface, "number", source);
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            io::Result::Ok(socket)
        };
        let socket = open().map_err(refused)?;
        let index = nix::net::if_::if_nametoindex(interface.name.as_str())
            .map_err(|errno| refused(errno.into()))?;
        Ok(Self { interface, socket, index, sequence: 0 })
    }

    fn refused(interface: &Interface, what: &str, source: io::Error) -> LinkError {
        LinkError::Refused { name: interface.name.clone(), what: what.to_owned(), source }
    }

    fn set_up(&mut self) -> Result<(), LinkError> {
        let interface = self.interface;
        if interface.ipv6.is_some() {
            // Where a pod's IPv6 is off by default.
            let file = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", interface.name);
            fs::write(file, "0").map_err(|source| Self::refused(interface, "IPv6", source))?;
        }
        let six = interface.ipv6.map(|it| (IpAddr::V6(it.address), it.prefix_len));
        for (address, length) in
            [(interface.ip.into(), interface.prefix_len)].into_iter().chain(six)
        {
            self.ask(
                &format!("address {address}"),
                &message::address(self.index, address, length),
            )?;
        }
        self.ask("link", &message::up(self.index))?;
        let routes = interface.link.as_ref().map(|link| link.routes.as_slice()).unwrap_or_default();
        for route in routes {
            let (to, length) = match route {
                AnyPrefix::V4(prefix) => (IpAddr::V4(prefix.network()), prefix.length()),
                AnyPrefix::V6(prefix) => (IpAddr::V6(prefix.network()), prefix.length()),
            };
            let gateway = match (to, interface.ipv6) {
                (IpAddr::V4(_), _) => IpAddr::V4(interface.gateway),
                (IpAddr::V6(_), Some(ipv6)) => IpAddr::V6(ipv6.gateway),
                (IpAddr::V6(_), None) => {
                    let source = io::Error::other("its network has no IPv6");
                    return Err(Self::refused(interface, &format!("route {route}"), source));
                }
            };
            let request = message::route(self.index, (to, length), gateway);
            self.ask(&format!("route {route}"), &request)?;
        }
        Ok(())
    }

    /// Asks the kernel for something; that it is there already is fine.
    fn ask(&mut self, what: &str, request: &Request) -> Result<(), LinkError> {
        self.sequence += 1;
        let outcome = self.exchange(request);
        match outcome {
            Ok(0) => Ok(()),
            Ok(errno) if errno == Errno::EEXIST as i32 => Ok(()),
            Ok(errno) => {
                let source = io::Error::from_raw_os_error(errno);
                Err(Self::refused(self.interface, what, source))
            }
            Err(source) => Err(Self::refused(self.interface, what, source)),
        }
    }

    /// The error number of the kernel's answer; 0: none.
    fn exchange(&mut self, request: &Request) -> io::Result<i32> {
        self.socket.send(&request.bytes(self.sequence), 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            if let Some(errno) = message::answer(&answer, self.sequence) {
                return Ok(errno);
            }
        }
    }
}
