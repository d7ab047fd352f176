#!/usr/bin/env bash
# One file from three servers over links of 50, 100 and 200 Mbit/s: how long does `kwik get` take?
#
# Run it inside a network lab: a tool that gives each host a network of its own with a rate and a
# delay, runs this script on the host `client`, and sets
#   LAB_S1, LAB_S2, LAB_S3   the addresses of the hosts s1, s2, s3
#   LAB_IN                   a command: `$LAB_IN s1 PROGRAM...` runs PROGRAM on host s1
# Links: s1 50 Mbit/s and 20 ms one way, s2 100 Mbit/s and 30 ms, s3 200 Mbit/s and 10 ms, `client`
# without a limit. s1 and s2 are edges, s3 is the primary.
#
#   cargo build --release --bin kwik
#   LAB... bench/lab/three-servers.sh [RUNS]
#
# RUNS     downloads, one after the other (default 3)
# KWIK     the kwik binary (default target/release/kwik)
# SIZE_MIB size of the file (default 256)
# PORT     UDP port of the servers (default 4433)
#
# Exit status 0 when every download succeeded and equals the source byte for byte.
set -euo pipefail
export LC_ALL=C

runs=${1:-3}
. "$(dirname "$0")/servers.sh"

failures=0
: >"$work/seconds"
printf '%-4s %9s %9s  %-9s  %s\n' run seconds Mbit/s same summary
for ((run = 1; run <= runs; run++)); do
  status=0
  began=$EPOCHREALTIME
  "$kwik" get "$link" -o "$work/got.bin" --json \
    >"$work/get.json" 2>"$work/get.log" || status=$?
  ended=$EPOCHREALTIME

  same=yes
  if [ "$status" -ne 0 ]; then
    same="exit $status"
  elif ! cmp -s "$source" "$work/got.bin"; then
    same=DIFFERS
  fi
  if [ "$same" != yes ]; then
    failures=$((failures + 1))
    tail -n 20 "$work/get.log" >&2
  fi
  awk -v run="$run" -v began="$began" -v ended="$ended" -v mib="$size_mib" -v same="$same" \
    -v summary="$(tr -d '\n' <"$work/get.json")" -v seconds="$work/seconds" 'BEGIN {
      s = ended - began
      printf "%-4d %9.3f %9.1f  %-9s  %s\n", run, s, mib * 8.388608 / s, same, summary
      if (same == "yes") printf "%.3f\n", s >> seconds
    }'
  rm -f "$work/got.bin"
done

sort -n "$work/seconds" | awk '{ s[NR] = $1 }
  END { if (NR) printf "best %.3f s, median %.3f s, worst %.3f s\n", s[1], s[int((NR + 1) / 2)], s[NR] }'
[ "$failures" -eq 0 ] || fail "$failures of $runs downloads failed"
