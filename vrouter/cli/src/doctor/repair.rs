//! `ringway doctor --repair`: what can be mended without asking anybody, and how that went.

use super::facts::Facts;
use super::{Finding, Status, judge, runtime};
use crate::call::Vrouter;
use crate::targets::Target;

/// Everything that was tried. `targets`: whom the facts about vRouters are from.
pub(super) async fn repair(facts: &Facts, targets: &[Target]) -> Vec<Finding> {
    let mut done = Vec::new();
    for container in &facts.unserved {
        if facts.nri.is_none() || facts.unregistered {
            // It would come back as it is.
            let what =
                format!("{} is left as it is: ringway-nri would not serve it", container.name);
            let remedy = "start ringway-nri, and repair again when containerd has taken it in";
            done.push(Finding {
                check: "repair",
                status: Status::Warning,
                what,
                remedy: Some(remedy.to_owned()),
            });
            continue;
        }
        let outcome = runtime::end(&facts.containerd.socket, &container.id).await;
        let name = &container.name;
        done.push(match outcome {
            Ok(()) => finding(Status::Ok, format!("{name} was ended; kubelet starts it again")),
            Err(why) => finding(Status::Failure, format!("{name} cannot be ended: {why}")),
        });
    }
    for (target, served) in targets.iter().zip(&facts.vrouters) {
        let leaked = served.as_ref().map(|served| judge::leaked(facts, served)).unwrap_or_default();
        if leaked.is_empty() {
            continue;
        }
        match Vrouter::connect(target.socket.clone()).await {
            Ok(mut vrouter) => {
                for id in leaked {
                    done.push(match vrouter.delete_port(id).await {
                        Ok(()) => finding(Status::Ok, format!("port {id} was deleted")),
                        Err(why) => finding(Status::Failure, why.to_string()),
                    });
                }
            }
            Err(why) => done.push(finding(Status::Failure, why.to_string())),
        }
    }
    done
}

fn finding(status: Status, what: String) -> Finding {
    Finding { check: "repair", status, what, remedy: None }
}
