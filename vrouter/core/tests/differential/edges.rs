//! Lengths around the limits, which random ones seldom hit.

use super::*;

#[test]
fn segments_and_frames_around_the_mtu() {
    let policy = policy(true, false, 0);
    let tables = Tables::build(&policy).unwrap();
    let recipe = |kind, size, segment| Recipe {
        kind,
        from: 0,
        to: 2,
        ttl: 64,
        size,
        options: 0,
        fragment: None,
        changes: [(0, 0); 2],
        changed: 0,
        fix: true,
        padding: 0,
        segment,
    };
    // Of every `kind`: UDP and TCP over IPv4 and IPv6. A `size` of one more than a multiple of four is a length.
    let segments = (1200..=1260)
        .flat_map(|segment| [3, 7, 0, 5].map(|kind| recipe(kind, 8001, Some(segment))));
    // A multiple of four: 1,200 and the rest.
    let frames =
        (0..=100).step_by(4).flat_map(|more| [0, 3, 5, 7].map(|kind| recipe(kind, more, None)));
    let recipes: Vec<_> = segments.chain(frames).collect();
    recipes.chunks(61).for_each(|recipes| check(&policy, &tables, &[], recipes));
}
