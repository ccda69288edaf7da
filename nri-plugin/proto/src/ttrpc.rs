//! ttrpc's message framing and envelopes.
//!
//! A message is a 10-byte header (`length u32 BE | stream id u32 BE | type u8 | flags u8`) and a payload of at most
//! 4 MiB. Stream ids of a client are odd and grow. Streaming (type 3) is not used by NRI.
//!
//! Written here and not taken from the `ttrpc` crate: the multiplexer has to know where a message starts and ends to
//! frame it ([`crate::mux::frame`]), which that crate hides, and it would add a second version of prost and nix.

use prost::Message as _;

use crate::envelope;
use crate::mux::take_header;
use crate::status::{Code, Status};

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 10;

/// Payload bytes of a message, either way.
pub const MAX_PAYLOAD: u32 = 4 << 20;

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Payload bytes.
    pub length: u32,
    /// Ties a response to its request.
    pub stream: u32,
    /// [`Header::REQUEST`], [`Header::RESPONSE`] or something a later version may add.
    pub kind: u8,
    /// Of streaming calls; 0 for the calls of NRI.
    pub flags: u8,
}

/// What the stream of a connection holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A whole message.
    Message(Header, Vec<u8>),
    /// A message above [`MAX_PAYLOAD`]; its payload is skipped. The connection stays usable.
    TooLong(Header),
}

/// Joins the bytes of one connection into messages. Holds at most one message, and no more than was received of it.
#[derive(Debug, Default)]
pub struct Assembler {
    raw_header: [u8; HEADER_LEN],
    header_have: usize,
    header: Option<Header>,
    payload: Vec<u8>,
    skip: usize,
}

/// A request of the peer.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Full name of the service.
    pub service: String,
    /// Name of the method.
    pub method: String,
    /// The encoded message of the method.
    pub payload: Vec<u8>,
    /// What is left of the caller's deadline, in nanoseconds; 0 when it has none.
    pub timeout_nano: u64,
}

// === impl Header ===

impl Header {
    /// A call.
    pub const REQUEST: u8 = 1;
    /// Its answer.
    pub const RESPONSE: u8 = 2;

    /// Reads a header. Every value is possible; [`Assembler`] checks the length.
    #[must_use]
    pub fn parse(raw: &[u8; HEADER_LEN]) -> Self {
        let &[l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = raw;
        Self {
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            kind,
            flags,
        }
    }

    /// The header as it is sent.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, l3, s0, s1, s2, s3, self.kind, self.flags]
    }
}

// === impl Assembler ===

impl Assembler {
    /// Takes bytes off the front of `input` and returns the next message, or `None` when `input` is used up.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Incoming> {
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(input.len());
                self.skip -= skipped;
                *input = &input[skipped..];
                if self.skip > 0 {
                    return None;
                }
            }
            let Some(header) = self.header else {
                if !take_header(&mut self.raw_header, &mut self.header_have, input) {
                    return None;
                }
                self.header_have = 0;
                let header = Header::parse(&self.raw_header);
                if header.length > MAX_PAYLOAD {
                    self.skip = header.length as usize;
                    return Some(Incoming::TooLong(header));
                }
                self.header = Some(header);
                continue;
            };
            let missing = header.length as usize - self.payload.len();
            let (bytes, rest) = input.split_at(missing.min(input.len()));
            self.payload.extend_from_slice(bytes);
            *input = rest;
            if bytes.len() < missing {
                return None;
            }
            self.header = None;
            return Some(Incoming::Message(header, std::mem::take(&mut self.payload)));
        }
    }
}

/// Reads a request's envelope. Metadata (tracing context) is ignored.
///
/// # Errors
/// [`Code::INVALID_ARGUMENT`] when it is not one.
pub fn decode_request(payload: &[u8]) -> Result<Request, Status> {
    let request = envelope::Request::decode(payload).map_err(|error| {
        Status::new(Code::INVALID_ARGUMENT, format!("not a ttrpc request: {error}"))
    })?;
    Ok(Request {
        service: request.service,
        method: request.method,
        payload: request.payload,
        timeout_nano: u64::try_from(request.timeout_nano).unwrap_or(0),
    })
}

/// A whole request message.
///
/// # Errors
/// [`Code::RESOURCE_EXHAUSTED`] when it is above [`MAX_PAYLOAD`].
pub fn encode_request(
    stream: u32,
    service: &str,
    method: &str,
    payload: Vec<u8>,
) -> Result<Vec<u8>, Status> {
    let request = envelope::Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        timeout_nano: 0,
        metadata: Vec::new(),
    };
    encode(stream, Header::REQUEST, &request.encode_to_vec())
}

/// Reads a response's envelope: the encoded message of the method, or the peer's error.
///
/// # Errors
/// The peer's status, or [`Code::INVALID_ARGUMENT`] when it is not a response.
pub fn decode_response(payload: &[u8]) -> Result<Vec<u8>, Status> {
    let response = envelope::Response::decode(payload).map_err(|error| {
        Status::new(Code::INVALID_ARGUMENT, format!("not a ttrpc response: {error}"))
    })?;
    match response.status {
        Some(status) if Code(status.code) != Code::OK => {
            Err(Status::new(Code(status.code), status.message))
        }
        _ => Ok(response.payload),
    }
}

