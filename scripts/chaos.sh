#!/usr/bin/env bash
# A real cluster under a load of clients and a nemesis: nodes are killed, stopped and restarted,
# also on other numbers of cores or without their data, or all of them stand still again and again
# as on an overloaded machine; their connections are cut, held in one
# direction or both, slowed down and robbed of frames; a disk is filled. The history of all
# operations must be linearizable, nothing acknowledged lost, all replicas equal in the end, and
# writes must go on while a majority of members is well. Prints each fault, tables of faults and
# operations, the longest time without an acknowledged write, and what was wrong.
#
#   scripts/chaos.sh [SECONDS] [NODES] [SEED] [OPTION...]
#
# SECONDS: of load (60). NODES: 3 or 5 (3). SEED: what faults and load are drawn from (one is drawn,
# and printed). OPTION: passed to `p2pmap chaos`, whose --help names all; e.g.
#   --sequencer offset:1 --faults gap,loss,kill   commands that nobody gets become gaps
#   --namespaces   as root, with iproute2: each node in a network namespace of its own, faults by
#                  routes that drop and links that are down; where there can be none it says so and
#                  goes on with proxies
# As root the nodes' disks are small filesystems, else none is filled. Exit code: 0 nothing was
# wrong, 1 something was, 2 it couldn't be run or didn't end. Unless this script is killed (-9), no
# process, mount, namespace or file is left, but for report and logs of a run that wasn't fine, in a
# folder that is named.
# P2PMAP_BIN: a binary that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
nodes=${2:-3}
seed=${3:-$((RANDOM * 32768 + RANDOM))}
shift $(($# < 3 ? $# : 3))
# Before the load and after it a cluster starts, comes to rest and is read, with bounds of their own.
rest_seconds=600
bin=${P2PMAP_BIN:-target/release/p2pmap}
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
bin=$(realpath "$bin")
work=$(mktemp -d "${TMPDIR:-/tmp}/p2pmap-chaos.XXXXXX")
run=

end() {
    if [ -n "$run" ]; then
        # It ends its nodes, and if it can't, they end with it.
        kill -s TERM "$run" 2>/dev/null || true
        wait "$run" 2>/dev/null || true
        run=
    fi
    rm -rf "$work"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Whether network namespaces can be made here, and what joins them.
has_namespaces() {
    unshare --mount --net --propagation private sh -c '
        mount -t tmpfs -o size=1M p2pmap-chaos /run && ip netns add probe &&
            ip link add probe type bridge && ip link add one type veth peer name other
    ' 2>/dev/null
}

options=()
unshared=(unshare --mount --propagation private)
for option in "$@"; do
    if [ "$option" != --namespaces ]; then
        options+=("$option")
    elif has_namespaces; then
        options+=("$option")
        unshared+=(--net)
    else
        echo 'there can be no network namespaces here: members are connected by proxies'
    fi
done
echo "seed $seed: scripts/chaos.sh $seconds $nodes $seed $*"

mkdir "$work/nodes"
mkfifo "$work/said"
tee "$work/report" <"$work/said" &
telling=$!
command=(timeout --kill-after 30 "$((seconds + rest_seconds))"
    "$bin" chaos --seconds "$seconds" --nodes "$nodes" --seed "$seed"
    --data-dir "$work/nodes" "${options[@]}")

# What is made in here, mounts and interfaces, is gone with the last process that is in here.
inside() {
    local folder=$1 nodes=$2 name
    shift 2
    for name in $(printf '%s\n' a b c d e | head -n "$nodes"); do
        mkdir "$folder/$name"
        mount -t tmpfs -o size=192M p2pmap-chaos "$folder/$name"
    done
    # Names of network namespaces are mounts, too.
    mount -t tmpfs -o size=1M p2pmap-chaos /run
    exec "$@" --small-disks
}

if [ "$(id -u)" = 0 ] && "${unshared[@]}" true 2>/dev/null; then
    "${unshared[@]}" bash -euc "$(declare -f inside); inside \"\$@\"" chaos \
        "$work/nodes" "$nodes" "${command[@]}" >"$work/said" &
else
    echo 'no disk is filled, for that needs root and a mount namespace'
    "${command[@]}" >"$work/said" &
fi
run=$!
code=0
wait "$run" || code=$?
run=
wait "$telling" || true
if [ "$code" = 124 ]; then
    echo "it didn't end within $((seconds + rest_seconds)) s"
fi
if [ "$code" != 0 ]; then
    kept=$(mktemp -d "${TMPDIR:-/tmp}/p2pmap-chaos-found.XXXXXX")
    cp "$work/report" "$work"/nodes/*.log "$kept" || true
    echo "what it said, and the nodes' logs: $kept"
    echo "again, as far as processes can be: scripts/chaos.sh $seconds $nodes $seed $*"
fi
[ "$code" -le 2 ] || code=2
exit "$code"
