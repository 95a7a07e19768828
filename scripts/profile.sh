#!/usr/bin/env bash
# Where a node's time goes under a load: perf samples it on its core, and its functions are printed,
# the ones that take most first, with the share of the kernel.
#
#   scripts/profile.sh [SCENARIO] [SECONDS]
#
# SCENARIO: get-1, put-1, get-c50, put-c50, get-c50-p64, put-c50-p64 (the default), ycsb-e,
# put-sync-c50, or put-sync-c50-p64. SECONDS: how long (5). IDLE: spin (the default) or park. The node
# has core NODE_CORE (0), the load generator core LOAD_CORE (1). PROTOCOL: frames or grpc. LINES: of
# the table (40). OUT: where perf.data, the table (top.txt) and the folded stacks (stacks.folded, for
# flame graphs) go (target/profile). P2PMAP_BIN: another binary; it should have its symbols.
# Samples are taken by the processor's cycles, or where a virtual machine has no such counter by the
# clock. perf is Debian's linux-perf, which is installed if this runs as root.
# What this started it ends, also when it fails or is interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

scenario=${1:-put-c50-p64}
seconds=${2:-5}
idle=${IDLE:-spin}
work=${OUT:-target/profile}
lines=${LINES:-40}
durability=none
case $scenario in
get-1) load=(--connections 1 --puts 0 --preload) ;;
put-1) load=(--connections 1 --puts 100) ;;
get-c50) load=(--connections 50 --puts 0 --preload) ;;
put-c50) load=(--connections 50 --puts 100) ;;
get-c50-p64) load=(--connections 50 --depth 64 --puts 0 --keys 100000 --preload) ;;
put-c50-p64) load=(--connections 50 --depth 64 --puts 100 --keys 100000) ;;
ycsb-e) load=(--connections 8 --ycsb e --preload) ;;
put-sync-c50) load=(--connections 50 --puts 100) durability=sync ;;
put-sync-c50-p64) load=(--connections 50 --depth 64 --puts 100) durability=sync ;;
*)
    echo "there is no scenario $scenario" >&2
    exit 2
    ;;
esac
. scripts/perf.bash
require_perf
bin=${P2PMAP_BIN:-target/release/p2pmap}
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
rm -rf "$work"
mkdir -p "$work"

. scripts/server.bash
loader=
stop() {
    [ -z "$loader" ] || kill "$loader" 2>/dev/null || true
    end_server || true
    rm -rf "$work/data"
}
trap stop EXIT
trap 'exit 130' INT TERM

start_server serve --listen 127.0.0.1:0 --cores "${NODE_CORE:-0}" --data-dir "$work/data" \
    --durability "$durability" --idle "$idle"
"$bin" bench run --protocol "${PROTOCOL:-frames}" --node "$address" --cores "${LOAD_CORE:-1}" --spin \
    --closed-loop --duration "$((seconds + 2))s" --warm-up 1s "${load[@]}" >"$work/table" &
loader=$!
# The keys are filled and the load is warm by then.
sleep 2
sample "$server" "$seconds" "$work"
code=0
wait "$loader" || code=$?
loader=
stop
[ "$code" = 0 ] || { cat "$work/table" >&2; exit "$code"; }

write_samples "$work"
grep -E 'answers/s|^p50|^p99 |^errors|^generator' "$work/table"
echo "$scenario, idle $idle, $seconds s of samples by $event, core ${NODE_CORE:-0}"
print_samples "$work" "$lines"
