//! Netlink messages as they are copied from one interface to another: attributes stay opaque, so that what this
//! program does not know (an encapsulation, a metric of a newer kernel) is carried on all the same.
//!
//! Layouts: Linux's `rtnetlink.h`, `if_addr.h`, `neighbour.h`, `nexthop.h`; RFC 3549 for the framing. Pure.

use serde::{Deserialize, Serialize};

/// Message types, from `linux/rtnetlink.h`.
pub mod kind {
    #![allow(missing_docs, reason = "named as in linux/rtnetlink.h")]
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const GETLINK: u16 = 18;
    pub const NEWADDR: u16 = 20;
    pub const GETADDR: u16 = 22;
    pub const NEWROUTE: u16 = 24;
    pub const GETROUTE: u16 = 26;
    pub const NEWNEIGH: u16 = 28;
    pub const GETNEIGH: u16 = 30;
    pub const NEWNEXTHOP: u16 = 104;
    pub const GETNEXTHOP: u16 = 106;
    pub const NEWRULE: u16 = 32;
    pub const DELRULE: u16 = 33;
    pub const GETRULE: u16 = 34;
    pub const DELROUTE: u16 = 25;
    pub const NEWLINKPROP: u16 = 108;
    pub const DELLINKPROP: u16 = 109;
}

/// Attribute types that are read or written here.
pub mod attribute {
    #![allow(missing_docs, reason = "named as in Linux's headers")]
    pub const IFLA_ADDRESS: u16 = 1;
    pub const IFLA_IFNAME: u16 = 3;
    pub const IFLA_MTU: u16 = 4;
    pub const IFLA_LINK: u16 = 5;
    pub const IFLA_MASTER: u16 = 10;
    pub const IFLA_TXQLEN: u16 = 13;
    pub const IFLA_LINKINFO: u16 = 18;
    pub const IFLA_INFO_KIND: u16 = 1;
    pub const IFLA_INFO_DATA: u16 = 2;
    pub const IFLA_VXLAN_LINK: u16 = 3;
    pub const IFLA_IFALIAS: u16 = 20;
    pub const IFLA_GROUP: u16 = 27;
    pub const IFLA_EXT_MASK: u16 = 29;
    pub const IFLA_LINK_NETNSID: u16 = 37;
    pub const IFLA_PROP_LIST: u16 = 52;
    pub const IFLA_ALT_IFNAME: u16 = 53;

    pub const IFA_ADDRESS: u16 = 1;
    pub const IFA_LOCAL: u16 = 2;
    pub const IFA_CACHEINFO: u16 = 6;
    pub const IFA_FLAGS: u16 = 8;

    pub const RTA_DST: u16 = 1;
    pub const RTA_IIF: u16 = 3;
    pub const RTA_OIF: u16 = 4;
    pub const RTA_GATEWAY: u16 = 5;
    pub const RTA_PREFSRC: u16 = 7;
    pub const RTA_MULTIPATH: u16 = 9;
    pub const RTA_FLOW: u16 = 11;
    pub const RTA_CACHEINFO: u16 = 12;
    pub const RTA_TABLE: u16 = 15;
    pub const RTA_VIA: u16 = 18;
    pub const RTA_ENCAP_TYPE: u16 = 21;
    pub const RTA_ENCAP: u16 = 22;
    pub const RTA_EXPIRES: u16 = 23;
    pub const RTA_NH_ID: u16 = 30;

    pub const FRA_IIFNAME: u16 = 3;
    pub const FRA_PRIORITY: u16 = 6;
    pub const FRA_TABLE: u16 = 15;
    pub const FRA_PROTOCOL: u16 = 21;
    pub const IFLA_VRF_TABLE: u16 = 1;

    pub const NDA_LLADDR: u16 = 2;
    pub const NDA_DST: u16 = 1;
    pub const NDA_CACHEINFO: u16 = 3;
    pub const NDA_PROBES: u16 = 4;

    pub const NHA_ID: u16 = 1;
    pub const NHA_GROUP: u16 = 2;
    pub const NHA_GROUP_TYPE: u16 = 3;
    pub const NHA_OIF: u16 = 5;
    pub const NHA_GATEWAY: u16 = 6;
    pub const NHA_ENCAP_TYPE: u16 = 7;
    pub const NHA_ENCAP: u16 = 8;
    pub const NHA_RES_GROUP: u16 = 12;
    pub const NHA_RES_GROUP_UNBALANCED_TIME: u16 = 4;

    /// `NLA_F_NESTED`; the bit above it marks network byte order.
    pub const NESTED: u16 = 1 << 15;
    /// Bits of a type that are no part of the number.
    pub const FLAG_BITS: u16 = 3 << 14;
}

/// One attribute, with its type's flag bits as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    kind: u16,
    /// Without padding.
    pub value: Vec<u8>,
}

