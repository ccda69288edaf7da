//! The kernel's side of the vRouter, over netlink: [`fib`] mirrors its routing tables, [`hostif`] hands a network
//! interface's name and addresses to the TAP that carries them on while DPDK has the interface.

#![forbid(unsafe_code)]

pub mod fib;
pub mod hostif;
