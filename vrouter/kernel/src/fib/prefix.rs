//! An address and how many of its bits count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that share their first bits. Ordered by address, then by length: what a prefix covers follows it at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of `length` bits that `address` is in; `None` if the family has not so many.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(address) if length <= 32 => {
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask4(length)))
            }
            IpAddr::V6(address) if length <= 128 => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask6(length)))
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The prefix of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Every address of a family.
    pub fn all(v6: bool) -> Self {
        let address =
            if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        Self { address, length: 0 }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits count.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is one address.
    pub fn is_host(&self) -> bool {
        self.length == if self.is_v6() { 128 } else { 32 }
    }

    /// Whether it is of IPv6.
    pub fn is_v6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// Its last address.
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() | !mask4(self.length)))
            }
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() | !mask6(self.length)))
            }
        }
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address, self.length) == Some(*self)
    }

    /// Whether all of `other`, of the same length or longer, is in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

fn mask4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no prefix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no prefix: write an address, or an address and a length as in 192.0.2.0/24")]
pub struct NoPrefix(String);

impl FromStr for Prefix {
    type Err = NoPrefix;

    fn from_str(text: &str) -> Result<Self, NoPrefix> {
        let wrong = || NoPrefix(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        match length {
            Some(length) => Self::new(address, length).ok_or_else(wrong),
            None => Ok(Self::host(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_behind_the_length_do_not_count() {
        for (text, address, last) in [
            ("10.1.2.3/8", "10.0.0.0", "10.255.255.255"),
            ("1.2.3.4/0", "0.0.0.0", "255.255.255.255"),
            ("1.2.3.4", "1.2.3.4", "1.2.3.4"),
            ("2001:db8::1/32", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("::1/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let prefix: Prefix = text.parse().unwrap();
            assert_eq!(prefix.address(), address.parse::<IpAddr>().unwrap(), "{text}");
            assert_eq!(prefix.last(), last.parse::<IpAddr>().unwrap(), "{text}");
        }
        for text in ["", "10.0.0.0/33", "::/129", "10/8", "a/8", "1.2.3.4/-1"] {
            assert_eq!(text.parse::<Prefix>(), Err(NoPrefix(text.to_owned())));
        }
    }

    #[test]
    fn what_a_prefix_covers_follows_it() {
        let prefixes = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.0.0.0/16",
            "10.0.0.0/32",
            "10.255.0.0/16",
            "11.0.0.0/8",
            "::/0",
        ];
        let prefixes: Vec<Prefix> = prefixes.map(|text| text.parse().unwrap()).into();
        assert!(prefixes.is_sorted());
        let ten = prefixes[1];
        let covered: Vec<_> = prefixes.iter().map(|prefix| ten.covers(prefix)).collect();
        assert_eq!(covered, [false, true, true, true, true, false, false]);
    }
}
