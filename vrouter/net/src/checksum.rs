//! The Internet checksum: RFC 1071 (computing) and RFC 1624 (updating).

/// One's complement sum of the 16-bit big-endian words of `bytes`, an odd last byte padded with zero.
/// Zero only when every byte is zero.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    // RFC 1071 section 2 (B): the sum may be taken in any byte order and swapped at the end, and (C) over
    // wider words and folded. 2^32 words would have to be summed before a u64 overflows.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total = 0u64;
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    total += u64::from(u32::from_ne_bytes(last));
    u16::from_be(fold(total))
}

/// The checksum of `bytes`, whose checksum field is zero.
#[inline]
pub fn compute(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// Whether `bytes`, with their checksum field as received, add up.
#[inline]
pub fn verify(bytes: &[u8]) -> bool {
    sum(bytes) == 0xffff
}

/// The checksum after one 16-bit word changed from `old` to `new` (RFC 1624, equation 3).
///
/// What was right stays right and what was wrong stays wrong, with one exception the caller must rule
/// out: when every summed byte is zero afterwards the right answer is 0xffff, and this gives 0. An IPv4
/// header is never all zero (version); see [`crate::icmpv4::echo_reply`] for the case that can be.
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[inline]
fn fold(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    (total & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// RFC 1071 section 4.1, word by word.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            total += u32::from(u16::from_be_bytes([pair[0], low]));
            if total > 0xffff {
                total = (total & 0xffff) + 1;
            }
        }
        u16::try_from(total).unwrap()
    }

    #[test]
    fn rfc_1071_example() {
        // Section 3: 0001 f203 f4f5 f6f7 sums to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2);
        assert_eq!(compute(&bytes), 0x220d);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: checksum dd2f, a word 5555 becomes 3285, the result is 0000 (not ffff as RFC 1141 gave).
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn agrees_with_the_slow_sum() {
        bolero::check!().with_type().for_each(|bytes: &Vec<u8>| {
            assert_eq!(sum(bytes), slow_sum(bytes));
        });
    }

    #[test]
    fn update_keeps_right_right_and_wrong_wrong() {
        bolero::check!().with_type().for_each(
            |(words, at, new, checksum): &([u8; 32], u8, u16, u16)| {
                let mut bytes = *words;
                bytes[31] |= 1; // never all zero
                let at = usize::from(*at % 14) * 2 + 2;
                bytes[..2].copy_from_slice(&checksum.to_be_bytes());
                if checksum & 1 == 0 {
                    bytes[..2].fill(0);
                    let right = compute(&bytes);
                    bytes[..2].copy_from_slice(&right.to_be_bytes());
                }
                let before = verify(&bytes);
                let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                let updated = update(u16::from_be_bytes([bytes[0], bytes[1]]), old, *new);
                bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
                bytes[..2].copy_from_slice(&updated.to_be_bytes());
                if bytes.iter().any(|byte| *byte != 0) {
                    assert_eq!(verify(&bytes), before);
                }
            },
        );
    }
}
