#!/usr/bin/env bash
# How fast a log is recovered, against how fast its bytes can be read at all.
#
#   scripts/recovery.sh [SIZE_MIB] [ROUNDS] [VALUE_SIZE]
#
# Fills a log of SIZE_MIB (1024) with the load generator (puts of VALUE_SIZE, 1KiB), kills the node,
# and then, ROUNDS (5) times in turn: reads the log's files one after the other with direct I/O (dd,
# 4 MiB requests), and starts a node on them, which says how long recovering took. Prints the median
# of the ratio. The page cache is out of the game on both sides. Data goes to DATA_DIR (a folder
# under target/). The node has the cores of CORES (0), the load generator core LOAD_CORE (1).
set -euo pipefail
cd "$(dirname "$0")/.."

size_mib=${1:-1024}
rounds=${2:-5}
value_size=${3:-1KiB}
cores=${CORES:-0}
load_core=${LOAD_CORE:-1}
work=${DATA_DIR:-target/recovery}
bin=${P2PMAP_BIN:-target/release/p2pmap}
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
rm -rf "$work"
mkdir -p "$work"

. scripts/server.bash
end() {
    kill_node
    rm -rf "$work/data" "$work/copy"
}
trap end EXIT

start() {
    start_server serve --listen 127.0.0.1:0 --cores "$cores" --data-dir "$work/data"
}

kill_node() {
    end_server KILL || true
}

logs() {
    find "$work/data" -name '*.log' -size +0 | sort
}

start
filled_mib=0
for load in $(seq 100); do
    filled_mib=$(logs | xargs du -cm | tail -n 1 | cut -f 1)
    [ "$filled_mib" -lt "$size_mib" ] || break
    if [ "$load" = 100 ]; then
        echo "the log stays at $filled_mib MiB: it makes way at half a GiB a core; ask for less" >&2
        exit 1
    fi
    "$bin" bench run --closed-loop --node "$address" --core "$load_core" --connections 16 --depth 64 \
        --puts 100 --keys 100000 --value-size "$value_size" --duration 2s >"$work/table"
done
kill_node

# Each start begins a segment of its own, so every round starts from the same files.
cp -a --reflink=auto "$work/data" "$work/copy"
sync
for round in $(seq "$rounds"); do
    rm -rf "$work/data"
    cp -a --reflink=auto "$work/copy" "$work/data"
    sync
    read_begin=$(date +%s%N)
    logs | while read -r file; do
        dd if="$file" of=/dev/null bs=4M iflag=direct status=none
    done
    read_ms=$((($(date +%s%N) - read_begin) / 1000000))
    bytes=$(logs | xargs du -cb | tail -n 1 | cut -f 1)
    start
    # The slowest shard is what counts.
    recovered_ms=$(sed -n 's/.*recovered the log.* ms=\([0-9]*\).*/\1/p' "$work/err" | sort -n |
        tail -n 1)
    records=$(sed -n 's/.*recovered the log.* records=\([0-9]*\).*/\1/p' "$work/err" |
        awk '{ sum += $1 } END { print sum }')
    kill_node
    echo "$round $bytes $read_ms $recovered_ms $records" |
        tee -a "$work/rounds" |
        awk '{ printf "round %d: %d MiB read in %d ms, recovered in %d ms (%d records): %.2f\n",
            $1, $2 / 1048576, $3, $4, $5, $3 / $4 }'
done
awk '{ print $3 / $4 }' "$work/rounds" | sort -n | awk '
    { ratio[NR] = $1 }
    END {
        middle = int((NR + 1) / 2)
        median = NR % 2 ? ratio[middle] : (ratio[middle] + ratio[middle + 1]) / 2
        printf "recovery at %.2f (%.2f to %.2f) of the speed of a sequential read; wanted: 0.5\n",
            median, ratio[1], ratio[NR]
    }'
