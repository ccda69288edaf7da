//! Ports whose other end is an interface of the kernel's in a pod. Pure.

use std::path::PathBuf;

use vrouter_api::v1;

use super::uplinks::interface;
use super::{NetworkRequest, Refusal, invalid};

/// An interface as asked for, checked on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRequest {
    /// The network namespace it is for.
    pub netns: PathBuf,
    /// What it is called there.
    pub name: String,
    /// Greatest IP packet; 0 until it has joined its network.
    pub mtu: u16,
}

impl LinkRequest {
    /// Reads a request; `None` if the port is of the usual kind.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub(super) fn read(wire: &v1::PortSpec) -> Result<Option<Self>, Refusal> {
        match v1::PortKind::try_from(wire.kind) {
            Ok(v1::PortKind::Kernel) => {}
            Ok(v1::PortKind::Unspecified | v1::PortKind::VhostUser) => {
                let only = "belongs to ports of the kind KERNEL; leave it out";
                return match (wire.netns.as_str(), wire.link.as_str(), wire.mtu) {
                    ("", "", 0) => Ok(None),
                    ("", "", mtu) => Err(invalid("mtu", mtu, only)),
                    ("", link, _) => Err(invalid("link", link, only)),
                    (netns, ..) => Err(invalid("netns", netns, only)),
                };
            }
            Err(_) => return Err(invalid("kind", wire.kind, "use VHOST_USER or KERNEL")),
        }
        interface("link", &wire.link)?;
        if !wire.netns.starts_with('/') || wire.netns.contains('\0') {
            let remedy = "use the absolute path of a network namespace, as /run/netns/NAME";
            return Err(invalid("netns", &wire.netns, remedy));
        }
        for (field, value, alone) in [
            ("socket_path", wire.socket_path.clone(), wire.socket_path.is_empty()),
            ("queue_pairs", wire.queue_pairs.to_string(), wire.queue_pairs <= 1),
            ("trunk", wire.trunk.to_string(), !wire.trunk),
        ] {
            if !alone {
                return Err(invalid(
                    field,
                    value,
                    "a port of the kind KERNEL has none; leave it out",
                ));
            }
        }
        let mtu = u16::try_from(wire.mtu)
            .map_err(|_| invalid("mtu", wire.mtu, "use at most the network's"))?;
        Ok(Some(Self { netns: PathBuf::from(&wire.netns), name: wire.link.clone(), mtu }))
    }

    /// Takes over from its network what it leaves to it.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub(super) fn join(&mut self, network: &NetworkRequest) -> Result<(), Refusal> {
        match self.mtu {
            0 => self.mtu = network.mtu,
            mtu if mtu > network.mtu => {
                let remedy = format!("is more than the network's; use at most {}", network.mtu);
                return Err(invalid("mtu", mtu, remedy));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::PortRequest;
    use super::*;

    fn spec() -> v1::PortSpec {
        v1::PortSpec {
            id: "a/0/net0".into(),
            network: "red".into(),
            mac: "02:00:00:00:00:01".into(),
            ipv4: "10.66.0.2".into(),
            kind: v1::PortKind::Kernel.into(),
            netns: "/run/netns/a".into(),
            link: "net0".into(),
            ..Default::default()
        }
    }

    fn network() -> NetworkRequest {
        let (name, ipv4) = ("red".into(), "10.66.0.0/24".into());
        NetworkRequest::read(&v1::Network { name, ipv4, mtu: 1400, ..Default::default() }).unwrap()
    }

    #[test]
    fn an_interface_has_the_mtu_of_its_network_or_less() {
        for (asked, given) in [(0, Some(1400)), (1300, Some(1300)), (1401, None), (70_000, None)] {
            let joined = PortRequest::read(v1::PortSpec { mtu: asked, ..spec() })
                .and_then(|mut request| request.join(&network()).map(|()| request));
            assert_eq!(joined.as_ref().ok().map(|request| request.spec.mtu), given, "{joined:?}");
            if let Ok(request) = joined {
                assert_eq!(request.link.as_ref().map(|link| u32::from(link.mtu)), given);
                // What is shown can be asked for again.
                assert!(PortRequest::read(request.spec.clone()).unwrap().same_port(&request));
            }
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (wire, text) in [
            (v1::PortSpec { link: "a/b".into(), ..spec() }, "link \"a/b\": use 1 to 15"),
            (v1::PortSpec { netns: "run/netns/a".into(), ..spec() }, "netns \"run/netns/a\""),
            (v1::PortSpec { socket_path: "/s".into(), ..spec() }, "socket_path \"/s\": a port of"),
            (v1::PortSpec { queue_pairs: 2, ..spec() }, "queue_pairs \"2\": a port of"),
            (v1::PortSpec { kind: 0, ..spec() }, "netns \"/run/netns/a\": belongs to ports of"),
            (v1::PortSpec { kind: 9, ..spec() }, "kind \"9\": use VHOST_USER"),
        ] {
            let error = PortRequest::read(wire).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }
}
