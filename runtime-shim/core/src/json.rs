//! `config.json` as a tree: what is not known here stays as it is, in its place.

use serde_json::{Map, Value};

/// A bundle's configuration is not what the OCI runtime specification says.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not JSON.
    #[error("config.json is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A field of another kind than specified.
    #[error("config.json: {field} is not {expected}")]
    Shape {
        /// Where, as `linux.resources`.
        field: &'static str,
        /// A kind of JSON value.
        expected: &'static str,
    },
    /// Somebody else wants the mount point.
    #[error(
        "something else is mounted at {}, where this container's interfaces have to be; mount it elsewhere or remove network.ringway.dev",
        crate::MOUNT_POINT
    )]
    MountTaken,
    /// Its cgroup cannot be told.
    #[error(
        "config.json: linux.cgroupsPath {path:?} is neither an absolute path nor \"slice:prefix:name\"; give the container one of these"
    )]
    CgroupsPath {
        /// As written.
        path: String,
    },
}

/// The object at `path`, if it is there.
pub(crate) fn find<'a>(
    tree: &'a Value,
    path: &[&str],
    field: &'static str,
) -> Result<Option<&'a Value>, SpecError> {
    let mut value = tree;
    for key in path {
        match value {
            Value::Object(object) => match object.get(*key) {
                Some(next) => value = next,
                None => return Ok(None),
            },
            Value::Null => return Ok(None),
            _ => return Err(SpecError::Shape { field, expected: "an object" }),
        }
    }
    Ok(Some(value).filter(|value| !value.is_null()))
}

/// The object at `path`, made with all above it where it is missing.
pub(crate) fn object<'a>(
    tree: &'a mut Value,
    path: &[&str],
    field: &'static str,
) -> Result<&'a mut Map<String, Value>, SpecError> {
    let mut value = tree;
    for key in path {
        value = as_object(value, field)?.entry(*key).or_insert(Value::Null);
    }
    as_object(value, field)
}

fn as_object<'a>(
    value: &'a mut Value,
    field: &'static str,
) -> Result<&'a mut Map<String, Value>, SpecError> {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().ok_or(SpecError::Shape { field, expected: "an object" })
}

/// The list at `key` of an object, made where it is missing.
pub(crate) fn list<'a>(
    object: &'a mut Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<&'a mut Vec<Value>, SpecError> {
    let value = object.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().ok_or(SpecError::Shape { field, expected: "a list" })
}
