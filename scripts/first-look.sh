#!/usr/bin/env bash
# A first look at speed, as ratios of interleaved runs on this machine: get and put against
# `p2pmap echo` (the same frames through the same runtime, no map behind), echo against a bare echo
# (plain sockets), and durable puts against a plain blocking pwrite + fdatasync.
#
#   scripts/first-look.sh [ROUNDS] [SECONDS]
#
# ROUNDS: how often each is measured, one after the other (7). SECONDS: how long each (2). The node
# has core NODE_CORE (0), the load generator core LOAD_CORE (1); durable puts are measured with the
# node on either core, because the kernel finishes synced writes on the one that takes the disk's
# interrupts. All loads are closed loops. Data goes to DATA_DIR (a folder under target/).
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-7}
seconds=${2:-2}
node_core=${NODE_CORE:-0}
load_core=${LOAD_CORE:-1}
work=${DATA_DIR:-target/first-look}
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

# measure ROUND IDLE SERVER LOAD_CORE CONNECTIONS DEPTH ARGUMENTS...
measure() {
    local round=$1 idle=$2 name=$3 core=$4 connections=$5 depth=$6
    shift 6
    local spin=()
    [ "$idle" = park ] || spin=(--spin)
    "$bin" bench run --closed-loop --node "$address" --core "$core" --connections "$connections" \
        --depth "$depth" --duration "${seconds}s" "${spin[@]}" "$@" >"$work/table"
    awk -v row="$round\t$idle\t$name\tc$connections-d$depth" '
        /answers\/s/ { rate = $3 } /^errors/ { errors = $2 }
        /^p50 / { p50 = $2 } /^p99 / { p99 = $2 } /^generator/ { busy = $2 }
        END {
            if (errors != 0) { print "errors in " row > "/dev/stderr"; exit 1 }
            print row "\t" rate "\t" p50 "\t" p99 "\t" busy
        }' "$work/table" >>"$raw"
}

loads() {
    local round=$1 idle=$2 name=$3
    shift 3
    measure "$round" "$idle" "$name" "$load_core" 1 1 "$@"
    measure "$round" "$idle" "$name" "$load_core" 50 1 "$@"
    measure "$round" "$idle" "$name" "$load_core" 50 64 "$@"
    stop
}

memory() {
    local round=$1 idle=$2
    local spin=()
    [ "$idle" = park ] || spin=(--spin)
    start_server bench bare-echo --listen 127.0.0.1:0 --core "$node_core" "${spin[@]}"
    loads "$round" "$idle" bare
    start_server echo --listen 127.0.0.1:0 --cores "$node_core" --idle "$idle"
    loads "$round" "$idle" echo
    for load in get put; do
        start_server serve --listen 127.0.0.1:0 --cores "$node_core" --idle "$idle" \
            --data-dir "$work/data" --durability none
        if [ "$load" = get ]; then
            loads "$round" "$idle" get --puts 0 --preload
        else
            loads "$round" "$idle" put --puts 100
        fi
    done
}

durable() {
    local round=$1 core=$2 other=$3
    "$bin" bench disk --dir "$work" --core "$core" --spin --duration "${seconds}s" >"$work/table"
    awk -v row="$round\tspin\tpwrite-core$core\tc1-d1" '
        /^p50 / && !p50 { p50 = $2 } /^p99 / && !p99 { p99 = $2 }
        END { print row "\t0\t" p50 "\t" p99 "\t0" }' "$work/table" >>"$raw"
    start_server serve --listen 127.0.0.1:0 --cores "$core" --idle spin \
        --data-dir "$work/data" --durability sync
    measure "$round" spin "put-sync-core$core" "$other" 1 1 --puts 100
    measure "$round" spin "put-sync-core$core" "$other" 50 1 --puts 100
    stop
}

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || commit=$commit-dirty
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "$("$bin" --version) ($commit), $(uname -sr), $(nproc) x $cpu"
echo "$rounds rounds of $seconds s, node on core $node_core, load on core $load_core;" \
    "log on $(stat -f -c %T "$work"), load average before: $(cut -d ' ' -f 1-3 /proc/loadavg)"
for round in $(seq "$rounds"); do
    for idle in spin park; do
        memory "$round" "$idle"
    done
    durable "$round" "$node_core" "$load_core"
    durable "$round" "$load_core" "$node_core"
    echo "round $round of $rounds done" >&2
done

# compare TITLE IDLE A B LOAD COLUMN LIMIT: the median and the range of A / B over the rounds.
compare() {
    awk -F '\t' -v title="$1" -v idle="$2" -v a="$3" -v b="$4" -v load_name="$5" -v column="$6" \
        -v limit="$7" '
        $2 == idle && $4 == load_name && $3 == a { top[$1] = $column; busy = $8 }
        $2 == idle && $4 == load_name && $3 == b { bottom[$1] = $column }
        END {
            for (round in top) if (bottom[round] > 0) ratios[++count] = top[round] / bottom[round]
            for (i = 2; i <= count; i++)
                for (j = i; j > 1 && ratios[j] < ratios[j - 1]; j--) {
                    swap = ratios[j]; ratios[j] = ratios[j - 1]; ratios[j - 1] = swap
                }
            middle = int((count + 1) / 2)
            median = count % 2 ? ratios[middle] : (ratios[middle] + ratios[middle + 1]) / 2
            printf "%-44s %-5s %6.2f  %5.2f to %5.2f  goal %-7s  generator %s %% busy\n",
                title, idle, median, ratios[1], ratios[count], limit, busy
        }' "$raw"
}

echo
echo 'what                                         idle  median  range            goal'
for idle in spin park; do
    compare 'echo / bare echo, 1 connection, p50' "$idle" echo bare c1-d1 6 '<= 1.3'
    compare 'get / echo, 1 connection, p50' "$idle" get echo c1-d1 6 '<= 1.2'
    compare 'get / echo, 1 connection, p99' "$idle" get echo c1-d1 7 '-'
    compare 'put / echo, 1 connection, p50' "$idle" put echo c1-d1 6 '<= 1.2'
    compare 'put / echo, 1 connection, p99' "$idle" put echo c1-d1 7 '-'
    for load in get put; do
        compare "$load / echo, 50 connections, rate" "$idle" "$load" echo c50-d1 5 '>= 0.8'
        compare "$load / echo, 50 x 64, rate" "$idle" "$load" echo c50-d64 5 '>= 0.2'
    done
done

for core in "$node_core" "$load_core"; do
    compare "durable put / pwrite + fdatasync, core $core, p50" spin "put-sync-core$core" \
        "pwrite-core$core" c1-d1 6 '<= 0.8'
done
echo
echo "medians: server, load, answers/s, p50 and p99 in µs"
awk -F '\t' '
    function median(list, parts, count, i, j, swap) {
        count = split(list, parts, " ")
        for (i = 2; i <= count; i++)
            for (j = i; j > 1 && parts[j] + 0 < parts[j - 1] + 0; j--) {
                swap = parts[j]; parts[j] = parts[j - 1]; parts[j - 1] = swap
            }
        return parts[int((count + 1) / 2)]
    }
    {
        key = sprintf("%-5s %-16s %-8s", $2, $3, $4)
        rate[key] = rate[key] " " $5; p50[key] = p50[key] " " $6; p99[key] = p99[key] " " $7
    }
    END {
        for (key in rate)
            printf "%s %10s %9s %9s\n", key, median(rate[key]), median(p50[key]), median(p99[key])
    }' "$raw" | sort
echo "every run: $raw"
