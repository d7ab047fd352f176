# What the rows may use: links to served objects, and functions.

X=${L}x BIG=${L}big EMPTY=${L}empty NONE=${L}none HOLES=${L}holes TREE=${L}tree/
PIN=${L#kwik://} PIN=${PIN%@*} AT=${L#*@}

# As a user who may do less than root. Who is not root is such a one already.
nobody() {
    [ "$(id -u)" = 0 ] || { "$@"; return; }
    setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}

# Without one of these tools the row is not run.
needs() {
    for tool; do command -v "$tool" > /dev/null || exit 99; done
}

# The row is for root alone.
as_root() {
    [ "$(id -u)" = 0 ] || exit 99
}

# A get that lasts, of which some is verified; $LEADER stands before it. Shells have what they start
# in the background ignore Ctrl-C.
LEADER='env --default-signal=INT,QUIT'
begin() {
    $LEADER kwik get --limit-rate 6M --progress json "$@" \
        > "$LOG.out" 2> "$LOG" &
    G=$!
    until grep -q '"verified":[1-9]' "$LOG"; do
        kill -0 $G || { cat "$LOG" >&2; exit 98; }
        sleep 0.02
    done
}

# Waits until at least 5 MB are verified.
until_much() {
    until grep -Eq '"verified":([5-9]|1[0-9])[0-9]{6}' "$LOG"; do
        kill -0 $G || exit 98
        sleep 0.02
    done
}

# Ends it with a signal, as it ends.
finish() {
    kill -"$1" $G
    wait $G
    code=$?
    grep '^kwik: ' "$LOG" >&2
    return $code
}

# The hash of an object, as a get says it.
hash_of() {
    kwik get "$1" -o - --progress json 2>&1 > /dev/null |
        sed -n 's/.*"blake3":"\([0-9a-f]*\)".*/\1/p'
}

# Runs kwik with a terminal of so many columns; what it shows is in $LOG.
on_terminal() {
    needs script
    columns=$1
    shift
    script -qec "stty rows 50 cols $columns; $*" "$LOG" > /dev/null < /dev/null
}

# Whether what it showed has this.
shows() {
    LC_ALL=C grep -q "$1" "$LOG"
}

# System calls that fail, with which error and when, for the program that faulty runs.
with() {
    needs strace
    FAULTS=$1:error=$2
}
faulty() {
    strace -f -qq -o /dev/null -e trace="${FAULTS%%:*}" true 2> /dev/null || exit 99
    strace -f -qq -o "$LOG.trace" -e trace="${FAULTS%%:*}" -e inject="$FAULTS" "$@"
}
