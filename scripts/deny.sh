#!/usr/bin/env bash
# Checks the dependencies' licences, sources and bans (.cargo/deny.toml) with cargo-deny, which is
# installed into target/tools if it isn't there. Known vulnerabilities need the advisory database,
# which is fetched from the network; where it can't be had, that check is left out and said to be.
set -euo pipefail
cd "$(dirname "$0")/.."

tool=target/tools/bin/cargo-deny
if ! [ -x "$tool" ]; then
    echo "installing cargo-deny into target/tools"
    cargo install --locked --quiet --root target/tools cargo-deny
fi
"$tool" check --hide-inclusion-graph bans licenses sources
if "$tool" fetch db 2>/dev/null; then
    "$tool" check --hide-inclusion-graph advisories
else
    echo "advisories: NOT checked, the advisory database can't be reached"
fi
