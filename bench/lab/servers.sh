# Sourced by the scripts beside it: three servers in a network lab, with one file of random bytes.
#
# Sets $kwik, $work (a folder that goes with the script), $source (the file) and $link (what `kwik get` takes).

kwik=$(realpath "${KWIK:-target/release/kwik}")
size_mib=${SIZE_MIB:-256}
port=${PORT:-4433}
: "${LAB_IN:?run me inside a lab}" "${LAB_S1:?}" "${LAB_S2:?}" "${LAB_S3:?}"

source "$(dirname "${BASH_SOURCE[0]}")/work.sh"

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

fingerprint() {
  "$kwik" id --state "$work/$1"
}

# serve HOST ADDRESS OPTIONS...: starts a server and waits until it says how to reach it.
serve() {
  local host=$1 address=$2 log=$work/$1.log tries pid
  shift 2
  : >"$log"
  "$LAB_IN" "$host" "$kwik" serve "$work/source" \
    --listen "$address:$port" --state "$work/$host" "$@" >"$log" 2>&1 &
  pid=$!
  pids+=("$pid")
  for ((tries = 0; tries < 600; tries++)); do
    grep -q '^may read' "$log" && return
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  cat "$log" >&2
  fail "the server on $host did not start"
}

mkdir "$work/source"
source=$work/source/object.bin
head -c "$((size_mib * 1024 * 1024))" /dev/urandom >"$source"

primary=$(fingerprint s3)
edge1=$(fingerprint s1)
edge2=$(fingerprint s2)
serve s1 "$LAB_S1" --trust "$primary"
serve s2 "$LAB_S2" --trust "$primary"
serve s3 "$LAB_S3" --edge "kwik://$edge1@$LAB_S1:$port" --edge "kwik://$edge2@$LAB_S2:$port"
link=kwik://$primary@$LAB_S3:$port/object.bin
