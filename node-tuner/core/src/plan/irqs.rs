//! Interrupts, unbound kernel work, and the spreading of the kernel's own packets.

use ringway_config::Spread;

use super::Planner;
use crate::cpuset::CpuSet;
use crate::knob::Form;
use crate::node::Nic;

impl Planner<'_> {
    pub(super) fn irqs(&mut self) {
        let node = self.node;
        let data = self.cpus.data();
        if self.profile.irqs.keep_off_data_cpus {
            let why = "an interrupt stops the worker or pod on its CPU";
            if let Some(now) = &node.kernel.default_irq_affinity {
                let wanted = off(now, &data, &self.cpus.reserved).to_string();
                let path = "proc/irq/default_smp_affinity";
                let written = Form::Mask.written(&wanted);
                self.attribute("irqs", path, Form::Mask, &written, why);
            }
            for irq in &node.irqs {
                let nic = node.nics.iter().find(|nic| nic.irqs.contains(&irq.number));
                let near = self.cpus.reserved_near(nic.and_then(|nic| nic.numa));
                let wanted = off(&irq.affinity, &data, &near).to_string();
                let path = format!("proc/irq/{}/smp_affinity_list", irq.number);
                self.attribute("irqs", &path, Form::List, &wanted, why);
            }
        }
        if self.profile.irqs.workqueues_off_data_cpus {
            let why = "kernel work that may run anywhere shall not run on data CPUs";
            let wanted = self.cpus.reserved.to_mask();
            for path in [
                "sys/devices/virtual/workqueue/cpumask",
                "sys/devices/virtual/workqueue/writeback/cpumask",
            ] {
                self.attribute("irqs", path, Form::Mask, &wanted, why);
            }
        }
    }

    pub(super) fn steering(&mut self) {
        let node = self.node;
        let rules = &self.profile.steering;
        for nic in &node.nics {
            let Some(name) = nic.name.as_deref().filter(|name| steered(rules, nic, name)) else {
                continue;
            };
            let folder = format!("sys/class/net/{name}/queues");
            if let Some(spread) = rules.rps {
                let why = "received packets of the kernel are handled on these CPUs (RPS)";
                let wanted = self.spread(spread, nic).to_mask();
                for queue in nic.rps.keys() {
                    let path = format!("{folder}/rx-{queue}/rps_cpus");
                    self.attribute("steering", &path, Form::Mask, &wanted, why);
                }
            }
            if let Some(spread) = rules.xps {
                let why = "these CPUs choose the send queue (XPS)";
                let wanted = self.spread(spread, nic);
                if nic.xps.is_empty() {
                    let reason = "the interface has one send queue";
                    let what = format!("/{folder}/tx-0/xps_cpus");
                    self.not_applicable("steering", what, wanted.to_string(), why, reason);
                }
                for queue in nic.xps.keys() {
                    let path = format!("{folder}/tx-{queue}/xps_cpus");
                    self.attribute("steering", &path, Form::Mask, &wanted.to_mask(), why);
                }
            }
        }
    }

    fn spread(&self, spread: Spread, nic: &Nic) -> CpuSet {
        match spread {
            Spread::Off => CpuSet::new(),
            Spread::Reserved => self.cpus.reserved_near(nic.numa),
            Spread::All => self.node.cpu.online.clone(),
        }
    }
}

fn steered(rules: &ringway_config::SteeringRules, nic: &Nic, name: &str) -> bool {
    match rules.interfaces.as_slice() {
        [] => nic.physical,
        patterns => patterns.iter().any(|pattern| super::nics::names_match(pattern, name)),
    }
}

/// `now` without `data`; `instead` if nothing is left.
fn off(now: &CpuSet, data: &CpuSet, instead: &CpuSet) -> CpuSet {
    let left = now.difference(data);
    if left.is_empty() { instead.clone() } else { left }
}
