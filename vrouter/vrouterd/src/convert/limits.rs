//! Policers and flood limits: as they are on the wire, and as the tables want them. Pure.

use vrouter_api::v1;
use vrouter_core::{FloodLimit, Mode, Rate, Rates};

use super::{Refusal, invalid};

/// A policer that does not say otherwise lets what belongs to so much time pass at once: a second has a hundred.
const BURSTS_PER_SECOND: u64 = 100;
/// Least burst of packets then: two bursts of a pod.
const LEAST_BURST_PACKETS: u64 = 64;
/// Least burst of bits then: two frames of 64 KiB that are cut into segments later.
const LEAST_BURST_BITS: u64 = 1 << 20;

/// Reads a policer and fills in what it leaves out. One without rates is no limit.
///
/// # Errors
/// [`Refusal::Invalid`] for a burst without a rate.
pub fn rates(wire: &v1::Policer) -> Result<Rates, Refusal> {
    let v1::Policer { packets_per_second, burst_packets, bits_per_second, burst_bits } = *wire;
    let packets = rate(packets_per_second, burst_packets, LEAST_BURST_PACKETS)
        .map_err(|remedy| invalid("policer.burst_packets", burst_packets, remedy))?;
    let bits = rate(bits_per_second, burst_bits, LEAST_BURST_BITS)
        .map_err(|remedy| invalid("policer.burst_bits", burst_bits, remedy))?;
    Ok(Rates { packets, bits })
}

fn rate(per_second: u64, burst: u64, least: u64) -> Result<Option<Rate>, &'static str> {
    match (per_second, burst) {
        (0, 0) => Ok(None),
        (0, _) => Err("is a burst without a rate; set the number per second, or leave it out"),
        (_, 0) => {
            let burst = (per_second / BURSTS_PER_SECOND).max(least);
            Ok(Some(Rate { per_second, burst }))
        }
        _ => Ok(Some(Rate { per_second, burst })),
    }
}

/// Reads the policer of a network's ports.
///
/// # Errors
/// [`Refusal::Invalid`], also if it never lets a frame as large as the network's MTU pass.
pub fn network_rates(wire: Option<&v1::Policer>, mtu: u16) -> Result<Rates, Refusal> {
    let rates = wire.map_or(Ok(Rates::default()), rates)?;
    match rates.too_small_for(mtu) {
        None => Ok(rates),
        Some(least) => {
            let burst = rates.bits.map_or(0, |rate| rate.burst);
            let remedy = format!(
                "is less than a frame of the network's MTU ({mtu} bytes) has, which would never pass; use at least {least}"
            );
            Err(invalid("policer.burst_bits", burst, remedy))
        }
    }
}

/// Writes a policer; nothing if it limits nothing.
pub fn policer(rates: Rates) -> Option<v1::Policer> {
    let parts = |rate: Option<Rate>| rate.map_or((0, 0), |rate| (rate.per_second, rate.burst));
    let (packets_per_second, burst_packets) = parts(rates.packets);
    let (bits_per_second, burst_bits) = parts(rates.bits);
    let policer = v1::Policer { packets_per_second, burst_packets, bits_per_second, burst_bits };
    (!rates.is_unlimited()).then_some(policer)
}

/// Reads how many frames a network repeats.
///
/// # Errors
/// [`Refusal::Invalid`] for a limit in a network that repeats none.
pub fn floods(wire: Option<v1::FloodLimit>, mode: Mode) -> Result<FloodLimit, Refusal> {
    match (wire, mode) {
        (None, _) => Ok(FloodLimit::default()),
        (Some(limit), Mode::Bridged) => {
            Ok(FloodLimit { per_second: limit.frames_per_second, burst: limit.burst_frames })
        }
        (Some(limit), Mode::Routed) => {
            let remedy =
                "only a bridged network repeats frames; set the mode to bridged, or leave it out";
            Err(invalid("flood_limit", limit.frames_per_second, remedy))
        }
    }
}

/// Writes how many frames a network repeats.
pub fn flood_limit(limit: FloodLimit, mode: Mode) -> Option<v1::FloodLimit> {
    let FloodLimit { per_second, burst } = limit;
    (mode == Mode::Bridged)
        .then_some(v1::FloodLimit { frames_per_second: per_second, burst_frames: burst })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(numbers: [u64; 4]) -> v1::Policer {
        let [packets_per_second, burst_packets, bits_per_second, burst_bits] = numbers;
        v1::Policer { packets_per_second, burst_packets, bits_per_second, burst_bits }
    }

    #[test]
    fn bursts_are_filled_in_and_kept() {
        for (asked, filled) in [
            ([1000, 0, 0, 0], [1000, 64, 0, 0]),
            ([1_000_000, 0, 0, 0], [1_000_000, 10_000, 0, 0]),
            ([0, 0, 1_000_000, 0], [0, 0, 1_000_000, 1 << 20]),
            ([0, 0, 10_000_000_000, 0], [0, 0, 10_000_000_000, 100_000_000]),
            ([5, 7, 100, 20_000], [5, 7, 100, 20_000]),
        ] {
            let rates = network_rates(Some(&wire(asked)), 1500).unwrap();
            assert_eq!(policer(rates), Some(wire(filled)));
            assert_eq!(super::rates(&wire(filled)).unwrap(), rates);
        }
        assert_eq!(policer(rates(&wire([0; 4])).unwrap()), None);
        assert!(network_rates(None, 1500).unwrap().is_unlimited());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (asked, text) in [
            ([0, 5, 0, 0], "policer.burst_packets \"5\": is a burst without a rate"),
            ([9, 5, 0, 6], "policer.burst_bits \"6\": is a burst without a rate"),
            (
                [0, 0, 1000, 12_143],
                "policer.burst_bits \"12143\": is less than a frame of the network's MTU (1500 bytes) has, which \
                 would never pass; use at least 12144",
            ),
        ] {
            let error = network_rates(Some(&wire(asked)), 1500).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
        let limit = v1::FloodLimit { frames_per_second: 7, burst_frames: 8 };
        assert_eq!(
            flood_limit(floods(Some(limit), Mode::Bridged).unwrap(), Mode::Bridged),
            Some(limit)
        );
        assert_eq!(flood_limit(floods(None, Mode::Routed).unwrap(), Mode::Routed), None);
        let error = floods(Some(limit), Mode::Routed).unwrap_err().to_string();
        assert!(error.starts_with("flood_limit \"7\": only a bridged network"), "{error}");
    }
}
