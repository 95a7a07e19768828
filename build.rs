//! Compiles the `.proto` files with protox, so that no machine needs `protoc`, and finds out which
//! commit is built, so that a node and a result can tell.

use std::path::Path;
use std::process::Command;

/// What the binary is made from: a change of these makes a build dirty.
const SOURCES: [&str; 5] = ["src", "proto", "build.rs", "Cargo.toml", "Cargo.lock"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for source in ["proto", "build.rs"] {
        println!("cargo:rerun-if-changed={source}");
    }
    // Nobody measures a development build, and each commit would mean to build it anew.
    let commit = if std::env::var("PROFILE")? == "release" { commit() } else { None };
    println!("cargo:rustc-env=P2PMAP_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
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

/// The commit, with `-dirty` if the sources differ from it. None without git, and in a copy that
/// lies in another project's repository.
fn commit() -> Option<String> {
    let root = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&root).canonicalize().ok()? {
        return None;
    }
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    // HEAD names the branch; its log grows with every commit, checkout and reset.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let status = ["--no-optional-locks", "status", "--porcelain", "--"];
    let changes = git(&[&status[..], &SOURCES[..]].concat())?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-dirty") })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
