//! The shipped profiles, and what is told about a wrong one.

use std::path::Path;

use crate::{Amount, Bytes, NodeProfile, PROFILES};

fn profile(text: &str) -> Result<NodeProfile, String> {
    NodeProfile::from_toml(text, Path::new("p.toml")).map_err(|error| error.to_string())
}

#[test]
fn shipped_profiles_are_valid_and_come_back() {
    for (name, text) in PROFILES {
        let read = profile(text).unwrap();
        assert_eq!(read.name, name);
        assert!(!read.description.is_empty());
        assert_eq!(profile(&toml::to_string(&read).unwrap()), Ok(read), "{name}");
    }
}

#[test]
fn the_sample_changes_nothing() {
    let sample = profile(include_str!("../samples/profile.toml")).unwrap();
    let least = profile("version = 1\nname = \"custom\"").unwrap();
    assert_eq!(NodeProfile { description: String::new(), ..sample }, least);
}

#[test]
fn least_profile_changes_nothing() {
    let read = profile("version = 1\nname = \"x\"").unwrap();
    assert!(read.hugepages.is_empty() && read.sysctls.is_empty());
    assert_eq!(read.cpus.reserved_cores + read.cpus.vrouter_cores, 0);
}

#[test]
fn amounts() {
    for (text, amount) in [
        ("50%", Amount::Percent(50)),
        ("4Gi", Amount::Bytes(Bytes(4 << 30))),
        ("512Mi", Amount::Bytes(Bytes(512 << 20))),
        ("8 pages", Amount::Pages(8)),
    ] {
        assert_eq!(text.parse(), Ok(amount));
        assert_eq!(amount.to_string(), text);
    }
    for bad in ["", "%", "101%", "-1%", "+4Gi", "4GB", "8pages", "half", "99999999999999Ti"] {
        assert!(bad.parse::<Amount>().is_err(), "{bad:?}");
    }
}

#[test]
fn a_wrong_value_names_line_key_value_and_remedy() {
    for (rest, told) in [
        ("name = \"X\"", "p.toml:2: bad value \"X\" for `name`: must be 1 to 63"),
        (
            "name = \"x\"\n[limits]\nhugepage_percent = 95",
            "p.toml:4: bad value 95 for `limits.hugepage_percent`",
        ),
        (
            "name = \"x\"\n[[nics]]\nrx_ring_max = \"max\"",
            "needs the least size beside it: set rx_ring",
        ),
        (
            "name = \"x\"\n[[nics]]\nrx_ring = 512\nrx_ring_max = 256",
            "bad value 256 for `nics[0].rx_ring_max`: must not be below rx_ring, 512",
        ),
        (
            "name = \"x\"\n[agent.workers]\nmode = \"by-load\"\nsleep_below_percent = 16",
            "for `agent.workers.sleep_below_percent`: must not be above a quarter of poll_above_percent, 60",
        ),
        (
            "name = \"x\"\n[handover.kubelet_managers]\ncpu = \"static\"",
            "for `handover.kubelet_managers`: needs the drop-in: set handover.kubelet",
        ),
        (
            "name = \"x\"\n[handover]\nkubelet = true\nkubelet_managers = {memory = \"static\"}",
            "needs reserved_memory, the sum of kubelet's",
        ),
        ("name = \"x\"\n[agent.rings]\nsettle_s = 0", "bad value 0 for `agent.rings.settle_s`"),
        ("name = \"x\"\n[[hugepages]]\nsize = \"3Mi\"\namount = \"1%\"", "for `hugepages[0].size`"),
        ("name = \"x\"\n[[hugepages]]\nsize = \"2Mi\"\namount = \"120%\"", "is none of"),
        (
            "name = \"x\"\n[[hugepages]]\nsize = \"2Mi\"\namount = \"1%\"\nnodes = \"a\"",
            "`hugepages[0].nodes`",
        ),
        (
            "name = \"x\"\n[memory]\ntransparent_hugepages = \"on\"",
            "must be one of always, madvise, never",
        ),
        ("name = \"x\"\n[power]\ngovernor = \"a/b\"", "for `power.governor`"),
        (
            "name = \"x\"\n[power]\nmin_frequency_percent = 90\nmax_frequency_percent = 50",
            "not be above",
        ),
        ("name = \"x\"\n[sysctls]\n\"kernel.core_pattern\" = \"|/bin/x\"", "is not for profiles"),
        ("name = \"x\"\n[sysctls]\n\"vm.nr_hugepages\" = 7", "use [[hugepages]]"),
        ("name = \"x\"\n[sysctls]\n\"net/../../x\" = 7", "is not for profiles"),
        ("name = \"x\"\n[sysctls]\n\"vm...\" = 7", "is not for profiles"),
        ("name = \"x\"\n[kernel]\nextra = [\"a b\"]", "for `kernel.extra[0]`"),
        ("name = \"x\"\n[kernel]\nextra = [\"a$(b)\"]", "for `kernel.extra[0]`"),
        ("name = \"x\"\n[[nics]]\nrx_ring = 0", "for `nics[0].rx_ring`"),
        ("name = \"x\"\n[[nics]]\nrx_ring = \"reserved\"", "only `queues` can follow CPUs"),
        (
            "name = \"x\"\n[agent.workers]\nshrink_below_percent = 80",
            "must be below grow_above_percent",
        ),
        ("name = \"x\"\n[handover]\nnri_file = \"x\"", "for `handover.nri_file`"),
        ("name = \"x\"\n[cpu]\n", "unknown key `cpu`"),
    ] {
        let error = profile(&format!("version = 1\n{rest}")).unwrap_err();
        assert!(error.contains(told), "{rest}: {error}");
    }
    let error = profile("version = 2\nname = \"x\"").unwrap_err();
    assert!(error.contains("`version`: must be 1 to 1"), "{error}");
}
