//! What the command line of an OCI runtime is about, as far as the wrapper has to know.
//!
//! The syntax is that of runc and crun (`[global options] VERB [options] ID`). Nothing is refused: options that are not known here
//! are the real runtime's business, and a verb that is found in spite of them is a verb.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// What matters of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// What to do.
    pub intent: Intent,
    /// Where the runtime's state is (`--root`), if said.
    pub root: Option<PathBuf>,
    /// Where the caller reads errors (`--log`), if said.
    pub log: Option<PathBuf>,
    /// How it reads them (`--log-format`).
    pub log_format: LogFormat,
    /// Whether systemd makes the container's cgroup (`--systemd-cgroup`, `--cgroup-manager systemd`).
    pub systemd_cgroup: bool,
}

/// What a command line wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// `create` or `run`: the container's configuration is about to be read.
    Start {
        /// The container.
        id: String,
        /// `--bundle`; the working directory where it is not said.
        bundle: Option<PathBuf>,
        /// crun's `--config`: another file than the bundle's `config.json`.
        config: Option<PathBuf>,
    },
    /// `delete`.
    Delete {
        /// The container.
        id: String,
    },
    /// Nothing the wrapper has to do with.
    Other,
}

/// Of the log file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` lines.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

/// Every verb of runc and crun, and those of other runtimes that take an id.
const VERBS: [&str; 22] = [
    "attach",
    "checkpoint",
    "create",
    "delete",
    "events",
    "exec",
    "features",
    "info",
    "init",
    "kill",
    "list",
    "mounts",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
    "version",
];

/// Global options whose value may be the next word.
const GLOBAL_VALUES: [&str; 8] =
    ["cgroup-manager", "criu", "log", "log-format", "log-level", "root", "rootless", "config-file"];

/// Options of `create` and `run` whose value may be the next word.
const START_VALUES: [&str; 9] = [
    "b",
    "bundle",
    "config",
    "console-socket",
    "f",
    "notify-socket",
    "pid-file",
    "pidfd-socket",
    "preserve-fds",
];

/// Reads the arguments after the program's name.
#[must_use]
pub fn parse(arguments: &[OsString]) -> CommandLine {
    let mut line = CommandLine {
        intent: Intent::Other,
        root: None,
        log: None,
        log_format: LogFormat::Text,
        systemd_cgroup: false,
    };
    let mut words = Words { rest: arguments, plain: false };
    let verb = loop {
        match words.next(&GLOBAL_VALUES) {
            None => return line,
            Some(Word::Option { name, value }) => line.global(name, value),
            // After an option that is not known here, its value perhaps.
            Some(Word::Plain(word)) => {
                if let Some(verb) = VERBS.iter().find(|verb| word == **verb) {
                    break *verb;
                }
            }
        }
    };
    line.intent = match verb {
        "create" | "run" => start(&mut words),
        "delete" => delete(&mut words),
        _ => Intent::Other,
    };
    line
}

impl CommandLine {
    fn global(&mut self, name: &str, value: Option<&OsStr>) {
        let yes = || !value.is_some_and(|value| value == "false" || value == "0" || value == "f");
        match (name, value) {
            ("root", Some(value)) => self.root = Some(value.into()),
            ("log", Some(value)) => self.log = log_file(value),
            ("log-format", Some(value)) => {
                self.log_format = if value == "json" { LogFormat::Json } else { LogFormat::Text };
            }
            ("systemd-cgroup", _) => self.systemd_cgroup = yes(),
            ("cgroup-manager", Some(value)) => self.systemd_cgroup = value == "systemd",
            _ => {}
        }
    }
}

/// crun takes `file:PATH`, too; its other kinds are no files.
fn log_file(value: &OsStr) -> Option<PathBuf> {
    match value.to_str() {
        Some(text) if text.starts_with("journald:") || text.starts_with("syslog:") => None,
        Some(text) => Some(text.strip_prefix("file:").unwrap_or(text).into()),
        None => Some(value.into()),
    }
}

fn start(words: &mut Words<'_>) -> Intent {
    let (mut bundle, mut config, mut id) = (None, None, None);
    while let Some(word) = words.next(&START_VALUES) {
        match word {
            Word::Option { name: "b" | "bundle", value: Some(value) } => {
                bundle = Some(value.into())
            }
            Word::Option { name: "f" | "config", value: Some(value) } => {
                config = Some(value.into())
            }
            Word::Option { .. } => {}
            // Words after the id are nobody's; the last one would be the id of a runtime that takes options with values we do not
            // know, the first one is that of runc and crun.
            Word::Plain(word) => id = id.or_else(|| word.to_str().map(str::to_owned)),
        }
    }
    id.map_or(Intent::Other, |id| Intent::Start { id, bundle, config })
}

fn delete(words: &mut Words<'_>) -> Intent {
    let (mut id, mut regex) = (None, false);
    while let Some(word) = words.next(&[]) {
        match word {
            // Many at once; which ones is not known here.
            Word::Option { name: "regex" | "r", .. } => regex = true,
            Word::Option { .. } => {}
            Word::Plain(word) => id = id.or_else(|| word.to_str().map(str::to_owned)),
        }
    }
    id.filter(|_| !regex).map_or(Intent::Other, |id| Intent::Delete { id })
}

struct Words<'a> {
    rest: &'a [OsString],
    /// After `--` everything is a plain word.
    plain: bool,
}

enum Word<'a> {
    /// Its name without dashes; Go's flag package takes one or two.
    Option {
        name: &'a str,
        value: Option<&'a OsStr>,
    },
    Plain(&'a OsStr),
}

