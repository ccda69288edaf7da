//! What frames carry behind their header: bytes that can be compared as fast as memory is read.

/// Different beginnings there are; a prime, so that they do not fall in step with powers of two.
pub const SHIFTS: u8 = 251;

/// Fixed pseudo-random bytes. A payload is a part of them that starts at its *shift*: filling one is a copy and
/// checking one a comparison, and payloads of different shifts differ from each other almost everywhere.
#[derive(Debug)]
pub struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    /// For payloads of up to `longest` bytes.
    pub fn new(longest: usize) -> Self {
        // Marsaglia's xorshift64 with one of his shift triples; any seed but 0.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut word = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let len = longest + usize::from(SHIFTS);
        let mut bytes: Vec<u8> =
            std::iter::repeat_with(&mut word).take(len / 8 + 1).flatten().collect();
        bytes.truncate(len);
        Self { bytes }
    }

    /// The payload of `len` bytes with this shift; shorter if the pattern is.
    #[inline]
    fn part(&self, shift: u8, len: usize) -> &[u8] {
        let rest = self.bytes.get(usize::from(shift)..).unwrap_or_default();
        rest.get(..len).unwrap_or(rest)
    }

    /// Writes every byte of `payload`: its shift, then the pattern.
    #[inline]
    pub fn fill(&self, payload: &mut [u8], shift: u8) {
        let Some((first, rest)) = payload.split_first_mut() else { return };
        *first = shift;
        let part = self.part(shift, rest.len());
        if part.len() == rest.len() {
            rest.copy_from_slice(part);
        }
    }

    /// Reads every byte of `payload` and tells its shift; `None` if one is wrong.
    #[inline]
    pub fn check(&self, payload: &[u8]) -> Option<u8> {
        let (&shift, rest) = payload.split_first()?;
        (shift < SHIFTS && self.part(shift, rest.len()) == rest).then_some(shift)
    }
}

/// The shift of payload number `n`.
#[inline]
pub fn shift(n: u64) -> u8 {
    u8::try_from(n % u64::from(SHIFTS)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_payload_is_checked() {
        let pattern = Pattern::new(300);
        for len in [1, 2, 63, 64, 301] {
            for shift in [0, 1, SHIFTS - 1] {
                let mut payload = vec![0; len];
                pattern.fill(&mut payload, shift);
                assert_eq!(pattern.check(&payload), Some(shift), "{len} bytes, shift {shift}");
                for at in 0..len {
                    payload[at] ^= 0x10;
                    // A single byte is its own shift: no rest that could contradict it.
                    assert!(
                        len == 1 || pattern.check(&payload) != Some(shift),
                        "byte {at} of {len}"
                    );
                    assert!(len < 9 || pattern.check(&payload).is_none(), "byte {at} of {len}");
                    payload[at] ^= 0x10;
                }
            }
        }
        assert_eq!(pattern.check(&[]), None);
        assert_eq!(pattern.check(&[SHIFTS]), None);
    }

    #[test]
    fn shifts_differ_in_their_payloads() {
        let pattern = Pattern::new(64);
        let parts: std::collections::HashSet<_> =
            (0..SHIFTS).map(|shift| pattern.part(shift, 8).to_vec()).collect();
        assert_eq!(parts.len(), usize::from(SHIFTS));
        assert_eq!(shift(u64::from(SHIFTS) + 3), 3);
    }
}
