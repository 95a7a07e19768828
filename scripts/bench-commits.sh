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
. scripts/commits.bash
stop() {
    end_server || true
    rm -rf "$work/data"
    remove_trees
}
trap stop EXIT
trap 'exit 130' INT TERM

# build REV: leaves its binary in $work/p2pmap-REV.
build() {
    [ ! -x "$work/p2pmap-$1" ] || return 0
    in_tree "$1" cargo build --locked --release --target-dir "$work/target-$1"
    cp "$work/target-$1/release/p2pmap" "$work/p2pmap-$1"
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

measure_in_turns "$rounds" "$rev_a" "$rev_b"
code=0
"$generator" bench compare "$results/a" "$results/b" --html "$results/report.html" \
    ${FAIL_ON:+--fail-on "$FAIL_ON"} || code=$?
echo "results: $results, with a page for a browser: report.html"
exit "$code"
