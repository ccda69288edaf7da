//! Which flow a packet belongs to, as a number: for choosing one of several ways, the same for all its packets.

use crate::ipv4::Protocol;

/// Bytes of the start of a frame that are looked at.
pub const HEAD_BYTES: usize = 64;

/// A number that packets of a flow have in common, each bit of it as good as any other: from addresses, protocol, IPv6
/// flow label (RFC 6437) and, where they are at their usual place and the packet is whole, ports. Fragments go without
/// ports, so that those of one datagram stay together. Frames that are no IP go by their MAC addresses.
#[inline]
pub fn hash(head: &[u8; HEAD_BYTES]) -> u32 {
    let word = |at: usize| {
        let bytes = head.get(at..).and_then(|rest| rest.first_chunk()).copied();
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    let four = |at: usize| word(at) & 0xffff_ffff;
    let has_ports = |protocol: u8| protocol == Protocol::TCP.0 || protocol == Protocol::UDP.0;
    let (addresses, rest) = match (head[12], head[13], head[14]) {
        (0x08, 0x00, 0x45..=0x4f) => {
            let whole = head[14] == 0x45 && head[20] & 0x3f == 0 && head[21] == 0;
            let ports = if whole && has_ports(head[23]) { four(34) } else { 0 };
            (word(26), ports | u64::from(head[23]) << 32)
        }
        (0x86, 0xdd, 0x60..=0x6f) => {
            let label = u64::from(head[15] & 0x0f) << 16 | (word(16) & 0xffff);
            let ports = if has_ports(head[20]) { four(54) } else { 0 };
            // A fragment of a datagram differs from others of it in nothing that is here.
            let source = word(22) ^ word(30).rotate_left(17);
            let destination = word(38) ^ word(46).rotate_left(17);
            let next = u64::from(head[20]) << 32;
            (source ^ destination.wrapping_mul(FACTOR), ports ^ label << 40 ^ next)
        }
        _ => (word(0), four(8)),
    };
    let mixed = fold(addresses ^ FACTOR, rest ^ OTHER);
    let [.., a, b, c, d] = fold(mixed, OTHER).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const OTHER: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// The halves of a product, on top of each other: every bit of either factor decides about every bit.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let bytes = product.to_le_bytes();
    let [low, high] = *bytes.as_chunks().0 else { unreachable!("16 bytes") };
    u64::from_le_bytes(low) ^ u64::from_le_bytes(high)
}

#[cfg(test)]
mod tests;
