//! An API server of our own, with what the tests need of it: `kubectl`, accounts with the rights of the manifests, an audit log.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::machine::{program, repository};
use integration::process::{Daemon, run};
use integration::rundir::RunDir;
use integration::wait;
use serde_json::{Value, json};

/// Programs of Kubernetes that start on a busy machine.
const START: Duration = Duration::from_secs(180);
/// Anything that controllers, agents or the scheduler bring about.
pub const PATIENCE: Duration = Duration::from_secs(90);
const NEEDED: [&str; 4] = ["etcd", "kube-apiserver", "kube-scheduler", "kubectl"];

/// Who the tests and the programs are; the account's name is that of the manifests.
pub const ADMIN: &str = "admin";
pub const CONTROLLER: &str = "ringway-controller";
pub const AGENT: &str = "ringway-tuner";
pub const SCHEDULER: &str = "ringway-scheduler";

/// A program of Kubernetes, as the set-up makes it.
fn kubernetes(name: &str) -> PathBuf {
    repository().join("target/k8s/bin").join(name)
}

/// Why there is no API server here.
pub fn unfit() -> Option<String> {
    let missing = NEEDED.iter().map(|name| kubernetes(name)).find(|path| !path.is_file());
    missing.map(|path| format!("{} is not built; `make test-k8s` does", path.display()))
}

/// The API server and what goes with it. Dropped in this order.
pub struct Api {
    server: Daemon,
    etcd: Daemon,
    /// How etcd is started.
    store: Vec<String>,
    port: u16,
    pub run: RunDir,
}

pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Api {
    /// With the definitions, accounts and rights of the manifests, and a namespace for pods.
    pub fn start() -> Result<Self> {
        let run_dir = RunDir::create()?;
        let directory = run_dir.disk().join("api");
        fs::create_dir_all(&directory)?;
        let at = |name: &str| directory.join(name).display().to_string();
        let (etcd_port, peer_port, port) = (free_port()?, free_port()?, free_port()?);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let store = vec![
            format!("--data-dir={}", at("etcd")),
            format!("--listen-client-urls={}", url(etcd_port)),
            format!("--advertise-client-urls={}", url(etcd_port)),
            format!("--listen-peer-urls={}", url(peer_port)),
            format!("--initial-advertise-peer-urls={}", url(peer_port)),
            format!("--initial-cluster=default={}", url(peer_port)),
            "--log-level=warn".to_owned(),
            "--unsafe-no-fsync".to_owned(),
        ];
        let etcd = etcd(&store, &directory)?;
        let key = at("accounts.key");
        run("openssl", &["genrsa", "-out", &key, "2048"].map(OsStr::new))?;
        let account = |name: &str| {
            format!(
                "{name},system:serviceaccount:ringway:{name},{name},\"system:serviceaccounts\"\n"
            )
        };
        let accounts = [CONTROLLER, AGENT, SCHEDULER].map(account).concat();
        fs::write(at("tokens"), format!("{ADMIN},admin,admin,\"system:masters\"\n{accounts}"))?;
        // Who asked for what; bodies are not written.
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [{"level": "Metadata"}],
        });
        fs::write(at("audit.json"), policy.to_string())?;
        let mut command = Command::new(kubernetes("kube-apiserver"));
        command.args([
            format!("--etcd-servers={}", url(etcd_port)),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--cert-dir={}", at("certs")),
            format!("--token-auth-file={}", at("tokens")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            // No controller makes the accounts of namespaces here.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            // The agent's pods are; nobody runs them here.
            "--allow-privileged=true".to_owned(),
            "--profiling=false".to_owned(),
            format!("--audit-policy-file={}", at("audit.json")),
            format!("--audit-log-path={}", at("audit.log")),
        ]);
        let server = Daemon::start("kube-apiserver", command, &directory.join("apiserver.log"))?;
        let mut api = Self { server, etcd, store, port, run: run_dir };
        for name in [ADMIN, CONTROLLER, AGENT, SCHEDULER] {
            fs::write(api.kubeconfig(name), api.config(name, name).to_string())?;
        }
        api.wait_until_ready()?;
        for folder in ["crds", "controller"] {
            let folder = repository().join("config/kubernetes").join(folder);
            let folder = folder.to_str().context("path")?.to_owned();
            if folder.ends_with("controller") {
                let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ringway"}});
                api.apply(&namespace)?;
                api.kubectl(&["apply", "--server-side", "-k", &folder])?;
            } else {
                api.kubectl(&["apply", "--server-side", "-f", &folder])?;
            }
        }
        api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
        Ok(api)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let ready = Command::new(kubernetes("kubectl"));
        let ready = self.command(ready, &["get", "--raw", "/readyz"]);
        let ready = std::cell::RefCell::new(ready);
        self.server.wait_for("the API server is ready", START, || {
            let output = ready.borrow_mut().output()?;
            Ok(output.status.success().then_some(()))
        })
    }

    /// Kills etcd: the API server answers only what it has in memory.
    pub fn crash_store(&mut self) -> Result<()> {
        self.etcd.crash()
    }

    /// Starts it again with all that it had.
    pub fn start_store(&mut self) -> Result<()> {
        self.etcd = etcd(&self.store, &self.directory())?;
        self.wait_until_ready()
    }

    fn directory(&self) -> PathBuf {
        self.run.disk().join("api")
    }

    /// Process ids of etcd and the API server.
    pub fn pids(&self) -> [u32; 2] {
        [self.etcd.pid(), self.server.pid()]
    }

    /// For the account of that name.
    pub fn kubeconfig(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{name}.kubeconfig"))
    }

    fn config(&self, name: &str, token: &str) -> Value {
        // The server's own certificate is followed by that of who signed it.
        let authority = self.directory().join("certs/apiserver.crt");
        let server = format!("https://127.0.0.1:{}", self.port);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority": authority}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": name}}],
        })
    }

    /// The agent's account, as a pod on `node` has it: its token says so.
    pub fn agent_of(&self, node: &str) -> Result<String> {
        let pod = format!("agent-{node}");
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": "ringway"},
            "spec": {
                "nodeName": node, "serviceAccountName": AGENT, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "tuner", "image": "none.example.org/none"}],
            },
        }))?;
        let words = ["create", "token", AGENT, "-n", "ringway", "--bound-object-kind", "Pod"];
        let token = self.kubectl(&[&words[..], &["--bound-object-name", &pod]].concat())?;
        let config = self.config(&pod, token.trim());
        fs::write(self.kubeconfig(&pod), config.to_string())?;
        Ok(pod)
    }

    fn command(&self, kubectl: Command, words: &[&str]) -> Command {
        self.command_as(ADMIN, kubectl, words)
    }

    fn command_as(&self, who: &str, mut kubectl: Command, words: &[&str]) -> Command {
        kubectl.arg("--kubeconfig").arg(self.kubeconfig(who)).args(words);
        // It caches what the server can do; not in anybody's home.
        kubectl.env("KUBECACHEDIR", self.directory().join("cache"));
        kubectl
    }

    /// Its output, when it succeeds.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        let output = self.command(Command::new(kubernetes("kubectl")), words).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {words:?}: {}", error.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What the server says to `who` who tries that with an object: nothing if it would do it. Nothing is done.
    pub fn refusal(&self, who: &str, words: &[&str], object: &Value) -> Result<Option<String>> {
        let words = [words, &["--dry-run=server", "-f", "-"]].concat();
        let command = self.command_as(who, Command::new(kubernetes("kubectl")), &words);
        let output = feed(command, object)?;
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok((!output.status.success()).then_some(error))
    }

    /// Makes or changes an object.
    pub fn apply(&self, object: &Value) -> Result<()> {
        self.write(&["apply", "--server-side", "--force-conflicts", "-f", "-"], object)
    }

    /// Makes an object; unknown fields are refused.
    pub fn create(&self, object: &Value) -> Result<()> {
        self.write(&["create", "--validate=strict", "-f", "-"], object)
    }

    fn write(&self, words: &[&str], object: &Value) -> Result<()> {
        let output = feed(self.command(Command::new(kubernetes("kubectl")), words), object)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {words:?}: {}", error.trim());
        Ok(())
    }

    /// The object; `None`: it is not there.
    pub fn find(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let text = self.kubectl(&["get", kind, name, "-o", "json", "--ignore-not-found"])?;
        if text.trim().is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
    }

    /// All objects of a kind.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.kubectl(&["get", kind, "-o", "json"])?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// The object once it is as `wanted` says; what it last was, when it does not become so.
    pub fn wait(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let last = std::cell::RefCell::new(None);
        let found = wait::until(what, PATIENCE, || {
            let found = self.find(kind, name)?;
            last.borrow_mut().clone_from(&found);
            Ok(found.filter(|object| wanted(object)))
        });
        found.with_context(|| match last.into_inner() {
            Some(mut object) => {
                object["metadata"]["managedFields"] = Value::Null;
                format!("{kind} {name} is {object:#}")
            }
            None => format!("{kind} {name} is not there"),
        })
    }

    /// Takes away what a test has made.
    pub fn clear(&self) -> Result<()> {
        let words = ["--all", "--wait=true", "--timeout=120s"];
        let pods = ["delete", "pods", "--all-namespaces", "--force", "--grace-period=0"];
        self.kubectl(&[&pods[..], &words[..]].concat())?;
        let kinds = "nodeprofiles,nodetunings,noderesourcetopologies,nodes";
        self.kubectl(&[&["delete", kinds], &words[..]].concat())?;
        Ok(())
    }

    /// A program that talks to it, with its output in a file.
    pub fn daemon(&self, name: &str, account: &str, words: &[&str]) -> Result<Daemon> {
        let log = self.run.path().join(format!("{name}-{}.log", free_port()?));
        let binary = match name {
            "kube-scheduler" => kubernetes(name),
            _ => program(name)?,
        };
        let mut command = Command::new(binary);
        command.args(words);
        if name != "kube-scheduler" {
            command.arg("--kubeconfig").arg(self.kubeconfig(account));
        }
        Daemon::start(name, command, &log)
    }

    /// A controller of that name, whose lease runs out soon.
    pub fn controller(&self, identity: &str) -> Result<Daemon> {
        let words = ["run", "--identity", identity, "--lease-seconds", "4"];
        self.daemon(CONTROLLER, CONTROLLER, &words)
    }

    /// Plays nodes; returns when all are there.
    pub fn agents(&self, facts: &Value, words: &[&str]) -> Result<Daemon> {
        let file = self.run.path().join("facts.json");
        fs::write(&file, facts.to_string())?;
        let file = file.display().to_string();
        let mut agents =
            self.daemon("ringway-agents", ADMIN, &[words, &["--facts", &file]].concat())?;
        let log = agents.log().to_owned();
        agents.wait_for("all nodes are there", START * 3, || {
            let text = fs::read_to_string(&log)?;
            Ok(text.lines().any(|line| line == "ready").then_some(()))
        })?;
        Ok(agents)
    }

    /// How many requests of `user` were answered with `code` so far, by their addresses.
    pub fn answered(&self, user: &str, code: u64) -> Result<BTreeMap<String, u64>> {
        let mut requests = BTreeMap::new();
        self.events(|event| {
            if of(event) == user && event["responseStatus"]["code"] == code {
                let address = event["requestURI"].as_str().unwrap_or_default().to_owned();
                *requests.entry(address).or_default() += 1;
            }
        })?;
        Ok(requests)
    }

    /// Calls `each` with account, `verb resource` and name of the object for each request so far.
    fn audit(&self, mut each: impl FnMut(&str, String, &str)) -> Result<()> {
        self.events(|event| {
            let object = &event["objectRef"];
            let word = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
            let resource = [word(&object["resource"]), word(&object["subresource"])].join("/");
            let asked = format!("{} {}", word(&event["verb"]), resource.trim_end_matches('/'));
            each(of(event), asked, &word(&object["name"]));
        })
    }

    fn events(&self, mut each: impl FnMut(&Value)) -> Result<()> {
        let text = fs::read_to_string(self.directory().join("audit.log"))?;
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            each(&serde_json::from_str(line)?);
        }
        Ok(())
    }

    /// Requests so far by account and `verb resource`.
    pub fn requests(&self) -> Result<BTreeMap<(String, String), u64>> {
        let mut requests = BTreeMap::new();
        self.audit(|user, asked, _| *requests.entry((user.to_owned(), asked)).or_default() += 1)?;
        Ok(requests)
    }

    /// How often `user` has asked for that, by name of the object.
    pub fn asked(&self, user: &str, what: &str) -> Result<BTreeMap<String, u64>> {
        let mut requests = BTreeMap::new();
        self.audit(|who, asked, name| {
            if who == user && asked == what {
                *requests.entry(name.to_owned()).or_default() += 1;
            }
        })?;
        Ok(requests)
    }
}

