//! Machines of several shapes, in the kernel's formats; what each is stands at the top of its file.

use std::collections::BTreeMap;

use crate::node::{EthtoolInfo, Node, Observed, Offload, Queues, Rings};
use crate::tree::Tree;

pub(crate) const SHAPES: [(&str, &str); 7] = [
    ("vm", include_str!("../testdata/vm.tree")),
    ("two-sockets", include_str!("../testdata/two-sockets.tree")),
    ("four-nodes", include_str!("../testdata/four-nodes.tree")),
    ("arm", include_str!("../testdata/arm.tree")),
    ("hybrid", include_str!("../testdata/hybrid.tree")),
    ("bare", include_str!("../testdata/bare.tree")),
    ("cxl", include_str!("../testdata/cxl.tree")),
];

pub(crate) fn observed(name: &str) -> Observed {
    let (_, text) = SHAPES.iter().find(|(shape, _)| *shape == name).unwrap();
    let tree = Tree::from_text(text).unwrap();
    let mut ethtool = BTreeMap::new();
    if name == "two-sockets" {
        let offload = |on, fixed| Offload { on, fixed };
        let info = EthtoolInfo {
            link_speed: Some(100_000),
            firmware: Some("4.40 0x8001c967 1.3534.0".into()),
            rings: Some(Rings { rx: 2048, rx_max: 8160, tx: 256, tx_max: 8160 }),
            queues: Some(Queues { combined: 8, combined_max: 16, ..Queues::default() }),
            offloads: [
                ("rx-gro", offload(true, false)),
                ("rx-lro", offload(false, true)),
                ("tx-tcp-segmentation", offload(true, false)),
            ]
            .map(|(name, offload)| (name.to_owned(), offload))
            .into(),
        };
        ethtool.insert("ens1f0".to_owned(), info.clone());
        ethtool.insert("ens5f0".to_owned(), EthtoolInfo { rings: None, ..info });
    }
    Observed { tree, ethtool, vrouters: Vec::new() }
}

pub(crate) fn node(name: &str) -> Node {
    Node::parse(&observed(name)).unwrap()
}
