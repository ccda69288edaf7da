//! IPv6 prefixes, and prefixes of either family.

use crate::{Ipv4Prefix, PrefixError};
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

/// An IPv6 prefix such as `fd00:66::/64`; bits beyond its length are always zero.
///
/// Ordered by network address, then by length: a prefix comes before those it contains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6Prefix {
    network: u128,
    length: u8,
}

impl Ipv6Prefix {
    /// Every address.
    pub const ALL: Self = Self { network: 0, length: 0 };

    /// # Errors
    /// A length above 128, or bits of `address` set beyond it.
    pub const fn new(address: Ipv6Addr, length: u8) -> Result<Self, PrefixError> {
        if length > 128 {
            return Err(PrefixError::Length6(length));
        }
        let meant = Self::containing(address, length);
        if meant.network != address.to_bits() {
            return Err(PrefixError::HostBits6 { address, meant });
        }
        Ok(meant)
    }

    /// The prefix of one address.
    pub const fn host(address: Ipv6Addr) -> Self {
        Self { network: address.to_bits(), length: 128 }
    }

    /// The prefix of this length that contains this address. A length above 128 counts as 128.
    pub const fn containing(address: Ipv6Addr, length: u8) -> Self {
        let length = if length > 128 { 128 } else { length };
        Self { network: address.to_bits() & mask(length), length }
    }

    /// The lowest address: the Subnet-Router anycast address when there are host bits (RFC 4291 section 2.6.1).
    pub const fn network(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network)
    }

    /// The highest address.
    pub const fn last(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network | !mask(self.length))
    }

    /// Number of leading bits, 0 to 128.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether the address is inside.
    pub const fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & mask(self.length) == self.network
    }

    /// Whether one of the two contains the other.
    pub const fn overlaps(self, other: Self) -> bool {
        let length = if self.length < other.length { self.length } else { other.length };
        (self.network ^ other.network) & mask(length) == 0
    }
}

const fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - length) }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.length)
    }
}

impl fmt::Debug for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Ipv6Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or(PrefixError::Shape6)?;
        let address: Ipv6Addr = address.parse().map_err(|_| PrefixError::Shape6)?;
        // The integer parser alone would take "+8" and "08".
        let plain = length.bytes().all(|digit| digit.is_ascii_digit())
            && (length == "0" || !length.starts_with('0'));
        if !plain {
            return Err(PrefixError::Shape6);
        }
        Self::new(address, length.parse().map_err(|_| PrefixError::Shape6)?)
    }
}

/// A prefix of either family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpPrefix {
    /// IPv4.
    V4(Ipv4Prefix),
    /// IPv6.
    V6(Ipv6Prefix),
}

impl IpPrefix {
    /// The prefix of one address.
    pub const fn host(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(Ipv4Prefix::host(address)),
            IpAddr::V6(address) => Self::V6(Ipv6Prefix::host(address)),
        }
    }

    /// Whether the address is inside; one of the other family never is.
    pub const fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(prefix), IpAddr::V4(address)) => prefix.contains(address),
            (Self::V6(prefix), IpAddr::V6(address)) => prefix.contains(address),
            _ => false,
        }
    }
}

impl From<Ipv4Prefix> for IpPrefix {
    fn from(prefix: Ipv4Prefix) -> Self {
        Self::V4(prefix)
    }
}

impl From<Ipv6Prefix> for IpPrefix {
    fn from(prefix: Ipv6Prefix) -> Self {
        Self::V6(prefix)
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(prefix) => prefix.fmt(f),
            Self::V6(prefix) => prefix.fmt(f),
        }
    }
}

impl fmt::Debug for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for IpPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        if text.contains(':') { text.parse().map(Self::V6) } else { text.parse().map(Self::V4) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn parses_and_prints() {
        for (text, network, last) in [
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fd00:66::/64", "fd00:66::", "fd00:66::ffff:ffff:ffff:ffff"),
            ("fd00:66::2/128", "fd00:66::2", "fd00:66::2"),
            ("fe80::/10", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let prefix: Ipv6Prefix = text.parse().unwrap();
            assert_eq!(prefix.to_string(), text);
            assert_eq!(prefix.network().to_string(), network);
            assert_eq!(prefix.last().to_string(), last);
            assert_eq!(text.parse(), Ok(IpPrefix::V6(prefix)));
        }
        let four: Ipv4Prefix = "10.66.0.0/24".parse().unwrap();
        assert_eq!("10.66.0.0/24".parse(), Ok(IpPrefix::V4(four)));
        assert_eq!(IpPrefix::from(four).to_string(), "10.66.0.0/24");
    }

    #[test]
    fn refuses() {
        for (text, error) in [
            (
                ":",
                "not an IPv6 prefix: write an address, a slash and a length, such as fd00:66::/64",
            ),
            ("fd00::", "not an IPv6 prefix"),
            ("fd00::/", "not an IPv6 prefix"),
            ("fd00::/+8", "not an IPv6 prefix"),
            ("fd00::/064", "not an IPv6 prefix"),
            ("fd00::/999", "not an IPv6 prefix"),
            ("fd00::/129", "prefix length 129 is too long: write one from 0 to 128"),
            ("fd00::1/64", "fd00::1/64 has bits set beyond its length: write fd00::/64"),
        ] {
            let got = text.parse::<Ipv6Prefix>().unwrap_err().to_string();
            assert!(got.starts_with(error), "{text}: {got}");
            assert_eq!(text.parse::<IpPrefix>().unwrap_err().to_string(), got);
        }
    }

    #[test]
    fn families_never_contain_each_other() {
        let four: IpPrefix = "0.0.0.0/0".parse().unwrap();
        let six: IpPrefix = "::/0".parse().unwrap();
        let (a, b) = ("10.66.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        assert!(four.contains(a) && !four.contains(b) && six.contains(b) && !six.contains(a));
        assert!(IpPrefix::host(a).contains(a) && IpPrefix::host(b).contains(b));
    }

    #[test]
    fn every_prefix_survives_a_round_trip_and_agrees_with_its_bounds() {
        bolero::check!().with_type().for_each(
            |(bits, length, probe, near): &(u128, u8, u128, u8)| {
                let prefix = Ipv6Prefix::containing(Ipv6Addr::from_bits(*bits), *length);
                assert_eq!(prefix.to_string().parse(), Ok(prefix));
                assert_eq!(Ipv6Prefix::new(prefix.network(), prefix.length()), Ok(prefix));
                let bounds = prefix.network().to_bits()..=prefix.last().to_bits();
                // Far away, and with a part of the address in common.
                for probe in [*probe, bits ^ (probe >> (near % 128))] {
                    assert_eq!(
                        prefix.contains(Ipv6Addr::from_bits(probe)),
                        bounds.contains(&probe)
                    );
                    let other = Ipv6Prefix::containing(Ipv6Addr::from_bits(probe), *near);
                    let meet = prefix.contains(other.network()) || other.contains(prefix.network());
                    assert_eq!(prefix.overlaps(other), meet);
                }
            },
        );
    }
}
