#!/usr/bin/env bash
# Checks the dependencies' licences, sources and bans (.cargo/deny.toml) with cargo-deny, which is
# installed into target/tools if it isn't there. Advisories need a database from the network; they
# are checked where it can be reached and said to be unchecked where it can't.
set -euo pipefail
cd "$(dirname "$0")/.."

tool=target/tools/bin/cargo-deny
if ! [ -x "$tool" ]; then
    echo "installing cargo-deny into target/tools"
    cargo install --locked --quiet --root target/tools cargo-deny
fi
"$tool" --manifest-path Cargo.toml check --config .cargo/deny.toml bans licenses sources
