//! Messages that are cut, or are nothing at all.

use crate::fib::wire::{self, Message};

/// Every kind of message with any bytes: an event, nothing or an error, but no panic, and an end.
#[test]
fn any_bytes() {
    bolero::check!().with_type::<(u16, u16, Vec<u8>)>().for_each(|(kind, flags, bytes)| {
        for kind in [kind % 36, 104 + kind % 2] {
            for dumped in [false, true] {
                let message = Message { kind, flags: *flags, sequence: 0, port: 0, body: bytes };
                let _ = wire::event(&message, dumped);
                let _ = message.error();
            }
        }
        let mut rest = &bytes[..];
        let mut messages = 0;
        while wire::next_message(&mut rest).is_some() {
            messages += 1;
            assert!(messages <= bytes.len() / 16 + 1, "a message takes at least its header");
        }
    });
}
