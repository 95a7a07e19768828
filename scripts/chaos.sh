#!/usr/bin/env bash
# A real cluster under a load of clients and a nemesis: nodes are killed, stopped, restarted, their
# connections are cut, held in one direction or both, slowed down and robbed of frames, and a disk
# is filled; the history of all operations must be linearizable, nothing acknowledged lost, and
# writes must go on while a majority is well. Prints each fault, tables of faults and operations,
# the longest time without an acknowledged write, and what was wrong.
#
#   scripts/chaos.sh [SECONDS] [NODES] [SEED] [OPTION...]
#
# SECONDS: of load (60). NODES: 3 or 5 (3). SEED: what faults and load are drawn from (drawn itself,
# and printed). OPTION: passed to `p2pmap chaos`, e.g. `--sequencer offset:1`, `--faults kill,pause`.
# Exit code: 0 nothing was wrong, 1 something was, 2 it couldn't be run. Whatever happens, no
# process, mount or file is left; but for the folder of a run that found something, which is named.
# As root the nodes' disks are small filesystems in a mount namespace, else none is filled.
# P2PMAP_BIN: a binary that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
nodes=${2:-3}
seed=${3:-$((RANDOM * 32768 + RANDOM))}
shift $(($# < 3 ? $# : 3))
bin=${P2PMAP_BIN:-target/release/p2pmap}
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
bin=$(realpath "$bin")
work=$(mktemp -d "${TMPDIR:-/tmp}/p2pmap-chaos.XXXXXX")
run=
end() {
    if [ -n "$run" ]; then
        # It ends its nodes itself; they end with it, too.
        kill -s TERM "$run" 2>/dev/null || true
        wait "$run" 2>/dev/null || true
        run=
    fi
    rm -rf "$work"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

arguments=(chaos --seconds "$seconds" --nodes "$nodes" --seed "$seed" --data-dir "$work/nodes" "$@")
mkdir "$work/nodes"
if [ "$(id -u)" = 0 ] && unshare --mount true 2>/dev/null; then
    # The mounts are in a namespace of the run's own: they are gone when its last process is. Logs
    # lie beside them.
    # shellcheck disable=SC2016 # It is for the inner shell.
    in_namespace='
        nodes=$1 folder=$2
        shift 2
        for name in $(printf "%s\n" a b c d e | head -n "$nodes"); do
            mkdir "$folder/$name"
            mount -t tmpfs -o size=192M p2pmap-chaos "$folder/$name"
        done
        exec "$@"'
    unshare --mount --propagation private bash -euc "$in_namespace" chaos \
        "$nodes" "$work/nodes" "$bin" "${arguments[@]}" --small-disks &
else
    echo 'no disk is filled: that needs root and a mount namespace'
    "$bin" "${arguments[@]}" &
fi
run=$!
code=0
wait "$run" || code=$?
run=
if [ "$code" = 1 ]; then
    kept=$(mktemp -d "${TMPDIR:-/tmp}/p2pmap-chaos-found.XXXXXX")
    cp "$work"/nodes/*.log "$kept"
    echo "the nodes' logs: $kept"
    echo "again: scripts/chaos.sh $seconds $nodes $seed $*"
fi
exit "$code"
