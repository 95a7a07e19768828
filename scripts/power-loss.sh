#!/usr/bin/env bash
# Cuts the power without a device to cut: the log's writes and completions are traced at the disk's
# boundary, subsets of the blocks in flight are put into images, and the real recovery runs on each.
# Besides, bytes are flipped and files are cut.
#
#   scripts/power-loss.sh [RUNS] [SEED]
#
# RUNS: how many seeds (20), each with several boots and images. SEED: the first one; a run that
# fails prints its own. Needs nothing but Rust.
set -euo pipefail
cd "$(dirname "$0")/.."

export P2PMAP_RUNS=${1:-20}
if [ $# -ge 2 ]; then
    export P2PMAP_SEED=$2
fi
exec cargo test --locked --release --test power_loss -- --nocapture
