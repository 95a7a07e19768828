#!/usr/bin/env bash
# Simulates so many fresh seeds (100,000 by default) on all cores, and says what came of them. A
# failure names its seed and the command that replays it.
set -euo pipefail
cd "$(dirname "$0")/.."

count=${1:-100000}
first=${2:-$(($(od -An -N4 -tu4 /dev/urandom)))}

cargo build --locked --release
echo "seeds      $first..$((first + count))"
exec target/release/p2pmap simulate --seeds "$first..$((first + count))" --jobs "$(nproc)"
