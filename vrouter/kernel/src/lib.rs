//! The kernel's side of the vRouter, over netlink: [`fib`] mirrors its routing tables, [`announce`] tells pods' addresses
//! to whoever reads them there, [`hostif`] hands a network
//! interface's name and addresses to the TAP that carries them on while DPDK has the interface.

#![forbid(unsafe_code)]

pub mod announce;
pub mod fib;
pub mod hostif;
