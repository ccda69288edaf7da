//! `ringway cdi`: devices of the node API, and the files that tell runtimes of them.

use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nri_plugin_api::{Client, SOCKET, is_device_name, v1};
use serde::Serialize;
use serde_json::{Value, json};
use tonic::{Response, Status};

use super::{Deleted, show};
use crate::args::{AddDevice, CdiAction, CdiArgs, Listener};
use crate::failure::Failure;

/// The kind of our devices, as runtimes name it: `--device KIND=NAME`.
const KIND: &str = "ringway.dev/interface";
/// Of the specification: mounts, variables and hooks are in every version, and old runtimes (podman 4.3) refuse new ones.
const VERSION: &str = "0.3.0";
/// The plugin answers within containerd's patience, and a runtime waits for the hook.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest state of a container that the hook reads.
const STATE_BYTES: u64 = 1 << 20;
/// What the file cannot carry.
const NOT_CARRIED: [&str; 3] = [
    "cpuset (CPUs and memory nodes)",
    "hugepage limits",
    "release of the interface with the container",
];

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    /// As runtimes name it.
    device: String,
    /// What tells them.
    file: PathBuf,
    interfaces: Vec<Interface>,
    not_carried: [&'static str; 3],
}

#[derive(Debug, Serialize)]
struct Interface {
    name: String,
    network: String,
    mac: String,
    ipv4: String,
    ipv6: Option<String>,
    socket: String,
}

pub(super) async fn run(cdi: &CdiArgs, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    match &cdi.action {
        CdiAction::Add(device) => {
            let made = add(cdi, device).await?;
            show(out, json, &made, text)
        }
        CdiAction::Delete { name } => {
            delete(cdi, name).await?;
            show(out, json, &Deleted { deleted: name.clone() }, |_| {
                format!("device {name} is gone\n")
            })
        }
        CdiAction::Hook { name } => {
            let mut state = String::new();
            io::stdin().take(STATE_BYTES).read_to_string(&mut state).map_err(Failure::Output)?;
            let request = v1::AttachDeviceRequest { name: name.clone(), pid: pid(&state)? };
            let mut client = connect(&cdi.run_dir).await?;
            answered("device not attached", client.attach_device(request)).await.map(drop)
        }
    }
}

async fn add(cdi: &CdiArgs, device: &AddDevice) -> Result<Made, Failure> {
    let name = &device.name;
    let mut client = connect(&cdi.run_dir).await?;
    let request = v1::CreateDeviceRequest {
        name: name.clone(),
        annotations: [("interfaces.ringway.dev".to_owned(), interface(device).to_string())].into(),
    };
    let given = answered("device not made", client.create_device(request)).await?;
    let file = file(&cdi.spec_dir, name);
    let hook = hook(name, &cdi.run_dir);
    if let Err(why) = hook.and_then(|hook| write(&file, &spec(name, &given, &hook))) {
        // Nobody would find it.
        let request = v1::DeleteDeviceRequest { name: name.clone() };
        answered("device not taken back", client.delete_device(request)).await?;
        let what = format!("cannot write {}", file.display());
        return Err(Failure::Refused { what, why: why.to_string() });
    }
    let interfaces = given.interfaces.into_iter().map(|it| Interface {
        name: it.name,
        network: it.network,
        mac: it.mac,
        ipv4: it.ipv4,
        ipv6: Some(it.ipv6).filter(|address| !address.is_empty()),
        socket: it.socket,
    });
    Ok(Made {
        device: format!("{KIND}={name}"),
        file,
        interfaces: interfaces.collect(),
        not_carried: NOT_CARRIED,
    })
}

async fn delete(cdi: &CdiArgs, name: &str) -> Result<(), Failure> {
    let mut client = connect(&cdi.run_dir).await?;
    // The plugin says what a name is; a path is made of none but a good one.
    let request = v1::DeleteDeviceRequest { name: name.to_owned() };
    answered("device not deleted", client.delete_device(request)).await?;
    if !is_device_name(name) {
        return Ok(());
    }
    let file = file(&cdi.spec_dir, name);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::Refused {
            what: format!("the device is gone, but cannot remove {}", file.display()),
            why: error.to_string(),
        }),
        _ => Ok(()),
    }
}

/// One element of the annotation `interfaces.ringway.dev`.
fn interface(device: &AddDevice) -> Value {
    let AddDevice { network, ip, mac, queues, listen, .. } = device;
    let socket = match listen {
        Listener::Vrouter => "vrouter",
        Listener::Pod => "pod",
    };
    let mut interface = json!({ "network": network, "socket": socket });
    if !ip.is_empty() {
        interface["ip"] = json!(ip);
    }
    if let Some(mac) = mac {
        interface["mac"] = json!(mac);
    }
    if let Some(queues) = queues {
        interface["queues"] = json!(queues);
    }
    json!([interface])
}

/// `vendor-class` and the device, so that no other file has the name.
fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("ringway.dev-interface_{name}.json"))
}

/// Before the container's own file system is there, as root, beside the runtime; without it, nobody may connect.
fn hook(name: &str, run_dir: &Path) -> io::Result<Value> {
    let program = std::env::current_exe()?;
    let run_dir = run_dir.display().to_string();
    Ok(json!({
        "hookName": "createRuntime",
        "path": program.display().to_string(),
        "args": ["ringway", "cdi", "--run-dir", run_dir, "hook", name],
    }))
}

