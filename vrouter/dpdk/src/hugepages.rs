//! How many hugepages the kernel has left: read before EAL is asked, because EAL's own complaint names
//! neither the shortage nor the remedy.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cpu::NumaNode;

/// Hugepages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PageSize {
    kib: u64,
    /// What `nr_hugepages` says.
    reserved: u64,
    /// What a new mapping can get.
    usable: u64,
    /// File to write a new `reserved` to.
    knob: PathBuf,
}

/// Hugepages of the machine, or of one NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    sizes: Vec<PageSize>,
}

/// There is less than was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) free_mib: u64,
    pub(crate) remedy: String,
}

impl Report {
    /// Reads the kernel's counters below `sysfs` (`/sys`). What cannot be read counts as zero.
    pub(crate) fn read(sysfs: &Path, node: Option<NumaNode>) -> Self {
        let dir = match node {
            None => sysfs.join("kernel/mm/hugepages"),
            Some(node) => sysfs.join(format!("devices/system/node/node{node}/hugepages")),
        };
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut sizes: Vec<_> = entries.filter_map(|entry| page_size(&entry.path())).collect();
        sizes.sort_by_key(|size| size.kib);
        Self { sizes }
    }

    /// What is missing for a mapping of `wanted_mib`, if anything is.
    pub(crate) fn shortage(&self, wanted_mib: u32) -> Option<Shortage> {
        let free_kib =
            self.sizes.iter().fold(0u64, |sum, size| sum.saturating_add(size.usable * size.kib));
        let missing_kib =
            (u64::from(wanted_mib) * 1024).checked_sub(free_kib).filter(|&k| k > 0)?;
        // The smallest size: the only one that can usually still be reserved after boot.
        let remedy = match self.sizes.first() {
            None => {
                "this kernel offers no hugepages (no such NUMA node, or CONFIG_HUGETLBFS is off)"
                    .to_owned()
            }
            Some(size) => format!(
                "reserve more: echo {} > {}",
                size.reserved + missing_kib.div_ceil(size.kib),
                size.knob.display()
            ),
        };
        Some(Shortage { free_mib: free_kib / 1024, remedy })
    }
}

fn page_size(dir: &Path) -> Option<PageSize> {
    let name = dir.file_name()?.to_str()?;
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let count = |file: &str| -> u64 {
        fs::read_to_string(dir.join(file))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    };
    // Free pages may be promised to others already; on top the kernel may allot up to `overcommit` pages
    // on demand. A node's directory has neither of these files.
    let promised = count("resv_hugepages");
    let on_demand = count("nr_overcommit_hugepages").saturating_sub(count("surplus_hugepages"));
    Some(PageSize {
        kib: Some(kib).filter(|&kib| kib > 0)?,
        reserved: count("nr_hugepages"),
        usable: count("free_hugepages").saturating_sub(promised).saturating_add(on_demand),
        knob: dir.join("nr_hugepages"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One page size: file name and value pairs below `<dir>/hugepages-<kib>kB`.
    type Tree<'a> = &'a [(&'a str, &'a [(&'a str, u64)])];

    fn tree(files: Tree<'_>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (dir, counters) in files {
            let dir = root.path().join(dir);
            fs::create_dir_all(&dir).unwrap();
            for (name, value) in *counters {
                fs::write(dir.join(name), format!("{value}\n")).unwrap();
            }
        }
        root
    }

    const MIB2: &str = "kernel/mm/hugepages/hugepages-2048kB";
    const GIB1: &str = "kernel/mm/hugepages/hugepages-1048576kB";

    #[test]
    fn shortage_counts_what_a_new_mapping_can_really_get() {
        // What there is, MiB wanted, and (MiB free, pages to reserve) when that is too little.
        type Case<'a> = (&'a str, Tree<'a>, u32, Option<(u64, u64)>);
        let cases: &[Case<'_>] = &[
            ("nothing reserved", &[(MIB2, &[("nr_hugepages", 0)])], 64, Some((0, 32))),
            (
                "exactly enough",
                &[(MIB2, &[("nr_hugepages", 32), ("free_hugepages", 32)])],
                64,
                None,
            ),
            (
                "all in use",
                &[(MIB2, &[("nr_hugepages", 32), ("free_hugepages", 0)])],
                64,
                Some((0, 64)),
            ),
            (
                "free but promised to others",
                &[(MIB2, &[("nr_hugepages", 32), ("free_hugepages", 32), ("resv_hugepages", 20)])],
                64,
                Some((24, 52)),
            ),
            (
                "the kernel may allot more on demand",
                &[(MIB2, &[("nr_overcommit_hugepages", 40), ("surplus_hugepages", 8)])],
                64,
                None,
            ),
            ("one big page serves", &[(MIB2, &[]), (GIB1, &[("free_hugepages", 1)])], 1024, None),
            ("an odd size is rounded up to pages", &[(MIB2, &[])], 3, Some((0, 2))),
        ];
        for (name, files, wanted, expected) in cases {
            let root = tree(files);
            let shortage = Report::read(root.path(), None).shortage(*wanted);
            let expected = expected.map(|(free_mib, reserve)| Shortage {
                free_mib,
                remedy: format!(
                    "reserve more: echo {reserve} > {}",
                    root.path().join(MIB2).join("nr_hugepages").display()
                ),
            });
            assert_eq!(shortage, expected, "{name}");
        }
    }

    #[test]
    fn a_node_has_only_its_own_pages() {
        let node = "devices/system/node/node1/hugepages/hugepages-2048kB";
        let root = tree(&[(MIB2, &[("free_hugepages", 64)]), (node, &[("free_hugepages", 4)])]);
        let on_node = Report::read(root.path(), Some(NumaNode(1))).shortage(64).unwrap();
        assert_eq!(on_node.free_mib, 8);
        assert!(on_node.remedy.contains("node1"), "{}", on_node.remedy);

        let absent = Report::read(root.path(), Some(NumaNode(7))).shortage(64).unwrap();
        assert!(absent.remedy.contains("no such NUMA node"), "{}", absent.remedy);
    }
}
