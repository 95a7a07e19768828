#!/usr/bin/env bash
# Is one commit slower than another? Builds both, each in a worktree and a target folder of its own,
# measures them in turns on this machine, and prints the comparison with a verdict.
#
#   scripts/bench-commits.sh REV_A REV_B [ROUNDS] [SECONDS]
#
# ROUNDS: how often each is measured (8; three judged metrics take seven). SECONDS: how long each
# (3). Both are loaded by the generator of the tree that this script is in. The node has core
# NODE_CORE (0), the load generator core LOAD_CORE (1). SCENARIOS: which of those below (all). RATE:
# requests a second of those at a fixed rate (10000). WORK: where worktrees, builds and results go
# (target/bench-commits); builds are kept for the next time. FAIL_ON: as --fail-on of
# `p2pmap bench compare`, e.g. slower:5%. Exits as that does.
# What this started it ends, also when it fails or is interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -lt 2 ]; then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
rev_a=$(git rev-parse --short=12 "$1^{commit}")
rev_b=$(git rev-parse --short=12 "$2^{commit}")
rounds=${3:-8}
seconds=${4:-3}
node_core=${NODE_CORE:-0}
load_core=${LOAD_CORE:-1}
rate=${RATE:-10000}
scenarios=${SCENARIOS:-get-1 put-1 get-c50-p64 put-c50-p64}
work=$PWD/${WORK:-target/bench-commits}
results=$work/$(date -u +%Y%m%dT%H%M%SZ)
mkdir -p "$work" "$results"

bin=
. scripts/server.bash
stop() {
    end_server || true
    rm -rf "$work/data"
    for tree in "$work"/tree-*; do
        [ ! -d "$tree" ] || git worktree remove --force "$tree" || true
    done
}
trap stop EXIT
trap 'exit 130' INT TERM

# build REV: leaves its binary in $work/p2pmap-REV.
build() {
    local tree=$work/tree-$1
    [ ! -x "$work/p2pmap-$1" ] || return 0
    git worktree add --quiet --detach "$tree" "$1"
    (cd "$tree" && cargo build --locked --release --target-dir "$work/target-$1")
    cp "$work/target-$1/release/p2pmap" "$work/p2pmap-$1"
    git worktree remove --force "$tree"
}
build "$rev_a"
build "$rev_b"
if [ -n "${P2PMAP_BIN:-}" ]; then
    generator=$P2PMAP_BIN
else
    cargo build --locked --release
    generator=target/release/p2pmap
fi

# load SIDE ROUND SCENARIO ARGUMENTS...
load() {
    local side=$1 round=$2 scenario=$3
    shift 3
    "$generator" bench run --node "$address" --cores "$load_core" --spin \
        --duration "${seconds}s" --warm-up 1s --out "$results/$side" --scenario "$scenario" \
        --round "$round" "$@" >"$work/table"
}

# measure SIDE REV ROUND: all scenarios on a fresh node.
measure() {
    local side=$1 round=$3 scenario
    bin=$work/p2pmap-$2
    start_server serve --listen 127.0.0.1:0 --cores "$node_core" --data-dir "$work/data" \
        --durability none --idle spin
    for scenario in $scenarios; do
        case $scenario in
        get-1) load "$side" "$round" get-1 --rate "$rate" --puts 0 --preload ;;
        put-1) load "$side" "$round" put-1 --rate "$rate" --puts 100 ;;
        get-c50-p64)
            load "$side" "$round" get-c50-p64 --closed-loop --connections 50 --depth 64 \
                --puts 0 --preload
            ;;
        put-c50-p64)
            load "$side" "$round" put-c50-p64 --closed-loop --connections 50 --depth 64 --puts 100
            ;;
        *)
            echo "there is no scenario $scenario" >&2
            return 2
            ;;
        esac
    done
    stop
}

for round in $(seq "$rounds"); do
    # Who goes first changes with the round: what a first run finds cold is the same for both.
    if [ $((round % 2)) = 1 ]; then
        measure a "$rev_a" "$round"
        measure b "$rev_b" "$round"
    else
        measure b "$rev_b" "$round"
        measure a "$rev_a" "$round"
    fi
    echo "round $round of $rounds done" >&2
done
code=0
"$generator" bench compare "$results/a" "$results/b" ${FAIL_ON:+--fail-on "$FAIL_ON"} || code=$?
echo "results: $results"
exit "$code"
