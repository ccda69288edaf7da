//! podman, Docker and nerdctl, each without a service of the machine.

use anyhow::Result;

use crate::stage::Stage;

pub fn podman(stage: &mut Stage) -> Result<()> {
    stage.usual().map(drop)
}

pub fn docker(stage: &mut Stage) -> Result<()> {
    stage.usual().map(drop)
}

pub fn nerdctl(stage: &mut Stage) -> Result<()> {
    stage.usual().map(drop)
}
