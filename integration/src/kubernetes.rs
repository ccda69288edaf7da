//! A Kubernetes of one node around a [`Node`]: etcd, the control plane and kubelet as the set-up made them, and `kubectl`.
//!
//! Kubelet's CPU and memory managers have their static policies. Pods have a network of their own, a bridge by Debian's CNI plugins, as
//! kubelet takes no node without one.

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::containerd::Containerd;
use crate::machine::{others_will_change, repository};
use crate::node::Node;
use crate::process::{Daemon, run, tail};
use crate::readback;
use crate::rundir::RunDir;
use crate::wait;

/// Name of the node.
pub const NODE: &str = "ringway-node";
/// The namespace in which tests work; it goes with the cluster.
pub const NAMESPACE: &str = "demo";
/// CPU that kubelet gives to no pod for itself.
pub const RESERVED_CPU: u16 = 0;

const BRIDGE: &str = "rwtest0";
/// Directories that kubelet and the CNI library make wherever the run's own are.
const THEIRS: [&str; 3] = ["/var/lib/kubelet", "/var/log/containers", "/var/lib/cni"];
/// Settings that kubelet changes.
const SETTINGS: [&str; 6] = [
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/kernel/keys/root_maxkeys",
    "/proc/sys/kernel/keys/root_maxbytes",
];
/// Who starts a program of Kubernetes on two busy CPUs waits long: 10 s are usual for the API server on idle ones.
const START: Duration = Duration::from_secs(180);
/// Between two questions to the API server.
const POLL: Duration = Duration::from_millis(500);
/// For pods to come and go.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// kubelet must keep what it reserves: the memory manager wants both numbers to agree, in MiB.
const SYSTEM_MEMORY: u32 = 400;
const EVICTION_MEMORY: u32 = 100;

/// A program that the set-up built.
pub fn program(name: &str) -> PathBuf {
    repository().join("target/k8s/bin").join(name)
}

/// Why there is no program `name`, or nothing when there is.
pub fn missing(name: &str) -> Option<String> {
    if program(name).is_file() {
        return None;
    }
    let reason = repository().join("target/k8s").join(format!("no-{name}"));
    let why = fs::read_to_string(reason)
        .unwrap_or_else(|_| format!("run `integration/setup/kubernetes.sh {name}`"));
    Some(format!("{} is missing: {}", program(name).display(), why.trim()))
}

/// Why no cluster can run here, or nothing when one can.
pub fn unfit() -> Option<String> {
    let needed = [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kubectl",
    ];
    if let Some(reason) = needed.iter().find_map(|name| missing(name)) {
        return Some(reason);
    }
    if Path::new(THEIRS[0]).exists() {
        return Some(format!("{} is there: this machine has a kubelet of its own", THEIRS[0]));
    }
    if !Path::new("/usr/lib/cni/bridge").exists() {
        return Some("needs the package containernetworking-plugins".to_owned());
    }
    None
}

/// A running cluster; dropping it stops it. Its pods go with the [`Node`].
#[derive(Debug)]
pub struct Kubernetes {
    // Dropped in this order: kubelet first, or it would start anew what the node takes away.
    kubelet: Option<Daemon>,
    /// Scheduler, controller manager, API server, etcd.
    control_plane: Vec<Daemon>,
    directory: PathBuf,
    address: IpAddr,
}

