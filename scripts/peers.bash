# What scripts of this folder share that measure others beside p2pmap. To be sourced, with `bin` naming
# the binary, `out` the folder of results, with `peers.txt` of scripts/install-peers.sh, and `load_core`
# the load generator's core.

binary_of() {
    awk -v peer="$1" '$1 == peer { print $2 }' "$out/peers.txt"
}

# is_taken PORT: whether somebody listens there.
is_taken() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# await_port PORT PID: waits until a process listens; 10 s at most.
await_port() {
    local _
    for _ in $(seq 500); do
        if is_taken "$1"; then return 0; fi
        kill -0 "$2" 2>/dev/null || return 1
        sleep 0.02
    done
    return 1
}

# await_answers FILE ARGUMENTS...: loads until nothing is refused; 10 s at most. What the generator says
# goes to FILE.
await_answers() {
    local file=$1 _
    shift
    for _ in $(seq 50); do
        if "$bin" bench run --cores "$load_core" --closed-loop --duration 100ms --warm-up 1ms \
            --puts 100 --keys 1 "$@" >"$file" 2>&1 && grep -q '^errors  *0$' "$file"; then
            return 0
        fi
        sleep 0.1
    done
    return 1
}

# in_turns ROUND COMMAND SERVER...: each server, another one first in each round.
in_turns() {
    local round=$1 command=$2 at
    shift 2
    for ((at = 0; at < $#; at++)); do
        local place=$(((at + round) % $# + 1))
        "$command" "${!place}" "$round"
    done
}

# compare A B: as JSON. What they were told differs in the protocol, which is no setting of the load.
compare() {
    [ ! -d "$out/$1" ] || [ ! -d "$out/$2" ] ||
        "$bin" bench compare "$out/$1" "$out/$2" --allow-different --json \
            --metrics throughput,p50,p99 | sed "s/^/$1 $2 /"
}
