//! virtio-user, in every variant that DPDK 22.11 has, in a covering set of combinations.

use anyhow::{Result, ensure};

use crate::bed::Bed;
use crate::exchange::{Exchange, IN_ORDER, MRG_RXBUF, RING_PACKED, USUAL};

/// Two pods and what they exchange.
pub struct Case {
    /// Name of the test.
    pub name: &'static str,
    exchange: Exchange<'static>,
}

const fn case(name: &'static str, exchange: Exchange<'static>) -> Case {
    Case { name, exchange: Exchange { name, ..exchange } }
}

const SPLIT: &str = "packed=0";
const SPLIT_VECTOR: &str = "packed=0,vectorized=1,mrg-rxbuf=0,in-order=0";
const SPLIT_MERGE: &str = "packed=0,mrg-rxbuf=1,in-order=0";
const SPLIT_ORDER: &str = "packed=0,mrg-rxbuf=0,in-order=1";
const SPLIT_PLAIN: &str = "packed=0,mrg-rxbuf=0,in-order=0";
const PACKED: &str = "packed=1";
const PACKED_VECTOR: &str = "packed=1,vectorized=1,mrg-rxbuf=0,in-order=1";
const PACKED_MERGE: &str = "packed=1,mrg-rxbuf=1,in-order=0";
const PACKED_ORDER: &str = "packed=1,mrg-rxbuf=0,in-order=1";
const PACKED_PLAIN: &str = "packed=1,mrg-rxbuf=0,in-order=0";

/// Packets per second of each pod where one has fewer queues to receive from than the other sends on.
const LESS: u64 = 100_000;

/// Every path of the driver at both ends, each ring size, each number of queue pairs, each frame size and both ends that listen occur at
/// least once.
pub static CASES: [Case; 18] = [
    case("split", Exchange { rings: [SPLIT; 2], ..USUAL }),
    case("split-vector", Exchange { rings: [SPLIT_VECTOR; 2], size: 512, ..USUAL }),
    case(
        "split-merge",
        Exchange {
            rings: ["packed=0,mrg-rxbuf=1,in-order=0,queue-size=256", SPLIT_MERGE],
            size: 128,
            ..USUAL
        },
    ),
    case("split-order", Exchange { rings: [SPLIT_ORDER; 2], size: 1518, ..USUAL }),
    case("split-plain", Exchange { rings: [SPLIT_PLAIN; 2], size: 1024, ..USUAL }),
    case("packed", Exchange { rings: [PACKED; 2], size: 1518, ..USUAL }),
    case("packed-vector", Exchange { rings: [PACKED_VECTOR; 2], ..USUAL }),
    case(
        "packed-merge",
        Exchange {
            rings: ["packed=1,mrg-rxbuf=1,in-order=0,queue-size=256", PACKED_MERGE],
            size: 256,
            ..USUAL
        },
    ),
    case("packed-order", Exchange { rings: [PACKED_ORDER; 2], size: 512, ..USUAL }),
    case("packed-plain", Exchange { rings: [PACKED_PLAIN; 2], size: 1024, ..USUAL }),
    case(
        "large-rings",
        Exchange { rings: ["packed=0,queue-size=4096", "packed=1,queue-size=4096"], ..USUAL },
    ),
    case(
        "small-rings",
        Exchange {
            rings: ["packed=0,queue-size=256", "packed=1,queue-size=256"],
            size: 1518,
            ..USUAL
        },
    ),
    case(
        "two-pairs",
        Exchange { rings: [SPLIT_VECTOR, PACKED_VECTOR], pairs: [2, 2], size: 300, ..USUAL },
    ),
    case(
        "one-and-four-pairs",
        Exchange { rings: [SPLIT, PACKED], pairs: [1, 4], size: 200, rate: LESS, ..USUAL },
    ),
    case(
        "eight-pairs",
        Exchange {
            rings: ["packed=0,queue-size=256", "packed=0,queue-size=256"],
            pairs: [8, 8],
            ..USUAL
        },
    ),
    case(
        "eight-and-two-pairs-pods-listen",
        Exchange {
            rings: ["packed=1,queue-size=256", SPLIT],
            pairs: [8, 2],
            server: true,
            rate: LESS,
            ..USUAL
        },
    ),
    case("jumbo", Exchange { rings: [SPLIT, PACKED], size: 9018, memory_mb: 256, ..USUAL }),
    case(
        "jumbo-one-buffer",
        Exchange { rings: [SPLIT_PLAIN, PACKED_VECTOR], size: 9018, memory_mb: 256, ..USUAL },
    ),
];

/// Runs a case; what the pods asked for is also what was agreed on.
pub fn play(bed: &mut Bed, case: &Case) -> Result<()> {
    let (ports, _) = case.exchange.play(bed)?;
    for (rings, port) in case.exchange.rings.into_iter().zip(ports) {
        let default = |key: &str| !matches!(key, "packed");
        for (key, bit) in
            [("packed", RING_PACKED), ("mrg-rxbuf", MRG_RXBUF), ("in-order", IN_ORDER)]
        {
            let said = rings.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
            let wanted = said.map_or(default(key), |value| value == "1");
            let agreed = port.features & bit != 0;
            ensure!(agreed == wanted, "{rings}: {key} is {agreed}, features {:#x}", port.features);
        }
    }
    Ok(())
}
