#!/usr/bin/env bash
# p2pmap against Redis, Valkey and etcd on this machine, as ratios: the same load generator, keys,
# values and durability, one server core each, measured in turns. Installs the peers if they are
# missing (scripts/install-peers.sh), prints a table with the targets beside the ratios, and leaves a
# page with all curves.
#
#   scripts/bench-peers.sh [ROUNDS] [SECONDS]
#
# ROUNDS: how often everything is measured (8). SECONDS: how long each (2). PEERS: which of them
# (redis valkey etcd). SCENARIOS: only those whose name matches this extended regular expression.
# Servers have core NODE_CORE (0), the load generator core LOAD_CORE (1), where it spins. MEMORY_KEYS:
# keys for bytes per key (1000000; 0: not measured). PORT: the first of three free ports (17379).
# OUT: where results go (bench-results/peers-<time>). P2PMAP_BIN: another binary. It takes python3.
#
# Memory: p2pmap with durability none against Redis and Valkey without persistence. Durable: p2pmap
# with durability sync against appendfsync always, and against etcd, which always syncs. `park` and
# `spin` are p2pmap's ways to wait; peers sleep. All loads are closed loops: they give the greatest
# throughput, and latencies at that load. CPU time per operation is the server's, all its threads.
# What this started it ends, also when it fails or is interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-8}
seconds=${2:-2}
node_core=${NODE_CORE:-0}
load_core=${LOAD_CORE:-1}
memory_keys=${MEMORY_KEYS:-1000000}
port=${PORT:-17379}
wanted=${SCENARIOS:-.}
out=${OUT:-bench-results/peers-$(date -u +%Y%m%dT%H%M%SZ)}
work=${DATA_DIR:-target/peers/run}
bin=${P2PMAP_BIN:-target/release/p2pmap}
if [ "$(nproc)" -lt 2 ]; then
    echo "this takes two cores, one for the server and one for the load; there is $(nproc)" >&2
    exit 2
fi
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
rm -rf "$work"
mkdir -p "$work" "$out"
work=$(cd "$work" && pwd)
read -r -a peers <<<"${PEERS:-redis valkey etcd}"
scripts/install-peers.sh "${peers[@]}" >"$out/peers.txt"
: >"$out/cpu.tsv"
: >"$out/memory.tsv"
: >"$out/redis-benchmark.tsv"

. scripts/server.bash
. scripts/peers.bash
stop() {
    end_server || true
    rm -rf "$work/data"
}
trap stop EXIT
trap 'exit 130' INT TERM

# start_peer BINARY ARGUMENTS...: starts a server on the node's core and waits until it listens.
start_peer() {
    if is_taken "$port"; then
        echo "port $port is taken: name a free one in PORT" >&2
        return 1
    fi
    mkdir -p "$work/data"
    GOMAXPROCS=1 taskset -c "$node_core" "$@" >"$work/out" 2>"$work/err" &
    server=$!
    address=127.0.0.1:$port
    if await_port "$port" "$server"; then return 0; fi
    echo "$1 did not start:" >&2
    tail -n 20 "$work/out" "$work/err" >&2
    return 1
}

# start SERVER: p2pmap-park, p2pmap-spin, redis, valkey, or etcd; those that end in -sync durable.
# Sets `speaks`.
start() {
    local kind=${1%-sync} durability=none
    [ "$kind" = "$1" ] || durability=sync
    stop
    case $kind in
    p2pmap-*)
        speaks=frames
        start_server serve --listen 127.0.0.1:0 --cores "$node_core" --data-dir "$work/data" \
            --durability "$durability" --idle "${kind#p2pmap-}"
        ;;
    redis | valkey)
        speaks=resp
        local append=(--appendonly no)
        [ "$durability" = none ] || append=(--appendonly yes --appendfsync always)
        start_peer "$(binary_of "$kind")" --port "$port" --bind 127.0.0.1 --save '' \
            --io-threads 1 --dir "$work/data" "${append[@]}"
        ;;
    etcd)
        speaks=etcd
        local client=http://127.0.0.1:$port peer=http://127.0.0.1:$((port + 1))
        start_peer "$(binary_of etcd)" --data-dir "$work/data/etcd" --name one \
            --listen-client-urls "$client" --advertise-client-urls "$client" \
            --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
            --initial-cluster "one=$peer" --quota-backend-bytes 8589934592 --log-level error
        # It listens before it has elected itself.
        if await_answers "$work/table" --protocol etcd --node "$address"; then return 0; fi
        echo "etcd does not answer:" >&2
        tail -n 20 "$work/table" "$work/err" >&2
        return 1
        ;;
    esac
}

resident_bytes() {
    awk '$1 == "VmRSS:" { print $2 * 1024 }' "/proc/$server/status"
}

