#!/usr/bin/env bash
# What clients notice when nodes are restarted in good order, one after the other.
#
#   scripts/rolling-restart.sh [COUNT] [MORE...]
#
# Three nodes on loopback with default settings; each of 64 partitions has a client of its own that
# puts every 20 ms. All nodes are restarted COUNT (5) times (SIGTERM, and started again when they have
# ended). Prints the distribution of the longest time without an acknowledged put of each partition
# that the restarted node led, and of all; what clients were told; and what of the cores others had
# meanwhile. MORE: as `p2pmap drill rolling-restart --help` says. Exit code: 0 all goals are met, 1
# one is missed, 2 it couldn't be run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/drill.bash

count=${1:-5}
shift $(($# < 1 ? $# : 1))
drill rolling-restart --count "$count" "$@"