impl Attribute {
    /// An attribute of the type `kind`.
    #[must_use]
    pub fn new(kind: u16, value: impl Into<Vec<u8>>) -> Self {
        Self { kind, value: value.into() }
    }

    /// A text as most of the kernel wants it: with a zero at the end.
    #[must_use]
    pub fn text(kind: u16, text: &str) -> Self {
        Self::new(kind, [text.as_bytes(), &[0]].concat())
    }

    /// A nest of `inner`.
    #[must_use]
    pub fn nest(kind: u16, inner: &[Self]) -> Self {
        Self::new(kind | attribute::NESTED, emit_all(inner))
    }

    /// The type, without its flag bits.
    #[must_use]
    pub fn kind(&self) -> u16 {
        self.kind & !attribute::FLAG_BITS
    }

    /// The value as a number in host order.
    #[must_use]
    pub fn u32(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.value.get(..4)?.try_into().ok()?))
    }

    /// The value as text, up to its zero.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        std::str::from_utf8(self.value.get(..end)?).ok()
    }

    /// What is inside of a nest.
    #[must_use]
    pub fn inner(&self) -> Vec<Self> {
        parse_all(&self.value)
    }
}

/// Reads attributes until the bytes end, or stop making sense.
#[must_use]
pub fn parse_all(mut bytes: &[u8]) -> Vec<Attribute> {
    let mut found = Vec::new();
    while let Some((head, _)) = bytes.split_first_chunk::<4>() {
        let [l0, l1, k0, k1] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = bytes.get(4..length) else { break };
        found.push(Attribute::new(u16::from_ne_bytes([k0, k1]), value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The bytes of `attributes`, each padded to four.
#[must_use]
pub fn emit_all(attributes: &[Attribute]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for attribute in attributes {
        // No attribute here comes near 64 KiB: those that are copied came in one of at most that size.
        let length = u16::try_from(attribute.value.len() + 4).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&attribute.kind.to_ne_bytes());
        bytes.extend_from_slice(&attribute.value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// A message of rtnetlink: a fixed head by its type, then attributes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Message {
    /// One of [`kind`].
    pub kind: u16,
    head: Vec<u8>,
    /// In the order they came.
    pub attributes: Vec<Attribute>,
}

/// The file format of a message.
#[derive(Serialize, Deserialize)]
struct Written {
    kind: u16,
    /// Head and attributes in hexadecimal, in the byte order of the machine.
    bytes: String,
}

/// A message in a file that is none.
#[derive(Debug, thiserror::Error)]
#[error("no netlink message of type {0}")]
pub struct NotAMessage(u16);

impl From<Message> for Written {
    fn from(message: Message) -> Self {
        let bytes = message.emit().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { kind: message.kind, bytes }
    }
}

impl TryFrom<Written> for Message {
    type Error = NotAMessage;

    fn try_from(written: Written) -> Result<Self, NotAMessage> {
        let digits = written.bytes.as_bytes().chunks(2);
        let bytes: Option<Vec<u8>> = digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let bytes = bytes.ok_or(NotAMessage(written.kind))?;
        Self::parse(written.kind, &bytes).ok_or(NotAMessage(written.kind))
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message {{ kind: {}, head: {:?}", self.kind, self.head)?;
        for attribute in &self.attributes {
            write!(f, ", {}: {:?}", attribute.kind(), attribute.value)?;
        }
        write!(f, " }}")
    }
}

impl Message {
    /// A message with a head of zeros.
    #[must_use]
    pub fn new(kind: u16, attributes: Vec<Attribute>) -> Self {
        Self { kind, head: vec![0; head_length(kind)], attributes }
    }

    /// Reads what follows the netlink header; `None` if it is too short for its type.
    #[must_use]
    pub fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (head, rest) = payload.split_at_checked(head_length(kind))?;
        Some(Self { kind, head: head.to_owned(), attributes: parse_all(rest) })
    }

    /// What follows the netlink header.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        [self.head.clone(), emit_all(&self.attributes)].concat()
    }

    /// The byte `at` of the head; 0 beyond it.
    #[must_use]
    pub fn byte(&self, at: usize) -> u8 {
        self.head.get(at).copied().unwrap_or(0)
    }

    /// Writes the byte `at` of the head, if it has so many.
    pub fn set_byte(&mut self, at: usize, value: u8) {
        if let Some(byte) = self.head.get_mut(at) {
            *byte = value;
        }
    }

    /// Four bytes of the head as a number in host order; 0 beyond it.
    #[must_use]
    pub fn word(&self, at: usize) -> u32 {
        let bytes = self.head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    }

    /// Writes four bytes of the head, if it has so many.
    pub fn set_word(&mut self, at: usize, value: u32) {
        if let Some(bytes) = self.head.get_mut(at..at + 4) {
            bytes.copy_from_slice(&value.to_ne_bytes());
        }
    }

    /// The address family: the first byte of every head.
    #[must_use]
    pub fn family(&self) -> u8 {
        self.byte(0)
    }

    /// The first attribute of that type.
    #[must_use]
    pub fn get(&self, kind: u16) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.kind() == kind)
    }

    /// The first attribute of that type, as a number.
    #[must_use]
    pub fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.u32()
    }

    /// Writes a number into the first attribute of that type, or adds one.
    pub fn set_number(&mut self, kind: u16, value: u32) {
        match self.attributes.iter_mut().find(|attribute| attribute.kind() == kind) {
            Some(attribute) => attribute.value = value.to_ne_bytes().to_vec(),
            None => self.attributes.push(Attribute::new(kind, value.to_ne_bytes())),
        }
    }

    /// Leaves out the attributes of those types.
    pub fn remove(&mut self, kinds: &[u16]) {
        self.attributes.retain(|attribute| !kinds.contains(&attribute.kind()));
    }
}

/// Bytes of the fixed head that messages of that type begin with.
fn head_length(kind: u16) -> usize {
    match kind {
        kind::NEWLINK..=kind::GETLINK | kind::NEWLINKPROP | kind::DELLINKPROP => 16,
        kind::NEWADDR..=kind::GETADDR | kind::NEWNEXTHOP..=kind::GETNEXTHOP => 8,
        kind::NEWROUTE..=kind::GETROUTE
        | kind::NEWNEIGH..=kind::GETNEIGH
        | kind::NEWRULE..=kind::GETRULE => 12,
        _ => 0,
    }
}

/// One leg of a multipath route (`struct rtnexthop` and its attributes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Index of the interface it leaves by.
    pub index: u32,
    flags: u8,
    weight: u8,
    attributes: Vec<u8>,
}

/// `RTNH_F_ONLINK`: the only flag of a next hop that is somebody's wish, not the kernel's finding.
pub const ONLINK: u8 = 4;

/// The legs in the value of an `RTA_MULTIPATH`.
#[must_use]
pub fn legs(mut bytes: &[u8]) -> Vec<Leg> {
    let mut found = Vec::new();
    while let Some((head, _)) = bytes.split_first_chunk::<8>() {
        let [l0, l1, flags, weight, i0, i1, i2, i3] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(attributes) = bytes.get(8..length) else { break };
        found.push(Leg {
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            flags: flags & ONLINK,
            weight,
            attributes: attributes.to_owned(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The value of an `RTA_MULTIPATH` with these legs.
#[must_use]
pub fn emit_legs(legs: &[Leg]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for leg in legs {
        let length = u16::try_from(leg.attributes.len() + 8).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&[leg.flags, leg.weight]);
        bytes.extend_from_slice(&leg.index.to_ne_bytes());
        bytes.extend_from_slice(&leg.attributes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again_with_what_is_unknown() {
        let mut message = Message::new(
            kind::NEWROUTE,
            vec![
                Attribute::new(1, [10, 1, 2, 0]),
                Attribute::new(999, [1, 2, 3, 4, 5]),
                Attribute::nest(attribute::RTA_ENCAP, &[Attribute::new(7, [9])]),
            ],
        );
        message.set_byte(0, 2);
        message.set_word(8, 0x0102_0304);
        let bytes = message.emit();
        assert_eq!(bytes.len(), 12 + 8 + 12 + 12);
        assert_eq!(Message::parse(kind::NEWROUTE, &bytes).unwrap(), message);
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
    }

    #[test]
    fn short_and_lying_bytes_end_the_reading() {
        assert_eq!(Message::parse(kind::NEWADDR, &[2, 24, 0]), None);
        for bytes in [&[3, 0, 1, 0][..], &[200, 0, 1, 0, 1, 2], &[0, 0, 0, 0], &[8, 0]] {
            assert_eq!(parse_all(bytes), []);
            assert_eq!(legs(bytes), []);
        }
        assert!(serde_json::from_str::<Message>(r#"{"kind":20,"bytes":"0g"}"#).is_err());
        assert!(serde_json::from_str::<Message>(r#"{"kind":20,"bytes":"0102"}"#).is_err());
    }

    #[test]
    fn legs_lose_what_the_kernel_found_and_keep_the_rest() {
        let gateway = emit_all(&[Attribute::new(attribute::RTA_GATEWAY, [10, 0, 0, 1])]);
        // Dead, and with its link down, as a route of an interface that is going.
        let mut bytes =
            [16u16.to_ne_bytes().as_slice(), &[1 | 16 | ONLINK, 3], &7u32.to_ne_bytes()].concat();
        bytes.extend(&gateway);
        let found = legs(&bytes);
        assert_eq!(found, [Leg { index: 7, flags: ONLINK, weight: 3, attributes: gateway }]);
        assert_eq!(legs(&emit_legs(&found)), found);
    }
}