/// A whole response message. An answer above [`MAX_PAYLOAD`] becomes an error that says so.
#[must_use]
pub fn encode_response(stream: u32, answer: Result<Vec<u8>, Status>) -> Vec<u8> {
    let response = |status: Option<&Status>, payload| envelope::Response {
        status: status.map(|status| envelope::Status {
            code: status.code.0,
            message: status.message.clone(),
        }),
        payload,
    };
    let message = match answer {
        Ok(payload) => response(None, payload),
        Err(status) => response(Some(&status), Vec::new()),
    };
    encode(stream, Header::RESPONSE, &message.encode_to_vec()).unwrap_or_else(|too_long| {
        let bytes = response(Some(&too_long), Vec::new()).encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        [&Header { length, stream, kind: Header::RESPONSE, flags: 0 }.encode()[..], &bytes].concat()
    })
}

fn encode(stream: u32, kind: u8, payload: &[u8]) -> Result<Vec<u8>, Status> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if length > MAX_PAYLOAD {
        let text = format!("message of {length} bytes is above the limit of {MAX_PAYLOAD}");
        return Err(Status::new(Code::RESOURCE_EXHAUSTED, text));
    }
    Ok([&Header { length, stream, kind, flags: 0 }.encode()[..], payload].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
        encode(stream, kind, payload).unwrap()
    }

    fn assemble<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Incoming> {
        let mut assembler = Assembler::default();
        let mut all = Vec::new();
        for mut piece in pieces {
            while let Some(incoming) = assembler.next(&mut piece) {
                all.push(incoming);
            }
            assert!(piece.is_empty(), "bytes were left behind");
        }
        all
    }

    #[test]
    fn messages_are_found_whatever_the_cut() {
        let wire = [message(1, 1, b"one"), message(3, 2, b""), message(5, 3, b"three")].concat();
        let header = |length, stream, kind| Header { length, stream, kind, flags: 0 };
        let expected = || {
            vec![
                Incoming::Message(header(3, 1, 1), b"one".to_vec()),
                Incoming::Message(header(0, 3, 2), Vec::new()),
                Incoming::Message(header(5, 5, 3), b"three".to_vec()),
            ]
        };
        assert_eq!(assemble([&wire[..]]), expected());
        for step in 1..wire.len() {
            assert_eq!(assemble(wire.chunks(step)), expected(), "pieces of {step}");
        }
    }

    #[test]
    fn a_message_above_the_limit_is_reported_and_skipped() {
        let long = Header { length: MAX_PAYLOAD + 1, stream: 7, kind: 1, flags: 0 };
        let payload = vec![0_u8; MAX_PAYLOAD as usize + 1];
        let wire = [&long.encode()[..], &payload, &message(9, 1, b"next")].concat();
        for step in [wire.len(), 4096, 65_521] {
            let all = assemble(wire.chunks(step));
            assert_eq!(all.len(), 2, "pieces of {step}");
            assert_eq!(all[0], Incoming::TooLong(long));
            assert!(matches!(&all[1], Incoming::Message(h, p) if h.stream == 9 && p == b"next"));
        }
    }

    #[test]
    fn an_answer_above_the_limit_becomes_an_error() {
        let wire = encode_response(5, Ok(vec![1; MAX_PAYLOAD as usize]));
        let all = assemble([&wire[..]]);
        let [Incoming::Message(header, payload)] = &all[..] else { panic!("{all:?}") };
        assert_eq!((header.stream, header.kind), (5, Header::RESPONSE));
        assert_eq!(decode_response(payload).unwrap_err().code, Code::RESOURCE_EXHAUSTED);
    }

    #[test]
    fn envelopes_are_those_of_the_wire() {
        // By hand: field 1 "s", field 2 "m", field 3 "p", field 4 = 5, field 5 {1:"k", 2:"v"}.
        let bytes = b"\x0a\x01s\x12\x01m\x1a\x01p\x20\x05\x2a\x06\x0a\x01k\x12\x01v";
        let request = decode_request(bytes).unwrap();
        assert_eq!((request.service.as_str(), request.method.as_str()), ("s", "m"));
        assert_eq!((request.payload.as_slice(), request.timeout_nano), (&b"p"[..], 5));
        assert_eq!(decode_request(b"\xff").unwrap_err().code, Code::INVALID_ARGUMENT);

        // Field 1 {1: 12, 2: "no"}.
        let refused = decode_response(b"\x0a\x06\x08\x0c\x12\x02no").unwrap_err();
        assert_eq!(refused, Status::new(Code::UNIMPLEMENTED, "no"));
        // A status of code 0 is a success.
        assert_eq!(decode_response(b"\x0a\x00\x12\x01x").unwrap(), b"x");
        assert_eq!(
            encode_response(2, Err(Status::new(Code::UNIMPLEMENTED, "no"))),
            b"\x00\x00\x00\x08\x00\x00\x00\x02\x02\x00\x0a\x06\x08\x0c\x12\x02no"
        );
        assert_eq!(
            encode_request(1, "s", "m", b"p".to_vec()).unwrap(),
            b"\x00\x00\x00\x09\x00\x00\x00\x01\x01\x00\x0a\x01s\x12\x01m\x1a\x01p"
        );
    }

    #[test]
    fn property_headers_round_trip() {
        bolero::check!().with_type::<[u8; HEADER_LEN]>().for_each(|raw| {
            assert_eq!(Header::parse(raw).encode(), *raw);
        });
    }

    #[test]
    fn property_any_bytes_in_any_pieces_give_the_same_messages() {
        bolero::check!().with_type::<(Vec<u8>, u8)>().for_each(|(input, step)| {
            let step = usize::from(*step).max(1);
            assert_eq!(assemble([&input[..]]), assemble(input.chunks(step)));
            for incoming in assemble([&input[..]]) {
                if let Incoming::Message(_, payload) = incoming {
                    // Must not panic.
                    let _ = (decode_request(&payload).is_ok(), decode_response(&payload).is_ok());
                }
            }
        });
    }
}
