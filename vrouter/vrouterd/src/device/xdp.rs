//! Uplinks by AF_XDP sockets: a program in the kernel, and packet buffers of their own.

use std::thread;
use std::time::{Duration, Instant};

use vrouter_core::PortIndex;
use vrouter_dpdk::{Ethdev, Pool, PoolConfig};

use super::kernel::check_interface;
use super::{CACHE, Device, Devices, Failure, text, virtual_device};
use crate::convert::{Refusal, UplinkRequest};
use crate::privileges;

/// How DPDK calls the driver.
pub(super) const DRIVER: &str = "net_af_xdp";

/// Packet buffers of a queue: DPDK gives the kernel 2,048 of them.
const BUFFERS: u32 = 4096;

/// How long a queue of an interface may be taken yet after its last socket was closed. The kernel clears up after an RCU grace period, on a
/// workqueue (`xsk_destruct`, `xp_release_deferred`), and tells nobody: 10 to 50 ms here.
const CLEARING_UP: Duration = Duration::from_secs(1);

/// Between two looks whether it has. Each fills a pool of buffers.
const PAUSE: Duration = Duration::from_millis(20);

/// In how long an uplink that was refused may be tried again, if that makes sense after so long a time. Whoever waits lets others at the
/// registry meanwhile.
pub fn retry(refusal: &Refusal, waited: Duration) -> Option<Duration> {
    (matches!(refusal, Refusal::UplinkBusy { .. }) && waited < CLEARING_UP).then_some(PAUSE)
}

/// Tries again as long as [`retry`] says so, and blocks its thread meanwhile, with all that it holds.
///
/// # Errors
/// [`Refusal`] of the last try.
pub fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Refusal>) -> Result<T, Refusal> {
    let begun = Instant::now();
    loop {
        let made = attempt();
        match made.as_ref().err().and_then(|refusal| retry(refusal, begun.elapsed())) {
            Some(pause) => thread::sleep(pause),
            None => return made,
        }
    }
}

impl Devices {
    /// Opens the interface of an uplink.
    pub(super) fn open_xdp(
        &self,
        request: &UplinkRequest,
        device: &str,
        port: PortIndex,
    ) -> Result<Device, Failure> {
        if !self.af_xdp {
            let remedy = "af_xdp is not allowed here: set `af_xdp = true` in [dpdk] of the configuration and restart the vRouter \
                          (it then keeps CAP_SYS_ADMIN for it), or use af_packet";
            return Err(remedy.to_owned().into());
        }
        check_interface(device)?;
        privileges::with_programs(true, || self.try_xdp(request, device, port))
    }

    /// DPDK's driver loses the buffers that the kernel has when a socket is closed, so that each device has a pool that goes with it; also
    /// one that could not be opened.
    fn try_xdp(
        &self,
        request: &UplinkRequest,
        device: &str,
        port: PortIndex,
    ) -> Result<Device, Failure> {
        let plug = virtual_device(DRIVER, &request.name, sockets(device, request.queues));
        let ethdev = Ethdev::plug(&self.eal, &plug).map_err(|error| text(&error))?;
        let config = PoolConfig {
            name: format!("af_xdp_{}", request.name),
            mbufs: BUFFERS * u32::from(request.queues) - 1,
            cache: CACHE,
            data_room: self.buffers.1,
        };
        let pool = Pool::new(&self.eal, &config).map_err(|error| super::cause(&error))?;
        self.start(ethdev, request, Some(device.to_owned()), port, &pool)
    }
}

/// A socket for each queue, without `SO_PREFER_BUSY_POLL`: a worker sleeps. The kernel copies: a NIC that writes to the buffers itself goes on
/// with that for a while after its socket was closed, when they may be somebody else's already.
fn sockets(device: &str, queues: u16) -> String {
    format!("iface={device},queue_count={queues},busy_budget=0,force_copy=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_finds_a_queue_taken_tries_again_and_not_for_long() {
        let (name, why) = (String::new(), String::new());
        let refused = Refusal::Uplink { name: name.clone(), why: why.clone() };
        let busy = Refusal::UplinkBusy { name, why };
        let almost = CLEARING_UP - Duration::from_millis(1);
        assert_eq!(retry(&busy, Duration::ZERO), Some(PAUSE));
        assert_eq!(retry(&busy, almost), Some(PAUSE));
        assert_eq!(retry(&busy, CLEARING_UP), None);
        assert_eq!(retry(&refused, Duration::ZERO), None);
    }
}