# load SERVER ROUND SCENARIO ARGUMENTS...
load() {
    local name=$1 round=$2 scenario=$3 before
    shift 3
    [[ $scenario =~ $wanted ]] || return 0
    before=$(ticks)
    "$bin" bench run --protocol "$speaks" --node "$address" --cores "$load_core" --spin \
        --closed-loop --duration "${seconds}s" --warm-up 1ms --out "$out/$name" \
        --scenario "$scenario" --round "$round" "$@" >"$work/table"
    awk -v row="$round\t$name\t$scenario" -v ticks="$(($(ticks) - before))" \
        -v hz="$(getconf CLK_TCK)" '
        /^answers / { answers = $2 } /^errors/ { errors = $2 }
        END {
            if (errors != 0) { print errors " errors in " row > "/dev/stderr"; exit 1 }
            print row "\t" ticks / hz * 1e9 / answers
        }' "$work/table" >>"$out/cpu.tsv"
}

fill() {
    [[ "$1" =~ $wanted ]] || return 0
    "$bin" bench run --protocol "$speaks" --node "$address" --cores "$load_core" --spin \
        --closed-loop --connections 16 --depth 64 --puts 0 --keys "$2" --preload \
        --duration 10ms --warm-up 1ms >"$work/table"
}

load_memory() {
    local server_name=$1 round=$2
    start "$server_name"
    # Filled before anything is measured, so that CPU time is that of what is measured.
    fill 'get-1 get-c50 put-1 put-c50 get-c50-p64 put-c50-p64' 100000
    load "$server_name" "$round" get-1 --connections 1 --puts 0 --keys 100000
    load "$server_name" "$round" get-c50 --connections 50 --puts 0 --keys 100000
    load "$server_name" "$round" put-c50 --connections 50 --puts 100 --keys 100000
    load "$server_name" "$round" get-c50-p64 --connections 50 --depth 64 --puts 0 --keys 100000
    load "$server_name" "$round" put-c50-p64 --connections 50 --depth 64 --puts 100 --keys 100000
    case $server_name in
    redis | valkey) redis_benchmark "$server_name" "$round" ;;
    esac
}

# What Redis' own benchmark says of Redis and Valkey, beside what our generator does.
redis_benchmark() {
    command -v redis-benchmark >/dev/null || return 0
    local depth
    for depth in 1 64; do
        [[ get-c50-p64put-c50 =~ $wanted ]] || continue
        taskset -c "$load_core" redis-benchmark -h 127.0.0.1 -p "$port" -c 50 -P "$depth" -d 64 \
            -r 100000 -n $((seconds * 20000 * (depth == 1 ? 1 : 10))) -t get,set --csv 2>/dev/null |
            tr -d '"' | awk -F , -v row="$2\t$1\t$depth" '
                $1 == "GET" || $1 == "SET" { print row "\t" $1 "\t" $2 }' >>"$out/redis-benchmark.tsv"
    done
}

load_durable() {
    local server_name=$1 round=$2
    start "$server_name"
    load "$server_name" "$round" put-sync-c50 --connections 50 --puts 100 --keys 10000
    [ "$speaks" = etcd ] ||
        load "$server_name" "$round" put-sync-c50-p64 --connections 50 --depth 64 --puts 100 \
            --keys 10000
}

ours=(p2pmap-park p2pmap-spin)
in_memory=("${ours[@]}")
in_sync=(p2pmap-park-sync p2pmap-spin-sync)
for peer in "${peers[@]}"; do
    if [ "$peer" = etcd ]; then
        in_sync+=(etcd-sync)
    else
        in_memory+=("$peer")
        in_sync+=("$peer-sync")
    fi
done
for round in $(seq "$rounds"); do
    in_turns "$round" load_memory "${in_memory[@]}"
    in_turns "$round" load_durable "${in_sync[@]}"
    echo "round $round of $rounds done" >&2
done
if [ "$memory_keys" -gt 0 ]; then
    wanted=.
    for name in p2pmap-park "${in_memory[@]:2}"; do
        start "$name"
        fill memory 1
        empty=$(resident_bytes)
        fill memory "$memory_keys"
        echo "$name $((($(resident_bytes) - empty) / memory_keys))" >>"$out/memory.tsv"
    done
fi
stop

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "$("$bin" --version), $(uname -sr), $(nproc) x $cpu"
echo "$rounds rounds of $seconds s, server on core $node_core, load on core $load_core, keys of 16 B," \
    "values of 64 B, load average: $(cut -d ' ' -f 1-3 /proc/loadavg)"
sed 's/^\([^ ]*\) .* \([^ ]*\)$/\1 \2/' "$out/peers.txt"
for way in park spin; do
    for peer in "${in_memory[@]:2}"; do compare "$peer" "p2pmap-$way"; done
    for peer in "${in_sync[@]:2}"; do compare "$peer" "p2pmap-$way-sync"; done
done >"$out/ratios.txt"
python3 scripts/report/peers.py "$out"
for kind in '' -sync; do
    pages=()
    for name in p2pmap-park p2pmap-spin redis valkey etcd; do
        [ ! -d "$out/$name$kind" ] || pages+=("$out/$name$kind")
    done
    page=$out/peers$kind.html
    [ ${#pages[@]} -lt 2 ] ||
        "$bin" bench compare "${pages[@]}" --allow-different --html "$page" >"$work/table"
done
echo "every run, and pages with its curves: $out"
