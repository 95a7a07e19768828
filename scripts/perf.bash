# Samples a process by perf, for scripts of this folder. To be sourced.

# require_perf: installs it (Debian's linux-perf) if it is missing and this runs as root.
require_perf() {
    ! command -v perf >/dev/null || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "there is no perf: apt-get install linux-perf" >&2
        return 2
    fi
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends linux-perf >&2
}

# sample PID SECONDS FOLDER: leaves perf.data. Sets `event`: the processor's cycles, or where a virtual
# machine has no such counter the clock.
sample() {
    event=cycles
    perf stat -e cycles true 2>&1 | grep -q 'not supported' && event=cpu-clock
    perf record --quiet -e "$event" -F 1999 -g --call-graph dwarf,4096 -p "$1" \
        -o "$3/perf.data" -- sleep "$2" 2>"$3/perf.err" || {
        cat "$3/perf.err" >&2
        return 1
    }
}

# write_samples FOLDER: top.txt, the functions that take most first, and stacks.folded, one line for each
# stack, outermost first, with how often it was met.
write_samples() {
    perf report --stdio --no-children -g none --sort dso,symbol -i "$1/perf.data" 2>/dev/null |
        sed -e '/^#/d; /^ *$/d; s/ *- *- *$//' >"$1/top.txt" || true
    perf script -i "$1/perf.data" -F comm,ip,sym 2>/dev/null | awk '
        /^[^ \t]/ { name = $1; stack = ""; next }
        NF == 0 { if (stack != "") count[name stack]++; stack = ""; next }
        { $1 = ""; sub(/^ /, ""); sub(/\+0x[0-9a-f]+$/, ""); stack = ";" $0 stack }
        END {
            if (stack != "") count[name stack]++
            for (line in count) print line, count[line]
        }' | sort >"$1/stacks.folded"
    if [ ! -s "$1/top.txt" ]; then
        echo "perf took no samples:" >&2
        cat "$1/perf.err" >&2
        return 1
    fi
}

# print_samples FOLDER LINES
print_samples() {
    awk '
        { share = $1 + 0; all += share; if ($2 ~ /kernel/) kernel += share }
        END { printf "in the kernel %.0f %%, in the process %.0f %%\n", kernel, all - kernel }' \
        "$1/top.txt"
    head -n "$2" "$1/top.txt"
    echo "all of it: $1/top.txt; stacks for flame graphs: $1/stacks.folded"
}
