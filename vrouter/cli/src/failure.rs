//! What can go wrong, and the exit code that says so.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tonic::{Code, Status};
use vrouter_api::ConnectError;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The vRouter has answered that it will not.
    #[error("{what}: {why}")]
    Refused {
        /// What was to be done.
        what: String,
        /// In the vRouter's words.
        why: String,
    },
    /// Nobody listens, or not to us.
    #[error("cannot reach the vRouter at {}: {why}; {remedy}", socket.display())]
    Unreachable {
        /// Its control socket.
        socket: PathBuf,
        /// What the system said.
        why: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The node's allocator cannot be reached.
    #[error("cannot reach ringway-nri at {}: {why}; start ringway-nri, or name its run_dir", socket.display())]
    NoPlugin {
        /// The socket of the node API.
        socket: PathBuf,
        /// What the system said.
        why: String,
    },
    /// What was given to read is wrong.
    #[error("{what}: {why}")]
    Input {
        /// What was to be read.
        what: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// The doctor has found something.
    #[error("{failures} of the checks failed")]
    Unwell {
        /// How many.
        failures: usize,
    },
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

const START: &str = "start ringway-vrouter, or name its control socket with --socket";
const PERMIT: &str = "become root or a member of control_group in vrouter.toml";
const LOOK: &str = "see the log of ringway-vrouter";

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Refused { .. } | Self::Unwell { .. } | Self::Output(_) => 1,
            Self::Input { .. } => 2,
            Self::Unreachable { .. } | Self::NoPlugin { .. } => 3,
        })
    }

    pub(crate) fn connect(socket: &Path, error: &ConnectError) -> Self {
        let cause = io_cause(error);
        let denied = cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied);
        let why = cause.map_or_else(|| "nobody listens".to_owned(), ToString::to_string);
        let remedy = if denied { PERMIT } else { START };
        Self::Unreachable { socket: socket.to_path_buf(), why, remedy }
    }

    pub(crate) fn status(socket: &Path, what: &str, status: &Status) -> Self {
        match status.code() {
            // What tonic itself makes of a broken connection.
            Code::Unavailable | Code::Cancelled | Code::Unknown if status.source().is_some() => {
                Self::lost(socket, "the connection broke off")
            }
            Code::Unavailable => Self::lost(socket, status.message()),
            Code::PermissionDenied | Code::Unauthenticated => Self::Unreachable {
                socket: socket.to_path_buf(),
                why: status.message().to_owned(),
                remedy: PERMIT,
            },
            Code::Unimplemented => Self::Refused {
                what: what.to_owned(),
                why: "this ringway-vrouter is too old for it; update ringway-vrouter".to_owned(),
            },
            code => {
                let message = status.message();
                let why = if message.is_empty() { code.description() } else { message };
                Self::Refused { what: what.to_owned(), why: why.to_owned() }
            }
        }
    }

    /// The vRouter was there, but is not any more or does not answer.
    pub(crate) fn lost(socket: &Path, why: &str) -> Self {
        Self::Unreachable { socket: socket.to_path_buf(), why: why.to_owned(), remedy: LOOK }
    }
}

fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tonic::Status;

    use super::Failure;

    #[test]
    fn what_the_vrouter_says_becomes_one_line_and_a_code() {
        let socket = Path::new("/run/x.sock");
        for (status, code, parts) in [
            (Status::not_found("unknown network"), 1, &["networks add", "unknown network"][..]),
            (Status::failed_precondition("network red has 2 ports"), 1, &["has 2 ports"]),
            (Status::internal(""), 1, &["networks add: "]),
            (Status::unimplemented("x"), 1, &["too old", "update"]),
            (
                Status::unavailable("shutting down"),
                3,
                &["/run/x.sock", "shutting down", "see the log"],
            ),
            (Status::permission_denied("uid 1000"), 3, &["uid 1000", "control_group"]),
        ] {
            let failure = Failure::status(socket, "networks add", &status);
            let expected = format!("{:?}", std::process::ExitCode::from(code));
            assert_eq!(format!("{:?}", failure.exit_code()), expected, "{status:?}");
            for part in parts {
                assert!(failure.to_string().contains(part), "{part:?} is not in {failure}");
            }
        }
    }
}
