//! File systems that fail, or cannot do what others can: system calls fail as `strace` injects it.

use super::Row;

const fn row(
    name: &'static str,
    run: &'static str,
    (code, says): (i32, &'static str),
    disk: &'static str,
) -> Row {
    Row { name, before: "", run, code, says, disk }
}

const DONE: (i32, &str) = (0, "verified");

pub const ROWS: &[Row] = &[
    row(
        "no room can be reserved",
        "with fallocate EOPNOTSUPP; faulty kwik get $BIG",
        DONE,
        "big=big",
    ),
    row(
        "a full disk, told as room is reserved",
        "with fallocate ENOSPC; faulty kwik get $BIG",
        (6, "no space for big: "),
        "",
    ),
    row(
        "a quota, told as room is reserved",
        "with fallocate EDQUOT; faulty kwik get $BIG",
        (6, "no space for big: "),
        "",
    ),
    row(
        "a disk that gets full under way",
        "with pwrite64 ENOSPC:when=60+; faulty kwik get $BIG",
        (6, " of 19.1 MiB are kept: the same command goes on from there"),
        ".big.kwik-part",
    ),
    row(
        "a disk that gets full under many files",
        "with linkat,pwrite64 ENOSPC:when=3+; faulty kwik get ${L}lots/",
        (6, " of 300 came whole: the same command goes on with the rest"),
        "lots/",
    ),
    row(
        "and once there is room",
        "with pwrite64 ENOSPC:when=60+; faulty kwik get $BIG; kwik get $BIG",
        (0, "going on: "),
        "big=big",
    ),
    row(
        "a disk that fails",
        "with pwrite64 EIO:when=60+; faulty kwik get $BIG -o y",
        (6, "cannot write y: Input/output error"),
        ".y.kwik-part",
    ),
    row(
        "a disk that fails as bytes are made durable",
        "echo old > y; with fdatasync EIO; faulty kwik get $BIG -o y",
        (6, "cannot write y: Input/output error"),
        "y=old .y.kwik-part",
    ),
    row(
        "a disk that fails at the end",
        "echo old > y; with fsync EIO; faulty kwik get $X -o y",
        (6, "cannot write y: Input/output error"),
        "y=old .y.kwik-part",
    ),
    row("no locks", "with flock ENOLCK; faulty kwik get $BIG", DONE, "big=big"),
    row("no renaming without replacing", "with renameat2 EINVAL; faulty kwik get $X", DONE, "x=x"),
    row("no hard links either", "with renameat2,linkat EINVAL; faulty kwik get $X", DONE, "x=x"),
    row(
        "a file that appears where renaming replaces",
        "with renameat2 EINVAL; LEADER=faulty; begin $BIG; echo old > big; wait $G; c=$?
         grep '^kwik: ' $LOG >&2; exit $c",
        (6, "big has appeared meanwhile, and stays"),
        "big=old .big.kwik-part=big",
    ),
    row(
        "no attributes",
        "echo old > y; with listxattr EOPNOTSUPP; faulty kwik get $X -o y",
        DONE,
        "y=x",
    ),
    row(
        "no descriptor of one's own",
        "{ echo >&3; with pidfd_getfd EPERM; faulty kwik get $X -o /dev/fd/3; } 3> y; sed -i 1d y",
        DONE,
        "y=x",
    ),
    row(
        "a power cut costs a twentieth at the most",
        include_str!("power_cut.sh"),
        (0, "going on: "),
        "before/ after/",
    ),
    row(
        "a power cut leaves no small file that is not whole",
        include_str!("power_cut_small.sh"),
        (0, " files fetched"),
        "before/ after/",
    ),
];
