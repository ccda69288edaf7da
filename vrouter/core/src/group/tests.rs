use super::*;
use crate::{PortHop, PortIndex};
use vrouter_net::Mac;

fn way(number: u16, weight: u32) -> Way {
    let mac = Mac::new([2, 0, 0, 0, 0, 1]);
    let hop = NextHop::Port(PortHop::new(PortIndex(number), mac, mac, 1500));
    Way { who: identity(&number), weight, hop }
}

fn group(ways: impl IntoIterator<Item = Way>) -> Arc<Group> {
    match Group::next_hop(ways.into_iter().collect(), &NextHop::Unreachable) {
        NextHop::Multipath(group) => group,
        other => panic!("{other:?}"),
    }
}

/// Who has a bucket.
fn owner(group: &Group, bucket: usize) -> &NextHop {
    group.choose(u32::try_from(bucket << 22 | 0x3f_0f0f).unwrap())
}

#[test]
fn none_one_and_several() {
    assert_eq!(Group::next_hop(Vec::new(), &NextHop::Unreachable), NextHop::Unreachable);
    assert_eq!(Group::next_hop([way(1, 5)].into(), &NextHop::Unreachable), way(1, 1).hop);
    // The same one twice is one that counts twice.
    assert_eq!(Group::next_hop([way(1, 1), way(1, 1)].into(), &NextHop::NoRoute), way(1, 1).hop);
    let twice = group([way(1, 1), way(2, 1), way(1, 2)]);
    assert_eq!(twice, group([way(2, 1), way(1, 3)]));
    // What has not changed is kept.
    let old = NextHop::Multipath(twice.clone());
    match Group::next_hop([way(1, 3), way(2, 1)].into(), &old) {
        NextHop::Multipath(same) => assert!(Arc::ptr_eq(&same, &twice)),
        other => panic!("{other:?}"),
    }
    let many = (0..300).map(|number| way(number, 1));
    assert_eq!(group(many).ways().len(), MOST);
}

/// Shares are as the weights say, within four standard deviations of chance.
#[test]
fn shares_follow_weights() {
    for weights in
        [&[1, 1][..], &[1, 3], &[1; 16], &[7, 7, 1], &[u32::MAX, u32::MAX], &[1 << 15; 64]]
    {
        let group = group((0..).zip(weights).map(|(number, weight)| way(number, *weight)));
        let all: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        assert_eq!(group.shares().map(|(_, buckets)| buckets).sum::<usize>(), BUCKETS);
        for (number, weight) in (0..).zip(weights) {
            let part = f64::from(*weight) / all;
            let expected = part * BUCKETS as f64;
            let deviation = (expected * (1.0 - part)).sqrt();
            let hop = way(number, 1).hop;
            let got = group.shares().find(|(other, _)| **other == hop).unwrap().1 as f64;
            assert!((got - expected).abs() <= 4.0 * deviation, "{weights:?}: {got} {expected}");
        }
    }
}

#[test]
fn only_the_flows_of_a_path_that_goes_or_comes_move() {
    bolero::check!().with_type().with_iterations(50).for_each(
        |(weights, gone): &([u8; 16], u8)| {
            let ways = || (0..).zip(weights).map(|(number, w)| way(number, u32::from(*w) + 1));
            let gone = u16::from(gone % 16);
            let all = group(ways());
            let left = group(ways().filter(|way| way.who != identity(&gone)));
            let lost = way(gone, 1).hop;
            for bucket in 0..BUCKETS {
                let (before, after) = (owner(&all, bucket), owner(&left, bucket));
                assert_ne!(*after, lost);
                assert!(before == after || *before == lost, "bucket {bucket}");
            }
            assert_eq!(group(ways()), all);
        },
    );
}

/// What a path leaves is spread over all that are left.
#[test]
fn a_path_that_goes_is_taken_over_by_all() {
    let all = group((0..16).map(|number| way(number, 1)));
    let left = group((1..16).map(|number| way(number, 1)));
    let lost = way(0, 1).hop;
    let mut heirs = Vec::new();
    for bucket in (0..BUCKETS).filter(|bucket| *owner(&all, *bucket) == lost) {
        let heir = owner(&left, bucket).clone();
        if !heirs.contains(&heir) {
            heirs.push(heir);
        }
    }
    assert!(heirs.len() >= 12, "{}", heirs.len());
}

#[test]
fn bids_are_logarithms() {
    for bucket in 0..1_000_u64 {
        let (who, unit) = (identity(&bucket), f64::from(1 << 16));
        let random = mix(who ^ mix(bucket.wrapping_add(0x9e37_79b9_7f4a_7c15))) | 1;
        let exact = (64.0 - (random as f64).log2()) * unit;
        let got = bid(bucket, who) as f64;
        assert!((got - exact).abs() <= 2.0, "{got} {exact}");
    }
}
