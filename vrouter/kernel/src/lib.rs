//! The kernel's side of the vRouter, over netlink: [`fib`] mirrors its routing tables, [`announce`] tells pods' addresses
//! to whoever reads them there, [`hostif`] hands a network interface's name and addresses to the TAP that carries them on
//! while DPDK has the interface, [`kernelport`] makes the kernel a router of a virtual network, [`handover`] gives an
//! interface to a pod.

#![forbid(unsafe_code)]

pub mod announce;
pub mod fib;
pub mod handover;
pub mod hostif;
pub mod kernelport;
