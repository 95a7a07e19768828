#!/usr/bin/env bash
# Runs Google's Python client (grpcio, on gRPC's C core) against a fresh node, and then against a
# cluster of three, each of which is killed once.
#
#   scripts/interop-grpcio.sh [--count N]
#
# N (10,000 by default) puts and as many gets go over one stream, and again over eight at once.
#
# The packages grpcio and grpcio-tools are installed from PyPI into a virtual environment under
# target/, once; where Python's venv is missing, Debian's packages are installed first (as root).
# P2PMAP_BIN names a binary to test instead of a release build of this tree;
# P2PMAP_ADDRESS names a node that runs already; then there is no cluster.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=target/interop-venv
stubs=target/interop-stubs
python=$venv/bin/python

if ! "$python" -c 'import grpc, grpc_tools' 2>/dev/null; then
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        echo "installing python3 and python3-venv with apt-get"
        apt-get -qq update
        apt-get -qq install --yes --no-install-recommends python3 python3-venv
    fi
    echo "installing grpcio and grpcio-tools from PyPI into $venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check grpcio grpcio-tools
fi

rm -rf "$stubs"
mkdir -p "$stubs"
"$python" -m grpc_tools.protoc --proto_path=proto --python_out="$stubs" --grpc_python_out="$stubs" \
    atomix/primitive/primitive.proto atomix/p2p_map/p2p_map.proto p2pmap/v1/map.proto
# A folder of its own: as grpc/health/... it would stand in for the package `grpc` itself.
"$python" -m grpc_tools.protoc --proto_path=proto/grpc/health/v1 --python_out="$stubs" \
    --grpc_python_out="$stubs" health.proto

work=$(mktemp -d)
node=
cleanup() {
    if [ -n "$node" ]; then
        kill "$node" 2>/dev/null || true
        wait "$node" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT

address=${P2PMAP_ADDRESS:-}
if [ -z "$address" ]; then
    if [ -z "${P2PMAP_BIN:-}" ]; then
        cargo build --release --locked --bin p2pmap
        P2PMAP_BIN=target/release/p2pmap
    fi
    "$P2PMAP_BIN" serve --listen 127.0.0.1:0 --data-dir "$work/data" --durability none \
        >"$work/node.log" 2>&1 &
    node=$!
    for _ in $(seq 300); do
        address=$(sed -n 's/^listening on \([0-9.:]*\)$/\1/p' "$work/node.log" | head -n 1)
        if [ -n "$address" ] && grep -q '^ready' "$work/node.log"; then
            break
        fi
        if ! kill -0 "$node" 2>/dev/null; then
            break
        fi
        address=
        sleep 0.1
    done
    if [ -z "$address" ]; then
        echo "the node did not become ready; it said:" >&2
        cat "$work/node.log" >&2
        exit 1
    fi
fi

echo "node at $address"
code=0
PYTHONPATH=$stubs "$python" scripts/interop/interop.py --address "$address" "$@" || code=$?
if [ "$code" -ne 0 ] && [ -s "$work/node.log" ]; then
    echo "the node said:" >&2
    tail -n 50 "$work/node.log" >&2
fi
if [ "$code" -ne 0 ] || [ -n "${P2PMAP_ADDRESS:-}" ]; then
    exit "$code"
fi

echo "three nodes, and one client with their addresses"
mkdir "$work/cluster"
PYTHONPATH=$stubs "$python" scripts/interop/cluster.py --binary "$P2PMAP_BIN" \
    --folder "$work/cluster" || code=$?
if [ "$code" -ne 0 ]; then
    tail -n 50 "$work"/cluster/*.log >&2
fi
exit "$code"
