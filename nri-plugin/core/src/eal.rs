//! Arguments with which an unmodified DPDK application finds its interfaces.

use std::fmt::Write as _;

use crate::annotations::SocketOwner;
use crate::paths::socket_in_container;
use crate::plan::{Cpus, Interface};

/// What virtio-user needs in a pod without privilege: memory as one shared file per page size, because the vhost-user
/// protocol carries at most 8, addresses as the process sees them, and no devices.
const ALWAYS: &str = "--in-memory --single-file-segments --iova-mode=va --no-pci --no-telemetry";

/// The arguments, joined by blanks; no word contains blanks or quotes. Without `cpus` DPDK takes all that its process may use.
#[must_use]
pub fn args(cpus: Option<&Cpus>, interfaces: &[Interface]) -> String {
    let mut args = ALWAYS.to_owned();
    if let Some(cpus) = cpus {
        args.push_str(" --lcores=");
        args.push_str(&lcores(cpus));
    }
    // DPDK has nothing to do with those of the kernel.
    let interfaces = interfaces.iter().filter(|interface| interface.link.is_none());
    for (index, interface) in interfaces.enumerate() {
        let Interface { name, mac, queues, queue_size, socket, .. } = interface;
        let path = socket_in_container(name);
        let server = match socket {
            SocketOwner::Pod => ",server=1",
            SocketOwner::Vrouter => "",
        };
        // Writing to a String cannot fail.
        let _ = write!(
            args,
            " --vdev=net_virtio_user{index},path={path},mac={mac},queues={queues},queue_size={queue_size}{server}"
        );
    }
    args
}

/// lcore 0, DPDK's main thread, may run anywhere in the set: applications block in it. With exclusive CPUs each further
/// lcore has one for itself; shared ones are left to the kernel's scheduler.
fn lcores(cpus: &Cpus) -> String {
    let set = cpus.set();
    let mut text = format!("0@({set})");
    match cpus {
        Cpus::Exclusive(_) | Cpus::Followed { whole: true, .. } => {
            for (index, cpu) in set.iter().enumerate() {
                let _ = write!(text, ",{}@{cpu}", index + 1);
            }
        }
        Cpus::Shared(_) | Cpus::Followed { whole: false, .. } => {
            let _ = write!(text, ",1@({set})");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::args;
    use crate::annotations::SocketOwner;
    use crate::plan::{Cpus, Interface};

    fn interface(name: &str, socket: SocketOwner) -> Interface {
        Interface {
            name: name.into(),
            network: "red".into(),
            ip: [10, 66, 0, 2].into(),
            prefix_len: 24,
            gateway: [10, 66, 0, 1].into(),
            ipv6: None,
            mac: "02:2a:0a:42:00:02".parse().unwrap(),
            queues: 2,
            queue_size: 1024,
            mtu: 1500,
            socket,
            lease: None,
            link: None,
        }
    }

    #[test]
    fn exclusive_cpus_are_pinned_one_by_one() {
        let args = args(
            Some(&Cpus::Exclusive("2-3,8".parse().unwrap())),
            &[interface("net0", SocketOwner::Vrouter), interface("wan", SocketOwner::Pod)],
        );
        assert_eq!(
            args.split(' ').collect::<Vec<_>>(),
            [
                "--in-memory",
                "--single-file-segments",
                "--iova-mode=va",
                "--no-pci",
                "--no-telemetry",
                "--lcores=0@(2-3,8),1@2,2@3,3@8",
                "--vdev=net_virtio_user0,path=/run/ringway/net0.sock,mac=02:2a:0a:42:00:02,queues=2,queue_size=1024",
                "--vdev=net_virtio_user1,path=/run/ringway/wan.sock,mac=02:2a:0a:42:00:02,queues=2,queue_size=1024,server=1",
            ]
        );
    }

    #[test]
    fn interfaces_of_the_kernel_are_no_devices() {
        let link = Some(crate::annotations::Link { netns: "/n".into(), routes: Vec::new() });
        let kernel = Interface { link, ..interface("eth1", SocketOwner::Vrouter) };
        let interfaces = [kernel, interface("net1", SocketOwner::Vrouter)];
        let args = args(Some(&Cpus::Shared("1".parse().unwrap())), &interfaces);
        assert_eq!(args.matches("--vdev").count(), 1);
        assert!(args.contains("net_virtio_user0,path=/run/ringway/net1.sock"), "{args}");
    }

    #[test]
    fn shared_cpus_are_left_to_the_scheduler() {
        let args = args(Some(&Cpus::Shared("1".parse().unwrap())), &[]);
        assert!(args.ends_with(" --lcores=0@(1),1@(1)"), "{args}");
    }

    #[test]
    fn where_cpus_are_not_known_none_are_named() {
        let args = args(None, &[interface("net0", SocketOwner::Vrouter)]);
        assert!(args.contains("--in-memory") && args.contains("net0.sock"), "{args}");
        assert!(!args.contains("lcores"), "{args}");
    }
}
