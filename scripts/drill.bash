# Runs a drill of p2pmap for a script of this folder. To be sourced; the nodes' data and logs go to
# DATA_DIR (a folder under target/), the data is removed in the end. P2PMAP_BIN: a binary that is
# built already.

# drill NAME ARGUMENTS...: returns the exit code of `p2pmap drill NAME`.
drill() {
    local name=$1 work=${DATA_DIR:-target/$1} bin=${P2PMAP_BIN:-target/release/p2pmap} code=0
    shift
    [ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
    rm -rf "$work"
    mkdir -p "$work"
    # However it ends, its nodes end with it.
    "$bin" drill "$name" --data-dir "$work" "$@" || code=$?
    rm -rf "$work"/[abc]
    [ "$code" = 0 ] || echo "the nodes' logs: $work/*.log"
    return "$code"
}
