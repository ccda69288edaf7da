//! Generates the node API from `proto/node.proto` into `OUT_DIR`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::compile_protos("proto/node.proto")?;
    Ok(())
}
