//! MAC addresses.

use core::fmt;
use core::str::FromStr;

/// An Ethernet MAC address, in the order of the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// All stations of the segment.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// No address.
    pub const ZERO: Self = Self([0; 6]);

    /// The address with these octets.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The octets in the order of the wire.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether the group bit is set; true for the broadcast address too.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether one station can own this address: neither a group nor all zero.
    pub const fn is_station(self) -> bool {
        !self.is_multicast() && u64_of(self) != 0
    }
}

const fn u64_of(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a MAC address. It does not hold the text: the caller has it and names the field too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseMacError;

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a MAC address: write six pairs of hex digits with colons, such as 02:00:00:00:00:01",
        )
    }
}

impl core::error::Error for ParseMacError {}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let mut octets = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair = pairs.next().ok_or(ParseMacError)?;
            // `from_str_radix` alone would take "+1".
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| ParseMacError)?;
        }
        match pairs.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(ParseMacError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn parses_and_prints() {
        for (text, octets) in [
            ("00:00:00:00:00:00", [0; 6]),
            ("ff:ff:ff:ff:ff:ff", [0xff; 6]),
            ("02:1a:0B:00:9f:e1", [0x02, 0x1a, 0x0b, 0x00, 0x9f, 0xe1]),
        ] {
            let mac: Mac = text.parse().unwrap();
            assert_eq!(mac.octets(), octets);
            assert_eq!(mac.to_string(), text.to_lowercase());
        }
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            ":",
            "02:00:00:00:00",
            "02:00:00:00:00:",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:00:",
            "2:00:00:00:00:00",
            "02:00:00:00:00:+1",
            "02:00:00:00:00:0g",
            "02-00-00-00-00-00",
            " 02:00:00:00:00:00",
            "02:00:00:00:00:é",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(ParseMacError), "{text:?}");
        }
    }

    #[test]
    fn every_address_survives_a_round_trip() {
        bolero::check!().with_type().for_each(|octets: &[u8; 6]| {
            let mac = Mac::new(*octets);
            assert_eq!(mac.to_string().parse(), Ok(mac));
        });
    }

    #[test]
    fn kinds() {
        for (mac, multicast, station) in [
            (Mac::BROADCAST, true, false),
            (Mac::ZERO, false, false),
            (Mac::new([0x01, 0, 0x5e, 0, 0, 1]), true, false),
            (Mac::new([0x02, 0, 0, 0, 0, 0]), false, true),
            (Mac::new([0, 0, 0, 0, 0, 1]), false, true),
        ] {
            assert_eq!(mac.is_multicast(), multicast, "{mac}");
            assert_eq!(mac.is_station(), station, "{mac}");
        }
    }
}
