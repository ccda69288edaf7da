//! Generates the messages of `proto/nri.proto` and `proto/ttrpc.proto` into `OUT_DIR`.
fn main() -> std::io::Result<()> {
    prost_build::Config::new()
        // Ordered maps: the same message always encodes to the same bytes.
        .btree_map(["."])
        .compile_protos(&["proto/nri.proto", "proto/ttrpc.proto"], &["proto"])
}
