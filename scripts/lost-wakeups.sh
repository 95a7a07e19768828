#!/usr/bin/env bash
# Looks for lost wake-ups: a node in park mode on two cores, idle and burst traffic for keys of both
# (pauses of 0 to 200 ms), a CPU hog on the server's cores. A stall of more than 100 ms is a failure
# unless the time that threads waited for a core, or steal, explains it; both are shown beside it. A
# request without an answer for 10 s is a hang.
#
#   scripts/lost-wakeups.sh [SECONDS]
#
# SECONDS: how long (600). Needs nothing but Rust.
set -euo pipefail
cd "$(dirname "$0")/.."

export P2PMAP_WAKEUP_SECONDS=${1:-600}
exec cargo test --locked --release --test lost_wakeups -- --nocapture
