#!/usr/bin/env bash
# The long run: a node under a moderate, paced load of puts, gets, removes and clears on 63 of its
# 64 partitions; the other one is written once, at the beginning. It must stay under its disk cap
# and in flat memory, checkpoints must not hold clients up, and in the end, and again after a
# restart, everything that was acknowledged must be there.
#
#   scripts/soak.sh [SECONDS] [SEED]
#
# SECONDS: how long (1800). From 600 on every bound must hold; a shorter run asserts that nothing is
# refused or lost, disk and memory, and prints the rest. CORES: the node's (all but the last, which
# is left to the load: on a core that both share, turns are long for reasons of the load's). RATE:
# operations a second (3000). LOG_MAX: the log's cap (128MiB), small enough that the log is recycled
# within a minute. DATA_DIR: where to write (a folder under target/).
set -euo pipefail
cd "$(dirname "$0")/.."

last=$(($(nproc) - 2))
cores=$(seq -s, 0 $((last < 0 ? 0 : last)))
export P2PMAP_SOAK_SECONDS=${1:-1800}
export P2PMAP_SOAK_SEED=${2:-1}
export P2PMAP_SOAK_CORES=${CORES:-$cores}
export P2PMAP_SOAK_RATE=${RATE:-3000}
export P2PMAP_SOAK_LOG_MAX=${LOG_MAX:-128MiB}
export P2PMAP_SOAK_DIR=${DATA_DIR:-$PWD/target/soak}
mkdir -p "$P2PMAP_SOAK_DIR"
exec cargo test --locked --release --test soak -- --nocapture
