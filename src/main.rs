//! The `p2pmap` binary: parse, dispatch, exit code.

fn main() {}
