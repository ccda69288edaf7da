//! Which vRouters a command is for: one that is named, the only one, or all that run here.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::args::{Args, Command, NetworkAction, RouteAction, RoutesArgs, StatsArgs, UplinkAction};
use crate::failure::Failure;

/// A vRouter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its number, where several run.
    pub(crate) instance: Option<u32>,
    pub(crate) socket: PathBuf,
}

impl Target {
    /// What its part of a list begins with.
    pub(crate) fn heading(&self) -> String {
        self.instance
            .map_or_else(|| self.socket.display().to_string(), |number| format!("vRouter {number}"))
    }
}

/// Those that the command line is about; one at least.
pub(crate) fn of(args: &Args) -> Vec<Target> {
    // The socket may come from the environment, which a word on the command line outweighs.
    if let Some(number) = args.instance {
        return vec![numbered_in(&args.run_dir, number)];
    }
    if let Some(socket) = &args.socket {
        return vec![Target { instance: None, socket: socket.clone() }];
    }
    here(&args.run_dir)
}

/// Those that have made their sockets in a directory.
pub(crate) fn here(run_dir: &Path) -> Vec<Target> {
    let only = Target { instance: None, socket: run_dir.join("vrouter.sock") };
    let entries = fs::read_dir(run_dir).into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("vrouter-")?.parse().ok()?;
        entry.path().join("api.sock").exists().then_some(number)
    };
    let mut numbers: Vec<u32> = entries.filter_map(number).collect();
    numbers.sort_unstable();
    if only.socket.exists() || numbers.is_empty() {
        return vec![only];
    }
    numbers.into_iter().map(|number| numbered_in(run_dir, number)).collect()
}

fn numbered_in(run_dir: &Path, number: u32) -> Target {
    Target { instance: Some(number), socket: run_dir.join(format!("vrouter-{number}/api.sock")) }
}

/// Whether several vRouters can be asked one after the other: lists, and what they have in common.
pub(crate) fn is_for_all(command: &Command) -> bool {
    match command {
        Command::Info | Command::Ports | Command::Drops => true,
        Command::Networks { action } => {
            matches!(action, None | Some(NetworkAction::Add(_) | NetworkAction::Delete { .. }))
        }
        Command::Uplinks { action } => matches!(action, None | Some(UplinkAction::List)),
        Command::Routes(RoutesArgs { action, .. }) => {
            matches!(action, None | Some(RouteAction::List { .. }))
        }
        Command::Workers { action } => action.is_none(),
        Command::Stats(StatsArgs { watch, .. }) => watch.is_none(),
        Command::Pods
        | Command::Explain(_)
        | Command::Doctor(_)
        | Command::Cdi(_)
        | Command::Watch
        | Command::Completions { .. } => false,
    }
}

/// One of several has to be named.
pub(crate) fn which(targets: &[Target]) -> Failure {
    let numbers: Vec<_> = targets.iter().filter_map(|it| Some(it.instance?.to_string())).collect();
    Failure::Input {
        what: format!("vRouters {} run here", numbers.join(", ")),
        why: "say which one is meant with --instance".to_owned(),
    }
}

/// The objects that one has printed as JSON, with its number in each.
pub(crate) fn numbered(target: &Target, said: &[u8]) -> serde_json::Result<Vec<Value>> {
    let mut list = match serde_json::from_slice(said)? {
        Value::Array(list) => list,
        one => vec![one],
    };
    for object in list.iter_mut().filter_map(Value::as_object_mut) {
        object.insert("instance".to_owned(), target.instance.into());
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_run_here_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = || here(dir.path()).into_iter().map(|it| it.socket).collect::<Vec<_>>();
        assert_eq!(sockets(), [dir.path().join("vrouter.sock")]);
        for number in ["10", "2"] {
            let own = dir.path().join(format!("vrouter-{number}"));
            fs::create_dir(&own).unwrap();
            fs::write(own.join("api.sock"), "").unwrap();
        }
        fs::create_dir(dir.path().join("vrouter-3")).unwrap();
        assert_eq!(
            sockets(),
            ["2", "10"].map(|it| dir.path().join(format!("vrouter-{it}/api.sock")))
        );
        let numbers: Vec<_> = here(dir.path()).iter().map(|it| it.instance).collect();
        assert_eq!(numbers, [Some(2), Some(10)]);
        fs::write(dir.path().join("vrouter.sock"), "").unwrap();
        assert_eq!(sockets(), [dir.path().join("vrouter.sock")]);
    }

    #[test]
    fn each_object_gets_its_number() {
        let target = numbered_in(Path::new("/run/ringway"), 1);
        for (said, expected) in [
            (
                "[{\"id\": \"a\"}, {\"id\": \"b\"}]",
                "[{\"id\":\"a\",\"instance\":1},{\"id\":\"b\",\"instance\":1}]",
            ),
            ("{\"pid\": 7, \"instance\": null}", "[{\"instance\":1,\"pid\":7}]"),
            ("[]", "[]"),
        ] {
            let list = numbered(&target, said.as_bytes()).unwrap();
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(Value::Array(list), expected);
        }
        assert_eq!(target.heading(), "vRouter 1");
        let error = which(&[target]).to_string();
        assert!(error.contains("--instance"), "{error}");
    }
}