impl Kubernetes {
    /// Starts everything around a node whose containerd runs; returns when the node can take pods.
    pub fn start(node: &Node) -> Result<Self> {
        let directory = node.run().path().join("k8s");
        fs::create_dir(&directory)?;
        others_will_change(&node.run().path(), &SETTINGS, &THEIRS, &[])?;
        let mut it =
            Self { kubelet: None, control_plane: Vec::new(), directory, address: own_address()? };
        it.start_control_plane()?;
        write_network(node.run())?;
        prepare_cgroup(node.run().id())?;
        it.write_kubelet_config(node)?;
        it.start_kubelet(node)?;
        it.create(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        )?;
        // Made by a controller; a pod is refused before.
        until("the namespace has a service account", START, || {
            Ok(it.find("serviceaccount", "default")?.map(|_| ()))
        })?;
        Ok(it)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn daemon(&self, name: &str, arguments: &[String]) -> Result<Daemon> {
        let mut command = Command::new(program(name));
        command.args(arguments);
        Daemon::start(name, command, &self.file(&format!("{name}.log")))
    }

    fn start_control_plane(&mut self) -> Result<()> {
        let (client, peer, secure) = (free_port()?, free_port()?, free_port()?);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let arguments = [
            format!("--data-dir={}", self.path("etcd")),
            format!("--listen-client-urls={}", url(client)),
            format!("--advertise-client-urls={}", url(client)),
            format!("--listen-peer-urls={}", url(peer)),
            format!("--initial-advertise-peer-urls={}", url(peer)),
            format!("--initial-cluster=default={}", url(peer)),
            "--log-level=warn".to_owned(),
            // What it holds ends with the test.
            "--unsafe-no-fsync".to_owned(),
        ];
        let mut etcd = self.daemon("etcd", &arguments)?;
        etcd.wait_for("it accepts connections", START, || {
            Ok(TcpStream::connect(("127.0.0.1", client)).is_ok().then_some(()))
        })?;
        self.control_plane.insert(0, etcd);

        let token = self.write_secrets(secure)?;
        let arguments = [
            format!("--etcd-servers={}", url(client)),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={secure}"),
            format!("--cert-dir={}", self.path("certs")),
            format!("--token-auth-file={token}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", self.path("accounts.key")),
            format!("--service-account-signing-key-file={}", self.path("accounts.key")),
            "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--allow-privileged=true".to_owned(),
            // The node's name is in no DNS.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--profiling=false".to_owned(),
            format!("--kubelet-client-certificate={}", self.path("kubelet-client.crt")),
            format!("--kubelet-client-key={}", self.path("kubelet-client.key")),
        ];
        let mut api = self.daemon("kube-apiserver", &arguments)?;
        api.wait_for("it is ready", START, || {
            seldom(|| {
                let output = self.kubectl(&["get", "--raw", "/readyz"]).output()?;
                Ok((output.stdout == b"ok").then_some(()))
            })
        })?;
        self.control_plane.insert(0, api);

        let common = [
            format!("--kubeconfig={}", self.path("kubeconfig")),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--profiling=false".to_owned(),
        ];
        let mut arguments = common.to_vec();
        arguments.extend([
            format!("--service-account-private-key-file={}", self.path("accounts.key")),
            format!("--root-ca-file={}", self.path("certs/apiserver.crt")),
        ]);
        let manager = self.daemon("kube-controller-manager", &arguments)?;
        self.control_plane.insert(0, manager);
        let scheduler = self.daemon("kube-scheduler", &common)?;
        self.control_plane.insert(0, scheduler);
        Ok(())
    }

    /// A token of the administrator, keys, and `kubectl`'s configuration; gives the file of tokens.
    fn write_secrets(&self, port: u16) -> Result<String> {
        let mut random = [0_u8; 16];
        std::io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut random)?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let tokens = self.path("tokens");
        write_private(&tokens, &format!("{token},admin,admin,\"system:masters\"\n"))?;
        let configuration = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {
                "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true,
            }}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {
                "cluster": "it", "user": "admin", "namespace": NAMESPACE,
            }}],
        });
        write_private(&self.path("kubeconfig"), &configuration.to_string())?;
        let openssl = |words: &[&str]| {
            run("openssl", &words.iter().map(AsRef::as_ref).collect::<Vec<_>>()).map(drop)
        };
        openssl(&["genrsa", "-out", &self.path("accounts.key"), "2048"])?;
        // Its own authority: by it kubelet knows the API server.
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=apiserver",
            "-addext",
            "extendedKeyUsage=clientAuth",
            "-keyout",
            &self.path("kubelet-client.key"),
            "-out",
            &self.path("kubelet-client.crt"),
        ])?;
        Ok(tokens)
    }

    fn write_kubelet_config(&self, node: &Node) -> Result<()> {
        let reserved = SYSTEM_MEMORY + EVICTION_MEMORY;
        let configuration = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address, "port": free_port()?, "readOnlyPort": 0, "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": false}, "webhook": {"enabled": false},
                "x509": {"clientCAFile": self.path("kubelet-client.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": format!("unix://{}", node.containerd()?.socket().display()),
            "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", node.run().id()),
            "failCgroupV1": false,
            "cpuManagerPolicy": "static", "reservedSystemCPUs": RESERVED_CPU.to_string(),
            "memoryManagerPolicy": "Static",
            "reservedMemory": [{"numaNode": 0, "limits": {"memory": format!("{reserved}Mi")}}],
            "systemReserved": {"memory": format!("{SYSTEM_MEMORY}Mi")},
            "evictionHard": {
                "memory.available": format!("{EVICTION_MEMORY}Mi"), "nodefs.available": "1%",
                "imagefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.inodesFree": "1%",
            },
            // Images are imported once and not to be had again.
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": node.run().path().join("logs"),
            "volumePluginDir": self.path("volume-plugins"),
            // No chains in the machine's tables: nothing here needs them.
            "makeIPTablesUtilChains": false,
            "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local",
            "oomScoreAdj": 0,
        });
        fs::write(self.file("kubelet.json"), configuration.to_string())?;
        Ok(())
    }

    /// Starts kubelet, for the first time or again, and waits until the node is ready by its word.
    pub fn start_kubelet(&mut self, node: &Node) -> Result<()> {
        let arguments = [
            format!("--config={}", self.path("kubelet.json")),
            format!("--kubeconfig={}", self.path("kubeconfig")),
            format!("--root-dir={}", node.run().disk().join("kubelet").display()),
            format!("--cert-dir={}", self.path("kubelet-certs")),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={}", self.address),
        ];
        let before = self.heartbeat()?;
        let mut kubelet = self.daemon("kubelet", &arguments)?;
        kubelet.wait_for("the node is ready", START, || {
            seldom(|| {
                let Some(node) = self.find("node", NODE)? else { return Ok(None) };
                let ready = condition(&node, "Ready");
                let is_new = ready["lastHeartbeatTime"].as_str() != before.as_deref();
                // The taint goes with the next look of a controller.
                let free = node["spec"]["taints"].is_null();
                Ok((ready["status"] == "True" && is_new && free).then_some(()))
            })
        })?;
        self.kubelet = Some(kubelet);
        Ok(())
    }

    fn heartbeat(&self) -> Result<Option<String>> {
        let node = self.find("node", NODE)?;
        Ok(node.and_then(|it| {
            condition(&it, "Ready")["lastHeartbeatTime"].as_str().map(ToOwned::to_owned)
        }))
    }

    /// Ends kubelet in order.
    pub fn stop_kubelet(&mut self) -> Result<()> {
        let mut kubelet = self.kubelet.take().context("kubelet is not running")?;
        kubelet.stop(Duration::from_secs(30))?;
        Ok(())
    }

    /// `kubectl` in the tests' namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("kubectl"));
        command.env("KUBECONFIG", self.file("kubeconfig")).env("HOME", &self.directory);
        command.arg("--request-timeout=60s").args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs `kubectl` to its end; gives what it printed.
    ///
    /// # Errors
    /// When it fails: with its error output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        text_of(arguments, &self.kubectl(arguments).output()?)
    }

    /// Hands objects to `kubectl apply`, as JSON or YAML.
    pub fn apply(&self, objects: &str) -> Result<String> {
        let mut command = self.kubectl(&["apply", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("no input")?.write_all(objects.as_bytes())?;
        text_of(&["apply"], &child.wait_with_output()?)
    }

    /// Makes one object.
    pub fn create(&self, object: &Value) -> Result<()> {
        self.apply(&object.to_string()).map(drop)
    }

    /// An object by kind and name, if it is there.
    pub fn find(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let text = self.run(&["get", kind, name, "--ignore-not-found", "--output=json"])?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// The pods of the tests' namespace with a label, `app=x`.
    pub fn pods(&self, label: &str) -> Result<Vec<Value>> {
        let text = self.run(&["get", "pods", "--selector", label, "--output=json"])?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until as many pods have the label as are wanted, all of them ready.
    pub fn wait_ready(&self, label: &str, wanted: usize) -> Result<Vec<Value>> {
        let mut last = String::new();
        until(&format!("{wanted} pods {label} are ready"), PATIENCE, || {
            let pods = self.pods(label)?;
            let ready = pods.iter().filter(|it| is_ready(it)).count();
            last = format!("{ready} of {}", pods.len());
            Ok((pods.len() == wanted && ready == wanted).then_some(pods))
        })
        .with_context(|| {
            format!("last seen: {last}\n{}", self.run(&["describe", "pods"]).unwrap_or_default())
        })
    }

    /// Runs a shell command in a pod, over the API server, kubelet and containerd.
    pub fn exec(&self, pod: &str, script: &str) -> Result<String> {
        self.run(&["exec", pod, "--", "sh", "-c", script])
    }

    /// The ends of the logs.
    pub fn log_ends(&self) -> String {
        ["kubelet", "kube-apiserver", "kube-scheduler", "kube-controller-manager"]
            .iter()
            .map(|name| {
                let path = self.file(&format!("{name}.log"));
                format!("--- end of {name}.log\n{}\n", tail(&path, 30))
            })
            .collect()
    }
}

/// As [`wait::until`], for a probe that runs `kubectl`, which takes a tenth of a second of CPU each time.
///
/// # Errors
/// See there.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    wait::until(what, limit, || seldom(&mut probe))
}

fn seldom<T>(mut probe: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let found = probe()?;
    if found.is_none() {
        wait::pause(POLL)?;
    }
    Ok(found)
}

/// A condition of an object's status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let list = object["status"]["conditions"].as_array();
    list.and_then(|list| list.iter().find(|it| it["type"] == kind)).unwrap_or(&Value::Null)
}

/// Whether a pod says that it is ready and nobody has asked for its end.
fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True" && pod["metadata"]["deletionTimestamp"].is_null()
}

