//! Safe owners for the parts of DPDK that Ringway uses: the environment ([`Eal`]), packet buffer pools
//! ([`Pool`], [`Mbuf`], [`MbufBatch`]), Ethernet devices ([`Ethdev`], [`RxQueue`], [`TxQueue`]), registered worker
//! threads ([`WorkerThread`]) and CPU pinning.
//!
//! It does not forward packets, does not know pods, networks or vhost-user, and reads no configuration file.
//!
//! Ownership: whatever DPDK hands out keeps the environment alive, so drop order does not matter. `Eal`,
//! `Pool`, `Mbuf`, `MbufBatch`, `Ethdev` with its queues and `WorkerThread` share one reference count; the last of them to go shuts
//! DPDK down. Single buffers count themselves; a batch counts once however many buffers pass through it,
//! which keeps the shared counter off the packet path.
//!
//! Only `vrouter-vrouterd` and `ringway-pktgen`, a pod's application, may depend on it. It is the only crate that may depend on `vrouter-dpdk-sys`.

mod clock;
mod cpu;
mod eal;
mod ethdev;
mod hugepages;
mod mbuf;
mod pool;
mod worker;

pub use clock::tsc;
pub use cpu::{CpuId, NumaNode, allowed_cpus, pin_current_thread};
pub use eal::config::{EalConfig, LogLevel, Memory};
pub use eal::{Eal, EalError, version};
pub use ethdev::bond::{BondKeeper, BondView};
pub use ethdev::interface::{set_interface_mac, set_interface_mtu};
pub use ethdev::offload::{Offloads, TxWork};
pub use ethdev::plug::{Bus, Plug};
pub use ethdev::queue::{RxQueue, TxQueue};
pub use ethdev::{Ethdev, EthdevConfig, EthdevError, Info, Link, LinkReader, Mac, Queues, Stats};
pub use mbuf::chain::Chain;
pub use mbuf::{AllocError, Mbuf, MbufBatch, NoRoom, Packet, Spread, WrongPool};
pub use nix::errno::Errno;
pub use pool::{Pool, PoolConfig, PoolError};
pub use worker::{LcoreId, WorkerError, WorkerThread};
