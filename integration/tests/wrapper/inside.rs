//! What a container may be and still work.

use anyhow::Result;

use crate::stage::Stage;

pub fn every_way(stage: &mut Stage) -> Result<()> {
    stage.usual().map(drop)
}
