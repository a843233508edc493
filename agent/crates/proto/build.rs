//! Compiles the `.proto` files. No `protoc` is needed.

use std::error::Error;

/// Files, in the folder `proto`, that are compiled; what they import comes with them.
const FILES: [&str; 6] = [
    "envoy/discovery.proto",
    "istio/workload.proto",
    "istio/authorization.proto",
    "istio/certificate.proto",
    "weft/discovery.proto",
    "weft/route.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // Equal messages become equal bytes, whose digest is a resource's version.
        .btree_map(".")
        // Nearly all are workloads, and both are large.
        .boxed(".istio.workload.Address.type.workload")
        .boxed(".istio.workload.Address.type.service")
        .compile_fds(files)?;
    Ok(())
}
