#!/usr/bin/env bash
# What a node does when its disk is full, and when its log can't be written.
#
#   scripts/full-disk.sh
#
# On a small filesystem of its own (an ext4 image on a loop device, then a tmpfs) a node is written
# to until it refuses. Then: the refusal has its name, reads are served, a ballast file is deleted,
# writes go on by themselves, and after `kill -9` and a restart nothing that was acknowledged is
# lost. Last, writes of the log are made to fail (a limit on file sizes, set while the node runs):
# the node ends with the exit code and the line that say so, and what was acknowledged is there at
# the next start. Mounting needs root. About a minute. P2PMAP_BIN: a binary that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "full-disk.sh mounts filesystems: run it as root" >&2
    exit 1
fi
bin=${P2PMAP_BIN:-target/release/p2pmap}
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
work=$(mktemp -d "${TMPDIR:-/tmp}/p2pmap-full-disk.XXXXXX")
mount=$work/mount
data=$mount/data
acknowledged=$work/acknowledged
value_size=262144
. scripts/server.bash
mkdir "$mount"

unmount() {
    if mountpoint -q "$mount"; then
        umount "$mount"
    fi
}
end() {
    end_server KILL || true
    unmount
    rm -rf "$work"
}
trap end EXIT

fail() {
    echo "full-disk.sh: $*" >&2
    echo "the node said:" >&2
    tail -n 20 "$work/err" >&2
    exit 1
}

start() {
    start_server serve --listen 127.0.0.1:0 --cores 0 --segment-size 8MiB --log-max 4GiB \
        --data-dir "$data"
}

# put NUMBER: writes a value that says its number; it counts when it is acknowledged.
put() {
    { printf '%s:' "$1"; head -c "$value_size" "$work/random"; } >"$work/value"
    "$bin" put --node "$address" m "key-$1" --value-file "$work/value" \
        >"$work/put" 2>"$work/refusal" || return 1
    echo "$1" >>"$acknowledged"
}

is_there() {
    "$bin" get --node "$address" m "key-$1" 2>/dev/null | head -c $((${#1} + 1)) >"$work/got" || true
    [ "$(cat "$work/got")" = "$1:" ]
}

all_are_there() {
    local number
    while read -r number; do
        is_there "$number" || fail "key-$number was acknowledged and is lost ($1)"
    done <"$acknowledged"
    echo "  $(wc -l <"$acknowledged") acknowledged writes are there ($1)"
}

kill_and_restart() {
    end_server KILL || true
    start
}

# full KIND: fills the filesystem that is mounted.
full() {
    echo "== a full $1"
    : >"$acknowledged"
    fallocate -l 48M "$mount/ballast"
    fallocate -l 24M "$mount/more-ballast"
    start
    next=0
    while put "$next"; do
        next=$((next + 1))
        [ "$next" -lt 3000 ] || fail "$next writes, and none was refused"
    done
    echo "  refused after $next writes: $(cat "$work/refusal")"
    grep -qi 'resource.exhausted' "$work/refusal" || fail "the refusal hasn't its name"
    kill -0 "$server" || fail "the node ended because its disk is full"
    is_there 0 || fail "a full disk keeps the node from serving reads"
    is_there $((next - 1)) || fail "a full disk keeps the node from serving reads"
    [ "$(stat -f -c '%a' "$mount")" -gt 0 ] || fail "no room was spared"

    rm "$mount/ballast"
    goes_on "$next"
    echo "  writes go on after space was made"
    for more in $(seq $((next + 1)) $((next + 50))); do
        put "$more" || fail "a write after space was made: $(cat "$work/refusal")"
    done
    all_are_there 'before the kill'
    if [ "$1" = tmpfs ]; then
        # The mount outlives the process, which is all that a kill ends.
        echo '  (a tmpfs keeps nothing when the power goes; a process may be killed)'
    fi
    kill_and_restart
    all_are_there "after kill -9"
    # A start takes a segment of its own, which may be more than is left.
    rm "$mount/more-ballast"
    goes_on $((next + 51))
    echo "  and after the restart"
}

# goes_on NUMBER: writes until it is acknowledged.
goes_on() {
    for _ in $(seq 300); do
        ! put "$1" || return 0
        sleep 0.1
    done
    fail "space was made, and writes don't go on: $(cat "$work/refusal")"
}

# Writes beyond 2 MiB into any file fail from now on, as if the device did.
failing() {
    echo '== a log that can'"'"'t be written'
    : >"$acknowledged"
    start
    for number in $(seq 3); do
        put "$number" || fail "a write: $(cat "$work/refusal")"
    done
    # The next segment is ready, so that the log itself is what fails.
    for _ in $(seq 200); do
        [ ! -e "$data/gen-1/shard-0/000000000002.log" ] || break
        sleep 0.1
    done
    prlimit --pid "$server" --fsize=2097152:2097152
    for number in $(seq 4 40); do
        put "$number" || break
    done
    for _ in $(seq 100); do
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    ! kill -0 "$server" 2>/dev/null || fail 'the node lives on after a failed write of its log'
    local code=0
    wait_for_server || code=$?
    [ "$code" = 13 ] || fail "the exit code of a failed log write is 13, not $code"
    grep -q "the log can't be written" "$work/err" || fail 'the reason is missing'
    echo "  exit code $code: $(grep -m 1 -o "the log can't be written.*" "$work/err")"
    start
    all_are_there 'after the failed write'
}

stop() {
    end_server || fail "the node did not end well"
    unmount
}

head -c "$value_size" /dev/urandom >"$work/random"
truncate -s 176M "$work/image"
mkfs.ext4 -q -F "$work/image"
mount -o loop "$work/image" "$mount"
full ext4
stop
mount -t tmpfs -o size=160M tmpfs "$mount"
full tmpfs
stop
mkfs.ext4 -q -F "$work/image"
mount -o loop "$work/image" "$mount"
failing
stop
echo 'passed'
