#!/usr/bin/env bash
# What a request costs more when another core owns its key: one connection, one get at a time, to a
# node that spins on two cores, of a key of either.
#
#   scripts/remote-key.sh [RUNS]
#
# RUNS: how many runs of a second there are of each key (20); they alternate. Each connection goes
# to one of the node's two cores, and the load generator sleeps between answers on core LOAD_CORE
# (the third one; the node's second one, if there are only two), so that a run is one of eight
# kinds: runs are compared whose connection is on the same core. With two cores the generator runs
# in the real-time class if that is allowed, since the node's loop never leaves its core by itself;
# then a connection of its own core wakes it soonest. Medians and quartiles of p50, in µs. Data
# goes to DATA_DIR (a folder under target/).
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-20}
work=${DATA_DIR:-target/remote-key}
bin=${P2PMAP_BIN:-target/release/p2pmap}
if [ "$(nproc)" -lt 2 ]; then
    echo "this takes two cores; there is $(nproc)" >&2
    exit 2
fi
load_core=${LOAD_CORE:-$(($(nproc) > 2 ? 2 : 1))}
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
rm -rf "$work"
mkdir -p "$work"
: >"$work/raw"

. scripts/server.bash
trap 'end_server || true; rm -rf "$work/data"' EXIT

class=()
if [ "$load_core" -lt 2 ]; then
    if chrt -f 10 true 2>/dev/null; then class=(chrt -f 10); fi
    priority=${class[*]:-as everybody, since chrt -f is not allowed}
    echo "the load shares core $load_core with the node; it runs: $priority"
fi

# slot KEY: its hash slot, CRC-16/XMODEM mod 16384, as Redis Cluster's.
slot() {
    local crc=0 byte bit
    for byte in $(printf '%s' "$1" | od -An -v -tu1); do
        crc=$((crc ^ (byte << 8)))
        for bit in 1 2 3 4 5 6 7 8; do
            crc=$((crc & 0x8000 ? (crc << 1 ^ 0x1021) & 0xffff : crc << 1 & 0xffff))
        done
    done
    echo $((crc % 16384))
}

# The first key that core $1 of two owns.
key_of() {
    local key=0
    while [ $(($(slot "$(printf '%016d' $key)") * 2 / 16384)) != "$1" ]; do key=$((key + 1)); done
    echo "$key"
}
keys=("$(key_of 0)" "$(key_of 1)")

# connections CORE: how many connections that core has now.
connections() {
    metrics_text | awk -v name="p2pmap_connections{core=\"$1\"}" '$1 == name { print $2 }'
}

# ask KEY ARGUMENTS...: one connection, one get at a time.
ask() {
    local key=$1
    shift
    ${class[@]+"${class[@]}"} "$bin" bench run --closed-loop --node "$address" \
        --cores "$load_core" --connections 1 --depth 1 --puts 0 --keys 1 --first-key "$key" "$@"
}

start_server serve --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --cores 0,1 --idle spin \
    --durability none --data-dir "$work/data"
for key in "${keys[@]}"; do ask "$key" --preload --duration 10ms --warm-up 1ms >/dev/null; done
for run in $(seq "$runs"); do
    for owner in 0 1; do
        ask "${keys[owner]}" --warm-up 300ms --duration 700ms >"$work/table" &
        load=$!
        sleep 0.7
        on_first=$(connections 0) on_second=$(connections 1)
        wait "$load"
        # A connection of somebody else would make it unclear where ours is.
        if [ $((on_first + on_second)) = 1 ]; then
            awk -v row="$on_second $owner" '
                /^errors/ { errors = $2 } /^p50 / { p50 = $2 }
                END { if (errors != 0 || p50 == "") exit 1; print row, p50 }' \
                "$work/table" >>"$work/raw"
        fi
    done
    echo "run $run of $runs done" >&2
done

# quartiles CONNECTION OWNER: how many runs, and the quartiles of their p50.
quartiles() {
    awk -v at="$1" -v owner="$2" '$1 == at && $2 == owner { print $3 }' "$work/raw" | sort -n |
        awk '{ p50[NR] = $1 }
            END {
                if (NR == 0) exit
                print NR, p50[int((NR + 3) / 4)], p50[int((NR + 1) / 2)], p50[int((3 * NR + 3) / 4)]
            }'
}

echo "connection  key    runs   p50 in us: quartile   median   quartile    more than an own key"
for at in 0 1; do
    own=$(quartiles "$at" "$at") other=$(quartiles "$at" "$((1 - at))")
    for row in "own $own" "other $other"; do
        read -r name count low middle high <<<"$row"
        [ -n "${count:-}" ] || continue
        more=
        if [ "$name" = other ] && [ -n "$own" ]; then
            read -r _ _ own_middle _ <<<"$own"
            more=$(awk -v a="$middle" -v b="$own_middle" 'BEGIN { printf "%+.1f", a - b }')
        fi
        printf 'core %-6s %-6s %4s %20.1f %8.1f %10.1f %24s\n' \
            "$at" "$name" "$count" "$low" "$middle" "$high" "$more"
    done
done