impl<'a> Words<'a> {
    /// The next word; with it the one behind, where it is the value of an option in `with_value`.
    fn next(&mut self, with_value: &[&str]) -> Option<Word<'a>> {
        loop {
            let (word, rest) = self.rest.split_first()?;
            self.rest = rest;
            let text = word.to_str();
            if text == Some("--") && !self.plain {
                self.plain = true;
                continue;
            }
            // A lone dash is a word. What is not text is a path or an id, and no option of ours has such a name.
            let option = text.and_then(|text| {
                let name = text.strip_prefix('-')?;
                Some(name.strip_prefix('-').unwrap_or(name)).filter(|name| !name.is_empty())
            });
            let Some(option) = option.filter(|_| !self.plain) else {
                return Some(match split_bytes(word) {
                    Some((name, value)) if !self.plain => Word::Option { name, value: Some(value) },
                    _ => Word::Plain(word),
                });
            };
            if let Some((name, value)) = option.split_once('=') {
                return Some(Word::Option { name, value: Some(OsStr::new(value)) });
            }
            let mut value = None;
            if with_value.contains(&option)
                && let Some((next, rest)) = self.rest.split_first()
            {
                value = Some(next.as_os_str());
                self.rest = rest;
            }
            return Some(Word::Option { name: option, value });
        }
    }
}

/// `--name=value` where only the value is not text.
fn split_bytes(word: &OsStr) -> Option<(&str, &OsStr)> {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = word.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=')?;
    let name = std::str::from_utf8(bytes.get(..at)?).ok()?.strip_prefix('-')?;
    let name = name.strip_prefix('-').unwrap_or(name);
    Some((name, OsStr::from_bytes(bytes.get(at + 1..)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> CommandLine {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn started(line: &str) -> (String, Option<PathBuf>) {
        match read(line).intent {
            Intent::Start { id, bundle, .. } => (id, bundle),
            other => panic!("{line}: {other:?}"),
        }
    }

    /// As containerd's shim, conmon (podman) and people write them.
    #[test]
    fn starts_are_found_with_id_and_bundle() {
        for (line, id, bundle) in [
            (
                "--root /run/containerd/runc/default --log /b/log.json --log-format json create --bundle /b \
                 --pid-file /b/init.pid --console-socket /tmp/pty.sock test",
                "test",
                Some("/b"),
            ),
            ("--log /l --systemd-cgroup create -b /b --no-pivot x", "x", Some("/b")),
            (
                "--cgroup-manager=systemd --root=/r create --bundle=/b --pid-file=/p 7f",
                "7f",
                Some("/b"),
            ),
            ("run test", "test", None),
            ("run --detach --keep --preserve-fds 3 -b /b test", "test", Some("/b")),
            ("-root /r run -bundle /b test", "test", Some("/b")),
            ("run -f /other.json test", "test", None),
            // Options that nobody here knows, with and without a value.
            ("--new --shiny=1 create --glow --bundle /b test", "test", Some("/b")),
            ("--new value create --bundle /b test", "test", Some("/b")),
            ("create -- -test", "-test", None),
            // Values are no verbs.
            ("--root delete --log run create --bundle create create", "create", Some("create")),
        ] {
            assert_eq!(started(line), (id.to_owned(), bundle.map(PathBuf::from)), "{line}");
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        for line in [
            "",
            "--version",
            "--help",
            "features",
            "--root /r state test",
            "start test",
            "kill --all test 9",
            "exec --process /p test create",
            "exec test run",
            "list --format json",
            "create",
            "create --help",
            "--root create",
            "delete --regex .*",
            "update --resources - test",
            "spec",
            "checkpoint run",
        ] {
            assert_eq!(read(line).intent, Intent::Other, "{line}");
        }
    }

    #[test]
    fn deletes_are_found() {
        for line in [
            "delete test",
            "--root /r delete --force test",
            "delete -f test",
            "delete test --force",
        ] {
            assert_eq!(read(line).intent, Intent::Delete { id: "test".into() }, "{line}");
        }
    }

    #[test]
    fn globals_are_read() {
        let line = read("--root /r --log /l --log-format=json --systemd-cgroup create x");
        assert_eq!(line.root, Some("/r".into()));
        assert_eq!(line.log, Some("/l".into()));
        assert_eq!((line.log_format, line.systemd_cgroup), (LogFormat::Json, true));
        assert!(!read("--systemd-cgroup=false create x").systemd_cgroup);
        assert!(read("--cgroup-manager systemd create x").systemd_cgroup);
        assert!(!read("--cgroup-manager=cgroupfs create x").systemd_cgroup);
        assert_eq!(read("--log file:/l create x").log, Some("/l".into()));
        assert_eq!(read("--log=journald:x create x").log, None);
        assert_eq!(read("create --root /r x").root, None);
    }

    #[test]
    fn paths_need_not_be_text() {
        use std::os::unix::ffi::OsStrExt as _;
        let path = OsStr::from_bytes(b"/b/\xff");
        let mut joined = OsString::from("--bundle=");
        joined.push(path);
        let words = |middle: &[&OsStr]| {
            let all = [&[OsStr::new("create")], middle, &[OsStr::new("x")]].concat();
            all.into_iter().map(OsStr::to_owned).collect::<Vec<_>>()
        };
        for arguments in [words(&[OsStr::new("-b"), path]), words(&[&joined])] {
            let Intent::Start { bundle, id, .. } = parse(&arguments).intent else { panic!() };
            assert_eq!((bundle, id.as_str()), (Some(path.into()), "x"));
        }
    }

    #[test]
    fn any_words_are_read_without_a_panic() {
        bolero::check!().with_type::<Vec<String>>().for_each(|words| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let _ = parse(&words);
        });
    }
}
