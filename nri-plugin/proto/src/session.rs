//! One connection to a runtime, from registration to its end.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::api::RegisterPluginRequest;
use crate::dispatch::{Call, Dispatcher};
use crate::mux::{self, Connection, Demux, MuxError};
use crate::plugin::Plugin;
use crate::status::{Code, Status};
use crate::ttrpc::{self, Assembler, Header, Incoming};

const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// Reported to runtimes that ask (0.12): the newest protocol this crate speaks.
const NRI_VERSION: &str = "v0.12.0";
/// The only call made on connection 2.
const REGISTER_STREAM: u32 = 1;
/// From connecting to Configure. A runtime accepts one plugin at a time and gives a silent one 5 s, so a plugin may
/// have to wait for a few others.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(30);
/// Requests under way. A runtime sends one event at a time; only slow ones can pile up.
const MAX_CALLS: usize = 64;
/// How long the end of a session waits for methods under way.
const DRAIN: Duration = Duration::from_secs(5);

/// Who the plugin is. A runtime that started the plugin ignores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    name: String,
    index: String,
}

/// Not an identity that a runtime accepts.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Runtimes accept letters, digits and `_.+-`.
    #[error("plugin name {0:?} is not made of letters, digits, '_', '.', '+' and '-'")]
    Name(String),
    /// Plugins are called in ascending order of a two digit number.
    #[error("plugin index {0:?} is not two digits, 00 to 99")]
    Index(String),
}

/// How a session ended when nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The runtime closed the connection: the only way it says goodbye.
    Eof,
    /// The caller asked for it.
    Cancelled,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection broke.
    #[error("connection to the runtime failed")]
    Io(#[from] std::io::Error),
    /// The other side does not speak NRI.
    #[error("runtime sent something that is not NRI")]
    Mux(#[from] MuxError),
    /// The connection ended inside a frame.
    #[error("connection to the runtime ended in the middle of a message")]
    Truncated,
    /// The runtime does not want this plugin.
    #[error("runtime refuses the plugin: {0}")]
    Refused(Status),
    /// Nothing came after registering.
    #[error("runtime did not configure the plugin within {} s", REGISTRATION_PATIENCE.as_secs())]
    NotConfigured,
}

/// What the session task and the tasks of calls share: the way to the socket.
type Outbox = mpsc::Sender<Vec<u8>>;

// === impl Identity ===

impl Identity {
    /// Checks name and index the way runtimes do.
    ///
    /// # Errors
    /// [`IdentityError`] names what is wrong.
    pub fn new(name: &str, index: &str) -> Result<Self, IdentityError> {
        let in_name = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
        if name.is_empty() || !name.chars().all(in_name) {
            return Err(IdentityError::Name(name.to_owned()));
        }
        if index.len() != 2 || !index.chars().all(|c| c.is_ascii_digit()) {
            return Err(IdentityError::Index(index.to_owned()));
        }
        Ok(Self { name: name.to_owned(), index: index.to_owned() })
    }

    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its place among the plugins, two digits.
    #[must_use]
    pub fn index(&self) -> &str {
        &self.index
    }
}

/// Registers `plugin` over `stream` and answers the runtime until the connection ends or `shutdown` completes.
/// `configured` is called once the runtime has taken the plugin in.
///
/// Methods under way when it ends are given a few seconds to finish.
///
/// # Errors
/// [`SessionError`]; the runtime has then dropped the plugin, or soon will.
pub async fn serve<P, S>(
    plugin: Arc<P>,
    stream: S,
    identity: &Identity,
    mut shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
    configured: impl FnOnce() + Send,
) -> Result<Ended, SessionError>
where
    P: Plugin,
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, writer) = tokio::io::split(stream);
    let (outbox, messages) = mpsc::channel(MAX_CALLS);
    let mut writing = tokio::spawn(write_all(writer, messages));
    let mut calls = JoinSet::new();
    let mut session = Session {
        dispatcher: Dispatcher::new(plugin),
        from_runtime: Assembler::default(),
        to_runtime: Assembler::default(),
    };
    let mut configured = Some(configured);
    let mut patience = pin!(tokio::time::sleep(REGISTRATION_PATIENCE));

    // Connection 1 is served by the loop below from the first byte on: Configure may come before the answer to this.
    let _ = outbox.send(register(identity)).await;

    let mut demux = Demux::default();
    let mut buffer = vec![0_u8; 64 << 10];
    let ended = loop {
        let received = tokio::select! {
            biased;
            () = &mut shutdown => break Ok(Ended::Cancelled),
            () = &mut patience, if configured.is_some() => break Err(SessionError::NotConfigured),
            Some(finished) = calls.join_next(), if !calls.is_empty() => {
                if let Err(error) = finished {
                    tracing::error!(%error, "a call's task failed");
                }
                continue;
            }
            // Only a broken connection ends it while this session holds the outbox.
            written = &mut writing => {
                break Err(SessionError::Io(written.unwrap_or_else(|e| Err(e.into())).err().unwrap_or_else(
                    || std::io::ErrorKind::BrokenPipe.into(),
                )));
            }
            received = reader.read(&mut buffer) => received,
        };
        match received {
            Ok(0) if demux.at_boundary() => break Ok(Ended::Eof),
            Ok(0) => break Err(SessionError::Truncated),
            Ok(length) => {
                if let Err(error) =
                    session.take_in(&mut demux, &buffer[..length], &outbox, &mut calls).await
                {
                    break Err(error);
                }
                if session.dispatcher.configured()
                    && let Some(configured) = configured.take()
                {
                    configured();
                }
            }
            Err(error) => break Err(error.into()),
        }
    };

    let drained = tokio::time::timeout(DRAIN, async {
        while calls.join_next().await.is_some() {}
        drop(outbox);
        if !writing.is_finished() {
            let _ = (&mut writing).await;
        }
    });
    if drained.await.is_err() {
        tracing::error!(calls = calls.len(), "calls under way did not finish; dropped");
        writing.abort();
    }
    ended
}

