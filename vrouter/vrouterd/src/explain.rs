//! Why a packet takes its way: questions as they are on the wire, and answers in words. Pure.
//!
//! What becomes of the packet is [`vrouter_core::explain()`]'s to say.

mod answer;
mod flow;
mod headers;
mod words;

use std::net::IpAddr;

use vrouter_api::v1;
use vrouter_api::v1::explain_request as wire;
use vrouter_core::{HEADER_BYTES, Packet, Verdict};

use crate::convert::Refusal;
pub use answer::{Known, Names, answer};
pub use flow::{Flow, Link};

/// Bytes of the longest frame that can be asked about: the largest IP packet, and an Ethernet header with a tag.
const MAX_FRAME: usize = 65_535 + 18;

/// Where the packet comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// A port, by id.
    Port(String),
    /// An uplink, by name.
    Uplink(String),
    /// An uplink's host interface, by the uplink's name.
    Host(String),
}

/// The packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// As it was received.
    Frame(Vec<u8>),
    /// To be made.
    Flow(Flow),
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where the packet comes in.
    pub ingress: Ingress,
    /// The packet.
    pub wanted: Wanted,
}

impl Question {
    /// Reads a request.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for the first thing that is wrong.
    pub fn read(request: v1::ExplainRequest) -> Result<Self, Refusal> {
        let ingress = match request.ingress {
            Some(wire::Ingress::Port(id)) => Ingress::Port(id),
            Some(wire::Ingress::Uplink(name)) => Ingress::Uplink(name),
            Some(wire::Ingress::HostInterface(name)) => Ingress::Host(name),
            None => return Err(invalid("ingress", "", "name a port or an uplink")),
        };
        let wanted = match request.packet {
            Some(wire::Packet::Frame(frame)) if (1..=MAX_FRAME).contains(&frame.len()) => {
                Wanted::Frame(frame)
            }
            Some(wire::Packet::Frame(frame)) => {
                let remedy = format!("use 1 to {MAX_FRAME} bytes");
                return Err(invalid("frame", &format!("{} bytes", frame.len()), &remedy));
            }
            Some(wire::Packet::Flow(flow)) => Wanted::Flow(Flow::read(&flow)?),
            None => return Err(invalid("packet", "", "give a frame or a flow")),
        };
        Ok(Self { ingress, wanted })
    }
}

/// The copy of a frame's head that a worker makes of so many bytes of it.
pub fn received(frame: &[u8], frame_bytes: usize) -> Packet {
    let mut packet = Packet::EMPTY;
    let short = frame.first_chunk().is_some_and(Packet::enough);
    let bytes = frame.len().min(if short { 64 } else { HEADER_BYTES });
    for (to, from) in packet.header.iter_mut().zip(frame.iter().take(bytes)) {
        *to = *from;
    }
    // At most 128.
    packet.header_len = u16::try_from(bytes).unwrap_or(0);
    packet.frame_len = u32::try_from(frame_bytes).unwrap_or(u32::MAX);
    packet
}

/// What becomes of a packet that is larger than the way of the one asked about takes.
pub fn larger(verdict: &Verdict, dont_fragment: bool) -> v1::LargerPacket {
    v1::LargerPacket {
        dont_fragment,
        verdict: answer::name(verdict).to_owned(),
        reason: answer::reason(verdict).to_owned(),
        what: words::larger(verdict),
    }
}

fn invalid(field: &'static str, value: &str, remedy: &str) -> Refusal {
    Refusal::Invalid { field, value: value.to_owned(), remedy: remedy.to_owned() }
}

fn address(field: &'static str, text: &str) -> Result<IpAddr, Refusal> {
    text.parse().map_err(|_| invalid(field, text, "use an IPv4 or IPv6 address"))
}

#[cfg(test)]
mod tests;
