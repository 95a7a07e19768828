#!/usr/bin/env bash
# Three p2pmap nodes against three Redis and three etcd on this machine, as ratios: the same load
# generator, keys and values, each write on a majority before it counts, measured in turns. Prints a
# table with the targets beside what was measured, and leaves results that `p2pmap bench compare`
# takes, and a page with all curves.
#
#   scripts/bench-cluster.sh [ROUNDS] [SECONDS]
#
# ROUNDS: how often everything is measured (8). SECONDS: how long each (3). PEERS: which of them
# (redis etcd). SCENARIOS: only those whose name matches this extended regular expression. CORES: of
# the three servers, in turn, the leader's first (0 1 0); LOAD_CORE: the load generator's (1).
# SPIN_FOR: how long an idle node spins before it sleeps (20us: it shares its core). FAILOVERS: how
# often in each round the leader's node is killed, and stopped (3; 0: not at all). PROFILE: a server
# whose leader is sampled by perf afterwards (e.g. p2pmap; none). PORT: the first of nine free ports
# (17479). OUT: where results go (bench-results/cluster-<time>). P2PMAP_BIN: another binary. It takes
# python3.
#
# In memory: p2pmap with durability none, all leaders on one node (p2pmap), with leaders as they spread
# by themselves and clients that ask them (p2pmap-spread), and with durability async, whose log follows
# the answers (p2pmap-async); Redis without persistence, SET followed by WAIT 1. Durable (-sync): p2pmap
# with durability sync, Redis with appendfsync always on all three and WAIT 1, and etcd, whose leader is
# asked. With several requests of a client under way (-p64) one WAIT follows the SETs that are sent
# together, which is the best that can be done with Redis. All loads are closed loops: they give the
# greatest throughput, and latencies at that load. The servers and the generator share two cores, so
# CPU time per operation stands beside: of the leader, master or primary, and of all three.
# What this started it ends, also when it fails or is interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-8}
seconds=${2:-3}
read -r -a cores <<<"${CORES:-0 1 0}"
load_core=${LOAD_CORE:-1}
spin_for=${SPIN_FOR:-20us}
failovers=${FAILOVERS:-3}
profiled=${PROFILE:-}
port=${PORT:-17479}
wanted=${SCENARIOS:-.}
out=${OUT:-bench-results/cluster-$(date -u +%Y%m%dT%H%M%SZ)}
work=${DATA_DIR:-target/cluster}
bin=${P2PMAP_BIN:-target/release/p2pmap}
if [ "$(nproc)" -lt 2 ]; then
    echo "this takes two cores; there is $(nproc)" >&2
    exit 2
fi
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
rm -rf "$work"
mkdir -p "$work" "$out"
work=$(cd "$work" && pwd)
read -r -a peers <<<"${PEERS:-redis etcd}"
scripts/install-peers.sh "${peers[@]}" >"$out/peers.txt"
: >"$out/cpu.tsv"

. scripts/peers.bash
. scripts/servers.bash
. scripts/perf.bash
[ -z "$profiled" ] || require_perf
trap stop_servers EXIT
trap 'exit 130' INT TERM HUP

