# Starts three servers for a script of this folder, and ends them. To be sourced, with `bin` naming the
# binary, `work` a folder for data and for what they say, `cores` an array with the core of each, and
# `port` the first of nine free ports; after scripts/peers.bash.

# Process ids; which of them leads; where they listen, with commas; and how the generator is to speak.
servers=()
leader=0
addresses=
speaks=()

# start_one NAME COMMAND...: starts a server on the next core.
start_one() {
    local name=$1
    shift
    GOMAXPROCS=1 taskset -c "${cores[${#servers[@]} % ${#cores[@]}]}" "$@" \
        >"$work/$name.out" 2>"$work/$name.err" &
    servers+=($!)
}

# stop_servers: their data goes with them, so they are killed.
stop_servers() {
    local pid
    for pid in "${servers[@]}"; do kill -s KILL "$pid" 2>/dev/null || true; done
    for pid in "${servers[@]}"; do wait "$pid" 2>/dev/null || true; done
    servers=()
    leader=0
    rm -rf "$work/data"
}

# did_not_start NAME
did_not_start() {
    echo "$1 did not start:" >&2
    tail -n 20 "$work/$1.out" "$work/$1.err" >&2
    return 1
}

# claim_ports: nobody else may listen where the servers will.
claim_ports() {
    local at
    for at in $(seq "$port" $((port + 8))); do
        if is_taken "$at"; then
            echo "port $at is taken: name the first of nine free ones in PORT" >&2
            return 1
        fi
    done
    mkdir -p "$work/data"
}

# start_nodes DURABILITY: nodes a, b and c.
start_nodes() {
    local names=(a b c) members=() at name
    claim_ports
    for at in 0 1 2; do members+=("${names[at]}=127.0.0.1:$((port + at))"); done
    members=$(IFS=,; echo "${members[*]}")
    for at in 0 1 2; do
        start_one "${names[at]}" "$bin" serve --node-id "${names[at]}" --members "$members" \
            --cores "${cores[at % ${#cores[@]}]}" --data-dir "$work/data/${names[at]}" \
            --durability "$1" --idle park --spin-for "$spin_for" --memory-max 20%
    done
    for at in 0 1 2; do
        name=${names[at]}
        for _ in $(seq 1500); do
            ! grep -qx ready "$work/$name.out" || continue 2
            kill -0 "${servers[at]}" 2>/dev/null || break
            sleep 0.02
        done
        did_not_start "$name"
    done
    addresses=$(sed 's/[abc]=//g' <<<"$members")
}

# start_redis none|sync: a master and two replicas. How many of them a write waits for is left to the
# caller.
start_redis() {
    local append=(--appendonly no) binary at
    [ "$1" = none ] || append=(--appendonly yes --appendfsync always)
    binary=$(binary_of redis)
    claim_ports
    for at in 0 1 2; do
        local of=()
        [ "$at" = 0 ] || of=(--replicaof "127.0.0.1 $port")
        mkdir -p "$work/data/$at"
        start_one "redis-$at" "$binary" --port $((port + at)) --bind 127.0.0.1 --save '' \
            --io-threads 1 --repl-diskless-sync-delay 0 --dir "$work/data/$at" "${append[@]}" \
            "${of[@]}"
        await_port $((port + at)) "${servers[at]}" || did_not_start "redis-$at"
    done
    speaks=(--protocol resp --node "127.0.0.1:$port")
}

# start_etcd: three members. Sets `leader`, who is asked.
start_etcd() {
    local binary members=() at
    binary=$(binary_of etcd)
    claim_ports
    for at in 0 1 2; do members+=("m$at=http://127.0.0.1:$((port + 3 + at))"); done
    members=$(IFS=,; echo "${members[*]}")
    for at in 0 1 2; do
        local client=http://127.0.0.1:$((port + at)) peer=http://127.0.0.1:$((port + 3 + at))
        start_one "etcd-$at" "$binary" --data-dir "$work/data/$at" --name "m$at" \
            --listen-client-urls "$client" --advertise-client-urls "$client" \
            --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
            --initial-cluster "$members" --quota-backend-bytes 8589934592 --log-level error
    done
    for at in 0 1 2; do
        await_port $((port + at)) "${servers[at]}" || did_not_start "etcd-$at"
    done
    for _ in $(seq 500); do
        for leader in 0 1 2; do
            if http_text $((port + leader)) /metrics | grep -qx 'etcd_server_is_leader 1'; then
                speaks=(--protocol etcd --node "127.0.0.1:$((port + leader))")
                give_leader_first_core
                return 0
            fi
        done
        sleep 0.02
    done
    echo "etcd has no leader" >&2
    return 1
}

# give_leader_first_core: whoever was elected, and the others those after it.
give_leader_first_core() {
    local at place=1
    for at in 0 1 2; do
        if [ "$at" = "$leader" ]; then
            taskset -apc "${cores[0]}" "${servers[at]}" >/dev/null
        else
            taskset -apc "${cores[place % ${#cores[@]}]}" "${servers[at]}" >/dev/null
            place=$((place + 1))
        fi
    done
}

# http_text PORT PATH: what is there.
http_text() {
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3
    cat <&3
    exec 3>&-
}

# usage: CPU time of the leader and of all servers, time that their ready threads waited for a core, time
# that the host above took, and the time itself, all in ns.
usage() {
    local ticks_ns=$((1000000000 / $(getconf CLK_TCK))) pid stats=()
    for pid in "${servers[leader]}" "${servers[@]}"; do stats+=("/proc/$pid/stat"); done
    awk -v ticks_ns="$ticks_ns" '
        FILENAME ~ /\/schedstat$/ { queue += $2; next }
        FILENAME == "/proc/stat" { if ($1 == "cpu") steal = $9; next }
        FILENAME == "/proc/uptime" { elapsed = $1; next }
        # A process name may hold blanks.
        { sub(/^.*\) /, ""); if (seen++) all += $12 + $13; else lead = $12 + $13 }
        END {
            printf "%.0f %.0f %.0f %.0f %.0f\n", lead * ticks_ns, all * ticks_ns, queue,
                steal * ticks_ns, elapsed * 1e9
        }' "${stats[@]}" $(printf '/proc/%s/task/*/schedstat ' "${servers[@]}") /proc/stat \
        /proc/uptime
}

# read_usage: from here on.
read_usage() {
    used=$(usage)
}

# tell_usage: what was used since.
tell_usage() {
    paste -d ' ' <(echo "$used") <(usage) | awk '
        { printf "%.0f %.0f %.0f %.0f %.0f\n", $6 - $1, $7 - $2, $8 - $3, $9 - $4, $10 - $5 }'
}
