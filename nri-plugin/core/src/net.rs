//! Addresses and networks as the planner sees them.

use core::net::Ipv4Addr;
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

/// Why a text is no address or prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not six bytes in hexadecimal.
    #[error("{0:?} is no MAC address as \"02:00:0a:42:00:02\"")]
    Mac(String),
    /// Not address/length.
    #[error("{0:?} is no IPv4 prefix as \"10.66.0.0/24\"")]
    Prefix(String),
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

    use super::{Mac, Prefix};

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
