//! IPv4 prefixes as an operator writes them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 prefix of 1 to 30 bits, `10.66.0.0/24`; no bit is set behind the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Prefix {
    address: Ipv4Addr,
    length: u8,
}

/// Why a text is no usable prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not of the form address/length.
    #[error("not an IPv4 prefix; write it as \"10.66.0.0/24\"")]
    Form,
    /// No room for a gateway and a pod, or every address there is.
    #[error("the prefix length must be 1 to 30")]
    Length,
    /// Bits behind the length; the correct prefix is named.
    #[error("bits are set behind the prefix length; write it as \"{0}\"")]
    HostBits(Ipv4Prefix),
}

impl Ipv4Prefix {
    /// The network address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The number of leading bits all its addresses share, 1 to 30.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether a machine may have `address`: inside, neither the network nor the broadcast address.
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        let bits = u32::from(address);
        let mask = self.mask();
        let host = bits & !mask;
        bits & mask == u32::from(self.address) && host != 0 && host != !mask
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.length))
    }
}

impl FromStr for Ipv4Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or(PrefixError::Form)?;
        let address: Ipv4Addr = address.parse().map_err(|_| PrefixError::Form)?;
        let length: u8 = length.parse().map_err(|_| PrefixError::Form)?;
        if !(1..=30).contains(&length) {
            return Err(PrefixError::Length);
        }
        let given = Self { address, length };
        let network = Ipv4Addr::from(u32::from(address) & given.mask());
        if network != address {
            return Err(PrefixError::HostBits(Self { address: network, length }));
        }
        Ok(given)
    }
}

impl TryFrom<String> for Ipv4Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<Ipv4Prefix> for String {
    fn from(prefix: Ipv4Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ipv4Prefix, PrefixError};

    #[test]
    fn text_and_back_or_the_reason() {
        for good in ["10.66.0.0/24", "0.0.0.0/1", "192.168.1.4/30"] {
            assert_eq!(good.parse::<Ipv4Prefix>().unwrap().to_string(), good);
        }
        for form in ["10.66.0.0", "10.66.0/24", "10.66.0.0/x", "/24", "fd00::/64", ""] {
            assert_eq!(form.parse::<Ipv4Prefix>(), Err(PrefixError::Form), "{form}");
        }
        for length in ["0.0.0.0/0", "10.0.0.0/31", "10.0.0.0/32", "10.0.0.0/200"] {
            assert_eq!(length.parse::<Ipv4Prefix>(), Err(PrefixError::Length), "{length}");
        }
        let error = "10.66.0.9/24".parse::<Ipv4Prefix>().unwrap_err();
        assert!(error.to_string().contains("\"10.66.0.0/24\""), "{error}");
    }

    #[test]
    fn hosts() {
        let prefix: Ipv4Prefix = "10.66.0.0/30".parse().unwrap();
        for (address, host) in [
            ("10.66.0.0", false),
            ("10.66.0.1", true),
            ("10.66.0.2", true),
            ("10.66.0.3", false),
            ("10.66.0.5", false),
        ] {
            assert_eq!(prefix.is_host(address.parse().unwrap()), host, "{address}");
        }
    }
}
