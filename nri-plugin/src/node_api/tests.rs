use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use super::*;
use crate::record::tests::sample;

fn request(root: &str, id: &str) -> v1::CreateRequest {
    v1::CreateRequest {
        key: Some(v1::ContainerKey { root: root.into(), id: id.into() }),
        namespace: "default".into(),
        pod: String::new(),
        name: "web".into(),
        annotations: [("network.ringway.dev".to_owned(), "red".to_owned())].into(),
        cgroups_path: "/default/c1".into(),
        resources: Some(v1::Resources {
            cpu_shares: 2048,
            cpu_quota: -1,
            cpuset_cpus: "0-3".into(),
            hugepages: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 7 }],
            ..Default::default()
        }),
    }
}

#[test]
fn a_request_is_a_pod_of_one_container() {
    let Wanted { sandbox: id, pod, container } = request("/run/runc", "c1").try_into().unwrap();
    assert_eq!(id.as_str(), sandbox("/run/runc", "c1"));
    assert_eq!((pod.id.as_str(), pod.name.as_str()), (id.as_str(), "c1"));
    assert_eq!((container.id.as_str(), container.name.as_str()), ("c1", "web"));
    assert_eq!(convert::cgroups_path(&container), "/default/c1");
    assert!(convert::pod_opted_in(&pod));
    let quota = convert::cpu_quota(&container);
    assert_eq!((quota.shares, quota.quota, quota.period), (2048, -1, 0));
    assert_eq!(convert::hugepage_limits(&container)[0].limit, 7);
}

#[test]
fn keys_are_checked() {
    for (root, id, part) in [
        ("run/runc", "c1", "key.root"),
        ("", "c1", "key.root"),
        ("/run/runc", "", "key.id"),
        ("/run/runc", &*"x".repeat(1025), "key.id"),
    ] {
        let status = Wanted::try_from(request(root, id)).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(part), "{status}");
    }
}

#[test]
fn what_is_held_is_described() {
    let held = describe(sample("abc"), true);
    assert_eq!((held.id.as_str(), held.namespace.as_str(), held.running), ("c1", "demo", true));
    assert_eq!(held.cpus, "2-3 exclusive");
    let interface = &held.interfaces[2];
    assert_eq!((interface.name.as_str(), interface.ipv6.as_str()), ("wan", "fd00:66::4"));
    assert_eq!(interface.socket, "/run/ringway/wan.sock");
}

#[tokio::test]
async fn the_socket_is_roots_alone_and_replaces_an_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join(SOCKET);
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let _listener = listen(&socket).unwrap();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    UnixStream::connect(&socket).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_caller_is_noticed() {
    let mut child = tokio::process::Command::new("/bin/cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).unwrap();
    let caller = Caller::wait_on(fd).unwrap();
    let mut ended = Box::pin(caller.ended());
    assert!(is_pending(&mut ended).await);
    drop(child.stdin.take());
    child.wait().await.unwrap();
    ended.await;
}

async fn is_pending(future: &mut Pin<Box<impl Future<Output = ()>>>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}