fn spec(name: &str, given: &v1::Adjustment, hook: &Value) -> Value {
    let env = given.env.iter().map(|it| format!("{}={}", it.name, it.value));
    let mounts = given.mounts.iter().map(|it| {
        json!({ "hostPath": it.source, "containerPath": it.destination, "options": it.options })
    });
    json!({
        "cdiVersion": VERSION,
        "kind": KIND,
        "devices": [{
            "name": name,
            "containerEdits": {
                "env": env.collect::<Vec<_>>(),
                "mounts": mounts.collect::<Vec<_>>(),
                "hooks": [hook],
            },
        }],
    })
}

/// Whole or not at all: runtimes read the directory whenever it changes.
fn write(file: &Path, spec: &Value) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let new = file.with_extension(format!("new-{}", std::process::id()));
    fs::write(&new, format!("{spec:#}\n"))?;
    fs::rename(&new, file).inspect_err(|_| {
        // What it is about has failed already.
        let _ = fs::remove_file(&new);
    })
}

/// The container's first process, by its state (OCI runtime specification, section State).
fn pid(state: &str) -> Result<u32, Failure> {
    let input = |why: String| Failure::Input { what: "state of the container".to_owned(), why };
    let state: Value = serde_json::from_str(state).map_err(|error| input(error.to_string()))?;
    let pid = state.get("pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| input("it has no pid".to_owned()))
}

fn text(made: &Made) -> String {
    let Made { device, file, interfaces, not_carried } = made;
    let mut text = format!("{device}, in {}\n", file.display());
    for Interface { name, network, mac, ipv4, ipv6, .. } in interfaces {
        let ipv6 = ipv6.as_ref().map(|address| format!(", {address}")).unwrap_or_default();
        text.push_str(&format!("{name}: network {network}, {ipv4}{ipv6}, {mac}\n"));
    }
    text.push_str(&format!("run a container with: --device {device}\n"));
    text.push_str(&format!("such a file cannot carry: {}\n", not_carried.join("; ")));
    text
}

async fn connect(run_dir: &Path) -> Result<Client, Failure> {
    let socket = run_dir.join(SOCKET);
    let client = tokio::time::timeout(ANSWER, nri_plugin_api::connect(&socket)).await;
    let unreachable = |why: String| Failure::NoPlugin { socket: socket.clone(), why };
    client
        .map_err(|_| unreachable("it does not answer".to_owned()))?
        .map_err(|error| unreachable(error.to_string()))
}

async fn answered<T>(
    what: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    let refused = |why: &str| Failure::Refused { what: what.to_owned(), why: why.to_owned() };
    match tokio::time::timeout(ANSWER, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refused(status.message())),
        Err(_) => Err(refused("ringway-nri does not answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> v1::Adjustment {
        v1::Adjustment {
            mounts: vec![v1::Mount {
                destination: "/run/ringway".into(),
                r#type: "bind".into(),
                source: "/run/ringway/pods/cdi-0/0".into(),
                options: vec!["rbind".into(), "ro".into()],
            }],
            env: vec![v1::EnvironmentVariable {
                name: "RINGWAY_EAL_ARGS".into(),
                value: "--in-memory --no-pci".into(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_file_says_all_that_cdi_can_carry() {
        let hook = hook("web", Path::new("/run/ringway")).unwrap();
        let spec = spec("web", &given(), &hook);
        let edits = &spec["devices"][0]["containerEdits"];
        assert_eq!(spec["devices"][0]["name"], "web");
        assert_eq!(edits["env"], json!(["RINGWAY_EAL_ARGS=--in-memory --no-pci"]));
        assert_eq!(
            edits["mounts"],
            json!([{
                "hostPath": "/run/ringway/pods/cdi-0/0", "containerPath": "/run/ringway",
                "options": ["rbind", "ro"],
            }])
        );
        assert_eq!(edits["hooks"][0]["args"][5], "web");
        assert!(edits["hooks"][0]["path"].as_str().unwrap().starts_with('/'));
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(&directory.path().join("cdi"), "web");
        for spec in [json!({"a": 1}), json!({"a": 2})] {
            write(&file, &spec).unwrap();
            let text = fs::read_to_string(&file).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), spec);
        }
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn the_state_of_a_container_has_its_process() {
        assert_eq!(pid(r#"{"ociVersion": "1.0.2", "id": "c1", "pid": 77}"#).unwrap(), 77);
        for bad in ["", "{", "{}", r#"{"pid": 0}"#, r#"{"pid": -1}"#, r#"{"pid": 4294967296}"#] {
            assert!(pid(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_asked_for_is_an_annotation() {
        let mut device = AddDevice {
            name: "web".into(),
            network: "red".into(),
            ip: Vec::new(),
            mac: None,
            queues: None,
            listen: Listener::Vrouter,
        };
        assert_eq!(interface(&device), json!([{"network": "red", "socket": "vrouter"}]));
        device.ip = vec!["10.66.0.9".into(), "fd00:66::9".into()];
        device.mac = Some("02:00:00:00:00:09".into());
        device.queues = Some(2);
        device.listen = Listener::Pod;
        assert_eq!(
            interface(&device),
            json!([{
                "network": "red", "socket": "pod", "ip": ["10.66.0.9", "fd00:66::9"],
                "mac": "02:00:00:00:00:09", "queues": 2,
            }])
        );
    }
}