struct Session<P> {
    dispatcher: Dispatcher<P>,
    from_runtime: Assembler,
    to_runtime: Assembler,
}

impl<P: Plugin> Session<P> {
    async fn take_in(
        &mut self,
        demux: &mut Demux,
        mut bytes: &[u8],
        outbox: &Outbox,
        calls: &mut JoinSet<()>,
    ) -> Result<(), SessionError> {
        while let Some(chunk) = demux.next(&mut bytes)? {
            let mut stream = chunk.bytes;
            match chunk.connection {
                Connection::Plugin => {
                    while let Some(incoming) = self.from_runtime.next(&mut stream) {
                        self.request(incoming, outbox, calls).await;
                    }
                }
                Connection::Runtime => {
                    while let Some(incoming) = self.to_runtime.next(&mut stream) {
                        response(incoming)?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn request(&mut self, incoming: Incoming, outbox: &Outbox, calls: &mut JoinSet<()>) {
        let (header, refusal) = match incoming {
            Incoming::Message(header, _) | Incoming::TooLong(header)
                if header.kind != Header::REQUEST =>
            {
                tracing::debug!(kind = header.kind, "ignoring a ttrpc message that is no request");
                return;
            }
            Incoming::TooLong(header) => {
                let limit = ttrpc::MAX_PAYLOAD;
                let text =
                    format!("request of {} bytes is above the limit of {limit}", header.length);
                (header, Status::new(Code::RESOURCE_EXHAUSTED, text))
            }
            Incoming::Message(header, _) if calls.len() >= MAX_CALLS => {
                let text = format!("plugin has {MAX_CALLS} requests under way");
                (header, Status::new(Code::RESOURCE_EXHAUSTED, text))
            }
            Incoming::Message(header, payload) => match ttrpc::decode_request(&payload) {
                Ok(request) => {
                    let call = self.dispatcher.call(request, Instant::now());
                    calls.spawn(answer(call, header.stream, outbox.clone()));
                    return;
                }
                Err(status) => (header, status),
            },
        };
        tracing::warn!(%refusal, "request of the runtime refused");
        let _ = outbox.send(plugin_answer(header.stream, Err(refusal))).await;
    }
}

/// Runs a method and sends its answer, or an error when it is too slow.
async fn answer(call: Call, stream: u32, outbox: Outbox) {
    let Call { answer, deadline, method } = call;
    // A task of its own, so that a method that is too slow (or panics) is still answered for.
    let mut running = tokio::spawn(answer);
    let in_time = tokio::time::timeout_at(deadline.into(), &mut running).await;
    let late = in_time.is_err();
    let result = match in_time {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(Status::new(Code::INTERNAL, format!("{method} failed: {error}"))),
        Err(_) => Err(Status::new(
            Code::DEADLINE_EXCEEDED,
            format!("{method} took longer than the runtime waits for a plugin"),
        )),
    };
    match &result {
        // The plugin's own refusals are the plugin's to log.
        Err(status) if status.code == Code::UNKNOWN => {
            tracing::debug!(method, %status, "answering with a refusal");
        }
        Err(status) => tracing::warn!(method, %status, "answering with an error"),
        Ok(_) => {}
    }
    let _ = outbox.send(plugin_answer(stream, result)).await;
    if late {
        let _ = running.await;
        tracing::info!(method, "the late method has finished");
    }
}

fn plugin_answer(stream: u32, result: Result<Vec<u8>, Status>) -> Vec<u8> {
    let mut frames = Vec::new();
    mux::frame(Connection::Plugin, &ttrpc::encode_response(stream, result), &mut frames);
    frames
}

fn register(identity: &Identity) -> Vec<u8> {
    let request = RegisterPluginRequest {
        plugin_name: identity.name.clone(),
        plugin_idx: identity.index.clone(),
        nri_version: NRI_VERSION.to_owned(),
    };
    let mut frames = Vec::new();
    // A name and an index are far below the limit.
    let message = ttrpc::encode_request(
        REGISTER_STREAM,
        RUNTIME_SERVICE,
        "RegisterPlugin",
        request.encode_to_vec(),
    );
    mux::frame(Connection::Runtime, &message.unwrap_or_default(), &mut frames);
    frames
}

/// The only call made is RegisterPlugin: its success needs nothing, its failure ends the session.
fn response(incoming: Incoming) -> Result<(), SessionError> {
    match incoming {
        Incoming::Message(header, payload)
            if header.kind == Header::RESPONSE && header.stream == REGISTER_STREAM =>
        {
            ttrpc::decode_response(&payload).map(drop).map_err(SessionError::Refused)
        }
        Incoming::Message(header, _) | Incoming::TooLong(header) => {
            tracing::debug!(stream = header.stream, kind = header.kind, "ignoring a stray message");
            Ok(())
        }
    }
}

async fn write_all(
    mut writer: impl AsyncWrite + Unpin,
    mut messages: mpsc::Receiver<Vec<u8>>,
) -> std::io::Result<()> {
    while let Some(message) = messages.recv().await {
        writer.write_all(&message).await?;
        writer.flush().await?;
    }
    Ok(())
}
