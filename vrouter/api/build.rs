//! Generates the control API from `proto/vrouter.proto` into `OUT_DIR`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::compile_protos("proto/vrouter.proto")?;
    Ok(())
}
