//! What the vRouter and its keeper tell each other: one JSON object a line, over a socket pair.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// From the vRouter. All but the last are answered, by one [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Take an interface away from the kernel.
    Take(Which),
    /// Go on where a keeper that died has stopped.
    Resume(Which),
    /// Put back an interface, or all (`name` empty), that nobody keeps.
    Repair(Which),
    /// Give the TAP of this name what the interface had.
    Install(String),
    /// The vRouter is about to close the TAP: what it has now is what goes back.
    Release,
    /// The vRouter has closed its devices: put the interface back.
    Closed,
}

/// An interface and who wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// Name of the interface.
    pub name: String,
    /// Folder of the records.
    pub records: PathBuf,
    /// The vRouter, for people: its control socket.
    pub owner: String,
    /// The vRouter's process.
    pub pid: u32,
}

/// From the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Taken, or resumed.
    Taken(Taken),
    /// The TAP has it all, but for what is listed.
    Installed(Vec<String>),
    /// What the TAP had is known.
    Released,
    /// All is as it was; the keeper ends. Names of what was put back.
    Restored(Vec<String>),
    /// It could not be done, and nothing has changed.
    Failed(String),
    /// Not asked for: the TAP is gone, and nobody here closed it. The interface goes back as soon as the vRouter has
    /// closed its devices, or in a second, unless another TAP is installed.
    TapLost,
}

/// An interface that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Its name meanwhile.
    pub device: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// Its addresses, for people.
    pub addresses: Vec<String>,
}
