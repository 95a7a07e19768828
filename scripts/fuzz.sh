#!/usr/bin/env bash
# Feeds the decoders and loaders what they should never see, for longer than the tests do: frames,
# requests, members' messages and greetings, no-op filters, ranges, checkpoint chunks, logs,
# checkpoints' files; and compares the map with a plain one.
#
#   scripts/fuzz.sh [SECONDS] [START]
#
# SECONDS: how long each test lasts (60). START: the first seed; each test prints its own. A test
# that fails says with which seed its round is replayed:
#
#   P2PMAP_FUZZ_SEED=SEED cargo test --test FILE NAME
#
# Needs nothing but Rust.
set -euo pipefail
cd "$(dirname "$0")/.."

export P2PMAP_FUZZ_SECONDS=${1:-60}
if [ $# -ge 2 ]; then
    export P2PMAP_FUZZ_START=$2
fi
# Not with --release: the profile of tests checks arithmetic.
exec cargo test --locked --test fuzz_canary --test wire_fuzz --test peer_fuzz --test peer_properties \
    --test map_fuzz --test storage_fuzz -- --nocapture
