//! Names of what is away. Pure.

/// Longest name of an interface: `IFNAMSIZ` less the zero at the end.
const NAME_MAX: usize = 15;
/// What an altname of an interface that is away begins with, before the name that its TAP carries on.
const MARK: &str = "ringway-uplink-";

/// The name an interface is given while a TAP carries its own one on: `rw-eth1`, or `rw2-eth1` where that is taken.
/// Of a long name the end is kept, which tells ports of one card apart.
#[must_use]
pub fn away(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let candidate = |prefix: &str| {
        let mut cut = name.len().saturating_sub(NAME_MAX - prefix.len());
        while !name.is_char_boundary(cut) {
            cut += 1;
        }
        format!("{prefix}{}", &name[cut..])
    };
    let first = std::iter::once(candidate("rw-"));
    let mut more = first.chain((2..=99).map(|number| candidate(&format!("rw{number}-"))));
    // A hundred interfaces whose names end alike do not fit one machine's name space; the kernel says so then.
    more.find(|name| !is_taken(name)).unwrap_or_else(|| candidate("rw-"))
}

/// The altname by which an interface that is away is found: `ringway-uplink-eth1`.
#[must_use]
pub fn mark(name: &str) -> String {
    format!("{MARK}{name}")
}

/// The name that an interface had, if the altname is such a mark.
#[must_use]
pub fn marked(alt_name: &str) -> Option<&str> {
    alt_name.strip_prefix(MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_away_name_fits_and_is_free() {
        for (name, taken, away_name) in [
            ("eth1", &[][..], "rw-eth1"),
            ("eth1", &["rw-eth1"], "rw2-eth1"),
            ("enp129s0f0np0", &[], "rw-np129s0f0np0"),
            ("enp129s0f0np1", &["rw-np129s0f0np0"], "rw-np129s0f0np1"),
            ("aaaaaaaaaaaéaaa", &["rw-aaaaaaaéaaa"], "rw-aaaaaaaéaaa"),
        ] {
            let found = away(name, |name| taken.contains(&name) && name.is_ascii());
            assert_eq!(found, away_name);
            assert!(found.len() <= NAME_MAX);
        }
        assert!(away("aaaaaaaaaaéaaaa", |_| false).len() <= NAME_MAX);
    }

    #[test]
    fn a_mark_says_whose_it_is() {
        assert_eq!(marked(&mark("eth1")), Some("eth1"));
        assert_eq!(marked("eth1"), None);
    }
}
