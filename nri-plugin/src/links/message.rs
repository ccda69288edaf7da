//! Requests to the kernel, as netlink wants them (Linux's `rtnetlink.h`, `if_addr.h`; RFC 3549). Pure.

use std::net::IpAddr;

const NEWLINK: u16 = 16;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
/// `NLMSG_ERROR`, an acknowledgement, too.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK`; `NLM_F_EXCL | NLM_F_CREATE`.
const ASK: u16 = 0x05;
const NEW: u16 = 0x600;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `IFA_F_NODAD`: nobody else has the address, the vRouter sees to that.
const NO_DAD: u8 = 0x02;
/// `IFF_UP`.
const UP: u32 = 1;
/// `RT_TABLE_MAIN`, `RTPROT_STATIC`, `RTN_UNICAST`.
const MAIN: u8 = 254;
const STATIC: u8 = 4;
const UNICAST: u8 = 1;

/// A request: a head by its kind, then attributes.
pub struct Request {
    kind: u16,
    flags: u16,
    head: Vec<u8>,
    attributes: Vec<Attribute>,
}

struct Attribute {
    kind: u16,
    value: Vec<u8>,
}

impl Request {
    /// The message.
    pub fn bytes(&self, sequence: u32) -> Vec<u8> {
        let mut body = self.head.clone();
        for Attribute { kind, value } in &self.attributes {
            // Addresses and numbers: a few bytes.
            let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
            body.extend_from_slice(&length.to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&(ASK | self.flags).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend(body);
        bytes
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// An address of an interface.
pub fn address(index: u32, address: IpAddr, length: u8) -> Request {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let flags = if address.is_ipv6() { NO_DAD } else { 0 };
    let mut head = vec![family(address), length, flags, 0];
    head.extend_from_slice(&index.to_ne_bytes());
    let attributes = [ADDRESS, LOCAL].map(|kind| Attribute { kind, value: octets(address) });
    Request { kind: NEWADDR, flags: NEW, head, attributes: attributes.into() }
}

/// Has an interface up.
pub fn up(index: u32) -> Request {
    let words = [0, index, UP, UP].map(u32::to_ne_bytes);
    Request { kind: NEWLINK, flags: 0, head: words.concat(), attributes: Vec::new() }
}

/// A route by a gateway.
pub fn route(index: u32, to: (IpAddr, u8), gateway: IpAddr) -> Request {
    const DESTINATION: u16 = 1;
    const INTERFACE: u16 = 4;
    const GATEWAY: u16 = 5;
    let head = vec![family(gateway), to.1, 0, 0, MAIN, STATIC, 0, UNICAST, 0, 0, 0, 0];
    let attributes = vec![
        Attribute { kind: DESTINATION, value: octets(to.0) },
        Attribute { kind: INTERFACE, value: index.to_ne_bytes().to_vec() },
        Attribute { kind: GATEWAY, value: octets(gateway) },
    ];
    Request { kind: NEWROUTE, flags: NEW, head, attributes }
}

/// The error number in an answer to the request `sequence`, 0 for an acknowledgement; `None` if it is an answer to something else.
pub fn answer(mut bytes: &[u8], sequence: u32) -> Option<i32> {
    while let Some((head, _)) = bytes.split_first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, ..] = *head;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let payload = bytes.get(HEADER..length)?;
        let ours = u32::from_ne_bytes([s0, s1, s2, s3]) == sequence;
        if ours && u16::from_ne_bytes([k0, k1]) == ERROR {
            return Some(i32::from_ne_bytes(*payload.first_chunk()?).saturating_neg());
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_long_as_they_say() {
        let (four, six): (IpAddr, IpAddr) = ([10, 66, 0, 2].into(), "fd00:66::2".parse().unwrap());
        for (request, length) in [
            (address(7, four, 24), 16 + 8 + 2 * 8),
            (address(7, six, 64), 16 + 8 + 2 * 20),
            (up(7), 16 + 16),
            (route(7, (four, 32), four), 16 + 12 + 3 * 8),
            (route(7, (six, 128), six), 16 + 12 + 20 + 8 + 20),
        ] {
            let bytes = request.bytes(3);
            assert_eq!(bytes.len(), length);
            assert_eq!(bytes[..4], u32::try_from(length).unwrap().to_ne_bytes());
            assert_eq!(bytes[8..12], 3u32.to_ne_bytes());
        }
        assert_eq!(address(7, six, 64).bytes(1)[16..20], [AF_INET6, 64, NO_DAD, 0]);
        let kinds: Vec<_> =
            route(7, (four, 0), four).attributes.iter().map(|attribute| attribute.kind).collect();
        assert_eq!(kinds, [1, 4, 5]);
    }

    #[test]
    fn answers_are_told_from_others() {
        let error = |sequence: u32, code: i32| {
            let mut bytes = 36u32.to_ne_bytes().to_vec();
            bytes.extend([ERROR.to_ne_bytes(), [0; 2]].concat());
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(code.to_ne_bytes());
            bytes.extend([0; 16]);
            bytes
        };
        assert_eq!(answer(&error(4, -17), 4), Some(17));
        assert_eq!(answer(&error(4, 0), 4), Some(0));
        assert_eq!(answer(&error(3, -17), 4), None);
        assert_eq!(answer(&[error(3, -17), error(4, 0)].concat(), 4), Some(0));
        for cut in [0, 3, 17, 35] {
            assert_eq!(answer(&error(4, 0)[..cut], 4), None, "{cut}");
        }
        // A length that leads nowhere.
        assert_eq!(answer(&[0; 32], 0), None);
    }
}
