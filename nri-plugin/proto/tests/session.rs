//! A plugin against a runtime that is written here byte by byte: frames, envelopes and messages are put together and
//! taken apart by hand, so that nothing of the crate vouches for itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nri_plugin_proto::api::{
    ConfigureRequest, Container, ContainerUpdate, LinuxResources, PodSandbox,
};
use nri_plugin_proto::session::{self, Ended, SessionError};
use nri_plugin_proto::{
    AdjustmentBuilder, Creation, Event, EventSet, Identity, Plugin, Status, runner,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";

// --- the plugin under test -------------------------------------------------------------------------------------

#[derive(Default)]
struct Recorder {
    calls: Mutex<Vec<String>>,
}

impl Recorder {
    fn note(&self, call: &str, pod: &PodSandbox, container: Option<&Container>) {
        let container = container.map(|c| format!("/{}", c.name)).unwrap_or_default();
        self.calls.lock().unwrap().push(format!("{call} {}{container}", pod.name));
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

impl Plugin for Recorder {
    fn events(&self) -> EventSet {
        EventSet::of(&[Event::CreateContainer, Event::StopPodSandbox, Event::UpdatePodSandbox])
    }
    async fn configure(&self, request: ConfigureRequest) -> Result<(), Status> {
        self.calls.lock().unwrap().push(format!("configure {}", request.config));
        match request.config.as_str() {
            "bad" => Err(Status::refused("bad configuration")),
            _ => Ok(()),
        }
    }
    async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, Status> {
        let pods: Vec<_> = pods.iter().map(|p| p.name.as_str()).collect();
        let containers: Vec<_> = containers.iter().map(|c| c.name.as_str()).collect();
        self.calls.lock().unwrap().push(format!("synchronize {pods:?} {containers:?}"));
        Ok(vec![ContainerUpdate { container_id: "c9".into(), ..Default::default() }])
    }
    async fn run_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        self.note("run_pod", &pod, None);
        Ok(())
    }
    async fn stop_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        self.note("stop_pod", &pod, None);
        Ok(())
    }
    async fn remove_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        self.note("remove_pod", &pod, None);
        Ok(())
    }
    async fn post_update_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Status> {
        self.note("post_update_pod", &pod, None);
        Ok(())
    }
    async fn create_container(&self, pod: PodSandbox, c: Container) -> Result<Creation, Status> {
        self.note("create", &pod, Some(&c));
        let mut creation = Creation::default();
        match c.name.as_str() {
            "fail" => return Err(Status::refused("no CPUs\nleft")),
            "slow" => {
                tokio::time::sleep(Duration::from_millis(600)).await;
                self.note("created late", &pod, Some(&c));
            }
            "big" => {
                let mut builder = AdjustmentBuilder::new();
                builder.env("BIG", &"x".repeat(20_000)).unwrap();
                creation.adjustment = builder.build();
            }
            "twice" => creation.updates = vec![ContainerUpdate::default(); 2],
            "panic" => panic!("a bug of the plugin"),
            _ => {
                let mut builder = AdjustmentBuilder::new();
                builder.env("K", "v").unwrap().cpuset_cpus("3").unwrap();
                creation.adjustment = builder.build();
            }
        }
        Ok(creation)
    }
    async fn post_create_container(&self, pod: PodSandbox, c: Container) -> Result<(), Status> {
        self.note("post_create", &pod, Some(&c));
        Ok(())
    }
    async fn start_container(&self, pod: PodSandbox, c: Container) -> Result<(), Status> {
        self.note("start", &pod, Some(&c));
        Ok(())
    }
    async fn post_start_container(&self, pod: PodSandbox, c: Container) -> Result<(), Status> {
        self.note("post_start", &pod, Some(&c));
        Ok(())
    }
    async fn update_container(
        &self,
        pod: PodSandbox,
        c: Container,
        resources: LinuxResources,
    ) -> Result<Vec<ContainerUpdate>, Status> {
        self.note(&format!("update to {}", resources.cpu.unwrap_or_default().cpus), &pod, Some(&c));
        Ok(Vec::new())
    }
    async fn post_update_container(&self, pod: PodSandbox, c: Container) -> Result<(), Status> {
        self.note("post_update", &pod, Some(&c));
        Ok(())
    }
    async fn remove_container(&self, pod: PodSandbox, c: Container) -> Result<(), Status> {
        self.note("remove", &pod, Some(&c));
        Ok(())
    }
}

