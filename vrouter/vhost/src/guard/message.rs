//! vhost-user messages as bytes (vhost-user specification, "Message Specification"). Pure.

/// Bytes of a message header.
pub(crate) const HEADER_BYTES: usize = 12;
/// Largest payload accepted; the largest real one is a memory table of 32 regions (1,032 bytes).
pub(crate) const MAX_PAYLOAD: usize = 4096;
/// Most descriptors in one message: a memory table of 32 regions.
pub(crate) const MAX_DESCRIPTORS: usize = 32;

const FLAG_VERSION_MASK: u32 = 0x3;
const FLAG_VERSION: u32 = 0x1;
const FLAG_REPLY: u32 = 0x4;
const FLAG_NEED_REPLY: u32 = 0x8;

/// Requests of a frontend that this backend can be asked. All others are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    GetFeatures,
    SetFeatures,
    SetOwner,
    ResetOwner,
    SetMemTable,
    SetVringNum,
    SetVringAddr,
    SetVringBase,
    GetVringBase,
    SetVringKick,
    SetVringCall,
    SetVringErr,
    GetProtocolFeatures,
    SetProtocolFeatures,
    GetQueueNum,
    SetVringEnable,
    ResetDevice,
    GetMaxMemSlots,
    AddMemRegion,
    RemMemRegion,
}

impl Request {
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::GetFeatures,
            2 => Self::SetFeatures,
            3 => Self::SetOwner,
            4 => Self::ResetOwner,
            5 => Self::SetMemTable,
            8 => Self::SetVringNum,
            9 => Self::SetVringAddr,
            10 => Self::SetVringBase,
            11 => Self::GetVringBase,
            12 => Self::SetVringKick,
            13 => Self::SetVringCall,
            14 => Self::SetVringErr,
            15 => Self::GetProtocolFeatures,
            16 => Self::SetProtocolFeatures,
            17 => Self::GetQueueNum,
            18 => Self::SetVringEnable,
            34 => Self::ResetDevice,
            36 => Self::GetMaxMemSlots,
            37 => Self::AddMemRegion,
            38 => Self::RemMemRegion,
            _ => return None,
        })
    }
}

/// A message header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub code: u32,
    pub flags: u32,
    pub size: u32,
}

impl Header {
    pub(crate) fn parse(raw: [u8; HEADER_BYTES]) -> Self {
        let [c0, c1, c2, c3, f0, f1, f2, f3, s0, s1, s2, s3] = raw;
        Self {
            code: u32::from_le_bytes([c0, c1, c2, c3]),
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
            size: u32::from_le_bytes([s0, s1, s2, s3]),
        }
    }

    pub(crate) fn bytes(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        for (at, field) in out.chunks_exact_mut(4).zip([self.code, self.flags, self.size]) {
            at.copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    /// Of a SET_VRING_ENABLE of our own, to which no reply is wanted.
    pub(crate) fn enable() -> Self {
        Self { code: 18, flags: FLAG_VERSION, size: 8 }
    }

    /// A request of protocol version 1, not a reply.
    pub(crate) fn is_request(self) -> bool {
        self.flags & FLAG_VERSION_MASK == FLAG_VERSION && self.flags & FLAG_REPLY == 0
    }

    pub(crate) fn needs_reply(self) -> bool {
        self.flags & FLAG_NEED_REPLY != 0
    }

    /// A whole reply to this request.
    pub(crate) fn reply(self, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap_or(0);
        let header = Self { code: self.code, flags: FLAG_VERSION | FLAG_REPLY, size };
        [&header.bytes()[..], payload].concat()
    }
}

/// Little-endian field `index` (counted in 32-bit words) of a payload.
pub(crate) fn word(payload: &[u8], index: usize) -> Option<u32> {
    let at = index.checked_mul(4)?;
    Some(u32::from_le_bytes(payload.get(at..at + 4)?.try_into().ok()?))
}

/// Little-endian 64-bit field at byte `at` of a payload.
pub(crate) fn long(payload: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(payload.get(at..at + 8)?.try_into().ok()?))
}

/// Bytes of one memory region description.
pub(crate) const REGION_BYTES: usize = 32;

/// A memory region description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub gpa: u64,
    pub size: u64,
    pub user: u64,
    pub offset: u64,
}

impl Region {
    /// Whether both are the same guest memory, wherever in a file it lies: REM_MEM_REG need not say that.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        (self.gpa, self.size, self.user) == (other.gpa, other.size, other.user)
    }

    pub(crate) fn parse(raw: &[u8]) -> Option<Self> {
        Some(Self {
            gpa: long(raw, 0)?,
            size: long(raw, 8)?,
            user: long(raw, 16)?,
            offset: long(raw, 24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        let header = Header { code: 5, flags: 9, size: 40 };
        assert_eq!(header.bytes(), [5, 0, 0, 0, 9, 0, 0, 0, 40, 0, 0, 0]);
        assert_eq!(Header::parse(header.bytes()), header);
        assert!(header.is_request() && header.needs_reply());
        let enable = Header::enable();
        assert_eq!(Request::from_code(enable.code), Some(Request::SetVringEnable));
        assert!(enable.is_request() && !enable.needs_reply());
        assert!(!Header { flags: 5, ..header }.is_request(), "a reply");
        assert!(!Header { flags: 2, ..header }.is_request(), "another version");
    }

    #[test]
    fn a_reply_repeats_the_request_code() {
        let header = Header { code: 11, flags: 1, size: 8 };
        let reply = header.reply(&[1, 2, 3, 4]);
        assert_eq!(reply, [11, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4]);
    }
}
