//! `ringway doctor --repair`: what can be mended without asking anybody, and how that went.

use std::path::Path;

use super::facts::Facts;
use super::{Finding, Status, judge, runtime};
use crate::call::Vrouter;

/// Everything that was tried.
pub(super) async fn repair(facts: &Facts, socket: &Path) -> Vec<Finding> {
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
    let leaked = judge::leaked(facts);
    if leaked.is_empty() {
        return done;
    }
    match Vrouter::connect(socket.to_owned()).await {
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
    done
}

fn finding(status: Status, what: String) -> Finding {
    Finding { check: "repair", status, what, remedy: None }
}