fn text_of(arguments: &[&str], output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "kubectl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write_private(path: &str, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// A port that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The machine's address towards others; kubelet takes no loopback address for the node's. Nothing is sent.
fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(("192.0.2.1", 9)).context("kubelet needs an interface with a route")?;
    Ok(socket.local_addr()?.ip())
}

/// A bridge without a gateway: pods reach each other, and nothing of the machine's forwarding changes.
pub fn write_network(run: &RunDir) -> Result<()> {
    others_will_change(&run.path(), &[], &THEIRS, &[BRIDGE])?;
    let network = json!({
        "cniVersion": "1.0.0", "name": "rwtest",
        "plugins": [{
            "type": "bridge", "bridge": BRIDGE, "isGateway": false,
            "ipam": {
                "type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]],
                "dataDir": run.path().join("cni-addresses"),
            },
        }],
    });
    let directory = Containerd::cni_directory(run);
    fs::create_dir_all(&directory)?;
    Ok(fs::write(directory.join("10-rwtest.conflist"), network.to_string())?)
}

/// The cgroup below which kubelet keeps its pods has to be there in every hierarchy. A new one of cpuset takes no process
/// before it has CPUs and memory.
fn prepare_cgroup(id: &str) -> Result<()> {
    for mount in readback::mounts(None)? {
        if mount.kind != "cgroup" && mount.kind != "cgroup2" {
            continue;
        }
        let directory = mount.target.join(id);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        if mount.kind == "cgroup" && mount.super_options.split(',').any(|it| it == "cpuset") {
            for name in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(directory.join(name), fs::read_to_string(mount.target.join(name))?)?;
            }
        }
    }
    Ok(())
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        if self.kubelet.is_none() {
            return;
        }
        // In order while everything still works; what is left after a failure goes with the node.
        let removed =
            self.run(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s"]);
        if let Err(error) = removed {
            eprintln!("clean-up: cannot remove the pods in order: {error:#}");
        }
    }
}

/// Fails unless nothing of the run's pods is left: ports, directories, addresses.
pub fn nothing_left(node: &Node) -> Result<()> {
    let run = node.run().path();
    wait::until("nothing is left of the pods", PATIENCE, || {
        let ports = node.vrouter()?.ports()?.len();
        let entries = |name: &str| fs::read_dir(run.join(name)).map_or(0, Iterator::count);
        Ok((ports == 0 && entries("pods") == 0 && entries("leases") == 0).then_some(()))
    })?;
    let mounts = readback::mounts(None)?;
    let left: Vec<_> = mounts
        .iter()
        .filter(|mount| mount.target.starts_with(run.join("pods")))
        .map(|mount| &mount.target)
        .collect();
    ensure!(left.is_empty(), "mounts are left: {left:?}");
    Ok(())
}
