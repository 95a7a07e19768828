//! Compiles the `.proto` files with protox, so that no machine needs `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "atomix/p2p_map/p2p_map.proto",
        "p2pmap/v1/map.proto",
        "p2pmap/v1/peer.proto",
        "grpc/health/v1/health.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    // Ordered maps, so that equal messages have equal bytes.
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
