//! Addresses and networks as the planner sees them.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// An Ethernet address. `Display` and `FromStr` use `02:00:0a:42:00:02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// An IPv4 prefix, `10.66.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: Ipv4Addr,
    length: u8,
}

/// An IPv6 prefix, `fd00:66::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix6 {
    address: Ipv6Addr,
    length: u8,
}

/// A prefix of either family, for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyPrefix {
    /// IPv4.
    V4(Prefix),
    /// IPv6.
    V6(Prefix6),
}

/// Why a text is no address or prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not six bytes in hexadecimal.
    #[error("{0:?} is no MAC address as \"02:00:0a:42:00:02\"")]
    Mac(String),
    /// Not address/length.
    #[error("{0:?} is no IPv4 prefix as \"10.66.0.0/24\"")]
    Prefix(String),
    /// Not address/length.
    #[error("{0:?} is no IPv6 prefix as \"fd00:66::/64\"")]
    Prefix6(String),
    /// Not an address.
    #[error("{0:?} is no IPv6 address as \"fd00:66::1\"")]
    Ipv6(String),
}

/// One network of the vRouter and what is taken in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Where addresses come from.
    pub prefix: Prefix,
    /// The vRouter's address in it.
    pub gateway: Ipv4Addr,
    /// The vRouter's Ethernet address in it, when it is known.
    pub gateway_mac: Option<Mac>,
    /// Greatest IP packet, bytes.
    pub mtu: u32,
    /// Addresses of the vRouter's ports. Those of [`crate::plan::Node`]'s own pods are added by the planner.
    pub used_addresses: BTreeSet<Ipv4Addr>,
    /// Ethernet addresses of the vRouter's ports; likewise.
    pub used_macs: BTreeSet<Mac>,
    /// Its IPv6 side, if it has one.
    pub ipv6: Option<Network6>,
}

/// The IPv6 side of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network6 {
    /// Where addresses come from.
    pub prefix: Prefix6,
    /// The vRouter's address in it.
    pub gateway: Ipv6Addr,
    /// Addresses of the vRouter's ports; as for IPv4.
    pub used_addresses: BTreeSet<Ipv6Addr>,
}

impl Mac {
    /// Whether one machine may have it: not multicast, not zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError::Mac(text.to_owned());
        let mut bytes = [0; 6];
        let mut words = text.split(':');
        for byte in &mut bytes {
            let word = words.next().ok_or_else(bad)?;
            let hex = word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(word, 16).ok().filter(|_| hex).ok_or_else(bad)?;
        }
        if words.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl Prefix {
    /// The number of leading bits all its addresses share.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Its lowest address.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.address
    }

    /// Whether `address` is inside.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.address)
    }

    /// First and last address a machine may have: without the network and the broadcast address, which prefixes of 31
    /// and 32 bits do not have (RFC 3021).
    #[must_use]
    pub fn hosts(self) -> (Ipv4Addr, Ipv4Addr) {
        let first = u32::from(self.address);
        let last = first | !self.mask();
        if self.length >= 31 {
            return (first.into(), last.into());
        }
        ((first + 1).into(), (last - 1).into())
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0)
    }
}

impl Prefix6 {
    /// The number of leading bits all its addresses share.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Its lowest address.
    #[must_use]
    pub fn network(self) -> Ipv6Addr {
        self.address
    }

    /// Whether `address` is inside.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        u128::from(address) & self.mask() == u128::from(self.address)
    }

    /// First and last address a machine may have: the first of all is every router's (RFC 4291 section 2.6.1) but on a
    /// link of two (RFC 6164 section 5).
    #[must_use]
    pub fn hosts(self) -> (Ipv6Addr, Ipv6Addr) {
        let first = u128::from(self.address);
        let last = first | !self.mask();
        let first = if self.length >= 127 { first } else { first + 1 };
        (first.into(), last.into())
    }

    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0)
    }
}

impl FromStr for Prefix6 {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let length = length.parse().ok().filter(|length| *length <= 128)?;
            let mut prefix = Self { address: address.parse().ok()?, length };
            prefix.address = (u128::from(prefix.address) & prefix.mask()).into();
            Some(prefix)
        };
        parse().ok_or_else(|| AddressError::Prefix6(text.to_owned()))
    }
}

impl fmt::Display for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Display for AnyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(prefix) => prefix.fmt(f),
            Self::V6(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for Prefix {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let length = length.parse().ok().filter(|length| *length <= 32)?;
            let mut prefix = Self { address: address.parse().ok()?, length };
            prefix.address = (u32::from(prefix.address) & prefix.mask()).into();
            Some(prefix)
        };
        parse().ok_or_else(|| AddressError::Prefix(text.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::{Mac, Prefix, Prefix6};

    #[test]
    fn hosts_of_an_ipv6_prefix() {
        for (prefix, first, last) in [
            ("fd00:66::/64", "fd00:66::1", "fd00:66::ffff:ffff:ffff:ffff"),
            ("fd00:66::9/64", "fd00:66::1", "fd00:66::ffff:ffff:ffff:ffff"),
            ("fd00::4/126", "fd00::5", "fd00::7"),
            ("fd00::4/127", "fd00::4", "fd00::5"),
            ("fd00::4/128", "fd00::4", "fd00::4"),
        ] {
            let parsed: Prefix6 = prefix.parse().unwrap();
            let (a, b) = parsed.hosts();
            assert_eq!((a.to_string(), b.to_string()), (first.into(), last.into()), "{prefix}");
            assert!(parsed.contains(a) && parsed.contains(b), "{prefix}");
        }
        assert!(
            !"fd00:66::/64".parse::<Prefix6>().unwrap().contains("fd00:67::1".parse().unwrap())
        );
        for bad in ["fd00::", "fd00::/129", "fd00::/-1", "x/64", "10.66.0.0/24"] {
            assert!(bad.parse::<Prefix6>().is_err(), "{bad}");
        }
    }

    #[test]
    fn mac_text() {
        let mac: Mac = "02:00:0A:42:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:0a:42:00:ff");
        assert!(mac.is_unicast());
        for not_unicast in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(!not_unicast.parse::<Mac>().unwrap().is_unicast(), "{not_unicast}");
        }
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "+2:00:00:00:00:00",
            "02-00-00-00-00-00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_of_a_prefix() {
        for (prefix, first, last) in [
            ("10.66.0.0/24", [10, 66, 0, 1], [10, 66, 0, 254]),
            ("10.66.0.9/24", [10, 66, 0, 1], [10, 66, 0, 254]),
            ("10.0.0.4/30", [10, 0, 0, 5], [10, 0, 0, 6]),
            ("10.0.0.4/31", [10, 0, 0, 4], [10, 0, 0, 5]),
            ("10.0.0.4/32", [10, 0, 0, 4], [10, 0, 0, 4]),
            ("0.0.0.0/0", [0, 0, 0, 1], [255, 255, 255, 254]),
        ] {
            let (a, b) = prefix.parse::<Prefix>().unwrap().hosts();
            assert_eq!((a, b), (Ipv4Addr::from(first), Ipv4Addr::from(last)), "{prefix}");
        }
        for bad in ["10.66.0.0", "10.66.0.0/33", "10.66.0.0/-1", "x/24", "fd00::/64"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