/// Account that a request of the audit log is of.
fn of(event: &Value) -> &str {
    let user = event["user"]["username"].as_str().unwrap_or_default();
    user.rsplit(':').next().unwrap_or_default()
}

fn etcd(words: &[String], directory: &Path) -> Result<Daemon> {
    let mut command = Command::new(kubernetes("etcd"));
    command.args(words);
    Daemon::start("etcd", command, &directory.join("etcd.log"))
}

fn feed(mut command: Command, object: &Value) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("stdin")?.write_all(object.to_string().as_bytes())?;
    Ok(child.wait_with_output()?)
}

/// The condition of that type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whether the condition has that status and its message has that part.
pub fn says(object: &Value, kind: &str, status: &str, part: &str) -> bool {
    condition(object, kind).is_some_and(|it| {
        it["status"] == status && it["message"].as_str().is_some_and(|text| text.contains(part))
    })
}

/// A profile.
pub fn profile(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "tuning.ringway.dev/v1alpha1", "kind": "NodeProfile",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// A server of two NUMA nodes with `cpus` CPUs for pods and 16 GiB of 1 GiB pages each, and a vRouter on each.
pub fn server(cpus: u32) -> Value {
    let numa = |id: u32| {
        let first = id * 32;
        json!({
            "id": id, "cpus": format!("{first}-{}", first + 31),
            "podCpus": format!("{}-{}", first + 4, first + 3 + cpus), "cores": 32, "memory": 64_u64 << 30,
            "distances": [{"to": 0, "distance": if id == 0 { 10 } else { 21 }},
                          {"to": 1, "distance": if id == 1 { 10 } else { 21 }}],
            "hugepages": [{"size": 1 << 30, "total": 16, "free": 16}],
        })
    };
    let vrouter = |numa: u32| {
        json!({"mode": "dpdk", "version": "0.1.0", "numa": numa, "workers": 1, "ports": 0,
               "portsMax": 64, "networks": ["red", "blue"]})
    };
    json!({
        "cpu": {"vendor": "GenuineIntel", "model": "Played", "sockets": 2, "cores": 64, "cpus": 64},
        "numa": [numa(0), numa(1)],
        "nics": [{"name": "ens1f0", "driver": "ice", "numa": 0, "speed": 100_000}],
        "vrouters": [vrouter(0), vrouter(1)], "nri": true, "runtimes": ["containerd"],
    })
}

/// Fails with `what` unless `true`; for what must never be.
pub fn never(broken: bool, what: impl FnOnce() -> String) -> Result<()> {
    if broken { bail!("{}", what()) } else { Ok(()) }
}