// --- protobuf, ttrpc and frames by hand ------------------------------------------------------------------------

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
    out
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&connection.to_be_bytes()[..], &length.to_be_bytes(), payload].concat()
}

fn message(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], payload].concat()
}

fn call(stream: u32, method: &str, body: &[u8]) -> Vec<u8> {
    let metadata = [bytes(1, "traceparent"), bytes(2, "00-aa-bb-01")].concat();
    let parts = [
        bytes(1, PLUGIN),
        bytes(2, method),
        bytes(3, body),
        number(4, 5_000_000_000),
        bytes(5, metadata),
    ];
    message(stream, 1, &parts.concat())
}

fn pod(name: &str) -> Vec<u8> {
    [bytes(1, format!("id-{name}")), bytes(2, name)].concat()
}

fn container(name: &str) -> Vec<u8> {
    [bytes(1, format!("id-{name}")), bytes(3, name)].concat()
}

fn pod_and_container(pod_name: &str, container_name: &str) -> Vec<u8> {
    [bytes(1, pod(pod_name)), bytes(2, container(container_name))].concat()
}

/// Configure of a runtime with this request timeout, milliseconds.
fn configure(timeout: u64) -> Vec<u8> {
    [
        bytes(1, "text"),
        bytes(2, "containerd"),
        bytes(3, "v2.1.9"),
        number(4, 5000),
        number(5, timeout),
    ]
    .concat()
}

/// What a response held: the payload, or code and text.
type Answer = Result<Vec<u8>, (u64, String)>;

