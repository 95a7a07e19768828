#!/usr/bin/env bash
# Shows that scripts/deploy/seccomp.json is enough for a node, and that it is the profile that lets
# io_uring in: a node, its client and a load run under the filter that the profile describes; with
# the io_uring calls taken out the node refuses to start with its one line, and check-host names
# the seccomp filter.
#
#   scripts/seccomp.sh [COMMAND...]
#
# COMMAND: is run with P2PMAP_NODE set to the node's address, instead of the client and the load
# here. Needs python3 and the kernel's headers (Debian: linux-libc-dev, which gcc brings in).
set -euo pipefail
cd "$(dirname "$0")/.."

profile=scripts/deploy/seccomp.json
bin=${P2PMAP_BIN:-target/release/p2pmap}
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
if [ "$(uname -m)" != x86_64 ]; then
    echo "NOT checked: the filter is made for x86-64 only"
    exit 0
fi
work=$(mktemp -d)
node=
stop() {
    if [ -n "$node" ]; then
        kill "$node" 2>/dev/null || true
        wait "$node" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap stop EXIT
# A process with all capabilities is let through some checks that a node in a container isn't.
drop=()
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    chmod 755 "$work"
    cp "$bin" "$work/p2pmap"
    bin=$work/p2pmap
    mkdir "$work/home"
    chown 65534:65534 "$work/home"
    drop=(setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all --bounding-set -all)
else
    mkdir "$work/home"
fi
# wrap [--without NAME]... -- COMMAND...: sets `wrapped` to what runs it under the filter. As a
# container's start does: first the filter, then another user.
wrap() {
    wrapped=(python3 scripts/seccomp/under.py "$profile")
    while [ "$1" != -- ]; do
        wrapped+=("$1")
        shift
    done
    shift
    wrapped+=(-- "${drop[@]}" "$@")
}
under() {
    wrap "$@"
    "${wrapped[@]}"
}

wrap -- "$bin" serve --listen 127.0.0.1:0 --data-dir "$work/home/data" --log-level debug
"${wrapped[@]}" >"$work/out" 2>"$work/err" &
node=$!
for _ in $(seq 500); do
    grep -q '^ready$' "$work/out" && break
    if ! kill -0 "$node" 2>/dev/null; then
        echo "the node does not run under the profile: $(cat "$work/err")" >&2
        exit 1
    fi
    sleep 0.02
done
P2PMAP_NODE=$(sed -n 's/^listening on //p' "$work/out")
export P2PMAP_NODE
if [ $# -gt 0 ]; then
    "$@"
else
    under -- "$bin" put seccomp key value
    [ "$(under -- "$bin" get seccomp key)" = value ]
    core=$(($(nproc) - 1))
    under -- "$bin" bench run --closed-loop --duration 2s --connections 4 --core "$core" >"$work/table"
    grep -q '^errors *0$' "$work/table"
fi
kill "$node"
wait "$node"
node=
if grep -q -e EPERM -e 'not permitted' -e 'no long slice' "$work/err"; then
    echo "the profile takes something from the node: $(cat "$work/err")" >&2
    exit 1
fi

without=(--without io_uring_setup --without io_uring_enter --without io_uring_register)
if under "${without[@]}" -- "$bin" check-host --json >"$work/report"; then
    echo "without io_uring check-host finds no problem" >&2
    exit 1
fi
grep -q 'forbidden by the seccomp filter' "$work/report"
echo "under the profile a node serves; without io_uring check-host says why it wouldn't"
