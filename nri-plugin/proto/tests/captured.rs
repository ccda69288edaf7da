//! Replays what real containerds sent (see `testdata/README.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::sync::{Arc, Mutex};

use nri_plugin_proto::api::{
    ConfigureRequest, Container, ContainerUpdate, LinuxResources, PodSandbox,
};
use nri_plugin_proto::session::{self, Ended};
use nri_plugin_proto::{Creation, Event, EventSet, Identity, Plugin, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn note(&self, call: impl Into<String>) {
        self.0.lock().unwrap().push(call.into());
    }
}

impl Plugin for Recorder {
    fn events(&self) -> EventSet {
        EventSet::of(&[Event::CreateContainer])
    }
    async fn configure(&self, request: ConfigureRequest) -> Result<(), Status> {
        // As whoever built it calls it: Debian's have no v.
        let version = request.runtime_version.trim_start_matches('v');
        let version = version.get(..3).unwrap_or_default();
        self.note(format!("configure {} {version} {:?}", request.runtime_name, request.config));
        Ok(())
    }
    async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, Status> {
        for pod in &pods {
            self.note(format!("has pod {}/{}", pod.namespace, pod.name));
        }
        for container in &containers {
            let pod = pods.iter().find(|pod| pod.id == container.pod_sandbox_id).unwrap();
            self.note(format!("has {}/{} {:?}", pod.name, container.name, container.state()));
        }
        Ok(Vec::new())
    }
    async fn run_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        // Known before any container is.
        let parent = pod.linux.unwrap().cgroup_parent;
        assert!(parent.ends_with(&format!("/pod{}", pod.uid)), "{parent}");
        let network = pod.annotations.get("network.ringway.dev/pod");
        self.note(format!("run pod {} {}", pod.name, network.map_or("-", String::as_str)));
        Ok(())
    }
    async fn stop_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        self.note(format!("stop pod {}", pod.name));
        Ok(())
    }
    async fn remove_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        self.note(format!("remove pod {}", pod.name));
        Ok(())
    }
    async fn create_container(&self, pod: PodSandbox, c: Container) -> Result<Creation, Status> {
        assert_eq!((pod.id.len(), &c.pod_sandbox_id), (64, &pod.id));
        let linux = c.linux.unwrap();
        let parent = pod.linux.unwrap().cgroup_parent;
        assert!(parent.ends_with(&format!("/pod{}", pod.uid)), "{parent}");
        assert_eq!(linux.cgroups_path, format!("{parent}/{}", c.id));
        assert!(c.env.contains(&format!("POD={}", pod.name)), "{:?}", c.env);
        assert!(c.mounts.iter().any(|mount| mount.destination == "/proc"));
        let cpu = linux.resources.unwrap().cpu.unwrap();
        let number = |shares| cpu.shares.as_ref().map_or(shares, |shares| shares.value);
        self.note(format!("create {}/{} shares {}", pod.name, c.name, number(0)));
        Ok(Creation::default())
    }
    async fn update_container(
        &self,
        pod: PodSandbox,
        c: Container,
        resources: LinuxResources,
    ) -> Result<Vec<ContainerUpdate>, Status> {
        // What is not set is there all the same, as 0.
        let cpu = resources.cpu.unwrap();
        assert!(cpu.shares.is_none_or(|shares| shares.value == 0), "{cpu:?}");
        self.note(format!("update {}/{} to CPUs {}", pod.name, c.name, cpu.cpus));
        Ok(Vec::new())
    }
    async fn stop_container(
        &self,
        pod: PodSandbox,
        c: Container,
    ) -> Result<Vec<ContainerUpdate>, Status> {
        self.note(format!("stop {}/{}", pod.name, c.name));
        Ok(Vec::new())
    }
    async fn remove_container(&self, pod: PodSandbox, c: Container) -> Result<(), Status> {
        self.note(format!("remove {}/{}", pod.name, c.name));
        Ok(())
    }
}

