# As power_cut.sh, of many small files: what has a name on the disk that is left is whole.

as_root
needs unshare mkfs.ext4 losetup
unshare -m true || exit 99
mkdir before after
truncate -s 200M "$LOG.disk"
mkfs.ext4 -q "$LOG.disk" || exit 99
export V="${L}lots/"
unshare -m sh -c '
    mount -o loop "$LOG.disk" before || exit 99
    cd before
    kwik get $V --limit-rate 300k --progress json 2> "$LOG" &
    G=$!
    until [ "$(ls lots 2> "$LOG.ls" | wc -l)" -ge 100 ]; do
        kill -0 $G || exit 98
        sleep 0.02
    done
    # So that some of them have their names on the disk, too.
    sync -f .
    kill -STOP $G
    cp --sparse=always "$LOG.disk" "$LOG.cut"
    kill -KILL $G
    wait $G
    cd ..
    umount before
    mount -o loop "$LOG.cut" after && cd after || exit 97
    count=0
    for file in lots/*; do
        cmp "$file" "$SECRETS/$file" || exit 1
        count=$((count + 1))
    done
    [ $count -ge 100 ] || exit 2
    kwik get $V 2> "$LOG.said" || exit 3
    diff -r lots "$SECRETS/lots" || exit 4
    [ "$(ls -A lots | grep -c kwik-part)" = 0 ]
'
code=$?
cat "$LOG.said" >&2
rm -f "$LOG.disk" "$LOG.cut"
exit $code
