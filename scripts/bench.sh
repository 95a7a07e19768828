#!/usr/bin/env bash
# The standard set of measurements on this machine, one command: builds the node, loads it in each
# way that bench-results/README.md names, prints a table and keeps the results.
#
#   scripts/bench.sh [SECONDS]
#
# SECONDS: how long each of the ten is measured (10; with that it takes about four minutes). The
# node has core NODE_CORE (0), the load generator core LOAD_CORE (1). RATE: requests a second of
# those at a fixed rate (10000). OUT: where to keep the results (bench-results/<time>-<commit>).
# DATA_DIR: where the node keeps its log (a folder under target/). P2PMAP_BIN: another binary.
# What this started it ends, also when it fails or is interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
node_core=${NODE_CORE:-0}
load_core=${LOAD_CORE:-1}
rate=${RATE:-10000}
work=${DATA_DIR:-target/bench}
bin=${P2PMAP_BIN:-target/release/p2pmap}
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain -- src proto build.rs Cargo.toml Cargo.lock 2>/dev/null)" ] ||
    commit=$commit-dirty
out=${OUT:-bench-results/$(date -u +%Y%m%dT%H%M%SZ)-$commit}
if [ "$(nproc)" -lt 2 ]; then
    echo "this takes two cores, one for the node and one for the load; there is $(nproc)" >&2
    exit 2
fi
rm -rf "$work"
mkdir -p "$work" "$out"

. scripts/server.bash
stop() {
    end_server || true
    rm -rf "$work/data"
}
trap stop EXIT
trap 'exit 130' INT TERM

# serve DURABILITY IDLE
serve() {
    stop
    start_server serve --listen 127.0.0.1:0 --cores "$node_core" --data-dir "$work/data" \
        --durability "$1" --idle "$2"
}

# measure SCENARIO ARGUMENTS...: a row of the table.
measure() {
    local scenario=$1
    shift
    "$bin" bench run --node "$address" --cores "$load_core" --spin --duration "${seconds}s" \
        --out "$out" --scenario "$scenario" "$@" >"$work/table"
    awk -v name="$scenario" '
        / answers\/s$/ { kind = $1; rate = $3 } /^errors/ { errors = $2 }
        /^p50 / { p50 = $2 } /^p99 / { p99 = $2 } /^p99\.9 / { p999 = $2 } /^max / { max = $2 }
        /^generator/ { busy = $2 }
        END {
            printf "%-16s %-7s %10d %7d %9.1f %9.1f %9.1f %9.1f %5d %%\n",
                name, kind, rate, errors, p50, p99, p999, max, busy
        }' "$work/table"
}

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "$("$bin" --version) ($commit), $(uname -sr), $(nproc) x $cpu"
echo "node on core $node_core, load on core $load_core, $seconds s each," \
    "load average before: $(cut -d ' ' -f 1-3 /proc/loadavg)"
echo
printf '%-16s %-7s %10s %7s %9s %9s %9s %9s %7s\n' \
    scenario loop answers/s errors 'p50 µs' 'p99 µs' 'p99.9 µs' 'max µs' busy

serve none spin
measure get-1 --rate "$rate" --connections 1 --puts 0 --preload
measure put-1 --rate "$rate" --connections 1 --puts 100
measure get-c50 --closed-loop --connections 50 --puts 0
measure put-c50 --closed-loop --connections 50 --puts 100
measure get-c50-p64 --closed-loop --connections 50 --depth 64 --puts 0
measure put-c50-p64 --closed-loop --connections 50 --depth 64 --puts 100
measure ycsb-a --rate "$rate" --connections 50 --ycsb a
measure ycsb-b --rate "$rate" --connections 50 --ycsb b
serve sync spin
measure put-sync-1 --closed-loop --connections 1 --puts 100
measure put-sync-c50 --closed-loop --connections 50 --puts 100
stop
echo
echo "results: $out (bench-results/README.md says what is in them)"
