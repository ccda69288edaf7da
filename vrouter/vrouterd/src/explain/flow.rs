//! Packets that are made to be asked about.

use std::net::IpAddr;

use vrouter_api::v1;
use vrouter_core::{HEADER_BYTES, Packet};
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::ipv4::{self, Protocol as Number};
use vrouter_net::{Mac, checksum, ipv6};

use super::{address, invalid, received};
use crate::convert::Refusal;

/// What is above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// An echo request.
    Icmp,
}

impl Protocol {
    fn header_bytes(self) -> usize {
        match self {
            Self::Udp | Self::Icmp => 8,
            Self::Tcp => 20,
        }
    }

    fn number(self, is_ipv6: bool) -> Number {
        match self {
            Self::Udp => Number::UDP,
            Self::Tcp => Number::TCP,
            Self::Icmp if is_ipv6 => Number::ICMPV6,
            Self::Icmp => Number::ICMP,
        }
    }
}

/// A packet to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who sends it; `None`: the port's own address.
    pub source: Option<IpAddr>,
    /// Who is to get it.
    pub destination: IpAddr,
    protocol: Protocol,
    ports: [u16; 2],
    /// Of the IP packet; `None`: as few as it can have.
    bytes: Option<u16>,
    ttl: u8,
}

/// The Ethernet header in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Destination.
    pub to: Mac,
    /// Source.
    pub from: Mac,
}

impl Flow {
    /// Reads it.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for the first thing that is wrong.
    pub fn read(wire: &v1::Flow) -> Result<Self, Refusal> {
        let destination = address("destination", &wire.destination)?;
        let source = match wire.source.as_str() {
            "" => None,
            text => Some(address("source", text)?),
        };
        if source.is_some_and(|source| source.is_ipv4() != destination.is_ipv4()) {
            let remedy = format!("use an address of the same family as {destination}");
            return Err(invalid("source", &wire.source, &remedy));
        }
        let protocol = match wire.protocol.as_str() {
            "" | "udp" => Protocol::Udp,
            "tcp" => Protocol::Tcp,
            "icmp" => Protocol::Icmp,
            other => return Err(invalid("protocol", other, "use udp, tcp or icmp")),
        };
        let small = |field, value: u32| {
            let small = u16::try_from(value);
            small.map_err(|_| invalid(field, &value.to_string(), "use at most 65535"))
        };
        let ports = [
            small("source_port", wire.source_port)?,
            small("destination_port", wire.destination_port)?,
        ];
        if protocol == Protocol::Icmp && ports != [0, 0] {
            let remedy = "icmp has no ports; leave them out";
            return Err(invalid("protocol", &wire.protocol, remedy));
        }
        let ttl = match wire.ttl {
            0 => 64,
            ttl => u8::try_from(ttl)
                .map_err(|_| invalid("ttl", &ttl.to_string(), "use 1 to 255, or 0 for 64"))?,
        };
        let bytes = match wire.bytes {
            0 => None,
            bytes => Some(small("bytes", bytes)?),
        };
        let flow = Self { source, destination, protocol, ports, bytes, ttl };
        if bytes.is_some_and(|bytes| usize::from(bytes) < flow.least()) {
            let remedy = format!("its headers alone have {}", flow.least());
            return Err(invalid("bytes", &wire.bytes.to_string(), &remedy));
        }
        Ok(flow)
    }

    fn least(&self) -> usize {
        let ip = if self.destination.is_ipv4() { ipv4::HEADER_BYTES } else { ipv6::HEADER_BYTES };
        ip + self.protocol.header_bytes()
    }

    /// Whether packets of so many bytes are larger than the one asked about, and can be made.
    pub fn can_have(&self, bytes: u32) -> Option<u16> {
        u16::try_from(bytes).ok().filter(|bytes| usize::from(*bytes) >= self.least())
    }

    /// The packet as a worker gets it. `bytes`: instead of those that it is to have; `dont_fragment` is of IPv4.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the source is of the other family.
    pub fn packet(
        &self,
        link: Link,
        source: IpAddr,
        bytes: Option<u16>,
        dont_fragment: bool,
    ) -> Result<Packet, Refusal> {
        let bytes = bytes.or(self.bytes).map_or(self.least(), usize::from);
        let mut head = Vec::with_capacity(HEADER_BYTES);
        head.extend(link.to.octets());
        head.extend(link.from.octets());
        let number = self.protocol.number(self.destination.is_ipv6());
        let addresses = match (source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                head.extend(EtherType::IPV4.0.to_be_bytes());
                let mut ip = [0; ipv4::HEADER_BYTES];
                // At most 65,535, as it was read.
                let total = u16::try_from(bytes).unwrap_or(u16::MAX);
                let mut header = ipv4::Header::of(&mut ip);
                header.write(0, total, number, source, destination);
                header.set_ttl(self.ttl);
                if !dont_fragment {
                    ip[6] = 0;
                    ip[10..12].fill(0);
                    let sum = checksum::compute(&ip);
                    ip[10..12].copy_from_slice(&sum.to_be_bytes());
                }
                head.extend(ip);
                [source.octets().to_vec(), destination.octets().to_vec()].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                head.extend(EtherType::IPV6.0.to_be_bytes());
                let mut ip = [0; ipv6::HEADER_BYTES];
                let payload = u16::try_from(bytes - ipv6::HEADER_BYTES).unwrap_or(u16::MAX);
                ipv6::Header::of(&mut ip).write(payload, number, self.ttl, source, destination);
                head.extend(ip);
                [source.octets().to_vec(), destination.octets().to_vec()].concat()
            }
            (source, destination) => {
                let remedy = format!("name a source of the same family as {destination}");
                return Err(invalid("source", &source.to_string(), &remedy));
            }
        };
        let above = bytes + ethernet::HEADER_BYTES - head.len();
        head.extend(self.above_ip(&addresses, number, above));
        let frame_bytes = bytes + ethernet::HEADER_BYTES;
        // The payload is zeros.
        head.resize(frame_bytes.min(HEADER_BYTES), 0);
        Ok(received(&head, frame_bytes))
    }

    /// The header above IP, of a message of so many bytes that are zeros behind it.
    fn above_ip(&self, addresses: &[u8], number: Number, bytes: usize) -> Vec<u8> {
        let [from, to] = self.ports.map(u16::to_be_bytes);
        let length = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
        let mut header = match self.protocol {
            Protocol::Udp => [&from[..], &to, &length[2..], &[0, 0]].concat(),
            // A SYN.
            Protocol::Tcp => {
                [&from[..], &to, &[0; 8], &[0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]].concat()
            }
            Protocol::Icmp if addresses.len() == 8 => vec![8, 0, 0, 0, 0, 1, 0, 1],
            Protocol::Icmp => vec![128, 0, 0, 0, 0, 1, 0, 1],
        };
        let at = match self.protocol {
            Protocol::Udp => 6,
            Protocol::Tcp => 16,
            Protocol::Icmp => 2,
        };
        let pseudo = [addresses, &length, &[0, 0, 0, number.0]].concat();
        let is_covered = self.protocol != Protocol::Icmp || addresses.len() != 8;
        let covered = if is_covered { [&pseudo[..], &header].concat() } else { header.clone() };
        let sum = checksum::compute(&covered);
        header[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        header
    }
}
