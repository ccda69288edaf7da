//! IPv6 prefixes as an operator writes them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv6 prefix of 1 to 127 bits, `fd00:66::/64`; no bit is set behind the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv6Prefix {
    address: Ipv6Addr,
    length: u8,
}

/// Why a text is no usable prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ipv6PrefixError {
    /// Not of the form address/length.
    #[error("not an IPv6 prefix; write it as \"fd00:66::/64\"")]
    Form,
    /// No room for a gateway and a pod, or every address there is.
    #[error("the prefix length must be 1 to 127")]
    Length,
    /// Bits behind the length; the correct prefix is named.
    #[error("bits are set behind the prefix length; write it as \"{0}\"")]
    HostBits(Ipv6Prefix),
}

impl Ipv6Prefix {
    /// The number of leading bits all its addresses share, 1 to 127.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether a machine may have `address`: inside, and not the first, which is every router's (RFC 4291 section
    /// 2.6.1) but on a link of two (RFC 6164).
    #[must_use]
    pub fn is_host(self, address: Ipv6Addr) -> bool {
        let inside = u128::from(address) & self.mask() == u128::from(self.address);
        inside && (self.length == 127 || address != self.address)
    }

    fn mask(self) -> u128 {
        u128::MAX << (128 - u32::from(self.length))
    }
}

impl FromStr for Ipv6Prefix {
    type Err = Ipv6PrefixError;

    fn from_str(text: &str) -> Result<Self, Ipv6PrefixError> {
        let (address, length) = text.split_once('/').ok_or(Ipv6PrefixError::Form)?;
        let address: Ipv6Addr = address.parse().map_err(|_| Ipv6PrefixError::Form)?;
        let length: u8 = length.parse().map_err(|_| Ipv6PrefixError::Form)?;
        if !(1..=127).contains(&length) {
            return Err(Ipv6PrefixError::Length);
        }
        let given = Self { address, length };
        let network = Ipv6Addr::from(u128::from(address) & given.mask());
        if network != address {
            return Err(Ipv6PrefixError::HostBits(Self { address: network, length }));
        }
        Ok(given)
    }
}

impl TryFrom<String> for Ipv6Prefix {
    type Error = Ipv6PrefixError;

    fn try_from(text: String) -> Result<Self, Ipv6PrefixError> {
        text.parse()
    }
}

impl From<Ipv6Prefix> for String {
    fn from(prefix: Ipv6Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ipv6Prefix, Ipv6PrefixError};

    #[test]
    fn text_and_back_or_the_reason() {
        for good in ["fd00:66::/64", "2001:db8::4/127", "8000::/1"] {
            assert_eq!(good.parse::<Ipv6Prefix>().unwrap().to_string(), good);
        }
        for form in ["fd00::", "fd00::/x", "/64", "10.66.0.0/24", ""] {
            assert_eq!(form.parse::<Ipv6Prefix>(), Err(Ipv6PrefixError::Form), "{form}");
        }
        for length in ["::/0", "fd00::/128", "fd00::/200"] {
            assert_eq!(length.parse::<Ipv6Prefix>(), Err(Ipv6PrefixError::Length), "{length}");
        }
        let error = "fd00:66::9/64".parse::<Ipv6Prefix>().unwrap_err();
        assert!(error.to_string().contains("\"fd00:66::/64\""), "{error}");
    }

    #[test]
    fn hosts() {
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
