#!/usr/bin/env bash
# What clients notice when a node catches up that was down while much was written.
#
#   scripts/catch-up.sh [MIB] [MORE...]
#
# Three nodes on loopback with default settings; each of 64 partitions has a client of its own that
# puts every 20 ms. One node ends, MIB (1024) are written, and it is started again. Prints how long
# puts take before it returns, until it has caught up, and afterwards; what clients were told; and
# what of the cores others had meanwhile. MORE: as `p2pmap drill catch-up --help` says. Exit code: 0
# all goals are met, 1 one is missed, 2 it couldn't be run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/drill.bash

mib=${1:-1024}
shift $(($# < 1 ? $# : 1))
drill catch-up --mib "$mib" "$@"
