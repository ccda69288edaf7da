//! The multiplexer: several byte streams over one socket.
//!
//! A frame is `connection id, u32 BE | payload length, u32 BE | payload`. There is no opening and no closing of a
//! connection; frames of an id that nobody knows are skipped. Payload boundaries mean nothing to a reader: the runtime
//! cuts one ttrpc message into frames where its buffers happen to end, so [`Demux`] hands out byte streams.

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 8;

/// Payload bytes of a frame we send.
///
/// The runtime reads ttrpc through a 4096 byte buffer and its multiplexer refuses to split a frame over two reads: a
/// longer frame ends the connection with "cannot allocate memory".
pub const MAX_PAYLOAD_OUT: usize = 4096;

/// Payload bytes of a frame we accept: the largest that any version sends (NRI 0.6; later ones stay near 4 MiB).
pub const MAX_PAYLOAD_IN: u32 = 1 << 24;

/// The two connections of NRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Id 1: the runtime calls the plugin.
    Plugin,
    /// Id 2: the plugin calls the runtime.
    Runtime,
}

/// The input is not a sequence of frames.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// No runtime sends such a frame: the stream is out of step or not NRI.
    #[error(
        "frame of {length} bytes on connection {connection}, more than the {MAX_PAYLOAD_IN} that NRI allows: \
         the peer does not speak NRI"
    )]
    FrameTooLong {
        /// The id in the frame's header.
        connection: u32,
        /// The payload length in the frame's header.
        length: u32,
    },
}

/// A run of bytes of one connection, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Whose bytes.
    pub connection: Connection,
    /// Never empty.
    pub bytes: &'a [u8],
}

/// Takes the socket's bytes as they come and gives them out by connection. Holds at most one header.
#[derive(Debug, Default)]
pub struct Demux {
    header: [u8; HEADER_LEN],
    header_have: usize,
    // Of the frame whose header was read last; `None` skips.
    connection: Option<Connection>,
    payload_left: usize,
}

// === impl Connection ===

impl Connection {
    /// The id on the wire.
    #[must_use]
    pub fn id(self) -> u32 {
        match self {
            Self::Plugin => 1,
            Self::Runtime => 2,
        }
    }

    fn from_id(id: u32) -> Option<Self> {
        match id {
            1 => Some(Self::Plugin),
            2 => Some(Self::Runtime),
            _ => None,
        }
    }
}

// === impl Demux ===

impl Demux {
    /// Takes bytes off the front of `input` and returns the next run of one connection, or `None` when `input` is
    /// used up.
    ///
    /// # Errors
    /// [`MuxError::FrameTooLong`]; nothing sensible can be read after that.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Chunk<'a>>, MuxError> {
        loop {
            if self.payload_left > 0 {
                let (bytes, rest) = input.split_at(self.payload_left.min(input.len()));
                if bytes.is_empty() {
                    return Ok(None);
                }
                *input = rest;
                self.payload_left -= bytes.len();
                match self.connection {
                    Some(connection) => return Ok(Some(Chunk { connection, bytes })),
                    None => continue,
                }
            }
            if !take_header(&mut self.header, &mut self.header_have, input) {
                return Ok(None);
            }
            self.header_have = 0;
            let [i0, i1, i2, i3, l0, l1, l2, l3] = self.header;
            let connection = u32::from_be_bytes([i0, i1, i2, i3]);
            let length = u32::from_be_bytes([l0, l1, l2, l3]);
            if length > MAX_PAYLOAD_IN {
                return Err(MuxError::FrameTooLong { connection, length });
            }
            self.connection = Connection::from_id(connection);
            if self.connection.is_none() {
                tracing::debug!(connection, length, "skipping a frame of an unknown connection");
            }
            self.payload_left = length as usize;
        }
    }

    /// Whether the input ended where a frame ends.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.header_have == 0 && self.payload_left == 0
    }
}

/// Appends `message` to `out`, cut into frames. One call per ttrpc message: a frame must not hold the end of one
/// message and the start of the next.
pub fn frame(connection: Connection, message: &[u8], out: &mut Vec<u8>) {
    out.reserve(message.len() + HEADER_LEN * message.len().div_ceil(MAX_PAYLOAD_OUT));
    for payload in message.chunks(MAX_PAYLOAD_OUT) {
        out.extend_from_slice(&connection.id().to_be_bytes());
        // A chunk is at most MAX_PAYLOAD_OUT, so the conversion cannot saturate.
        out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(payload);
    }
}

