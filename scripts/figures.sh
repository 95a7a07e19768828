#!/usr/bin/env bash
# What an operation costs, on this machine: throughput against an echo at 100,000 keys, operations
# and io_uring_enter calls a core, durable puts at depth 1 and 64, CPU time an operation with more
# and more keys and connections, and the ring between two cores against crossbeam's queue.
#
#   scripts/figures.sh [ROUNDS] [SECONDS]
#
# ROUNDS: how often each is measured, one after the other (5). SECONDS: how long each (2). The node
# has core NODE_CORE (0), the load generator core LOAD_CORE (1). All loads are closed loops, raw
# frames, keys of 16 bytes and values of 64. Medians of the rounds, with their range; only ratios
# say something about another machine. Data goes to DATA_DIR (a folder under target/).
#
# What a request costs whose key another core owns: scripts/remote-key.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-5}
seconds=${2:-2}
node_core=${NODE_CORE:-0}
load_core=${LOAD_CORE:-1}
work=${DATA_DIR:-target/figures}
bin=${P2PMAP_BIN:-target/release/p2pmap}
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
rm -rf "$work"
mkdir -p "$work"
raw=$work/raw.tsv
: >"$raw"

. scripts/server.bash
stop() {
    end_server || true
    rm -rf "$work/data"
}
trap stop EXIT

serve() {
    start_server serve --listen 127.0.0.1:0 --cores "$node_core" --data-dir "$work/data" "$@"
}

# metric NAME: a metric of the server, all cores together.
metric() {
    metrics_text | awk -v name="$1" 'index($1, name "{") == 1 { sum += $2 } END { print sum + 0 }'
}

# load ROUND NAME ARGUMENTS...: a row of the round, the name, answers a second, p50 and p99 in µs,
# and the server's CPU time an answer in ns.
load() {
    local round=$1 name=$2
    shift 2
    local before
    before=$(ticks)
    "$bin" bench run --closed-loop --node "$address" --core "$load_core" --duration "${seconds}s" --warm-up 1ms \
        "$@" >"$work/table"
    awk -v row="$round\t$name" -v ticks="$(($(ticks) - before))" -v hz="$(getconf CLK_TCK)" '
        /answers\/s/ { rate = $3 } /^answers / { answers = $2 } /^errors/ { errors = $2 }
        /^p50 / { p50 = $2 } /^p99 / { p99 = $2 }
        END {
            if (errors != 0) { print "errors in " row > "/dev/stderr"; exit 1 }
            print row "\t" rate "\t" p50 "\t" p99 "\t" ticks / hz * 1e9 / answers
        }' "$work/table" >>"$raw"
}

round() {
    local round=$1 spin=(--connections 50 --depth 64 --spin)
    start_server echo --listen 127.0.0.1:0 --cores "$node_core" --idle spin
    load "$round" echo "${spin[@]}" --keys 100000
    stop
    serve --idle spin --durability none --metrics-listen 127.0.0.1:0
    load "$round" warm "${spin[@]}" --keys 100000 --preload
    local turns answers
    turns=$(metric p2pmap_turns_busy_total) answers=$(metric p2pmap_answers_total)
    load "$round" get "${spin[@]}" --keys 100000 --puts 0
    sleep 0.3
    turns=$(($(metric p2pmap_turns_busy_total) - turns))
    answers=$(($(metric p2pmap_answers_total) - answers))
    # One call for each turn.
    awk -v row="$round\tenter" -v turns="$turns" -v answers="$answers" \
        'BEGIN { print row "\t" turns / answers "\t0\t0\t0" }' >>"$raw"
    load "$round" put "${spin[@]}" --keys 100000 --puts 100
    stop
    serve --idle spin
    load "$round" durable-d1 --connections 50 --spin --puts 100
    load "$round" durable-d64 "${spin[@]}" --puts 100
    stop
    # Asleep when there is nothing to do, so that time spent is time needed.
    serve --idle park --spin-for 0us --durability none
    for keys in 1000 100000 10000000; do
        "$bin" bench run --closed-loop --node "$address" --core "$load_core" --keys "$keys" --preload \
            --map "keys$keys" --duration 10ms --warm-up 1ms --connections 16 --depth 64 >/dev/null
        load "$round" "keys$keys" --keys "$keys" --map "keys$keys" --connections 50 --depth 16
    done
    for connections in 1 100 5000; do
        load "$round" "connections$connections" --keys 1000 --map keys1000 \
            --connections "$connections"
    done
    stop
}

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || commit=$commit-dirty
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "$("$bin" --version) ($commit), $(uname -sr), $(nproc) x $cpu"
echo "$rounds rounds of $seconds s, node on core $node_core, load on core $load_core;" \
    "log on $(stat -f -c %T "$work"), load average before: $(cut -d ' ' -f 1-3 /proc/loadavg)"
for round in $(seq "$rounds"); do
    round "$round"
    echo "round $round of $rounds done" >&2
done

# show TITLE A COLUMN [B]: the median and the range of A, or of A / B, over the rounds.
show() {
    awk -F '\t' -v title="$1" -v a="$2" -v column="$3" -v b="${4:-}" '
        $2 == a { top[$1] = $column }
        b != "" && $2 == b { bottom[$1] = $column }
        END {
            for (round in top) values[++count] = top[round] / (b == "" ? 1 : bottom[round])
            for (i = 2; i <= count; i++)
                for (j = i; j > 1 && values[j] < values[j - 1]; j--) {
                    swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap
                }
            middle = int((count + 1) / 2)
            median = count % 2 ? values[middle] : (values[middle] + values[middle + 1]) / 2
            printf "%-58s %12.5g  %10.5g to %10.5g\n", title, median, values[1], values[count]
        }' "$raw"
}

echo
echo '50 connections with 64 requests each, 100,000 keys, spinning  median       range'
show 'get / echo, answers per second (goal 0.25)' get 3 echo
show 'put / echo, answers per second' put 3 echo
show 'get, answers per second and core' get 3
show 'put, answers per second and core' put 3
show 'io_uring_enter per get' enter 3
echo 'durable puts, 50 connections, spinning'
show 'one request each, answers per second' durable-d1 3
show 'one request each, p50 in us' durable-d1 4
show '64 requests each, answers per second' durable-d64 3
show '64 requests each, p50 in us' durable-d64 4
echo 'CPU time of the node an operation, half puts, parked when idle, in ns'
for keys in 1000 100000 10000000; do
    show "$keys keys (50 connections with 16 requests each)" "keys$keys" 6
done
for connections in 1 100 5000; do
    show "$connections connections with one request each (1,000 keys)" "connections$connections" 6
done
echo
echo 'bytes per key (slope from 1 M to 5 M keys of 16 + 64 bytes), and the ring between two cores'
cargo bench --locked --quiet --bench map -- memory 2>/dev/null | grep -i 'per key' || true
cargo bench --locked --quiet --bench ring 2>/dev/null | grep -E '^[a-z].*time:|^ring|^ +time:' || true
