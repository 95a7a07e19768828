#!/usr/bin/env bash
# Hunts every planted bug with all engines that know it: whole clusters in the simulator, by up to
# so many seeds (3,000 by default), the swarm of the protocol's pure machines, its model, and the one
# scenario of what takes a crash at the right moment; and one of them in a cluster of real nodes.
# Prints a table: the bug, whose it is, and after how many seeds, runs or states which engine found
# it.
# Fails if one is found by none.
set -euo pipefail
cd "$(dirname "$0")/.."

count=${1:-3000}
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT

# Beside the usual build, which has no planted bugs in it.
cargo build --locked --release --features mutants --target-dir target/mutants
# A bug that survives here may be found there; the table says it.
target/mutants/release/p2pmap simulate --mutant all --seeds "0..$count" --jobs "$(nproc)" |
    tee -a /dev/stderr >>"$rows" || true
# Prints a line for each that it finds, and fails if it finds one of its own no more.
cargo test --locked --features mutants --target-dir target/mutants --lib -- \
    --nocapture --test-threads 2 planted_bugs_are_found 2>/dev/null | tee -a /dev/stderr >>"$rows"

# A real cluster of nodes that are built with one: what a leader that was cut off answers is found
# to be wrong by what all clients were told.
folder=$(mktemp -d)
trap 'rm -rf "$rows" "$folder"' EXIT
code=0
target/mutants/release/p2pmap chaos --seconds 60 --mutant read-without-quorum --faults isolate \
    --data-dir "$folder" >"$folder/said" || code=$?
if [ "$code" = 1 ] && grep -q 'linearizability:' "$folder/said"; then
    echo 'chaos read-without-quorum found in real nodes' | tee -a /dev/stderr >>"$rows"
else
    cat "$folder/said" >&2
    echo 'survives in real nodes: read-without-quorum' >&2
    exit 1
fi

awk '
    $1 == "mutant" {
        order[++rows] = $2; room[$2] = $3
        simulate[$2] = $4 == "found" ? $5 " seeds (" $6 ")" : "-"
    }
    $1 == "swarm" { swarm[$2] = $3 " runs" }
    $1 == "model" { model[$2] = $3 " states" }
    $1 == "scenario" { scenario[$2] = $3 }
    END {
        line = "%-27s %-9s %-30s %-12s %-16s %s\n"
        printf line, "planted bug", "room", "simulate", "swarm", "model", "scenario"
        for (row = 1; row <= rows; row++) {
            name = order[row]
            found = (simulate[name] != "-") + (name in swarm) + (name in model) + (name in scenario)
            printf line, name, room[name], simulate[name], \
                name in swarm ? swarm[name] : "-", name in model ? model[name] : "-", \
                name in scenario ? scenario[name] : "-"
            if (!found) { print "survives: " name; survivors++ }
        }
        exit rows == 0 || survivors > 0
    }
' "$rows"