/// Moves bytes from `input` into `header` and says whether it is full.
pub(crate) fn take_header<const N: usize>(
    header: &mut [u8; N],
    have: &mut usize,
    input: &mut &[u8],
) -> bool {
    let (bytes, rest) = input.split_at((N - *have).min(input.len()));
    header[*have..*have + bytes.len()].copy_from_slice(bytes);
    *have += bytes.len();
    *input = rest;
    *have == N
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(id: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = id.to_be_bytes().to_vec();
        out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    /// Feeds `pieces` one after the other and joins what comes out per connection.
    fn demux<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Result<(), MuxError>, Vec<u8>, Vec<u8>, bool) {
        let mut demux = Demux::default();
        let (mut plugin, mut runtime) = (Vec::new(), Vec::new());
        for mut piece in pieces {
            loop {
                match demux.next(&mut piece) {
                    Ok(Some(chunk)) => match chunk.connection {
                        Connection::Plugin => plugin.extend_from_slice(chunk.bytes),
                        Connection::Runtime => runtime.extend_from_slice(chunk.bytes),
                    },
                    Ok(None) => break,
                    Err(error) => return (Err(error), plugin, runtime, demux.at_boundary()),
                }
            }
            assert!(piece.is_empty(), "bytes were left behind");
        }
        (Ok(()), plugin, runtime, demux.at_boundary())
    }

    #[test]
    fn connections_are_told_apart_and_unknown_ones_skipped() {
        let input = [
            raw(1, b"abc"),
            raw(7, b"nobody"),
            raw(2, b"xy"),
            raw(0, b""),
            raw(1, b""),
            raw(1, b"d"),
        ]
        .concat();
        assert_eq!(demux([&input[..]]), (Ok(()), b"abcd".to_vec(), b"xy".to_vec(), true));
        // Byte by byte, and cut in two at each place.
        assert_eq!(demux(input.chunks(1)), (Ok(()), b"abcd".to_vec(), b"xy".to_vec(), true));
        for cut in 0..input.len() {
            let (head, tail) = input.split_at(cut);
            assert_eq!(demux([head, tail]), (Ok(()), b"abcd".to_vec(), b"xy".to_vec(), true));
        }
    }

    #[test]
    fn an_end_inside_a_frame_is_seen() {
        let input = raw(1, b"abc");
        for cut in 1..input.len() {
            assert!(!demux([&input[..cut]]).3, "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_may_be_as_long_as_the_oldest_runtime_sends_but_no_longer() {
        let [a, b, c, d] = MAX_PAYLOAD_IN.to_be_bytes();
        assert_eq!(demux([&[0, 0, 0, 1, a, b, c, d][..]]).0, Ok(()));
        let [a, b, c, d] = (MAX_PAYLOAD_IN + 1).to_be_bytes();
        assert_eq!(
            demux([&[0, 0, 0, 9, a, b, c, d][..]]).0,
            Err(MuxError::FrameTooLong { connection: 9, length: MAX_PAYLOAD_IN + 1 })
        );
    }

    #[test]
    fn frames_are_cut_at_the_readers_buffer() {
        for (length, frames) in [(1, 1), (4096, 1), (4097, 2), (3 * 4096, 3), (10_000, 3)] {
            let message = vec![7_u8; length];
            let mut out = Vec::new();
            frame(Connection::Runtime, &message, &mut out);
            assert_eq!(out.len(), length + frames * HEADER_LEN, "{length}");
            assert_eq!(&out[..4], [0, 0, 0, 2]);
            assert_eq!(demux([&out[..]]), (Ok(()), Vec::new(), message, true), "{length}");
        }
    }

    #[test]
    fn property_any_bytes_in_any_pieces_give_the_same_streams() {
        bolero::check!().with_type::<(Vec<u8>, u8)>().for_each(|(input, step)| {
            let whole = demux([&input[..]]);
            assert_eq!(whole, demux(input.chunks(usize::from(*step).max(1))));
            assert!(whole.1.len() + whole.2.len() <= input.len());
        });
    }

    #[test]
    fn property_what_is_framed_comes_back() {
        bolero::check!().with_type::<Vec<(bool, Vec<u8>)>>().for_each(|messages| {
            let (mut wire, mut plugin, mut runtime) = (Vec::new(), Vec::new(), Vec::new());
            for (to_plugin, message) in messages {
                let (connection, expected) = if *to_plugin {
                    (Connection::Plugin, &mut plugin)
                } else {
                    (Connection::Runtime, &mut runtime)
                };
                frame(connection, message, &mut wire);
                expected.extend_from_slice(message);
            }
            assert_eq!(demux([&wire[..]]), (Ok(()), plugin, runtime, true));
        });
    }
}
