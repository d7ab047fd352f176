#!/usr/bin/env bash
# One stream from one server over one link: KWIK next to bare quinn, in turn.
#
# Run it inside a network lab: a tool that gives each host a network of its own with a rate and a
# delay, runs this script on the host `client`, and sets
#   LAB_S1   the address of the host s1, whose link has 100 Mbit/s and 10 ms one way
#   LAB_IN   a command: `$LAB_IN s1 PROGRAM...` runs PROGRAM on host s1
#
#   cargo bench -p kwik-transport --bench link --no-run
#   LAB... bench/lab/one-link.sh [OPTIONS]
#
# OPTIONS   of the bench, as in docs/performance.md: --rounds N (5), --case TEXT, --plain, --json FILE
# SIZE_MIB  payload of a transfer (default 64)
# PORT      the first of four UDP ports of the server (default 4433)
# BENCH     the bench's binary (default: the newest in target/release/deps)
set -euo pipefail
export LC_ALL=C

: "${LAB_IN:?run me inside a lab}" "${LAB_S1:?}"
size_mib=${SIZE_MIB:-64}
address=$LAB_S1:${PORT:-4433}
newest() {
  find target/release/deps -name 'link-*' -type f -executable -printf '%T@ %p\n' | sort -n | tail -n 1
}
bench=${BENCH:-$(newest | cut -d ' ' -f 2)}

log=$(mktemp)
"$LAB_IN" s1 "$bench" --mib "$size_mib" "$@" serve "$address" >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; cat "$log" >&2; rm -f "$log"' EXIT
for ((tries = 0; tries < 100; tries++)); do
  grep -q ready "$log" && break
  sleep 0.1
done
"$bench" --mib "$size_mib" "$@" get "$address"
