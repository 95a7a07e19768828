# Two commits side by side, for scripts of this folder. To be sourced, with `work` naming a folder.

# in_tree REV COMMAND...: runs a command in a worktree of a commit, which is removed afterwards.
in_tree() {
    local tree=$work/tree-$1
    git worktree add --quiet --detach "$tree" "$1"
    shift
    (cd "$tree" && "$@")
    git worktree remove --force "$tree"
}

# remove_trees: those that were left when something failed.
remove_trees() {
    local tree
    for tree in "$work"/tree-*; do
        [ ! -d "$tree" ] || git worktree remove --force "$tree" || true
    done
}

# measure_in_turns ROUNDS REV_A REV_B: calls `measure SIDE REV ROUND` for both of each round. Who goes
# first changes with the round: what a first run finds cold is the same for both.
measure_in_turns() {
    local rounds=$1 round
    for round in $(seq "$rounds"); do
        if [ $((round % 2)) = 1 ]; then
            measure a "$2" "$round"
            measure b "$3" "$round"
        else
            measure b "$3" "$round"
            measure a "$2" "$round"
        fi
        echo "round $round of $rounds done" >&2
    done
}
