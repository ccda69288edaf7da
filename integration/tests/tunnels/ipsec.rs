//! What IPsec needs before it carries anything: keys and policies, by hand, as nobody negotiates them here.

use anyhow::Result;

use crate::rig::Rig;

/// Key and salt (RFC 4106).
const CIPHER: &str = "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128";

/// Tells both ends: all that is routed to the device of this number goes encrypted to the other, and comes from there so.
pub fn agree(rig: &Rig) -> Result<()> {
    for (space, own, other, out, back) in [
        (&rig.node, "192.0.2.1", "192.0.2.2", "0x701", "0x702"),
        (&rig.far, "192.0.2.2", "192.0.2.1", "0x702", "0x701"),
    ] {
        for (from, to, number) in [(own, other, out), (other, own, back)] {
            let what = format!(
                "src {from} dst {to} proto esp spi {number} reqid 7 mode tunnel flag af-unspec"
            );
            space.ip(&format!("xfrm state add {what} {CIPHER} if_id 7"))?;
        }
        for all in ["0.0.0.0/0", "::/0"] {
            for (way, from, to) in [("out", own, other), ("in", other, own), ("fwd", other, own)] {
                let how = format!("tmpl src {from} dst {to} proto esp reqid 7 mode tunnel");
                let which = format!("src {all} dst {all} dir {way} if_id 7");
                space.ip(&format!("xfrm policy add {which} {how}"))?;
            }
        }
    }
    Ok(())
}
