//! IPv4 prefixes.

use crate::Ipv6Prefix;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// An IPv4 prefix such as `10.66.0.0/24`; bits beyond its length are always zero.
///
/// Ordered by network address, then by length: a prefix comes before those it contains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    network: u32,
    length: u8,
}

/// Two addresses or values do not make a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// The text does not look like `a.b.c.d/n`.
    Shape,
    /// The text does not look like `a::b/n`.
    Shape6,
    /// The length is above 32.
    Length(u8),
    /// The length is above 128.
    Length6(u8),
    /// Bits beyond the length are set.
    HostBits {
        /// The address as given.
        address: Ipv4Addr,
        /// The prefix that was probably meant.
        meant: Ipv4Prefix,
    },
    /// Bits beyond the length are set.
    HostBits6 {
        /// The address as given.
        address: Ipv6Addr,
        /// The prefix that was probably meant.
        meant: Ipv6Prefix,
    },
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape => f.write_str(
                "not an IPv4 prefix: write an address, a slash and a length, such as 10.66.0.0/24",
            ),
            Self::Shape6 => f.write_str(
                "not an IPv6 prefix: write an address, a slash and a length, such as fd00:66::/64",
            ),
            Self::Length(length) => {
                write!(f, "prefix length {length} is too long: write one from 0 to 32")
            }
            Self::Length6(length) => {
                write!(f, "prefix length {length} is too long: write one from 0 to 128")
            }
            Self::HostBits { address, meant } => write!(
                f,
                "{address}/{} has bits set beyond its length: write {meant}",
                meant.length
            ),
            Self::HostBits6 { address, meant } => write!(
                f,
                "{address}/{} has bits set beyond its length: write {meant}",
                meant.length()
            ),
        }
    }
}

impl core::error::Error for PrefixError {}

impl Ipv4Prefix {
    /// Every address.
    pub const ALL: Self = Self { network: 0, length: 0 };

    /// # Errors
    /// A length above 32, or bits of `address` set beyond it.
    pub const fn new(address: Ipv4Addr, length: u8) -> Result<Self, PrefixError> {
        if length > 32 {
            return Err(PrefixError::Length(length));
        }
        let bits = address.to_bits();
        let network = bits & mask(length);
        if network != bits {
            let meant = Self { network, length };
            return Err(PrefixError::HostBits { address, meant });
        }
        Ok(Self { network, length })
    }

    /// The prefix of one address.
    pub const fn host(address: Ipv4Addr) -> Self {
        Self { network: address.to_bits(), length: 32 }
    }

    /// The prefix of this length that contains this address. A length above 32 counts as 32.
    pub const fn containing(address: Ipv4Addr, length: u8) -> Self {
        let length = if length > 32 { 32 } else { length };
        Self { network: address.to_bits() & mask(length), length }
    }

    /// The lowest address.
    pub const fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network)
    }

    /// The highest address: the directed broadcast address when there are host bits.
    pub const fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | !mask(self.length))
    }

    /// Number of leading bits, 0 to 32.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// The address after the network's own; `None` when the prefix is too long (31, 32) to have hosts
    /// beside its network and broadcast address.
    pub const fn first_host(self) -> Option<Ipv4Addr> {
        if self.length > 30 { None } else { Some(Ipv4Addr::from_bits(self.network + 1)) }
    }

    /// Whether the address is inside.
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.length) == self.network
    }

    /// Whether one of the two contains the other.
    pub const fn overlaps(self, other: Self) -> bool {
        let length = if self.length < other.length { self.length } else { other.length };
        (self.network ^ other.network) & mask(length) == 0
    }
}

const fn mask(length: u8) -> u32 {
    if length == 0 { 0 } else { u32::MAX << (32 - length) }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.length)
    }
}

