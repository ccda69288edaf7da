//! Pools of equally sized packet buffers.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use vrouter_dpdk_sys as sys;

use crate::eal::{Eal, Running, last_errno};
use crate::mbuf::{AllocError, Mbuf, MbufBatch};

/// Shape of a [`Pool`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Unique in the process, up to 25 bytes (DPDK prefixes it within its 32).
    pub name: String,
    /// Buffers. One less than a power of two wastes no memory.
    pub mbufs: u32,
    /// Buffers each registered thread keeps to itself, at most 512 and two thirds of `mbufs`. Up to one and
    /// a half times as many may rest with a thread, out of reach of the others: size `mbufs` for that.
    pub cache: u32,
    /// Bytes of packet a buffer holds; DPDK's headroom comes on top.
    pub data_room: u16,
}

/// Why a pool was not made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The name cannot be used.
    #[error("packet pool name {name:?}: use 1 to 25 bytes without NUL")]
    Name {
        /// The name.
        name: String,
    },
    /// Packet and headroom together exceed 65535 bytes.
    #[error("packet pool {name:?}: data room of {data_room} bytes: use at most {max}")]
    DataRoom {
        /// The pool.
        name: String,
        /// What was asked.
        data_room: u16,
        /// What is possible.
        max: u16,
    },
    /// A pool of that name exists.
    #[error("packet pool {name:?} exists already")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is no memory for it.
    #[error(
        "packet pool {name:?}: no memory for {mbufs} buffers of {data_room} bytes: give DPDK more memory or \
         make the pool smaller"
    )]
    NoMemory {
        /// The pool.
        name: String,
        /// Buffers asked.
        mbufs: u32,
        /// Bytes each.
        data_room: u16,
    },
    /// Another refusal, `EINVAL` above all: a cache over 512 or over two thirds of the buffers.
    #[error("packet pool {name:?} of {mbufs} buffers, {cache} cached per thread, was refused")]
    Refused {
        /// The pool.
        name: String,
        /// Buffers asked.
        mbufs: u32,
        /// Cache asked.
        cache: u32,
        /// DPDK's reason.
        #[source]
        errno: Errno,
    },
}

/// A pool of packet buffers. A clone is another handle to the same pool; the pool lives until its last
/// handle and its last buffer are gone.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    raw: NonNull<sys::rte_mempool>,
    mbufs: u32,
    data_room: u16,
    /// After `raw`: the pool goes before the environment it lies in.
    _eal: Arc<Running>,
}

// SAFETY: a mempool belongs to no thread: it may be freed from any, and `Shared` is freed once, by the last
// handle. Test `a_pool_serves_two_threads_at_once` drops the last handle away from its maker.
unsafe impl Send for Shared {}

// SAFETY: all that a shared reference offers is taking, returning and counting buffers. `Pool::new` makes
// pools with DPDK's default ring, whose producers and consumers may be many; the caches are per registered
// thread, and threads that are not registered use none. Test `a_pool_serves_two_threads_at_once` would see a
// buffer given out twice.
unsafe impl Sync for Shared {}

/// Longest name that fits DPDK's 32 bytes with its prefixes (`MP_`, `RG_MP_`) and the NUL.
const NAME_MAX: usize = 25;

impl Pool {
    /// Makes a pool in DPDK's memory, on the environment's NUMA node.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn new(eal: &Eal, config: &PoolConfig) -> Result<Self, PoolError> {
        let PoolConfig { name, mbufs, cache, data_room } = config;
        let (mbufs, cache, data_room) = (*mbufs, *cache, *data_room);
        let c_name = CString::new(name.as_bytes())
            .ok()
            .filter(|_| (1..=NAME_MAX).contains(&name.len()))
            .ok_or_else(|| PoolError::Name { name: name.clone() })?;
        let room = data_room.checked_add(sys::RINGWAY_MBUF_HEADROOM).ok_or_else(|| {
            PoolError::DataRoom {
                name: name.clone(),
                data_room,
                max: u16::MAX - sys::RINGWAY_MBUF_HEADROOM,
            }
        })?;
        // -1 is SOCKET_ID_ANY.
        let node = eal.numa_node().map_or(-1, |node| i32::from(node.0));
        // SAFETY: `eal` proves that the environment is up, the name is a C string for the whole call, and
        // the rest are numbers that DPDK checks.
        let raw =
            unsafe { sys::rte_pktmbuf_pool_create(c_name.as_ptr(), mbufs, cache, 0, room, node) };
        let raw = NonNull::new(raw).ok_or_else(|| match last_errno() {
            Errno::EEXIST => PoolError::Exists { name: name.clone() },
            // ENOBUFS: what is left of it is too little for one buffer.
            Errno::ENOMEM | Errno::ENOBUFS => {
                PoolError::NoMemory { name: name.clone(), mbufs, data_room }
            }
            errno => PoolError::Refused { name: name.clone(), mbufs, cache, errno },
        })?;
        Ok(Self {
            shared: Arc::new(Shared { raw, mbufs, data_room, _eal: Arc::clone(eal.running()) }),
        })
    }

    /// Takes one buffer, empty.
    ///
    /// # Errors
    /// [`AllocError::Exhausted`].
    pub fn alloc(&self) -> Result<Mbuf, AllocError> {
        Mbuf::alloc(self)
    }

    /// An empty batch for up to `capacity` buffers of this pool, to be filled again and again.
    pub fn batch(&self, capacity: u16) -> MbufBatch {
        MbufBatch::new(self, capacity)
    }

    /// Buffers the pool was made with.
    pub fn capacity(&self) -> u32 {
        self.shared.mbufs
    }

    /// Bytes of packet a buffer holds.
    pub fn data_room(&self) -> u16 {
        self.shared.data_room
    }

    /// Whether both are handles to the same pool.
    pub fn is(&self, other: &Self) -> bool {
        self.shared.raw == other.shared.raw
    }

    /// Buffers that are free, those cached by threads included. Exact only while nobody takes or returns
    /// any; walks every thread's cache, so not for the packet path.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is alive; DPDK reads its counters without changing them.
        unsafe { sys::rte_mempool_avail_count(self.raw()) }
    }

    /// Buffers that are out, with the same caveat as [`Pool::available`].
    pub fn in_use(&self) -> u32 {
        // SAFETY: as in `available`.
        unsafe { sys::rte_mempool_in_use_count(self.raw()) }
    }

    /// Valid for as long as this handle.
    pub(crate) fn raw(&self) -> *mut sys::rte_mempool {
        self.shared.raw.as_ptr()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: every `Mbuf` and `MbufBatch` holds a handle and returns its buffers before letting go of
        // it, so no buffer is out; `_eal` is dropped after this, so the environment is up.
        unsafe { sys::rte_mempool_free(self.raw.as_ptr()) };
    }
}
