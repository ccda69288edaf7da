use std::collections::BTreeMap;

use super::{Held, Patterns, Policy};
use crate::annotations::NumaPolicy;
use crate::hugepages::{HugepageLimit, PageSize};
use crate::plan::tests::request;

fn list(names: &[&str]) -> Patterns {
    Patterns::new(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn patterns_are_names_or_beginnings() {
    for (patterns, name, expected) in [
        (&[][..], "any", true),
        (&["a"], "a", true),
        (&["a"], "ab", false),
        (&["team-*"], "team-x", true),
        (&["team-*"], "team-", true),
        (&["team-*"], "team", false),
        (&["team-*"], "a-team-x", false),
        (&["a", "b*"], "bc", true),
        (&["*"], "any", true),
    ] {
        assert_eq!(list(patterns).allow(name), expected, "{patterns:?} {name}");
    }
}

/// A change of the policy, what is asked for and held, and what the refusal says; without words it is allowed.
type Case =
    (fn(&mut Policy), fn(&mut crate::annotations::Request), usize, Held, &'static [&'static str]);

#[test]
fn each_limit_refuses_with_one_line() {
    let held = Held::default();
    let nothing: fn(&mut Policy) = |_| {};
    let plain: fn(&mut crate::annotations::Request) = |_| {};
    let pages = |request: &mut crate::annotations::Request| {
        request.hugepages = vec![HugepageLimit { size: PageSize::MIB_2, limit: 512 << 20 }];
    };
    let cases: [Case; 19] = [
        (nothing, plain, 127, held, &[]),
        (|p| p.namespaces = list(&["other", "n*"]), plain, 0, held, &[]),
        (|p| p.namespaces = list(&["other"]), plain, 0, held, &["\"ns\"", "limits.namespaces"]),
        (|p| p.unlisted_networks = false, plain, 0, held, &["\"red\"", "networks.red.namespaces"]),
        (
            |p| {
                p.unlisted_networks = false;
                p.networks = BTreeMap::from([("red".to_owned(), list(&[]))]);
            },
            plain,
            0,
            held,
            &[],
        ),
        (
            |p| p.networks = BTreeMap::from([("red".to_owned(), list(&["other"]))]),
            plain,
            0,
            held,
            &["\"ns\"", "\"red\"", "networks.red.namespaces"],
        ),
        (
            |p| p.networks = BTreeMap::from([("blue".to_owned(), list(&["other"]))]),
            plain,
            0,
            held,
            &[],
        ),
        (|p| p.queues = 2, |r| r.interfaces[0].queues = 2, 0, held, &[]),
        (
            |p| p.queues = 2,
            |r| r.interfaces[0].queues = 3,
            0,
            held,
            &["interfaces.ringway.dev", "3 queues", "allows 2", "limits.queues"],
        ),
        (|p| p.interfaces = 2, plain, 0, Held { interfaces: 1, ..held }, &[]),
        (
            |p| p.interfaces = 2,
            plain,
            0,
            Held { interfaces: 2, ..held },
            &["network.ringway.dev", "3 interfaces", "allows 2", "limits.interfaces"],
        ),
        (|p| p.cpus = 4, plain, 2, Held { cpus: 2, ..held }, &[]),
        (
            |p| p.cpus = 4,
            plain,
            3,
            Held { cpus: 2, ..held },
            &["cpus.ringway.dev", "5 exclusive CPUs", "allows 4", "limits.cpus"],
        ),
        // Shared CPUs can always be had, even in a pod that was given more before the limit was lowered.
        (|p| p.cpus = 0, plain, 0, Held { cpus: 2, ..held }, &[]),
        (|p| p.hugepages = Some(512 << 20), pages, 0, held, &[]),
        (
            |p| p.hugepages = Some(512 << 20),
            pages,
            0,
            Held { hugepages: 1 << 30, ..held },
            &["hugepages-2mi.ringway.dev", "1536Mi", "allows 512Mi", "limits.hugepages"],
        ),
        (
            |p| p.ip = false,
            |r| r.interfaces[0].ip = Some([10, 0, 0, 1].into()),
            0,
            held,
            &["net0", "10.0.0.1", "limits.ip"],
        ),
        (
            |p| p.ip = false,
            |r| r.interfaces[0].ipv6 = "fd00::7".parse().ok(),
            0,
            held,
            &["fd00::7", "limits.ip"],
        ),
        (
            |p| p.mac = false,
            |r| r.interfaces[0].mac = "02:00:00:00:00:07".parse().ok(),
            0,
            held,
            &["net0", "02:00:00:00:00:07", "limits.mac"],
        ),
    ];
    for (index, (limit, ask, cpus, held, words)) in cases.into_iter().enumerate() {
        let (mut policy, mut request) = (Policy::default(), request(0, NumaPolicy::Preferred));
        limit(&mut policy);
        ask(&mut request);
        match policy.check("ns", &request, cpus, held) {
            Ok(()) => assert!(words.is_empty(), "case {index} was allowed"),
            Err(error) => {
                let error = error.to_string();
                assert!(!words.is_empty() && !error.contains('\n'), "case {index}: {error}");
                for word in words {
                    assert!(error.contains(word), "case {index}: {word:?} is not in {error:?}");
                }
            }
        }
    }
}
