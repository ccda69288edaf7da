//! Ranges and forms of single values. Pure: whether a path exists is for the daemon to find out.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Component, Path};

/// Greatest CPU number a Linux kernel can have (`NR_CPUS` is at most 8192).
pub(crate) const LAST_CPU: u32 = 8191;

/// Bytes of a unix socket address, its closing NUL included (`sun_path` in unix(7)).
const SOCKET_PATH_BYTES: usize = 108;

/// A value that is not allowed; the place in the file is found later, by the key.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) remedy: String,
}

impl Problem {
    pub(crate) fn new(
        key: impl Into<String>,
        value: impl Display,
        remedy: impl Into<String>,
    ) -> Self {
        Self { key: key.into(), value: value.to_string(), remedy: remedy.into() }
    }
}

pub(crate) fn range(key: &str, value: u32, least: u32, most: u32) -> Result<(), Problem> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Problem::new(key, value, format!("must be {least} to {most}")))
}

/// An absolute path without `..`, so that what is checked is what is opened.
pub(crate) fn directory(key: &str, path: &Path) -> Result<(), Problem> {
    let plain =
        path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let text = path.to_string_lossy();
    if path.is_absolute() && plain && !text.contains(['\0', '\n', ',', ' ']) {
        return Ok(());
    }
    // A comma or a blank would end the path inside DPDK's device arguments and mount options.
    Err(Problem::new(key, text, "must be an absolute path without `..`, blanks and commas"))
}

pub(crate) fn socket(key: &str, path: &Path) -> Result<(), Problem> {
    directory(key, path)?;
    let bytes = path.as_os_str().len();
    if bytes < SOCKET_PATH_BYTES {
        return Ok(());
    }
    Err(Problem::new(
        key,
        path.display(),
        format!(
            "has {bytes} bytes; the path of a unix socket must be shorter than {SOCKET_PATH_BYTES}"
        ),
    ))
}

pub(crate) fn group(key: &str, name: &str) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !name.is_empty() && name.len() <= 32 && name.chars().all(plain) && !name.starts_with('-') {
        return Ok(());
    }
    Err(Problem::new(key, name, "must be the name of a group; leave it out for root only"))
}

pub(crate) fn log(key: &str, filter: &str) -> Result<(), Problem> {
    let level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|level| word.eq_ignore_ascii_case(level))
    };
    let directive = |part: &str| match part.rsplit_once('=') {
        Some((target, word)) => !target.is_empty() && level(word),
        None => level(part),
    };
    if filter.split(',').all(|part| directive(part.trim())) {
        return Ok(());
    }
    Err(Problem::new(
        key,
        filter,
        "must be error, warn, info, debug, trace or off, or a list as \"info,vrouter_vhost=debug\"",
    ))
}

pub(crate) fn network_name(key: &str, name: &str) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = name.starts_with('-') || name.ends_with('-');
    if !name.is_empty() && name.len() <= 63 && name.chars().all(plain) && !edge {
        return Ok(());
    }
    Err(Problem::new(
        key,
        name,
        "must be 1 to 63 lower case letters, digits and `-`, with no `-` at either end",
    ))
}

/// Names of Kubernetes namespaces (RFC 1123 labels); one may end with `*` for all that start so.
pub(crate) fn namespaces(key: &str, names: &[String]) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = |name: &&String| {
        let start = name.strip_suffix('*').unwrap_or(name);
        let only_star = start.is_empty() && *name == "*";
        only_star || (!start.is_empty() && start.len() <= 63 && start.chars().all(plain))
    };
    match names.iter().find(|name| !good(name)) {
        None => Ok(()),
        Some(name) => Err(Problem::new(
            key,
            name,
            "must be the name of a namespace, or the start of one and `*`, as \"team-*\"",
        )),
    }
}

/// A number of bytes, or one with Ki, Mi or Gi.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let units = [("Ki", 1_u64 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)];
    let unit = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
    let (digits, unit) = unit.unwrap_or((text, 1));
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(unit)
}

/// An IPv4 or IPv6 prefix without bits behind its length.
pub(crate) fn prefix(key: &str, text: &str) -> Result<(), Problem> {
    let parts = text.split_once('/').and_then(|(address, length)| {
        let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        Some((address.parse::<IpAddr>().ok()?, length.parse::<u32>().ok().filter(|_| plain)?))
    });
    // Both families as 128 bits with their address at the upper end.
    let (bits, length) = match parts {
        Some((IpAddr::V4(address), length @ 0..=32)) => {
            (u128::from(address.to_bits()) << 96, length)
        }
        Some((IpAddr::V6(address), length @ 0..=128)) => (address.to_bits(), length),
        _ => {
            let remedy = "must be an address, a slash and a length, as \"10.1.0.0/16\"";
            return Err(Problem::new(key, text, remedy));
        }
    };
    if bits.checked_shl(length).unwrap_or(0) == 0 {
        return Ok(());
    }
    Err(Problem::new(key, text, "must have no bits set behind its length"))
}

pub(crate) fn plugin_name(key: &str, name: &str) -> Result<(), Problem> {
    // The characters containerd accepts in a plugin's name.
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    if !name.is_empty() && name.len() <= 64 && name.chars().all(plain) {
        return Ok(());
    }
    Err(Problem::new(key, name, "must be 1 to 64 letters, digits and `_.+-`"))
}

pub(crate) fn plugin_index(key: &str, index: &str) -> Result<(), Problem> {
    if index.len() == 2 && index.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    Err(Problem::new(key, index, "must be two digits, \"00\" to \"99\""))
}

/// The kernel's list form, `0-3,8`; empty is no CPU.
pub(crate) fn cpu_list(key: &str, list: &str) -> Result<(), Problem> {
    // `u32::from_str` would take a leading `+`, which who reads the list later does not.
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let cpu = |text: &str| text.parse::<u32>().ok().filter(|cpu| digits(text) && *cpu <= LAST_CPU);
    let part = |text: &str| match text.split_once('-') {
        Some((first, last)) => matches!((cpu(first), cpu(last)), (Some(a), Some(b)) if a <= b),
        None => cpu(text).is_some(),
    };
    if list.is_empty() || list.split(',').all(part) {
        return Ok(());
    }
    Err(Problem::new(key, list, format!("must be a CPU list as \"0-1,8\", CPUs 0 to {LAST_CPU}")))
}
