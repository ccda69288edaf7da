//! Order of packets within their flows.

/// The newest sequence number seen of each flow.
#[derive(Debug)]
pub struct Order {
    /// Number of the next packet that is in order; a flow's first may have any.
    next: Vec<u64>,
}

impl Order {
    /// For flows numbered from 0.
    pub fn new(flows: usize) -> Self {
        Self { next: vec![0; flows] }
    }

    /// Notes packet number `seq` of `flow`; false if it, or a later one, was here before.
    #[inline]
    pub fn observe(&mut self, flow: usize, seq: u64) -> bool {
        let Some(next) = self.next.get_mut(flow) else { return false };
        let in_order = seq >= *next;
        if in_order {
            *next = seq + 1;
        }
        in_order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_or_twice_is_out_of_order_within_its_flow() {
        let mut order = Order::new(2);
        for (flow, seq, in_order) in [
            (0, 10, true),
            (1, 3, true),
            (0, 12, true),
            (0, 11, false),
            (0, 12, false),
            (1, 4, true),
            (0, 13, true),
            (2, 0, false),
        ] {
            assert_eq!(order.observe(flow, seq), in_order, "flow {flow}, packet {seq}");
        }
    }
}
