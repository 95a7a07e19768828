#!/usr/bin/env bash
# Explores all states of small groups with the real replica, far beyond what the tests do.
#
#   scripts/model.sh                 the runs below, each with its own time and memory
#   scripts/model.sh 'terms=2 commands=2 offset=1' ...    runs of your own
#
# SECONDS_MAX (7200) bounds each run, MEMORY_MB_MAX (7000) too, and JOBS (2) runs go side by side. A
# run prints its bounds, and when it ends the distinct states, steps and depth, and whether there
# are no others. It takes about 35 bytes a state. A broken invariant is printed with the shortest
# way to it, and makes this fail; so does a run that takes too much. P2PMAP_TESTS names built unit
# tests of the library, to be run in the place of a new build.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds_max=${SECONDS_MAX:-7200}
memory_mb_max=${MEMORY_MB_MAX:-7000}
jobs=${JOBS:-2}
# As many states as there is memory for: the table doubles now and then, beside the old one.
states=$((memory_mb_max * 1000000 / 70))

runs=("$@")
if [ ${#runs[@]} -eq 0 ]; then
    runs=(
        'terms=2 commands=2'
        'terms=2 commands=2 offset=1'
        'terms=2 commands=1 restarts=2 lazy=1'
        'terms=2 commands=1 restarts=2 lazy=1 offset=1'
        'terms=2 commands=1 reads=2'
        'terms=2 commands=1 reads=1 restarts=1 offset=1'
        'terms=3 commands=1 restarts=1'
        'terms=2 commands=2 gaps=1 asks=1 offset=1'
        'terms=2 commands=2 restarts=1'
        'terms=2 commands=2 restarts=1 offset=1'
        'terms=2 commands=2 gaps=1 asks=1 checkpoints=1 offset=1'
        'terms=2 commands=1 restarts=1 survival=never'
        'terms=2 commands=1 restarts=1 survival=clean lazy=1'
        'terms=3 commands=2'
    )
fi

build=${P2PMAP_TESTS:-}
if [ -z "$build" ]; then
    build=$(cargo test --locked --release --lib --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
fi
[ -x "$build" ] || { echo 'the tests were not built' >&2; exit 1; }

explore() {
    local output seconds_begin=$SECONDS status=0
    output=$(
        ulimit -v $((memory_mb_max * 1024))
        P2PMAP_MODEL="$1 states=$states" timeout "$seconds_max" \
            "$build" --exact --nocapture \
            nopaxos::tests::model::bounds_that_are_asked_for_break_no_invariant 2>&1
    ) || status=$?
    printf '%s\n    %s s, exit %s\n' "$(grep -vE '^$|^running|^test ' <<<"$output")" \
        $((SECONDS - seconds_begin)) "$status"
    return "$status"
}

failed=0
for run in "${runs[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
        wait -n || failed=1
    done
    explore "$run" &
done
while [ "$(jobs -p | wc -l)" -gt 0 ]; do
    wait -n || { [ $? -eq 127 ] && break; failed=1; }
done
exit "$failed"
