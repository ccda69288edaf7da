//! Keeps the kernel off what arrives on an interface, while packet sockets and XDP still get it.
//!
//! An nftables chain of the `netdev` family at the ingress hook, with no rule and the policy to drop. Packet sockets see
//! a frame before that hook, and XDP before both, so it works for af_packet and af_xdp alike. The table belongs to the
//! keeper: `nft flush ruleset` passes it by.

use super::netlink::{CREATE, Netlink, NetlinkError};
use super::wire::{Attribute, emit_all};
use nix::errno::Errno;

/// `NFNL_SUBSYS_NFTABLES << 8`, and messages of `linux/netfilter/nf_tables.h`.
const NFTABLES: u16 = 10 << 8;
const NEWTABLE: u16 = NFTABLES;
const DELTABLE: u16 = NFTABLES | 2;
const NEWCHAIN: u16 = NFTABLES | 3;
/// `NFPROTO_NETDEV`.
const NETDEV: u8 = 5;
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
/// `NF_NETDEV_INGRESS`; and, as a chain's policy, `NF_DROP`.
const INGRESS: u32 = 0;
const DROP: u32 = 0;
/// Only the socket that made the table may change it, from Linux 5.12.
const OWNER: u32 = 2;
/// It stays when that socket is gone, until another takes it over, from Linux 6.9.
const PERSIST: u32 = 4;

/// Makes the kernel drop what arrives on `interface`; `netlink` owns the filter from then on.
///
/// # Errors
/// What the kernel answered; `EOPNOTSUPP` where it has no nftables or no `netdev` family.
pub fn close(netlink: &mut Netlink, table: &str, interface: &str) -> Result<(), NetlinkError> {
    let mut result = Ok(());
    // The best that this kernel knows.
    for flags in [OWNER | PERSIST, OWNER, 0] {
        result = install(netlink, table, interface, flags);
        match &result {
            Err(error) if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EINVAL)) => {}
            _ => break,
        }
    }
    result
}

fn install(
    netlink: &mut Netlink,
    table: &str,
    interface: &str,
    flags: u32,
) -> Result<(), NetlinkError> {
    let hook = [
        Attribute::new(HOOK_NUMBER, INGRESS.to_be_bytes()),
        Attribute::new(HOOK_PRIORITY, i32::MIN.to_be_bytes()),
        Attribute::text(HOOK_DEVICE, interface),
    ];
    let chain = [
        Attribute::text(CHAIN_TABLE, table),
        Attribute::text(CHAIN_NAME, "ingress"),
        Attribute::nest(CHAIN_HOOK, &hook),
        Attribute::new(CHAIN_POLICY, DROP.to_be_bytes()),
        Attribute::text(CHAIN_TYPE, "filter"),
    ];
    netlink.batch(&[
        (NEWTABLE, CREATE, request(&table_attributes(table, flags))),
        (NEWCHAIN, CREATE, request(&chain)),
    ])
}

/// Takes the filter away; that there is none is no error.
///
/// # Errors
/// What the kernel answered.
pub fn open(netlink: &mut Netlink, table: &str) -> Result<(), NetlinkError> {
    // One that lost its owner has to be taken over first. Where there is none this makes one, to be deleted at once.
    let adopted = netlink.batch(&[
        (NEWTABLE, CREATE, request(&table_attributes(table, OWNER | PERSIST))),
        (DELTABLE, 0, request(&[Attribute::text(TABLE_NAME, table)])),
    ]);
    match adopted {
        Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => {}
        done => return done,
    }
    let gone = netlink.batch(&[(DELTABLE, 0, request(&[Attribute::text(TABLE_NAME, table)]))]);
    match gone {
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EOPNOTSUPP)) => Ok(()),
        done => done,
    }
}

fn table_attributes(table: &str, flags: u32) -> [Attribute; 2] {
    [Attribute::text(TABLE_NAME, table), Attribute::new(TABLE_FLAGS, flags.to_be_bytes())]
}

/// `struct nfgenmsg` and attributes.
fn request(attributes: &[Attribute]) -> Vec<u8> {
    [vec![NETDEV, 0, 0, 0], emit_all(attributes)].concat()
}
