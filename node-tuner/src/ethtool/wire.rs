//! Generic netlink messages, as bytes: requests made, answers taken apart. Layouts from netlink(7), `linux/genetlink.h`
//! and `linux/netlink.h`; numbers are in the byte order of the machine.

/// An answer that is not what it should be; it came from the kernel, so the layout was misunderstood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a netlink message is cut off or malformed")]
pub struct Malformed;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLA_F_NESTED: u16 = 1 << 15;
/// Nested and byte-order flags are above the type.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Length of `nlmsghdr`, of `genlmsghdr` and of `nlattr`.
const HEADER: usize = 16;
const GENERIC: usize = 4;
const ATTRIBUTE: usize = 4;

/// Attributes under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.raw(kind, &value.to_ne_bytes())
    }

    /// A text with its closing NUL.
    pub fn text(self, kind: u16, text: &str) -> Self {
        let bytes: Vec<u8> = text.bytes().chain([0]).collect();
        self.raw(kind, &bytes)
    }

    /// One that counts by being there.
    pub fn flag(self, kind: u16) -> Self {
        self.raw(kind, &[])
    }

    pub fn nested(self, kind: u16, inner: Self) -> Self {
        self.raw(kind | NLA_F_NESTED, &inner.0)
    }

    /// These, and then `more`.
    pub fn then(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }

    fn raw(mut self, kind: u16, value: &[u8]) -> Self {
        // Texts are interface and feature names: far below 64 KiB. What is longer would be refused by the kernel.
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// One request to `family`, answered by messages and, last, an acknowledgement.
pub fn request(family: u16, command: u8, sequence: u32, attributes: &Attributes) -> Vec<u8> {
    let length = HEADER + GENERIC + attributes.0.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend([command, 1, 0, 0]);
    message.extend(&attributes.0);
    message
}

/// One message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The attributes of a generic message.
    Data(&'a [u8]),
    /// The end: 0, or an error number.
    End(i32),
}

/// The messages of one datagram that answer `sequence`.
pub fn messages(datagram: &[u8], sequence: u32) -> Result<Vec<Message<'_>>, Malformed> {
    let (mut rest, mut messages) = (datagram, Vec::new());
    while !rest.is_empty() {
        let length = usize::try_from(u32_at(rest, 0)?).map_err(|_| Malformed)?;
        let message = rest.get(..length).filter(|_| length >= HEADER).ok_or(Malformed)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        if u32_at(message, 8)? != sequence {
            continue;
        }
        let payload = message.get(HEADER..).ok_or(Malformed)?;
        messages.push(match u16_at(message, 4)? {
            NLMSG_ERROR => Message::End(u32_at(payload, 0)?.cast_signed().wrapping_neg()),
            NLMSG_DONE => Message::End(0),
            _ => Message::Data(payload.get(GENERIC..).ok_or(Malformed)?),
        });
    }
    Ok(messages)
}

/// The attributes in `bytes`: type and value.
pub fn attributes(bytes: &[u8]) -> Result<Vec<(u16, &[u8])>, Malformed> {
    let (mut rest, mut attributes) = (bytes, Vec::new());
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(ATTRIBUTE..length).ok_or(Malformed)?;
        attributes.push((kind, value));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(attributes)
}

/// The first attribute of that type.
pub fn find(bytes: &[u8], wanted: u16) -> Result<Option<&[u8]>, Malformed> {
    let found = attributes(bytes)?.into_iter().find(|(kind, _)| *kind == wanted);
    Ok(found.map(|(_, value)| value))
}

/// A number.
pub fn number(value: &[u8]) -> Result<u32, Malformed> {
    u32_at(value, 0)
}

/// A 16-bit number.
pub fn short(value: &[u8]) -> Result<u16, Malformed> {
    u16_at(value, 0)
}

/// A text up to its NUL.
pub fn text(value: &[u8]) -> Result<&str, Malformed> {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).map_err(|_| Malformed)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let bytes = bytes.get(at..at + 4).ok_or(Malformed)?;
    Ok(u32::from_ne_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let bytes = bytes.get(at..at + 2).ok_or(Malformed)?;
    Ok(u16::from_ne_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_understood() {
        let inner = Attributes::new().text(2, "eth0").u32(3, 1);
        let made = Attributes::new().nested(1, inner).u32(6, 4096).flag(7);
        let message = request(21, 16, 9, &made);
        assert_eq!(message.len() % 4, 0);
        let parsed = messages(&message, 9).unwrap();
        let [Message::Data(bytes)] = parsed.as_slice() else { panic!("{parsed:?}") };
        let found = attributes(bytes).unwrap();
        assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 6, 7]);
        assert_eq!(text(find(found[0].1, 2).unwrap().unwrap()), Ok("eth0"));
        assert_eq!(number(found[1].1), Ok(4096));
        assert_eq!(find(bytes, 99), Ok(None));
        // Somebody else's answer.
        assert_eq!(messages(&message, 8), Ok(vec![]));
    }

    #[test]
    fn an_error_ends_an_answer() {
        let mut message = request(21, 16, 9, &Attributes::new());
        message[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        message[16..20].copy_from_slice(&(-95i32).to_ne_bytes());
        assert_eq!(messages(&message, 9), Ok(vec![Message::End(95)]));
    }

    #[test]
    fn cut_off_anywhere_is_malformed_or_shorter() {
        let made = Attributes::new().text(2, "eth0").u32(6, 4096);
        let message = request(21, 16, 9, &made);
        for length in 1..message.len() {
            assert_eq!(messages(&message[..length], 9), Err(Malformed), "{length}");
        }
        for length in 1..made.0.len() {
            let _ = attributes(&made.0[..length]);
        }
        assert_eq!(attributes(&[1, 0, 0, 0]), Err(Malformed));
        assert_eq!(messages(&[0; 16], 0), Err(Malformed));
    }
}
