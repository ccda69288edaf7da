//! On which NUMA node a pod's memory lies.

use std::ptr;

/// Flags of get_mempolicy(2), which the `libc` crate lacks: tell the node, of an address (linux/mempolicy.h).
const MPOL_F_NODE: libc::c_ulong = 1;
const MPOL_F_ADDR: libc::c_ulong = 1 << 1;

/// The NUMA node of the page at `at`. `None`: nothing is mapped there, or the kernel does not tell (it has no NUMA, or
/// a sandbox forbids the question).
///
/// The kernel brings the page in if it is not there; it is not read here.
pub(crate) fn node_of(at: *const u8) -> Option<u32> {
    let mut node: libc::c_int = -1;
    // SAFETY: get_mempolicy(2) writes one int through the first pointer, a live local; with no node mask it writes
    // nothing else, and it takes any address, valid or not.
    let status = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut node,
            ptr::null_mut::<libc::c_ulong>(),
            0 as libc::c_ulong,
            at,
            MPOL_F_NODE | MPOL_F_ADDR,
        )
    };
    (status == 0).then(|| u32::try_from(node).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_lies_on_a_node_that_exists_and_nothing_lies_nowhere() {
        let nodes: Vec<u32> = std::fs::read_dir("/sys/devices/system/node")
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                entry.ok()?.file_name().to_str()?.strip_prefix("node")?.parse().ok()
            })
            .collect();
        let memory = vec![1u8; 4096];
        if let Some(node) = node_of(memory.as_ptr()) {
            assert!(nodes.contains(&node), "{node} is none of {nodes:?}");
        }
        // Page 0 is never mapped.
        assert_eq!(node_of(ptr::without_provenance(8)), None);
    }
}
