//! The Ethernet II header (IEEE 802.3 clause 3, without the preamble and the frame check sequence).

use crate::{Mac, Truncated};
use core::ops::{Deref, DerefMut};

/// Bytes of an untagged Ethernet header.
pub const HEADER_BYTES: usize = 14;

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
}

/// View of an Ethernet header; `B` is `&[u8; 14]` or `&mut [u8; 14]`.
#[derive(Debug)]
pub struct Header<B>(B);

impl<'a> Header<&'a [u8; HEADER_BYTES]> {
    /// The header at the start of `frame`, and what follows it.
    ///
    /// # Errors
    /// Fewer than 14 bytes.
    #[inline]
    pub fn split(frame: &'a [u8]) -> Result<(Self, &'a [u8]), Truncated> {
        let got = frame.len();
        let (header, rest) =
            frame.split_first_chunk().ok_or(Truncated { needed: HEADER_BYTES, got })?;
        Ok((Self(header), rest))
    }
}

impl<'a> Header<&'a mut [u8; HEADER_BYTES]> {
    /// The header at the start of `frame`, and what follows it.
    ///
    /// # Errors
    /// Fewer than 14 bytes.
    #[inline]
    pub fn split_mut(frame: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), Truncated> {
        let got = frame.len();
        let (header, rest) =
            frame.split_first_chunk_mut().ok_or(Truncated { needed: HEADER_BYTES, got })?;
        Ok((Self(header), rest))
    }
}

impl<B: Deref<Target = [u8; HEADER_BYTES]>> Header<B> {
    /// Who shall receive the frame.
    #[inline]
    pub fn destination(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = *self.0;
        Mac::new([a, b, c, d, e, f])
    }

    /// Who sent the frame.
    #[inline]
    pub fn source(&self) -> Mac {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.0;
        Mac::new([a, b, c, d, e, f])
    }

    /// What the frame carries.
    #[inline]
    pub fn ether_type(&self) -> EtherType {
        let [.., high, low] = *self.0;
        EtherType(u16::from_be_bytes([high, low]))
    }
}

impl<B: DerefMut<Target = [u8; HEADER_BYTES]>> Header<B> {
    /// Writes both addresses.
    #[inline]
    pub fn set_addresses(&mut self, destination: Mac, source: Mac) {
        self.0[..6].copy_from_slice(&destination.octets());
        self.0[6..12].copy_from_slice(&source.octets());
    }

    /// Writes what the frame carries.
    #[inline]
    pub fn set_ether_type(&mut self, ether_type: EtherType) {
        self.0[12..].copy_from_slice(&ether_type.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_etherparse_writes_and_the_other_way_round() {
        bolero::check!().with_type().for_each(|(to, from, kind): &([u8; 6], [u8; 6], u16)| {
            let bytes = etherparse::Ethernet2Header {
                destination: *to,
                source: *from,
                ether_type: etherparse::EtherType(*kind),
            }
            .to_bytes();
            let (header, rest) = Header::split(&bytes).unwrap();
            assert_eq!(header.destination().octets(), *to);
            assert_eq!(header.source().octets(), *from);
            assert_eq!(header.ether_type(), EtherType(*kind));
            assert!(rest.is_empty());

            let mut ours = [0; 15];
            let (mut header, rest) = Header::split_mut(&mut ours).unwrap();
            assert_eq!(rest.len(), 1);
            header.set_addresses(Mac::new(*to), Mac::new(*from));
            header.set_ether_type(EtherType(*kind));
            assert_eq!(ours[..14], bytes);
        });
    }

    #[test]
    fn refuses_a_short_frame() {
        let error = Truncated { needed: 14, got: 13 };
        assert_eq!(Header::split(&[0; 13]).unwrap_err(), error);
        assert_eq!(Header::split_mut(&mut [0; 13]).unwrap_err(), error);
    }
}
