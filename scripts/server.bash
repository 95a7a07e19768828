# Starts a server for a script of this folder, and ends it. To be sourced, with `bin` naming the
# binary and `work` a folder for what it says: `$work/out` and `$work/err`.

server=
address=
metrics=

# start_server COMMAND...: starts `p2pmap COMMAND...` and waits until it listens. Sets `server`, its
# process id, `address`, and `metrics` if it serves those.
start_server() {
    : >"$work/out"
    "$bin" "$@" >"$work/out" 2>"$work/err" &
    server=$!
    # A minute: it may have a log to read.
    for _ in $(seq 3000); do
        address=$(sed -n 's/^listening on //p' "$work/out")
        metrics=$(sed -n 's,^metrics: http://,,p' "$work/out")
        [ -z "$address" ] || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.02
    done
    echo "the server did not start:" >&2
    tail -n 20 "$work/err" >&2
    return 1
}

# wait_for_server: waits until it has ended, and returns its exit code.
wait_for_server() {
    local code=0
    wait "$server" 2>/dev/null || code=$?
    server=
    return "$code"
}

# end_server [SIGNAL]: ends it (TERM), if there is one, and returns its exit code.
end_server() {
    [ -n "$server" ] || return 0
    kill -s "${1:-TERM}" "$server" 2>/dev/null || true
    wait_for_server
}

# metrics_text: all that the server says of itself, in the text format of Prometheus.
metrics_text() {
    exec 3<>"/dev/tcp/${metrics%%:*}/$(sed 's,.*:\([0-9]*\)/.*,\1,' <<<"$metrics")"
    printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
    cat <&3
    exec 3>&-
}

# ticks: the server's CPU time, in ticks of the clock.
ticks() {
    awk '{ print $14 + $15 }' "/proc/$server/stat"
}
