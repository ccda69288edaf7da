//! Generates a client of containerd's API from `proto/containers.proto` into `OUT_DIR`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .build_server(false)
        .compile_protos(&["proto/containers.proto"], &["proto"])?;
    Ok(())
}
