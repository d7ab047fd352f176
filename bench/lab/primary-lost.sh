#!/usr/bin/env bash
# One file from three servers, of which the primary is lost on the way: is the file whole, how long did its
# reader wait, and how much was fetched again?
#
# Run it inside a network lab, as three-servers.sh, which also has the links. In addition it needs
#   LAB_CTL                  a file: the lines `HOST down` and `HOST up` written to it cut and mend a link
# Servers are real processes.
#
#   cargo build --release --bin kwik
#   LAB... bench/lab/primary-lost.sh [HOW]
#
# HOW      cut: its link is cut for AWAY seconds (default); restart: its process is killed, and starts again;
#          other: its process is killed, and the link names s2 as another primary
# KWIK     the kwik binary (default target/release/kwik)
# SIZE_MIB size of the file (default 256)
# PORT     UDP port of the servers (default 4433)
# AWAY     seconds for which the link is cut (default 5)
# CUT_AT   share of the file in per cent, as far as it has been written, at which it is lost (default 50)
#
# Exit status 0 when the download succeeded, equals the source byte for byte, and fetched at most 5 % again.
set -euo pipefail
export LC_ALL=C

how=${1:-cut}
away=${AWAY:-5}
cut_at=${CUT_AT:-50}
: "${LAB_CTL:?run me inside a lab}"
case $how in cut | restart | other) ;; *) echo "primary-lost: no way to lose it: $how" >&2 && exit 2 ;; esac

. "$(dirname "$0")/servers.sh"
# The last that was started.
lost=${pids[-1]}
edges=(--edge "kwik://$edge1@$LAB_S1:$port" --edge "kwik://$edge2@$LAB_S2:$port")
[ "$how" = other ] && link=kwik://$primary@$LAB_S3:$port,$edge2@$LAB_S2:$port/object.bin

# The bytes go to a pipe, which says how far they are.
mkfifo "$work/pipe"
part=$((size_mib * 1024 * 1024 * cut_at / 100))
{
  head -c "$part"
  echo "$EPOCHREALTIME" >"$work/cut"
  case $how in
    cut)
      echo "s3 down" >"$LAB_CTL"
      (sleep "$away" && echo "s3 up" >"$LAB_CTL") &
      ;;
    restart)
      kill -9 "$lost"
      (serve s3 "$LAB_S3" "${edges[@]}" </dev/null >/dev/null && echo "${pids[-1]}" >"$work/again") &
      ;;
    other) kill -9 "$lost" ;;
  esac
  cat
} <"$work/pipe" >"$work/got.bin" &
taking=$!
pids+=("$taking")

status=0
began=$EPOCHREALTIME
"$kwik" get "$link" -o "$work/pipe" --json >"$work/get.json" 2>"$work/get.log" || status=$?
wait "$taking"
ended=$EPOCHREALTIME
[ -f "$work/again" ] && pids+=("$(cat "$work/again")")
[ "$status" -eq 0 ] || fail "kwik get ended with $status: $(tail -n 3 "$work/get.log")"
cmp "$source" "$work/got.bin" || fail "the file differs"
figure() {
  grep -o "\"$1\": *[0-9.]*" "$work/get.json" | sed 's/.*: *//'
}
awk -v began="$began" -v cut="$(cat "$work/cut")" -v ended="$ended" -v how="$how" -v size="$(figure size)" \
  -v received="$(figure received)" -v stall="$(figure longest_stall_seconds)" 'BEGIN {
    printf "%s after %.3f s; all after %.3f s, the same; longest stall %.3f s, %.4f of its bytes came\n",
      how, cut - began, ended - began, stall, received / size
    exit !(received > 0 && received <= 1.05 * size)
  }' || fail "too much was fetched again"
