//! Folders, patterns, and what is in them.

use super::Row;

const fn row(
    name: &'static str,
    before: &'static str,
    run: &'static str,
    (code, says): (i32, &'static str),
    disk: &'static str,
) -> Row {
    Row { name, before, run, code, says, disk }
}

const DONE: (i32, &str) = (0, "verified");

pub const ROWS: &[Row] = &[
    // Where to.
    row("a folder", "", "kwik get $TREE && diff -r $SECRETS/tree tree", DONE, "tree/"),
    row("an empty folder in it", "", "kwik get $TREE && rmdir tree/none", DONE, "tree/"),
    row(
        "a folder into a folder",
        "mkdir d",
        "kwik get $TREE -d d && diff -r $SECRETS/tree d/tree",
        DONE,
        "d/",
    ),
    row(
        "a folder as another one",
        "",
        "kwik get $TREE -o d && diff -r $SECRETS/tree d",
        DONE,
        "d/",
    ),
    row(
        "a folder as one that is there",
        "mkdir d; echo old > d/mine",
        "kwik get $TREE -o d && test -e d/b/d/e && mv d/mine .",
        DONE,
        "d/ mine=old",
    ),
    row("a folder within", "", "kwik get ${TREE}b/ && test -e b/d/e", DONE, "b/"),
    row("a folder into none", "", "kwik get $TREE -d d", (6, "create it first"), ""),
    row("a folder below none", "", "kwik get $TREE -o d/e", (6, "create it first"), ""),
    row(
        "a folder over a file",
        "echo old > tree",
        "kwik get $TREE",
        (6, "is no folder"),
        "tree=old",
    ),
    row("a folder to standard output", "", "kwik get $TREE -o -", (2, "-d"), ""),
    row("all without a place", "", "kwik get $L", (2, "-d . for here"), ""),
    row(
        "all into a folder",
        "mkdir d",
        "kwik get $L -d d --include /names/back* --include /tree/a && find d -type f | wc -l | \
         grep -qx 2",
        DONE,
        "d/",
    ),
    row("a server alone", "", "kwik get ${L%/}", (2, "names no object"), ""),
    row("a file as a folder", "", "kwik get ${X}/ -o d", (2, "leave out the /"), ""),
    row("no such folder at the server", "", "kwik get ${NONE}/", (3, "no object none"), ""),
    row("one hash of a folder", "", "kwik get $TREE --expect $(hash_of $X)", (2, "--expect"), ""),
    // What is kept of files.
    row(
        "times",
        "",
        "kwik get $TREE && for f in a b/c b/d/e; do \
         test \"$(stat -c %.9Y tree/$f)\" = \"$(stat -c %.9Y $SECRETS/tree/$f)\" || exit 97; done",
        DONE,
        "tree/",
    ),
    row(
        "times of folders",
        "",
        "kwik get $TREE && for f in b b/d none; do \
         test \"$(stat -c %.9Y tree/$f)\" = \"$(stat -c %.9Y $SECRETS/tree/$f)\" || exit 97; done",
        DONE,
        "tree/",
    ),
    row(
        "times of folders that were there",
        "kwik get $TREE; touch tree/b tree/none",
        "kwik get $TREE && test \"$(stat -c %.9Y tree/b)\" = \"$(stat -c %.9Y $SECRETS/tree/b)\"",
        (0, "5 skipped"),
        "tree/",
    ),
    row(
        "times of folders by pattern",
        "",
        "kwik get $TREE --include e && test \"$(stat -c %.9Y tree/b/d)\" = \
         \"$(stat -c %.9Y $SECRETS/tree/b/d)\" && test ! -e tree/none",
        DONE,
        "tree/",
    ),
    row(
        "no times of folders that are to stay as they are",
        "mkdir -p tree/b; touch -d @5 tree/b",
        "kwik get $TREE -n --exclude c --exclude d && test $(stat -c %Y tree/b) = 5 && \
         test \"$(stat -c %Y tree/none)\" = \"$(stat -c %Y $SECRETS/tree/none)\"",
        DONE,
        "tree/",
    ),
    row(
        "the time of a file alone",
        "",
        "kwik get ${TREE}a && test \"$(stat -c %.9Y a)\" = \"$(stat -c %.9Y $SECRETS/tree/a)\"",
        DONE,
        "a=tree/a",
    ),
    row(
        "the time of a large file",
        "",
        "kwik get $BIG && test \"$(stat -c %.9Y big)\" = \"$(stat -c %.9Y $SECRETS/big)\"",
        DONE,
        "big=big",
    ),
    row(
        "modes by option",
        "",
        "kwik get -p $TREE && stat -c %a tree/a tree/b | xargs | grep -qx '640 750'",
        DONE,
        "tree/",
    ),
    row("the mode of a file alone", "", "kwik get -p ${TREE}a", DONE, "a=tree/a:640"),
    row(
        "and else not",
        "",
        "umask 22; kwik get $TREE && stat -c %a tree/a tree/b | xargs | grep -qx '644 755'",
        DONE,
        "tree/",
    ),
    row(
        "modes of what is there already",
        "umask 22; kwik get $TREE",
        "kwik get -p $TREE && stat -c %a tree/a | grep -qx 640",
        (0, "0 files fetched"),
        "tree/",
    ),
    row(
        "names of all kinds",
        "",
        "kwik get ${L}names/ && diff -r $SECRETS/names names && ls -b names | wc -l | grep -qx 6",
        DONE,
        "names/",
    ),
    row(
        "hidden files are not there",
        "",
        "kwik get ${L}mixed/ && ls -A mixed | xargs | grep -qx in",
        (0, "left out 3 names"),
        "mixed/",
    ),
    // Again.
    row("what is here is skipped", "kwik get $TREE", "kwik get $TREE", (0, "5 skipped"), "tree/"),
    row(
        "what has another time is fetched",
        "kwik get $TREE; touch tree/a",
        "kwik get $TREE",
        (0, "1 file fetched"),
        "tree/",
    ),
    row(
        "what has another size is fetched",
        "kwik get $TREE; echo more >> tree/b/c; touch -r $SECRETS/tree/b/c tree/b/c",
        "kwik get $TREE && diff -r $SECRETS/tree tree",
        (0, "1 file fetched"),
        "tree/",
    ),
    row(
        "what is missing is fetched",
        "kwik get $TREE; rm -r tree/b/d",
        "kwik get $TREE && diff -r $SECRETS/tree tree",
        (0, "4 skipped"),
        "tree/",
    ),
    row(
        "what has another time and the same bytes",
        "kwik get $TREE; touch tree/a tree/b/c",
        "kwik get $TREE --checksum",
        (0, "0 files fetched: 0 B"),
        "tree/",
    ),
    row(
        "what has the same time and other bytes",
        "kwik get $TREE; cp -rp tree was; echo xxxxxxxxx > tree/a; touch -r was/a tree/a",
        "kwik get $TREE && cmp -s tree/a was/a && exit 97; kwik get $TREE --checksum && \
         cmp tree/a was/a",
        (0, "1 file fetched"),
        "tree/ was/",
    ),
    row(
        "no time that a checksum did not set right is compared again",
        "kwik get $TREE; touch tree/a; kwik get $TREE --checksum",
        "kwik get $TREE",
        (0, "5 skipped"),
        "tree/",
    ),
    row(
        "nothing is replaced by option",
        "mkdir tree; echo old > tree/a",
        "kwik get $TREE -n && mv tree/a .",
        (0, "1 skipped"),
        "tree/ a=old",
    ),
    row(
        "nothing is removed",
        "mkdir tree; echo old > tree/mine",
        "kwik get $TREE && mv tree/mine .",
        DONE,
        "tree/ mine=old",
    ),
    // What is in the way.
    row(
        "a link to a folder elsewhere",
        "mkdir tree out; ln -s ../out tree/b",
        "kwik get $TREE 2> $LOG; c=$?; grep -q 'tree/b is in the way' $LOG || exit 97; \
         tail -1 $LOG >&2; ls out | wc -l | grep -qx 0 || exit 97; exit $c",
        (6, "4 of 7 files were not fetched"),
        "tree/ out/",
    ),
    row(
        "a link to a file elsewhere",
        "mkdir tree; echo old > mine; ln -s ../mine tree/a",
        "kwik get $TREE 2> $LOG; c=$?; grep -q 'tree/a is a symbolic link' $LOG || exit 97; \
         tail -1 $LOG >&2; exit $c",
        (6, "1 of 5 files were not fetched"),
        "tree/ mine=old",
    ),
    row(
        "a folder with a file's name",
        "mkdir -p tree/a",
        "kwik get $TREE 2> $LOG; c=$?; grep -q 'is a folder here' $LOG || exit 97; \
         tail -1 $LOG >&2; exit $c",
        (6, "1 of 5 files"),
        "tree/",
    ),
    row(
        "a file that is write-protected",
        "mkdir tree; echo old > tree/a; chmod 444 tree/a",
        "kwik get $TREE 2> $LOG; c=$?; grep -q 'write-protected' $LOG || exit 97; \
         kwik get $TREE --force; tail -1 $LOG >&2; cmp tree/a $SECRETS/tree/a; exit $c",
        (6, "1 of 5 files"),
        "tree/",
    ),
    // Some of it.
    row("a pattern", "", "kwik get \"${TREE}*.jpg\"", DONE, "t.jpg=tree/t.jpg u.jpg=tree/u.jpg"),
    row("a pattern of one letter", "", "kwik get \"${TREE}?.jpg\" -d .", DONE, "t.jpg u.jpg"),
    row("a pattern of some letters", "", "kwik get \"${TREE}[s-t].jpg\"", DONE, "t.jpg"),
    row("a pattern of folders' names", "", "kwik get \"${L}t*/b/?\"", DONE, "tree/"),
    row("a pattern of folders", "", "kwik get \"${TREE}b*/\" && test -e b/d/e", DONE, "b/"),
    row("a pattern of nothing", "", "kwik get \"${TREE}*.png\"", (3, "nothing there matches"), ""),
    row("no pattern but a name", "", "kwik get ${L}names/%2A", DONE, "*"),
    row(
        "files of one kind",
        "",
        "kwik get $TREE --include '*.jpg' && ls tree | wc -l | grep -qx 2",
        (0, "2 files fetched"),
        "tree/",
    ),
    row(
        "all but a folder",
        "",
        "kwik get $TREE --exclude b/ --exclude u.jpg && ls tree | xargs | grep -qx 'a none t.jpg'",
        (0, "2 files fetched"),
        "tree/",
    ),
    row(
        "what would be fetched",
        "mkdir d; cd d; kwik get ${TREE}a; cd ..",
        "kwik get $TREE -o d --dry-run > out; grep -c . out | grep -qx 4 && \
         rm out && ls d | grep -qx a",
        (0, "4 files to fetch, 68.4 KiB; 1 are here already"),
        "d/",
    ),
    row("what would be fetched of a file", "", "kwik get $X --dry-run", (2, "--dry-run"), ""),
    // Figures.
    row(
        "a folder as objects",
        "",
        "kwik get $TREE --json > out && head -5 out | grep -c '\"verified\":true' | grep -qx 5 && \
         tail -1 out | grep -q '\"fetched\":5,.*\"sessions\":1,' && rm out",
        (0, ""),
        "tree/",
    ),
    row(
        "folders, patterns and files at once",
        "mkdir d",
        "kwik get ${TREE}b/ $X \"${TREE}*.jpg\" $EMPTY -d d && ls d | xargs",
        (0, "6 objects fetched"),
        "d/",
    ),
    row(
        "few descriptors",
        "",
        "ulimit -n 64; kwik get ${L}lots/ && ls lots | wc -l | grep -qx 300",
        (0, "300 files fetched"),
        "lots/",
    ),
    row(
        "a folder that is interrupted goes on",
        "",
        "begin ${L}pair/; until_much; finish INT; test $? = 130 || exit 97; \
         grep -q 'the same command goes on' $LOG || exit 97; \
         kwik get ${L}pair/ 2> $LOG && grep -q 'going on: ' $LOG && diff -r $SECRETS/pair pair",
        (0, ""),
        "pair/",
    ),
    row(
        "a folder that is killed goes on",
        "",
        "begin ${L}pair/; until_much; kill -9 $G; kwik get ${L}pair/ 2> $LOG && \
         grep -q 'going on: ' $LOG && diff -r $SECRETS/pair pair",
        (0, ""),
        "pair/",
    ),
    row(
        "a slow folder keeps to its rate",
        "",
        "s=$(date +%s%N); kwik get ${L}lots/ --limit-rate 1M; t=$(($(date +%s%N) - s)); \
         test $t -gt 900000000",
        DONE,
        "lots/",
    ),
    // Lists.
    row(
        "a list",
        "",
        "kwik ls $TREE | awk '{ print $1, $NF }' | xargs -n 2 > out; \
         printf '%s\\n' '10 a' '- b/' '- none/' '5 t.jpg' '6 u.jpg' | diff - out && rm out",
        (0, "-"),
        "",
    ),
    row(
        "a list without a slash",
        "",
        "kwik ls ${TREE%/} > one && kwik ls $TREE > two && cmp one two && rm one two",
        (0, "-"),
        "",
    ),
    row("a list of a file", "", "kwik ls $X | grep -q ' 300000 .* x$'", (0, "-"), ""),
    row(
        "a list of all that is in it",
        "",
        "kwik ls -R $TREE | grep -c . | grep -qx 8 && kwik ls -R $TREE | grep -q ' b/d/e$'",
        (0, "-"),
        "",
    ),
    row(
        "a list as objects",
        "",
        "kwik ls --json ${TREE} | grep -q '\"kind\":\"file\",\"link\":\"tree/a\",\"mode\":\"640\",\
         \"modified\":\"2001-02-03T04:05:06Z\",\"name\":\"a\",\"size\":10}'",
        (0, "-"),
        "",
    ),
    row(
        "a list of what matches",
        "",
        "kwik ls \"${TREE}*.jpg\" | grep -c jpg | grep -qx 2 && \
         kwik ls -R $TREE --include e --exclude none | awk '{ print $NF }' | grep -qx b/d/e",
        (0, "-"),
        "",
    ),
    row(
        "names in a list are escaped",
        "",
        "kwik ls ${L}names/ | grep -cF 'new\\nline' | grep -qx 1",
        (0, "-"),
        "",
    ),
    row("a list of the server", "", "kwik ls ${L%/} | grep -q ' tree/$'", (0, "-"), ""),
    row("a list of nothing", "", "kwik ls $NONE", (3, "no object none"), ""),
    row("a list that is hidden", "", "kwik ls ${L}mixed/.hidden", (3, "no object"), ""),
    row("a list that nobody reads", "", "kwik ls -R $L | head -1 | grep -q .", (0, ""), ""),
];
