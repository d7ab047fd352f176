#!/usr/bin/env bash
# One file from three servers, of which one's link is cut at about half: is the file whole, how long did its
# reader wait, and how long did all take?
#
# Run it inside a network lab, as three-servers.sh, which also has the links. In addition it needs
#   LAB_CTL                  a file: the line `HOST down` written to it cuts the link of HOST
# Servers are real processes; each run has a lab of its own, as a cut link stays cut.
#
#   cargo build --release --bin kwik
#   LAB... bench/lab/cut-link.sh [EDGE]
#
# EDGE     whose link is cut: s1 or s2, which are edges (default s2)
# KWIK     the kwik binary (default target/release/kwik)
# SIZE_MIB size of the file (default 256)
# PORT     UDP port of the servers (default 4433)
# CUT_AT   share of the file in per cent, as far as it has been written, at which the link is cut (default 50)
#
# Exit status 0 when the download succeeded and equals the source byte for byte.
set -euo pipefail
export LC_ALL=C

edge=${1:-s2}
cut_at=${CUT_AT:-50}
: "${LAB_CTL:?run me inside a lab}"
case $edge in s1 | s2) ;; *) echo "cut-link: $edge is no edge" >&2 && exit 2 ;; esac

. "$(dirname "$0")/servers.sh"

# The bytes go to a pipe, which says how far they are.
mkfifo "$work/pipe"
half=$((size_mib * 1024 * 1024 * cut_at / 100))
{
  head -c "$half"
  echo "$edge down" >"$LAB_CTL"
  echo "$EPOCHREALTIME" >"$work/cut"
  cat
} <"$work/pipe" >"$work/got.bin" &
pids+=("$!")
taking=$!

status=0
began=$EPOCHREALTIME
"$kwik" get "$link" -o - >"$work/pipe" 2>"$work/get.log" ||
  status=$?
wait "$taking"
ended=$EPOCHREALTIME
tail -n 1 "$work/get.log"
[ "$status" -eq 0 ] || fail "kwik get ended with $status"
cmp "$source" "$work/got.bin" || fail "the file differs"
awk -v began="$began" -v cut="$(cat "$work/cut")" -v ended="$ended" -v edge="$edge" 'BEGIN {
    printf "%s cut after %.3f s; all after %.3f s, the same\n", edge, cut - began, ended - began
  }'
