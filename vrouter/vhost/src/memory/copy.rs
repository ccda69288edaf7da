//! Copies of bytes, in moves of fixed size. What a frame costs most is here.

/// Bytes from which a copy with vectors of 32 bytes is worth a call.
const WIDE: usize = 64;

/// Copies up to 64 bytes with a few moves of fixed size, overlapping in the middle, where a call would cost more.
///
/// # Safety
/// `n` is at most 64; `n` bytes at `from` may be read and at `to` written; they do not overlap.
#[inline(always)]
pub(super) unsafe fn copy_line(from: *const u8, to: *mut u8, n: usize) {
    // SAFETY: every move lies inside the first `n` bytes, by the conditions around it.
    #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one contract for all of them")]
    unsafe {
        if n == 64 {
            std::ptr::copy_nonoverlapping(from, to, 64);
        } else if n >= 32 {
            std::ptr::copy_nonoverlapping(from, to, 32);
            std::ptr::copy_nonoverlapping(from.add(n - 32), to.add(n - 32), 32);
        } else if n >= 16 {
            std::ptr::copy_nonoverlapping(from, to, 16);
            std::ptr::copy_nonoverlapping(from.add(n - 16), to.add(n - 16), 16);
        } else if n >= 8 {
            std::ptr::copy_nonoverlapping(from, to, 8);
            std::ptr::copy_nonoverlapping(from.add(n - 8), to.add(n - 8), 8);
        } else {
            std::ptr::copy_nonoverlapping(from, to, n);
        }
    }
}

/// Copies bytes that may overlap, as memmove does.
///
/// # Safety
/// `n` bytes at `from` may be read and at `to` written.
#[inline(always)]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, n: usize) {
    #[cfg(target_arch = "x86_64")]
    if n >= WIDE && are_apart(from, to, n) && is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2, and the rest was just asked or is this function's contract.
        return unsafe { copy_wide(from, to, n) };
    }
    // SAFETY: by contract.
    unsafe { std::ptr::copy(from, to, n) }
}

/// Whether no byte of one is one of the other.
#[inline(always)]
fn are_apart(from: *const u8, to: *mut u8, n: usize) -> bool {
    to.addr().abs_diff(from.addr()) >= n
}

/// Reads and writes in the order of addresses, whatever their alignment: two halves of a line that are written one after the
/// other reach the cache as one. A copy of fixed size is written in the order that the compiler likes, and glibc's memmove
/// aligns what it writes and reads each line twice; either costs a fifth more where both ends are not aligned to each other, as
/// behind a tunnel's header (ADR 4).
///
/// # Safety
/// The CPU has AVX2; `n` is at least [`WIDE`]; `n` bytes at `from` may be read and at `to` written; they do not overlap.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn copy_wide(from: *const u8, to: *mut u8, n: usize) {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm256_storeu_si256};
    let mut at = 0;
    // SAFETY: every move lies inside the first `n` bytes, by the conditions around it; these ask for no alignment.
    #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one contract for all of them")]
    unsafe {
        let read = |at: usize| _mm256_loadu_si256(from.add(at).cast());
        let write = |at: usize, vector| _mm256_storeu_si256(to.add(at).cast(), vector);
        while at + 256 <= n {
            let (a, b, c, d) = (read(at), read(at + 32), read(at + 64), read(at + 96));
            let (e, f, g, h) = (read(at + 128), read(at + 160), read(at + 192), read(at + 224));
            write(at, a);
            write(at + 32, b);
            write(at + 64, c);
            write(at + 96, d);
            write(at + 128, e);
            write(at + 160, f);
            write(at + 192, g);
            write(at + 224, h);
            at += 256;
        }
        while at + 64 <= n {
            let (a, b) = (read(at), read(at + 32));
            write(at, a);
            write(at + 32, b);
            at += 64;
        }
        if at < n {
            let (a, b) = (read(n - 64), read(n - 32));
            write(n - 64, a);
            write(n - 32, b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both ways of copying make of the same bytes.
    fn copied(room: &[u8], from: usize, to: usize, n: usize) -> Vec<u8> {
        let mut room = room.to_vec();
        assert!(from.max(to) + n <= room.len());
        let (read, write) = (room.as_ptr().wrapping_add(from), room.as_mut_ptr().wrapping_add(to));
        // SAFETY: both lie inside `room`.
        unsafe { copy(read, write, n) };
        room
    }

    #[test]
    fn as_memmove_does_whatever_the_length_and_the_places() {
        let room: Vec<u8> = (0..2000_u32).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        for n in (0..=300).chain([448, 511, 512, 513, 700]) {
            for from in [0, 1, 50, 64] {
                // Apart, side by side, and over each other in either direction.
                for to in [1000, 1001, 1050, from + n, from + n / 2, from + 1, from] {
                    let mut expected = room.clone();
                    expected.copy_within(from..from + n, to);
                    assert!(copied(&room, from, to, n) == expected, "{n} {from} {to}");
                    let mut expected = room.clone();
                    expected.copy_within(to..to + n, from);
                    assert!(copied(&room, to, from, n) == expected, "{n} {to} {from}");
                }
            }
        }
    }

    #[test]
    fn a_line_and_less_is_copied_to_the_byte() {
        let from: Vec<u8> = (1..=64).collect();
        for n in 0..=64 {
            let mut to = [0; 66];
            // SAFETY: both have 64 bytes and more.
            unsafe { copy_line(from.as_ptr(), to.as_mut_ptr().wrapping_add(1), n) };
            assert!(to[1..=n] == from[..n] && to[0] == 0 && to[n + 1..] == [0; 66][n + 1..], "{n}");
        }
    }
}
