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
if ! command -v perf >/dev/null; then
    if [ "$(id -u)" != 0 ]; then
        echo "there is no perf: apt-get install linux-perf" >&2
        exit 2
    fi
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends linux-perf >&2
fi
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

event=cycles
perf stat -e cycles true 2>&1 | grep -q 'not supported' && event=cpu-clock
start_server serve --listen 127.0.0.1:0 --cores "${NODE_CORE:-0}" --data-dir "$work/data" \
    --durability "$durability" --idle "$idle"
"$bin" bench run --protocol "${PROTOCOL:-frames}" --node "$address" --cores "${LOAD_CORE:-1}" --spin \
    --closed-loop --duration "$((seconds + 2))s" --warm-up 1s "${load[@]}" >"$work/table" &
loader=$!
# The keys are filled and the load is warm by then.
sleep 2
perf record --quiet -e "$event" -F 1999 -g --call-graph dwarf,4096 -p "$server" \
    -o "$work/perf.data" -- sleep "$seconds" 2>"$work/perf.err" || {
    cat "$work/perf.err" >&2
    exit 1
}
code=0
wait "$loader" || code=$?
loader=
stop
[ "$code" = 0 ] || { cat "$work/table" >&2; exit "$code"; }

perf report --stdio --no-children -g none --sort dso,symbol -i "$work/perf.data" 2>/dev/null |
    sed -e '/^#/d; /^ *$/d; s/ *- *- *$//' >"$work/top.txt" || true
# One line for each stack, outermost first, with how often it was met.
perf script -i "$work/perf.data" -F comm,ip,sym 2>/dev/null | awk '
    /^[^ \t]/ { name = $1; stack = ""; next }
    NF == 0 { if (stack != "") count[name stack]++; stack = ""; next }
    { $1 = ""; sub(/^ /, ""); sub(/\+0x[0-9a-f]+$/, ""); stack = ";" $0 stack }
    END {
        if (stack != "") count[name stack]++
        for (line in count) print line, count[line]
    }' | sort >"$work/stacks.folded"
if [ ! -s "$work/top.txt" ]; then
    echo "perf took no samples:" >&2
    cat "$work/perf.err" >&2
    exit 1
fi

grep -E 'answers/s|^p50|^p99 |^errors|^generator' "$work/table"
echo "$scenario, idle $idle, $seconds s of samples by $event, core ${NODE_CORE:-0}"
awk '
    { share = $1 + 0; all += share; if ($2 ~ /kernel/) kernel += share }
    END { printf "in the kernel %.0f %%, in the node %.0f %%\n", kernel, all - kernel }' "$work/top.txt"
head -n "$lines" "$work/top.txt"
echo "all of it: $work/top.txt; stacks for flame graphs: $work/stacks.folded"
