//! Ethernet frames of a capture file, as tcpdump writes it (the format of libpcap 2.4, in either byte order).

/// Link type of Ethernet frames.
const ETHERNET: u32 = 1;
const HEADER_BYTES: usize = 24;

/// A frame: what was captured of it.
pub(crate) type Frame = Vec<u8>;

/// The first frames of a file. What is cut off at its end is left out, as a capture may be under way.
pub(crate) fn frames(file: &[u8], most: usize) -> Result<Vec<Frame>, String> {
    const CONVERT: &str = "write it with tcpdump, or convert it: editcap -F pcap IN OUT";
    let Some(magic) = file.first_chunk::<4>() else {
        return Err(format!("is no capture file: it has {} bytes; {CONVERT}", file.len()));
    };
    let word: fn([u8; 4]) -> u32 = match *magic {
        // Microseconds and nanoseconds.
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => u32::from_le_bytes,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => u32::from_be_bytes,
        [0x0a, 0x0d, 0x0d, 0x0a] => return Err(format!("is of the pcapng format; {CONVERT}")),
        _ => return Err(format!("is no capture file; {CONVERT}")),
    };
    let number = |at: usize| Some(word(*file.get(at..)?.first_chunk()?));
    // The upper bits say how long the frame check sequence is.
    let link = number(20).ok_or("ends within its header")? & 0xffff;
    if link != ETHERNET {
        return Err(format!(
            "has packets of link type {link}, not Ethernet frames (1); capture on one Ethernet interface, not on `any`"
        ));
    }
    let mut frames = Vec::new();
    let mut at = HEADER_BYTES;
    while frames.len() < most {
        let Some(bytes) = number(at + 8).and_then(|bytes| usize::try_from(bytes).ok()) else {
            break;
        };
        let start = at + 16;
        let Some(frame) = start.checked_add(bytes).and_then(|end| file.get(start..end)) else {
            break;
        };
        frames.push(frame.to_vec());
        at = start + bytes;
    }
    if frames.is_empty() {
        return Err("has no whole frame in it".to_owned());
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::frames;

    fn file(big: bool, link: u32, frames: &[&[u8]]) -> Vec<u8> {
        let word = |number: u32| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let mut file =
            [word(0xa1b2_c3d4), word(4 << 16 | 2), word(0), word(0), word(65_535), word(link)]
                .concat();
        for frame in frames {
            let bytes = word(u32::try_from(frame.len()).unwrap());
            file.extend([word(1), word(2), bytes, bytes].concat());
            file.extend(*frame);
        }
        file
    }

    #[test]
    fn frames_of_either_byte_order() {
        for big in [true, false] {
            let whole = file(big, 1, &[&[1; 60], &[2; 14], &[3; 61]]);
            let found = frames(&whole, 9).unwrap();
            assert_eq!(found, [vec![1; 60], vec![2; 14], vec![3; 61]]);
            assert_eq!(frames(&whole, 2).unwrap().len(), 2);
            // A capture that is under way.
            assert_eq!(frames(&whole[..whole.len() - 1], 9).unwrap().len(), 2);
        }
    }

    #[test]
    fn what_is_no_capture_of_frames_is_told() {
        for (file, part) in [
            (vec![], "no capture file: it has 0 bytes"),
            (b"GIF89a".to_vec(), "no capture file; write it with tcpdump"),
            (vec![0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 0], "editcap -F pcap"),
            (file(true, 113, &[&[1; 60]]), "link type 113"),
            (file(true, 1, &[]), "no whole frame"),
            (file(false, 1, &[])[..20].to_vec(), "within its header"),
            // Lengths that lead nowhere.
            ([file(false, 1, &[]), vec![0xff; 16]].concat(), "no whole frame"),
        ] {
            let error = frames(&file, 9).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn any_bytes_are_safe() {
        let whole = file(true, 1, &[&[1; 20], &[2; 20]]);
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                let _ = frames(&damaged, 100);
                let _ = frames(&whole[..at], 100);
            }
        }
    }
}
