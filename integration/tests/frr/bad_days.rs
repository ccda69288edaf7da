//! Networks and routes that can't be: what is said, and that nothing has changed then.

use anyhow::{Result, ensure};

use crate::rig::Rig;

/// Each is refused with what is wrong and what would be right.
pub fn told(rig: &mut Rig) -> Result<()> {
    let node = &rig.a;
    node.ringway("networks add small --external --mtu 1280")?;
    let before = (node.ringway("networks")?, node.ringway("routes red")?);
    let green = "networks add green --ipv4 10.70.0.0/24 --local 192.0.2.1";
    for (arguments, parts) in [
        (
            format!("{green} --vni 77 --underlay fabric"),
            &["vni 77 is network \"red\"'s on \"fabric\"; choose another"][..],
        ),
        (format!("{green} --label 7700 --underlay fabric"), &["label 7700 is network \"red\"'s"]),
        (
            format!("{green} --ipip --underlay fabric"),
            &["ipip at local address 192.0.2.1 is network \"red\"'s on \"fabric\""],
        ),
        (
            format!("{green} --vni 78 --underlay nowhere"),
            &["unknown network \"nowhere\"", "known networks: fabric, red, small"],
        ),
        (
            format!("{green} --ipv6 fd00:70::/64 --vni 78 --underlay small"),
            &["mtu 1280 of the underlay is too small", "at least 1330"],
        ),
        (
            "routes add green 10.1.0.0/16 vxlan 192.0.2.2".to_owned(),
            &["unknown network \"green\"", "known networks:"],
        ),
        ("routes add red 10.1.0.0/16 vxlan 192.0.2.1".to_owned(), &["192.0.2.1"]),
        ("routes add red 10.1.0.0/16 mpls 192.0.2.2 label 3".to_owned(), &["16 to 1048575"]),
        ("routes add red 10.1.0.0/16 ipip 192.0.2.1".to_owned(), &["192.0.2.1"]),
        ("routes add fabric 10.1.0.0/16 mpls 192.0.2.2 label 99".to_owned(), &["external"]),
    ] {
        let said = node.ringway(&arguments).err().map(|error| error.to_string());
        let said = said.unwrap_or_default();
        for part in parts {
            ensure!(said.contains(part), "{arguments}: {part:?} is not in {said:?}");
        }
    }
    let after = (node.ringway("networks")?, node.ringway("routes red")?);
    ensure!(before == after, "{before:?} has become {after:?}");
    node.ringway("networks delete small").map(drop)
}
