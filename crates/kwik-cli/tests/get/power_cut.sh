# What a file system in use has on its disk is what a power cut leaves of it: a copy of that disk,
# taken while a get is under way, is mounted, and the get goes on there.

as_root
needs unshare mkfs.ext4 losetup
unshare -m true || exit 99
mkdir before after
truncate -s 200M "$LOG.disk"
mkfs.ext4 -q "$LOG.disk" || exit 99
export V="${L}vast"
unshare -m sh -c '
    mount -o loop "$LOG.disk" before || exit 99
    cd before
    kwik get $V --limit-rate 20M --progress json 2> "$LOG" &
    G=$!
    until grep -q "verified.:4[0-9]\{7\}" "$LOG"; do
        kill -0 $G || exit 98
        sleep 0.02
    done
    kill -STOP $G
    cp --sparse=always "$LOG.disk" "$LOG.cut"
    kill -KILL $G
    wait $G
    cd ..
    umount before
    mount -o loop "$LOG.cut" after && cd after || exit 97
    kwik get $V --json > "$LOG.json" 2> "$LOG.said"
    cmp vast "$SECRETS/vast" || exit 1
    [ "$(ls -A | grep -vx lost+found)" = vast ]
'
code=$?
cat "$LOG.said" >&2
rm -f "$LOG.disk" "$LOG.cut"
had=$(sed -n 's/.*"verified":\([0-9]*\).*/\1/p' "$LOG" | tail -1)
kept=$(sed 's/.*"taken_over":\([0-9]*\).*/\1/' "$LOG.json")
echo "$had bytes were there, and $kept are" >&2
# A twentieth of 64 MB.
[ $((kept + 3200000)) -ge "$had" ] && exit $code
