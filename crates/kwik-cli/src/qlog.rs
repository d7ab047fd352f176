//! `--qlog`: where this process traces its connections.

use std::{path::Path, sync::OnceLock};

use kwik::{Qlog, QuicConfig, escape};

use crate::{
    failure::{Failure, Kind},
    say,
};

/// One for the whole process: its endpoints share the bounds of the folder.
static QLOG: OnceLock<Qlog> = OnceLock::new();

/// Has endpoints that are made from now on trace their connections there, if that is wanted.
pub(crate) fn open(folder: Option<&Path>) -> Result<(), Failure> {
    let Some(folder) = folder else { return Ok(()) };
    let qlog = Qlog::open(folder).map_err(|error| {
        let folder = escape(folder.display());
        let message = format!("cannot write qlogs to {folder}: {error}: choose another --qlog");
        Failure::new(Kind::Disk, message)
    })?;
    QLOG.get_or_init(|| qlog);
    Ok(())
}

/// Waits until what was traced is written, as the process ends.
pub(crate) fn finish() {
    let Some(qlog) = QLOG.get() else { return };
    qlog.flush();
    let left_out = qlog.left_out();
    if left_out > 0 {
        say(&format!("kwik: {left_out} records of qlogs were left out: see the log before"));
    }
}

/// QUIC's settings with it.
pub(crate) fn quic() -> QuicConfig {
    QuicConfig { qlog: QLOG.get().cloned(), ..QuicConfig::default() }
}
