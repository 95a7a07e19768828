#!/usr/bin/env bash
# Is the page of `bench compare --html` one that a person can read? Measures a node a few times for
# a second each, as two sides, makes the page, opens it in headless Chromium, light and dark, wide
# and narrow, and prints it. In the browser scripts/report/check.js looks at what was drawn: that
# the curves are there and within their charts, that no words cover each other or are cut off, that
# they stand out from what is behind them. A page that was spoilt on purpose must be found out.
#
#   scripts/report-check.sh [A B]
#
# A, B: results to compare instead of measuring. WORK: where the page and its pictures go
# (target/report-check). NODE_CORE (0), LOAD_CORE (1). P2PMAP_BIN: another binary. CHROMIUM: another
# browser; one from Debian is installed if there is none and this runs as root.
# What this started it ends, also when it fails or is interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

work=${WORK:-target/report-check}
bin=${P2PMAP_BIN:-target/release/p2pmap}
browser=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || true)}
if [ -z "$browser" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "there is no Chromium: apt-get install chromium, or name one in CHROMIUM" >&2
        exit 2
    fi
    echo "installing Debian's chromium" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >&2
    apt-get install -q -y --no-install-recommends chromium fonts-dejavu-core >&2
    browser=$(command -v chromium)
fi
[ -n "${P2PMAP_BIN:-}" ] || cargo build --locked --release
rm -rf "$work"
mkdir -p "$work"
work=$(cd "$work" && pwd)

. scripts/server.bash
stop() {
    end_server || true
    rm -rf "$work/data" "$work/profile"
}
trap stop EXIT
trap 'exit 130' INT TERM

# measure SIDE ROUND
measure() {
    local load=(--node "$address" --cores "${LOAD_CORE:-1}" --duration 1s --warm-up 100ms
        --connections 4 --out "$work/$1" --round "$2")
    "$bin" bench run "${load[@]}" --scenario get --rate 2000 --puts 0 --preload >"$work/table"
    "$bin" bench run "${load[@]}" --scenario put --closed-loop --puts 100 >"$work/table"
}

sides=("$@")
if [ $# = 0 ]; then
    start_server serve --listen 127.0.0.1:0 --cores "${NODE_CORE:-0}" --data-dir "$work/data" \
        --durability none
    for round in 1 2 3 4 5 6; do
        for side in a b; do measure "$side" "$round"; done
    done
    end_server
    sides=("$work/a" "$work/b")
fi
page=$work/report.html
"$bin" bench compare "${sides[@]}" --allow-different --html "$page" >"$work/table"

# open PAGE WIDTH SCHEME ARGUMENTS...: SCHEME is 0 for dark, 1 for light.
open_page() {
    local file=$1 width=$2 scheme=$3
    shift 3
    timeout 120 "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars \
        --user-data-dir="$work/profile" --window-size="$width,6000" \
        --blink-settings=preferredColorScheme="$scheme" "$@" "file://$file" 2>>"$work/browser.log"
}

# with_check PAGE COPY: the page's own policy lets no script run, so the copy is without it.
with_check() {
    local policy='<meta http-equiv="Content-Security-Policy"'
    grep -q "^$policy" "$1" || { echo "the page has no policy" >&2; return 1; }
    {
        sed "/^$policy/d; /^<\/body>/,\$d" "$1"
        echo '<script>'
        cat scripts/report/check.js
        printf '</script>\n</body>\n</html>\n'
    } >"$2"
}

# told PAGE WIDTH SCHEME: what the check says.
told() {
    open_page "$1" "$2" "$3" --dump-dom | sed -n 's/.*REPORT-CHECK \({.*}\).*/\1/p' | head -n 1
}

with_check "$page" "$work/checked.html"
failed=
for width in 1100 500; do
    for scheme in 0 1; do
        line=$(told "$work/checked.html" "$width" "$scheme")
        echo "$line"
        dark=$([ "$scheme" = 0 ] && echo true || echo false)
        case $line in
        *"\"dark\":$dark,"*'"faults":[]}') ;;
        *) failed=1 ;;
        esac
    done
done

# Spoilt: a curve without a line, a word over another, and words that hardly show.
sed -e '0,/\(<path class="curve[^>]*\) d="[^"]*"/s//\1 d="M1 1L1 1"/' \
    -e '0,/<text class="tick middle" x="[0-9.]*"/s//<text class="tick middle" x="-30"/' \
    -e 's/--muted: #5b6168/--muted: #d0d4d8/' "$page" >"$work/spoilt.html"
with_check "$work/spoilt.html" "$work/spoilt-checked.html"
line=$(told "$work/spoilt-checked.html" 1100 1)
for fault in 'has no length' 'is cut off' 'is too faint'; do
    case $line in
    *"$fault"*) ;;
    *)
        echo "a page that was spoilt on purpose was not found out: $fault" >&2
        failed=1
        ;;
    esac
done

open_page "$page" 1100 1 --screenshot="$work/light.png" >/dev/null
open_page "$page" 1100 0 --screenshot="$work/dark.png" >/dev/null
open_page "$page" 1100 1 --no-pdf-header-footer --print-to-pdf="$work/report.pdf" >/dev/null
for file in light.png dark.png report.pdf; do
    [ -s "$work/$file" ] || { echo "$file was not made" >&2; failed=1; }
done
[ -z "$failed" ] || { echo "the page has faults: $page" >&2; exit 1; }
echo "the page is fine: $page, with light.png, dark.png and report.pdf beside it"
