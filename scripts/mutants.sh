#!/usr/bin/env bash
# Hunts every planted bug by up to so many seeds (3,000 by default), and prints a line for each: how
# many seeds it took, and which checker found it. Fails if one survives.
set -euo pipefail
cd "$(dirname "$0")/.."

count=${1:-3000}

# Beside the usual build, which has no planted bugs in it.
cargo build --locked --release --features mutants --target-dir target/mutants
exec target/mutants/release/p2pmap simulate --mutant all --seeds "0..$count" --jobs "$(nproc)"
