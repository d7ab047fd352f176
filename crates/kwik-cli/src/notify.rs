//! What a supervisor is told: systemd's protocol of `sd_notify`.

use std::{env, os::unix::net::UnixDatagram};

/// Tells the supervisor, if there is one that listens, about `state`: `READY=1`, say. It is no
/// failure if that does not arrive.
pub(crate) fn notify(state: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = UnixDatagram::unbound() else { return };
    #[cfg(target_os = "linux")]
    {
        use std::os::{
            linux::net::SocketAddrExt,
            unix::{ffi::OsStrExt, net::SocketAddr},
        };
        if let Some(name) = path.as_bytes().strip_prefix(b"@") {
            if let Ok(address) = SocketAddr::from_abstract_name(name) {
                socket.send_to_addr(state.as_bytes(), &address).ok();
            }
            return;
        }
    }
    socket.send_to(state.as_bytes(), path).ok();
}
