//! Prefixes as an operator writes them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 prefix of 1 to 30 bits, `10.66.0.0/24`; no bit is set behind the length.
pub type Ipv4Prefix = Prefix<Ipv4Addr>;

/// An IPv6 prefix of 1 to 127 bits, `fd00:66::/64`; no bit is set behind the length.
pub type Ipv6Prefix = Prefix<Ipv6Addr>;

/// A prefix of one family that leaves room for a gateway and a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String", bound = "A: Family")]
pub struct Prefix<A> {
    address: A,
    length: u8,
}

/// Why a text is no usable prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not of the form address/length.
    #[error("not an {family} prefix; write it as \"{example}\"")]
    Form {
        /// IPv4 or IPv6.
        family: &'static str,
        /// One that is right.
        example: &'static str,
    },
    /// No room for a gateway and a pod, or every address there is.
    #[error("the prefix length must be 1 to {longest}")]
    Length {
        /// Bits.
        longest: u8,
    },
    /// Bits behind the length.
    #[error("bits are set behind the prefix length; write it as \"{right}\"")]
    HostBits {
        /// The prefix without them.
        right: String,
    },
}

/// An address family: addresses are numbers of `BITS` bits.
pub trait Family: Copy + Eq + FromStr + fmt::Display {
    /// Of an address.
    const BITS: u32;
    /// Of the longest prefix with room for a gateway and a pod.
    const LONGEST: u8;
    /// For people.
    const NAME: &'static str;
    /// A prefix as it should be written.
    const EXAMPLE: &'static str;

    /// The address as a number.
    fn number(self) -> u128;
    /// The address with only its first `length` bits, 1 to `LONGEST`.
    fn network(self, length: u8) -> Self;
}

impl Family for Ipv4Addr {
    const BITS: u32 = 32;
    const LONGEST: u8 = 30;
    const NAME: &'static str = "IPv4";
    const EXAMPLE: &'static str = "10.66.0.0/24";

    fn number(self) -> u128 {
        u32::from(self).into()
    }

    fn network(self, length: u8) -> Self {
        Self::from(u32::from(self) & (u32::MAX << (Self::BITS - u32::from(length))))
    }
}

impl Family for Ipv6Addr {
    const BITS: u32 = 128;
    const LONGEST: u8 = 127;
    const NAME: &'static str = "IPv6";
    const EXAMPLE: &'static str = "fd00:66::/64";

    fn number(self) -> u128 {
        self.into()
    }

    fn network(self, length: u8) -> Self {
        Self::from(u128::from(self) & (u128::MAX << (Self::BITS - u32::from(length))))
    }
}

impl<A: Family> Prefix<A> {
    /// The network address.
    #[must_use]
    pub fn address(self) -> A {
        self.address
    }

    /// The number of leading bits all its addresses share.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    fn contains(self, address: A) -> bool {
        address.network(self.length) == self.address
    }
}

impl Ipv4Prefix {
    /// Whether a machine may have `address`: inside, neither the network nor the broadcast address.
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        let host = address.number() - address.network(self.length).number();
        let broadcast = (1 << (Ipv4Addr::BITS - u32::from(self.length))) - 1;
        self.contains(address) && host != 0 && host != broadcast
    }
}

impl Ipv6Prefix {
    /// Whether a machine may have `address`: inside, and not the first, which is every router's (RFC 4291 section
    /// 2.6.1) but on a link of two (RFC 6164).
    #[must_use]
    pub fn is_host(self, address: Ipv6Addr) -> bool {
        self.contains(address) && (self.length == 127 || address != self.address)
    }
}

impl<A: Family> FromStr for Prefix<A> {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let form = || PrefixError::Form { family: A::NAME, example: A::EXAMPLE };
        let (address, length) = text.split_once('/').ok_or_else(form)?;
        let address: A = address.parse().map_err(|_| form())?;
        let length: u8 = length.parse().map_err(|_| form())?;
        if !(1..=A::LONGEST).contains(&length) {
            return Err(PrefixError::Length { longest: A::LONGEST });
        }
        let right = Self { address: address.network(length), length };
        if right.address != address {
            return Err(PrefixError::HostBits { right: right.to_string() });
        }
        Ok(right)
    }
}

impl<A: Family> TryFrom<String> for Prefix<A> {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl<A: Family> From<Prefix<A>> for String {
    fn from(prefix: Prefix<A>) -> Self {
        prefix.to_string()
    }
}

impl<A: Family> fmt::Display for Prefix<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::{Family, Ipv4Prefix, Ipv6Prefix, Prefix, PrefixError};

    fn check<A: Family + std::fmt::Debug>(good: &[&str], form: &[&str], length: &[&str]) {
        for good in good {
            assert_eq!(good.parse::<Prefix<A>>().unwrap().to_string(), *good);
        }
        for form in form {
            let error = form.parse::<Prefix<A>>().unwrap_err();
            assert!(matches!(error, PrefixError::Form { .. }), "{form}: {error}");
            assert!(error.to_string().contains(A::EXAMPLE), "{error}");
        }
        for length in length {
            let error = length.parse::<Prefix<A>>().unwrap_err();
            assert_eq!(error, PrefixError::Length { longest: A::LONGEST }, "{length}");
        }
    }

    #[test]
    fn text_and_back_or_the_reason() {
        check::<std::net::Ipv4Addr>(
            &["10.66.0.0/24", "0.0.0.0/1", "192.168.1.4/30"],
            &["10.66.0.0", "10.66.0/24", "10.66.0.0/x", "/24", "fd00::/64", ""],
            &["0.0.0.0/0", "10.0.0.0/31", "10.0.0.0/32", "10.0.0.0/200"],
        );
        check::<std::net::Ipv6Addr>(
            &["fd00:66::/64", "2001:db8::4/127", "8000::/1"],
            &["fd00::", "fd00::/x", "/64", "10.66.0.0/24", ""],
            &["::/0", "fd00::/128", "fd00::/200"],
        );
        let error = "10.66.0.9/24".parse::<Ipv4Prefix>().unwrap_err();
        assert!(error.to_string().contains("\"10.66.0.0/24\""), "{error}");
        let error = "fd00:66::9/64".parse::<Ipv6Prefix>().unwrap_err();
        assert!(error.to_string().contains("\"fd00:66::/64\""), "{error}");
    }

    #[test]
    fn hosts() {
        for (prefix, address, host) in [
            ("10.66.0.0/30", "10.66.0.0", false),
            ("10.66.0.0/30", "10.66.0.1", true),
            ("10.66.0.0/30", "10.66.0.2", true),
            ("10.66.0.0/30", "10.66.0.3", false),
            ("10.66.0.0/30", "10.66.0.5", false),
        ] {
            let parsed: Ipv4Prefix = prefix.parse().unwrap();
            assert_eq!(parsed.is_host(address.parse().unwrap()), host, "{address} in {prefix}");
        }
        for (prefix, address, host) in [
            ("fd00:66::/64", "fd00:66::", false),
            ("fd00:66::/64", "fd00:66::1", true),
            ("fd00:66::/64", "fd00:66::ffff:ffff:ffff:ffff", true),
            ("fd00:66::/64", "fd00:66:0:1::1", false),
            ("fd00:66::2/127", "fd00:66::2", true),
            ("fd00:66::2/127", "fd00:66::3", true),
        ] {
            let parsed: Ipv6Prefix = prefix.parse().unwrap();
            assert_eq!(parsed.is_host(address.parse().unwrap()), host, "{address} in {prefix}");
        }
    }
}