impl fmt::Debug for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Ipv4Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or(PrefixError::Shape)?;
        let address: Ipv4Addr = address.parse().map_err(|_| PrefixError::Shape)?;
        // The integer parser alone would take "+8" and "08".
        let plain = length.bytes().all(|digit| digit.is_ascii_digit())
            && (length == "0" || !length.starts_with('0'));
        if !plain {
            return Err(PrefixError::Shape);
        }
        Self::new(address, length.parse().map_err(|_| PrefixError::Shape)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn prefix(text: &str) -> Ipv4Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        for (text, network, last, first_host) in [
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255", Some("0.0.0.1")),
            ("10.66.0.0/24", "10.66.0.0", "10.66.0.255", Some("10.66.0.1")),
            ("10.66.0.4/30", "10.66.0.4", "10.66.0.7", Some("10.66.0.5")),
            ("10.66.0.4/31", "10.66.0.4", "10.66.0.5", None),
            ("255.255.255.255/32", "255.255.255.255", "255.255.255.255", None),
        ] {
            let prefix = prefix(text);
            assert_eq!(prefix.to_string(), text);
            assert_eq!(prefix.network().to_string(), network);
            assert_eq!(prefix.last().to_string(), last);
            assert_eq!(prefix.first_host().map(|host| host.to_string()).as_deref(), first_host);
        }
    }

    #[test]
    fn refuses() {
        for (text, error) in [
            (
                "",
                "not an IPv4 prefix: write an address, a slash and a length, such as 10.66.0.0/24",
            ),
            ("10.66.0.0", "not an IPv4 prefix"),
            ("10.66.0.0/", "not an IPv4 prefix"),
            ("10.66.0/24", "not an IPv4 prefix"),
            ("10.66.0.0/+8", "not an IPv4 prefix"),
            ("10.66.0.0/08", "not an IPv4 prefix"),
            ("10.66.0.0/24/24", "not an IPv4 prefix"),
            ("10.66.0.0/999", "not an IPv4 prefix"),
            ("10.66.0.0/33", "prefix length 33 is too long: write one from 0 to 32"),
            ("10.66.0.1/24", "10.66.0.1/24 has bits set beyond its length: write 10.66.0.0/24"),
            ("0.0.0.1/0", "0.0.0.1/0 has bits set beyond its length: write 0.0.0.0/0"),
        ] {
            let got = text.parse::<Ipv4Prefix>().unwrap_err().to_string();
            assert!(got.starts_with(error), "{text}: {got}");
        }
    }

    #[test]
    fn contains_and_overlaps() {
        let red = prefix("10.66.0.0/24");
        for (address, inside) in [
            ("10.66.0.0", true),
            ("10.66.0.255", true),
            ("10.66.1.0", false),
            ("10.65.255.255", false),
        ] {
            assert_eq!(red.contains(address.parse().unwrap()), inside, "{address}");
        }
        for (other, overlaps) in [
            ("10.66.0.0/24", true),
            ("10.66.0.7/32", true),
            ("10.0.0.0/8", true),
            ("0.0.0.0/0", true),
            ("10.66.1.0/24", false),
            ("11.0.0.0/8", false),
        ] {
            assert_eq!(red.overlaps(prefix(other)), overlaps, "{other}");
            assert_eq!(prefix(other).overlaps(red), overlaps, "{other}");
        }
    }

    #[test]
    fn every_prefix_survives_a_round_trip_and_agrees_with_its_bounds() {
        bolero::check!().with_type().for_each(|(bits, length, probe): &(u32, u8, u32)| {
            let prefix = Ipv4Prefix::containing(Ipv4Addr::from_bits(*bits), *length);
            assert_eq!(prefix.to_string().parse(), Ok(prefix));
            assert_eq!(Ipv4Prefix::new(prefix.network(), prefix.length()), Ok(prefix));
            let bounds = prefix.network().to_bits()..=prefix.last().to_bits();
            assert_eq!(prefix.contains(Ipv4Addr::from_bits(*probe)), bounds.contains(probe));
        });
    }
}
