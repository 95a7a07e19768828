#!/usr/bin/env bash
# How long clients wait when a node that leads is gone.
#
#   scripts/failover.sh [COUNT] [MORE...]
#
# Three nodes on loopback with default settings; each of 64 partitions has a client of its own that
# puts every 20 ms. COUNT (100) times the leader of some partition is killed with kill -9 and started
# again; then, as often, it is stopped with SIGSTOP and goes on later. Prints the distribution of the
# longest time without an acknowledged put of each partition that the victim led, what clients were
# told, and what of the cores others had meanwhile. MORE: as `p2pmap drill failover --help` says.
# Exit code: 0 all goals are met, 1 one is missed, 2 it couldn't be run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/drill.bash

count=${1:-100}
shift $(($# < 1 ? $# : 1))
drill failover --count "$count" "$@"