# start SERVER: sets `speaks`, the arguments that the generator takes, and `leader`.
start() {
    local kind=${1%-sync} durability=none
    [ "$kind" = "$1" ] || durability=sync
    stop_servers
    case $kind in
    p2pmap | p2pmap-spread | p2pmap-async)
        [ "$kind" != p2pmap-async ] || durability=async
        start_nodes "$durability"
        if [ "$kind" = p2pmap-spread ]; then
            speaks=(--node "$addresses" --to-leaders)
        else
            "$bin" leader transfer --node "$addresses" --all --to a >"$work/table"
            speaks=(--node "${addresses%%,*}")
        fi
        ;;
    redis) start_redis "$durability" ;;
    etcd) start_etcd ;;
    *)
        echo "there is no server $1" >&2
        return 2
        ;;
    esac
    # Every replica is there and answers before anything is measured.
    local all=()
    [ "$kind" != redis ] || all=(--resp-wait 2)
    if await_answers "$work/table" "${speaks[@]}" "${all[@]}"; then
        [ "$kind" != redis ] || speaks+=(--resp-wait 1)
        return 0
    fi
    echo "$1 does not answer:" >&2
    tail -n 20 "$work/table" "$work"/*.err >&2
    return 1
}

# load SERVER ROUND SCENARIO ARGUMENTS...
load() {
    local name=$1 round=$2 scenario=$3
    shift 3
    [[ $scenario =~ $wanted ]] || return 0
    read_usage
    "$bin" bench run "${speaks[@]}" --cores "$load_core" --closed-loop \
        --duration "${seconds}s" --warm-up 1ms --puts 100 --keys 10000 --out "$out/$name" \
        --scenario "$scenario" --round "$round" "$@" >"$work/table"
    tell_usage | awk -v row="$round\t$name\t$scenario" '
        NR == FNR { leader = $1; all = $2; queue = $3; steal = $4; elapsed = $5; next }
        /^answers / { answers = $2 } /^errors/ { errors = $2 }
        /^generator/ { busy = $2 }
        END {
            if (answers == 0) { print "no answers in " row > "/dev/stderr"; exit 1 }
            print row "\t" leader / answers "\t" all / answers "\t" queue / elapsed "\t" \
                steal / elapsed "\t" busy "\t" errors
        }' - "$work/table" >>"$out/cpu.tsv"
}

# warm: all have worked for a while before anything is measured.
warm() {
    "$bin" bench run "${speaks[@]}" --cores "$load_core" --closed-loop --connections 64 --puts 100 \
        --keys 10000 --duration 1s --warm-up 1ms >"$work/table"
}

measure() {
    local name=$1 round=$2
    start "$name"
    warm
    load "$name" "$round" cluster-put-1 --connections 1
    load "$name" "$round" cluster-put --connections 64
    [ "${name%-sync}" = etcd ] ||
        load "$name" "$round" cluster-put-p64 --connections 64 --depth 64
}

# The leader's node is killed under load, and stopped: see scripts/failover.sh.
measure_failover() {
    local round=$1 code=0
    [[ failover =~ $wanted ]] && [ "$failovers" -gt 0 ] || return 0
    stop_servers
    "$bin" drill failover --data-dir "$work/drill" --count "$failovers" --out "$out/p2pmap-sync" \
        --round "$round" >"$out/failover-$round.txt" || code=$?
    rm -rf "$work"/drill/[abc]
    # 1: a goal is missed, which the text says.
    [ "$code" -le 1 ]
}

# profile_leader SERVER: where its time goes with 64 clients.
profile_leader() {
    local loader code=0
    start "$1"
    warm
    "$bin" bench run "${speaks[@]}" --cores "$load_core" --closed-loop --connections 64 --puts 100 \
        --keys 10000 --duration "$((seconds + 2))s" --warm-up 1ms >"$work/table" &
    loader=$!
    sleep 1
    sample "${servers[leader]}" "$seconds" "$out"
    wait "$loader" || code=$?
    write_samples "$out"
    return "$code"
}

in_memory=(p2pmap p2pmap-spread p2pmap-async)
in_sync=(p2pmap-sync p2pmap-spread-sync)
for peer in "${peers[@]}"; do
    [ "$peer" = etcd ] || in_memory+=("$peer")
    in_sync+=("$peer-sync")
done
for round in $(seq "$rounds"); do
    in_turns "$round" measure "${in_memory[@]}"
    in_turns "$round" measure "${in_sync[@]}"
    measure_failover "$round"
    echo "round $round of $rounds done" >&2
done
[ -z "$profiled" ] || profile_leader "$profiled"
stop_servers

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "$("$bin" --version), $(uname -sr), $(nproc) x $cpu"
echo "$rounds rounds of $seconds s, servers on cores ${cores[*]}, the leader's first, load on core" \
    "$load_core, keys of 16 B, values of 64 B, load average: $(cut -d ' ' -f 1-3 /proc/loadavg)"
sed 's/^\([^ ]*\) .* \([^ ]*\)$/\1 \2/' "$out/peers.txt"
for peer in "${peers[@]}"; do
    for ours in p2pmap p2pmap-spread p2pmap-async; do
        compare "$peer" "$ours"
        compare "$peer-sync" "$ours-sync"
    done
done >"$out/ratios.txt"
python3 scripts/report/cluster.py "$out"
if [ -n "$profiled" ]; then
    echo
    echo "the leader of $profiled with 64 clients, samples by $event:"
    print_samples "$out" 40
fi
for kind in '' -sync; do
    pages=()
    for name in p2pmap p2pmap-spread p2pmap-async "${peers[@]}"; do
        [ ! -d "$out/$name$kind" ] || pages+=("$out/$name$kind")
    done
    [ ${#pages[@]} -lt 2 ] ||
        "$bin" bench compare "${pages[@]}" --allow-different --html "$out/cluster$kind.html" \
            >"$work/table"
done
echo "every run, and pages with its curves: $out"