/// The stream cut after each frame that completes a request.
fn requests(mut stream: &[u8]) -> Vec<(&[u8], bool)> {
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let (mut parts, mut missing) = (Vec::new(), 0_usize);
    while !stream.is_empty() {
        let length = word(&stream[4..8]) as usize;
        let (frame, rest) = stream.split_at(8 + length);
        stream = rest;
        if word(&frame[..4]) != 1 {
            parts.push((frame, false));
            continue;
        }
        if missing == 0 {
            missing = 10 + word(&frame[8..12]) as usize;
        }
        // containerd ends a frame with each message.
        missing -= length;
        parts.push((frame, missing == 0));
    }
    parts
}

async fn replay(stream: &[u8]) -> Vec<String> {
    let (mut runtime, theirs) = tokio::io::duplex(1 << 16);
    let plugin = Arc::new(Recorder::default());
    let served = Arc::clone(&plugin);
    let session = tokio::spawn(async move {
        let identity = Identity::new("test", "10").unwrap();
        session::serve(served, theirs, &identity, std::pin::pin!(std::future::pending()), || ())
            .await
    });
    let read_frame = async |runtime: &mut tokio::io::DuplexStream| {
        let mut header = [0; 8];
        runtime.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
        let mut payload = vec![0; length];
        runtime.read_exact(&mut payload).await.unwrap();
        payload
    };
    read_frame(&mut runtime).await;
    for (frame, complete) in requests(stream) {
        runtime.write_all(frame).await.unwrap();
        if complete {
            let answer = read_frame(&mut runtime).await;
            // A failure would start with field 1 of the response, the status.
            assert_ne!(answer.get(10), Some(&0x0a), "{}", String::from_utf8_lossy(&answer));
        }
    }
    drop(runtime);
    assert_eq!(session.await.unwrap().unwrap(), Ended::Eof);
    Arc::into_inner(plugin).unwrap().0.into_inner().unwrap()
}

#[tokio::test]
async fn real_containerds_are_understood() {
    for (version, stream) in [
        ("1.7", &include_bytes!("../testdata/containerd-1.7.24.bin")[..]),
        ("2.1", include_bytes!("../testdata/containerd-2.1.9.bin")),
    ] {
        assert_eq!(
            replay(stream).await,
            [
                &format!("configure containerd {version} \"\""),
                "has pod demo/old",
                "has old/app ContainerRunning",
                "run pod new red",
                "create new/app shares 2",
                "stop new/app",
                "remove new/app",
                "stop pod new",
                "remove pod new",
                "stop old/app",
                "stop pod old",
                "remove old/app",
                "remove pod old",
            ],
            "{version}"
        );
    }
}

/// The same with kubelet's way to end a pod, an update of a container's CPUs, and other events subscribed to.
#[tokio::test]
async fn updates_of_real_containerds_are_understood() {
    for (version, stream) in [
        ("1.7", &include_bytes!("../testdata/ringway-1.7.24.bin")[..]),
        ("2.1", include_bytes!("../testdata/ringway-2.1.9.bin")),
        ("2.2", include_bytes!("../testdata/ringway-2.2.9.bin")),
        // Each event of a pod's life has a call of its own from here on.
        ("2.3", include_bytes!("../testdata/ringway-2.3.7.bin")),
        ("2.4", include_bytes!("../testdata/ringway-2.4.2.bin")),
    ] {
        assert_eq!(
            replay(stream).await,
            [
                &format!("configure containerd {version} \"\""),
                "has pod demo/old",
                "has old/app ContainerRunning",
                "run pod new red",
                "create new/app shares 2",
                "update new/app to CPUs 0",
                "stop new/app",
                "remove new/app",
                "stop pod new",
                "remove pod new",
                "stop old/app",
                "remove old/app",
                "stop pod old",
                "remove pod old",
            ],
            "{version}"
        );
    }
}