/// The fields of a message: number, varint value, bytes value.
fn fields(mut input: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    fn take(input: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (byte, rest) = input.split_first().expect("a varint ends");
            *input = rest;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut all = Vec::new();
    while !input.is_empty() {
        let tag = take(&mut input);
        let value = take(&mut input);
        match tag & 7 {
            0 => all.push((tag >> 3, value, Vec::new())),
            2 => {
                let (head, tail) = input.split_at(usize::try_from(value).unwrap());
                all.push((tag >> 3, 0, head.to_vec()));
                input = tail;
            }
            other => panic!("wire type {other}"),
        }
    }
    all
}

fn answer(payload: &[u8]) -> Answer {
    let mut body = Vec::new();
    for (field, _, value) in fields(payload) {
        match field {
            1 => {
                let (mut code, mut text) = (0, String::new());
                for (field, number, value) in fields(&value) {
                    match field {
                        1 => code = number,
                        2 => text = String::from_utf8(value).unwrap(),
                        _ => {}
                    }
                }
                return Err((code, text));
            }
            2 => body = value,
            _ => {}
        }
    }
    Ok(body)
}

// --- the runtime -----------------------------------------------------------------------------------------------

struct Runtime<S = DuplexStream> {
    socket: S,
    next_stream: u32,
}

type Session = JoinHandle<Result<Ended, SessionError>>;

fn identity() -> Identity {
    Identity::new("test", "10").unwrap()
}

/// A session whose socket passes `capacity` bytes at a time.
fn start(capacity: usize) -> (Runtime, Arc<Recorder>, Session, oneshot::Sender<()>) {
    let (ours, theirs) = tokio::io::duplex(capacity);
    let plugin = Arc::new(Recorder::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let served = Arc::clone(&plugin);
    let session = tokio::spawn(async move {
        let shutdown = std::pin::pin!(async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        session::serve(served, theirs, &identity(), shutdown, || ()).await
    });
    (Runtime { socket: ours, next_stream: 1 }, plugin, session, stop)
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Runtime<S> {
    async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Reads one ttrpc message and checks how it is framed, as strictly as a runtime does.
    async fn receive(&mut self) -> (u32, u32, u8, Vec<u8>) {
        let mut collected = Vec::new();
        let mut connection = 0;
        loop {
            let mut header = [0; 8];
            self.socket.read_exact(&mut header).await.unwrap();
            let id = u32::from_be_bytes(header[..4].try_into().unwrap());
            let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
            assert!((1..=4096).contains(&length), "frame of {length} bytes");
            assert!(collected.is_empty() || id == connection, "frames of two messages mixed");
            connection = id;
            let start = collected.len();
            collected.resize(start + length, 0);
            self.socket.read_exact(&mut collected[start..]).await.unwrap();
            assert!(collected.len() >= 10, "a header is not split");
            let size = u32::from_be_bytes(collected[..4].try_into().unwrap()) as usize;
            assert!(
                collected.len() <= 10 + size,
                "the end of one message with the start of the next"
            );
            if collected.len() == 10 + size {
                let stream = u32::from_be_bytes(collected[4..8].try_into().unwrap());
                return (connection, stream, collected[8], collected[10..].to_vec());
            }
        }
    }

    async fn receive_answer(&mut self) -> (u32, Answer) {
        let (connection, stream, kind, payload) = self.receive().await;
        assert_eq!((connection, kind), (1, 2));
        (stream, answer(&payload))
    }

    fn stream(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        stream
    }

    async fn ask(&mut self, method: &str, body: &[u8]) -> Answer {
        let stream = self.stream();
        self.send(&frame(1, &call(stream, method, body))).await;
        let (answered, answer) = self.receive_answer().await;
        assert_eq!(answered, stream);
        answer
    }

    async fn take_registration(&mut self) {
        let (connection, stream, kind, payload) = self.receive().await;
        assert_eq!((connection, stream, kind), (2, 1, 1));
        let body = [bytes(1, "test"), bytes(2, "10"), bytes(3, "v0.12.0")].concat();
        let expected =
            [bytes(1, "nri.pkg.api.v1alpha1.Runtime"), bytes(2, "RegisterPlugin"), bytes(3, body)];
        assert_eq!(payload, expected.concat());
    }

    async fn handshake(&mut self, timeout: u64) {
        self.take_registration().await;
        self.send(&frame(2, &message(1, 2, b""))).await;
        // CreateContainer and StopPodSandbox; UpdatePodSandbox is unknown to this containerd.
        let configured = self.ask("Configure", &configure(timeout)).await;
        assert_eq!(configured, Ok(number(2, 0x8 | 0x2)));
        let synchronized = self.ask("Synchronize", b"").await;
        assert_eq!(synchronized, Ok(bytes(1, bytes(1, "c9"))));
    }
}

async fn eof(runtime: Runtime, session: Session) -> Result<Ended, SessionError> {
    drop(runtime);
    session.await.unwrap()
}

// --- tests -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_whole_life_in_pieces_of_any_size() {
    for capacity in [1, 7, 64, 1 << 16] {
        let (mut runtime, plugin, session, _stop) = start(capacity);
        runtime.handshake(2000).await;
        let created = runtime.ask("CreateContainer", &pod_and_container("p", "c")).await;
        let env = bytes(4, [bytes(1, "K"), bytes(2, "v")].concat());
        let cpu = bytes(6, bytes(2, bytes(2, bytes(6, "3"))));
        assert_eq!(created, Ok(bytes(1, [env, cpu].concat())));
        let update = [pod_and_container("p", "c"), bytes(3, bytes(2, bytes(6, "0-1")))].concat();
        assert_eq!(runtime.ask("UpdateContainer", &update).await, Ok(Vec::new()));
        assert!(matches!(eof(runtime, session).await, Ok(Ended::Eof)));
        assert_eq!(
            plugin.calls(),
            ["configure text", "synchronize [] []", "create p/c", "update to 0-1 p/c"]
        );
    }
}

#[tokio::test]
async fn configure_may_come_before_the_answer_to_registering() {
    let (mut runtime, plugin, session, _stop) = start(1 << 16);
    // Not even the registration is read before the plugin has answered.
    runtime.send(&frame(1, &call(1, "Configure", &configure(2000)))).await;
    runtime.take_registration().await;
    assert!(runtime.receive_answer().await.1.is_ok());
    runtime.next_stream = 3;
    assert!(runtime.ask("Synchronize", b"").await.is_ok());
    runtime.send(&frame(2, &message(1, 2, b""))).await;
    assert!(runtime.ask("CreateContainer", &pod_and_container("p", "c")).await.is_ok());
    assert!(matches!(eof(runtime, session).await, Ok(Ended::Eof)));
    assert_eq!(plugin.calls().len(), 3);
}

#[tokio::test]
async fn a_split_synchronize_is_collected() {
    let (mut runtime, plugin, _session, _stop) = start(1 << 16);
    runtime.handshake(2000).await;
    let part = |name: &str, more| {
        let more = if more { number(3, 1) } else { Vec::new() };
        [bytes(1, pod(name)), bytes(2, container(&format!("c{name}"))), more].concat()
    };
    for name in ["1", "2"] {
        // More to come: exactly {more: true} and no update.
        assert_eq!(runtime.ask("Synchronize", &part(name, true)).await, Ok(number(2, 1)));
    }
    let last = runtime.ask("Synchronize", &part("3", false)).await;
    assert_eq!(last, Ok(bytes(1, bytes(1, "c9"))));
    assert_eq!(plugin.calls().last().unwrap(), r#"synchronize ["1", "2", "3"] ["c1", "c2", "c3"]"#);
    // The next one starts from nothing.
    assert!(runtime.ask("Synchronize", &part("4", false)).await.is_ok());
    assert_eq!(plugin.calls().last().unwrap(), r#"synchronize ["4"] ["c4"]"#);
}

#[tokio::test]
async fn both_styles_of_events_end_in_the_same_methods() {
    let (mut runtime, plugin, _session, _stop) = start(1 << 16);
    runtime.handshake(2000).await;
    for (event, method, expected) in [
        (1, "RunPodSandbox", "run_pod p"),
        (2, "StopPodSandbox", "stop_pod p"),
        (3, "RemovePodSandbox", "remove_pod p"),
        (5, "PostCreateContainer", "post_create p/c"),
        (6, "StartContainer", "start p/c"),
        (7, "PostStartContainer", "post_start p/c"),
        (9, "PostUpdateContainer", "post_update p/c"),
        (11, "RemoveContainer", "remove p/c"),
        (13, "PostUpdatePodSandbox", "post_update_pod p"),
    ] {
        let dedicated = pod_and_container("p", "c");
        assert_eq!(runtime.ask(method, &dedicated).await, Ok(Vec::new()), "{method}");
        let change = [number(1, event), bytes(2, pod("p")), bytes(3, container("c"))].concat();
        assert_eq!(runtime.ask("StateChange", &change).await, Ok(Vec::new()), "{event}");
        let calls = plugin.calls();
        assert_eq!(calls[calls.len() - 2..], [expected, expected]);
    }
    let before = plugin.calls().len();
    // An event of a later version, and the calls that nobody sends.
    let later = [number(1, 99), bytes(2, pod("p"))].concat();
    assert_eq!(runtime.ask("StateChange", &later).await, Ok(Vec::new()));
    assert_eq!(runtime.ask("Shutdown", b"").await, Ok(Vec::new()));
    assert_eq!(plugin.calls().len(), before);
}

#[tokio::test]
async fn failures_are_answered_and_the_session_goes_on() {
    let (mut runtime, plugin, session, _stop) = start(1 << 16);
    runtime.handshake(2000).await;
    let create = |name| pod_and_container("p", name);
    for (method, body, code, text) in [
        ("CreateContainer", create("fail"), 2, "no CPUs left"),
        ("CreateContainer", create("twice"), 13, "container \"\" is updated twice"),
        ("CreateContainer", create("panic"), 13, "CreateContainer failed: "),
        ("CreateContainer", bytes(1, pod("p")), 3, "request without a container"),
        ("StopPodSandbox", Vec::new(), 3, "request without a pod"),
        ("CreateContainer", vec![0xff], 3, ""),
        ("Sing", Vec::new(), 12, "unknown method \"Sing\""),
    ] {
        let (got, message) = runtime.ask(method, &body).await.unwrap_err();
        assert_eq!(got, code, "{method}: {message}");
        assert!(message.starts_with(text), "{message}");
    }
    // Another service.
    let stream = runtime.stream();
    let other = [bytes(1, "grpc.health.v1.Health"), bytes(2, "Check")].concat();
    runtime.send(&frame(1, &message(stream, 1, &other))).await;
    assert_eq!(runtime.receive_answer().await.1.unwrap_err().0, 3);
    // An envelope that is none.
    let stream = runtime.stream();
    runtime.send(&frame(1, &message(stream, 1, b"\xff\xff"))).await;
    assert_eq!(runtime.receive_answer().await.1.unwrap_err().0, 3);
    // Messages that are neither request nor response, and frames for nobody.
    runtime.send(&frame(1, &message(99, 3, b"data"))).await;
    runtime.send(&frame(77, b"for nobody")).await;
    runtime.send(&frame(2, &message(9, 2, b""))).await;
    // Larger than ttrpc allows: refused and skipped.
    let stream = runtime.stream();
    let long = (4 << 20) + 1;
    let header = [&u32::to_be_bytes(long)[..], &stream.to_be_bytes(), &[1, 0]].concat();
    runtime.send(&frame(1, &header)).await;
    for _ in 0..1024 {
        runtime.send(&frame(1, &[0; 4096])).await;
    }
    runtime.send(&frame(1, &[0; 1])).await;
    let (answered, refusal) = runtime.receive_answer().await;
    assert_eq!((answered, refusal.unwrap_err().0), (stream, 8));
    assert!(runtime.ask("CreateContainer", &create("c")).await.is_ok());
    assert_eq!(plugin.calls().last().unwrap(), "create p/c");
    assert!(matches!(eof(runtime, session).await, Ok(Ended::Eof)));
}

#[tokio::test]
async fn a_slow_method_is_answered_for_in_time_and_not_cancelled() {
    let (mut runtime, plugin, _session, _stop) = start(1 << 16);
    runtime.handshake(400).await;
    let began = Instant::now();
    let (code, text) =
        runtime.ask("CreateContainer", &pod_and_container("p", "slow")).await.unwrap_err();
    let took = began.elapsed();
    assert_eq!(code, 4, "{text}");
    assert!(took >= Duration::from_millis(310) && took < Duration::from_millis(400), "{took:?}");
    // Meanwhile the next is served.
    assert!(runtime.ask("CreateContainer", &pod_and_container("p", "c")).await.is_ok());
    assert!(!plugin.calls().contains(&"created late p/slow".to_owned()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(plugin.calls().contains(&"created late p/slow".to_owned()));
}

#[tokio::test]
async fn the_end_of_a_session_waits_for_methods_under_way() {
    let (mut runtime, plugin, session, _stop) = start(1 << 16);
    runtime.handshake(2000).await;
    runtime.send(&frame(1, &call(99, "CreateContainer", &pod_and_container("p", "slow")))).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(matches!(eof(runtime, session).await, Ok(Ended::Eof)));
    assert!(plugin.calls().contains(&"created late p/slow".to_owned()));
}

#[tokio::test]
async fn a_large_answer_is_cut_into_small_frames() {
    let (mut runtime, _plugin, _session, _stop) = start(1 << 16);
    runtime.handshake(2000).await;
    // Two at once: `receive` checks that their frames do not mix.
    for stream in [101, 103] {
        let big = call(stream, "CreateContainer", &pod_and_container("p", "big"));
        runtime.send(&frame(1, &big)).await;
    }
    for _ in 0..2 {
        let (stream, answer) = runtime.receive_answer().await;
        assert!([101, 103].contains(&stream));
        assert!(answer.unwrap().len() > 20_000);
    }
}

#[tokio::test]
async fn one_message_over_many_frames_and_many_in_one() {
    let (mut runtime, _plugin, _session, _stop) = start(1 << 16);
    runtime.handshake(2000).await;
    let first = call(101, "CreateContainer", &pod_and_container("p", &"n".repeat(9000)));
    let second = call(103, "StopPodSandbox", &bytes(1, pod("p")));
    let stream = [first, second].concat();
    for piece in stream.chunks(4096) {
        runtime.send(&frame(1, piece)).await;
    }
    let mut answered = [runtime.receive_answer().await.0, runtime.receive_answer().await.0];
    answered.sort_unstable();
    assert_eq!(answered, [101, 103]);
}

#[tokio::test]
async fn what_ends_a_session() {
    // A frame that no runtime sends.
    let (mut runtime, _, session, _stop) = start(1 << 16);
    runtime.send(&[0, 0, 0, 1, 0xff, 0, 0, 0]).await;
    assert!(matches!(session.await.unwrap(), Err(SessionError::Mux(_))));

    // The stream breaks off inside a frame.
    let (mut runtime, _, session, _stop) = start(1 << 16);
    runtime.send(&[0, 0, 0, 1, 0, 0, 0, 9, 1, 2]).await;
    assert!(matches!(eof(runtime, session).await, Err(SessionError::Truncated)));

    // The runtime does not want the plugin.
    let (mut runtime, _, session, _stop) = start(1 << 16);
    runtime.take_registration().await;
    let status = bytes(1, [number(1, 2), bytes(2, "go away")].concat());
    runtime.send(&frame(2, &message(1, 2, &status))).await;
    let error = session.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "runtime refuses the plugin: go away (code 2)");

    // The caller.
    let (mut runtime, _, session, stop) = start(1 << 16);
    runtime.handshake(2000).await;
    stop.send(()).unwrap();
    assert!(matches!(session.await.unwrap(), Ok(Ended::Cancelled)));
    assert_eq!(runtime.socket.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_refused_configuration_is_answered_with_its_text() {
    let (mut runtime, _, _session, _stop) = start(1 << 16);
    runtime.take_registration().await;
    let refused = runtime.ask("Configure", &bytes(1, "bad")).await;
    assert_eq!(refused, Err((2, "bad configuration".to_owned())));
}

#[tokio::test]
async fn a_plugin_of_its_own_survives_the_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nri.sock");
    let plugin = Arc::new(Recorder::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let (plugin, path) = (Arc::clone(&plugin), path.clone());
        async move {
            let shutdown = async { drop(stopped.await) };
            runner::run_external(plugin, &path, &identity(), shutdown).await;
        }
    });
    // Nobody listens at first.
    tokio::time::sleep(Duration::from_millis(150)).await;
    for _ in 0..3 {
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let mut runtime = Runtime { socket, next_stream: 1 };
        runtime.handshake(2000).await;
        drop((runtime, listener));
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(plugin.calls().iter().filter(|call| call.starts_with("synchronize")).count(), 3);
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(2), running).await.unwrap().unwrap();
}
