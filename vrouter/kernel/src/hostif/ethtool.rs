//! Offloads of an interface over ethtool's netlink family (Documentation/networking/ethtool-netlink.rst).

use std::collections::BTreeSet;

use super::netlink::{ACK, Netlink, NetlinkError, REQUEST};
use super::wire::{Attribute, emit_all, parse_all};

/// Offloads that join frames which arrived into larger ones, by the names of `ethtool -k`. What a packet socket gets
/// must be what was on the wire. The others stay as they are: nothing is sent through the kernel's own stack there.
pub const JOINING: [&str; 5] =
    ["rx-gro", "rx-gro-hw", "rx-gro-list", "rx-lro", "rx-udp-gro-forwarding"];

/// Generic netlink's own family, its request for another family's number, and where the answer has it.
const CONTROL: u16 = 16;
const GETFAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `ETHTOOL_MSG_FEATURES_GET`, `ETHTOOL_MSG_FEATURES_SET`.
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const HEADER: u16 = 1;
const HEADER_INDEX: u16 = 1;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// Those of [`JOINING`] that are on.
///
/// # Errors
/// What the kernel answered.
pub fn joining(index: u32) -> Result<Vec<String>, NetlinkError> {
    let mut netlink = Netlink::generic()?;
    let family = family(&mut netlink)?;
    let frames = netlink.ask(family, REQUEST | ACK, &request(FEATURES_GET, &[header(index)]))?;
    let answer = frames.iter().find(|frame| frame.kind == family);
    let attributes = parse_all(answer.and_then(|it| it.payload.get(4..)).unwrap_or_default());
    let mut on = BTreeSet::new();
    for active in attributes.iter().filter(|it| it.kind() == ACTIVE) {
        for bits in active.inner().iter().filter(|it| it.kind() == BITSET_BITS) {
            for bit in bits.inner() {
                let name = bit.inner().into_iter().find(|it| it.kind() == BIT_NAME);
                on.extend(name.and_then(|name| name.as_text().map(str::to_owned)));
            }
        }
    }
    on.retain(|name| JOINING.contains(&name.as_str()));
    Ok(on.into_iter().collect())
}

/// Switches offloads by name.
///
/// # Errors
/// What the kernel answered.
pub fn switch(index: u32, names: &[String], on: bool) -> Result<(), NetlinkError> {
    let mut netlink = Netlink::generic()?;
    let family = family(&mut netlink)?;
    let bits: Vec<_> = names
        .iter()
        .map(|name| {
            let mut bit = vec![Attribute::text(BIT_NAME, name)];
            bit.extend(on.then(|| Attribute::new(BIT_VALUE, [])));
            Attribute::nest(BITS_BIT, &bit)
        })
        .collect();
    let wanted = Attribute::nest(WANTED, &[Attribute::nest(BITSET_BITS, &bits)]);
    netlink.ask(family, REQUEST | ACK, &request(FEATURES_SET, &[header(index), wanted]))?;
    Ok(())
}

fn header(index: u32) -> Attribute {
    Attribute::nest(HEADER, &[Attribute::new(HEADER_INDEX, index.to_ne_bytes())])
}

/// `struct genlmsghdr` with version 1, and attributes.
fn request(command: u8, attributes: &[Attribute]) -> Vec<u8> {
    [vec![command, 1, 0, 0], emit_all(attributes)].concat()
}

/// The number of ethtool's family.
fn family(netlink: &mut Netlink) -> Result<u16, NetlinkError> {
    let name = Attribute::text(FAMILY_NAME, "ethtool");
    let frames = netlink.ask(CONTROL, REQUEST | ACK, &request(GETFAMILY, &[name]))?;
    let number = frames.iter().find_map(|frame| {
        let attributes = parse_all(frame.payload.get(4..)?);
        let number = attributes.iter().find(|it| it.kind() == FAMILY_ID)?;
        Some(u16::from_ne_bytes(number.value.get(..2)?.try_into().ok()?))
    });
    number.ok_or(NetlinkError::Refused { errno: nix::errno::Errno::ENOENT, text: None })
}
