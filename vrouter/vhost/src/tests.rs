//! Tests across the modules: a hostile pod at every interface there is.

mod cve;
mod fence;
mod hostile;
mod messages;
