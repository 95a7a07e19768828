#!/usr/bin/env bash
# Kills a node with `kill -9` at random moments under load from several clients, starts it again
# on the same data directory, and checks that nothing that was acknowledged is lost.
#
#   scripts/crash.sh [COUNT] [SEED]
#
# COUNT: how often it is killed (100). SEED: repeats the moments and the load of another run, as
# far as two processes on one machine can be repeated. Needs nothing but Rust.
set -euo pipefail
cd "$(dirname "$0")/.."

count=${1:-100}
export P2PMAP_CRASH_COUNT=$count
if [ $# -ge 2 ]; then
    export P2PMAP_CRASH_SEED=$2
fi
exec cargo test --locked --release --test crash_recovery -- --nocapture \
    nothing_acknowledged_is_lost_when_the_node_is_killed
