#!/usr/bin/env bash
# Has a part become slower from one commit to another? Builds one of benches/ at both, each in a
# worktree and a target folder of its own, runs the two in turns on this machine, and prints the
# ratio B / A of each of its benchmarks over the rounds.
#
#   scripts/bench-criterion.sh REV_A REV_B BENCH [ROUNDS] [FILTER]
#
# BENCH: map, record, ring, shard or wire. ROUNDS: how often each is run (14). FILTER: only the
# benchmarks whose name contains it. CORE: where it runs (1). WORK: where worktrees, builds and
# results go (target/bench-criterion); builds are kept for the next time. What this started it
# ends, also when it fails or is interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -lt 3 ]; then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
rev_a=$(git rev-parse --short=12 "$1^{commit}")
rev_b=$(git rev-parse --short=12 "$2^{commit}")
bench=$3
rounds=${4:-14}
filter=${5:-}
core=${CORE:-1}
work=$PWD/${WORK:-target/bench-criterion}
mkdir -p "$work"
: >"$work/raw"

. scripts/commits.bash
trap remove_trees EXIT
trap 'exit 130' INT TERM

# build REV: leaves its bench in $work/$bench-REV.
build() {
    local built
    [ ! -x "$work/$bench-$1" ] || return 0
    built=$(in_tree "$1" cargo bench --locked --no-run --bench "$bench" \
        --target-dir "$work/target-$1" 2>&1 | tee -a /dev/stderr |
        sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
    cp "$built" "$work/$bench-$1"
}
build "$rev_a"
build "$rev_b"

# measure SIDE REV ROUND: a row of the round, the side, the benchmark and its ns.
measure() {
    (cd "$work" && taskset -c "$core" "./$bench-$2" --bench --output-format bencher \
        --warm-up-time 0.2 --measurement-time 0.5 --sample-size 10 --nresamples 1000 "$filter") |
        sed -n 's/^test \(.*\) \.\.\. bench: *\([0-9,]*\) ns.*/\2\t\1/p' |
        awk -F '\t' -v row="$3\t$1" '{ gsub(",", "", $1); print row "\t" $2 "\t" $1 }' >>"$work/raw"
}

measure_in_turns "$rounds" "$rev_a" "$rev_b"

if [ ! -s "$work/raw" ]; then
    echo "no benchmark of $bench has a name with \"$filter\" in it" >&2
    exit 2
fi
echo "A: $rev_a, B: $rev_b, $rounds rounds on core $core, $(sed -n 's/^model name[^:]*: //p' \
    /proc/cpuinfo | head -n 1)"
echo "  B / A: quartile  median  quartile   benchmark"
cut -f 3 "$work/raw" | sort -u | while IFS= read -r name; do
    awk -F '\t' -v name="$name" '
        $3 == name { ns[$2, $1] = $4; rounds[$1] }
        END { for (r in rounds) if (ns["a", r] > 0) print ns["b", r] / ns["a", r] }' "$work/raw" |
        sort -n | awk -v name="$name" '
            { ratio[NR] = $1 }
            END {
                printf "  %15.3f %7.3f %9.3f   %s\n", ratio[int((NR + 3) / 4)], \
                    ratio[int((NR + 1) / 2)], ratio[int((3 * NR + 3) / 4)], name
            }'
done
