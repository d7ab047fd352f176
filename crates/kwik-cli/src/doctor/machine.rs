//! What is looked at of this machine alone.

use std::{
    env, fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime},
};

use kwik::QuicConfig;
use rustix::process::{Resource, getrlimit};
use tokio::{process::Command, time::timeout};

use super::{Finding, Health};
use crate::{state, summary::Size};

/// How long a datagram takes within the machine, and a program that is asked, at the most.
const PATIENCE: Duration = Duration::from_secs(2);
/// Descriptors of a client with a few servers, and of a server with a few dozen clients.
const DESCRIPTORS: u64 = 256;
/// Room in the state folder for the hashes of some 60 GiB.
const ROOM: u64 = 32 * 1024 * 1024;

pub(super) async fn findings(folder: Option<&Path>) -> Vec<Finding> {
    vec![
        udp(),
        ipv6(),
        buffers(Path::new("/proc/sys/net/core")),
        clock().await,
        kept(folder),
        descriptors(),
    ]
}

/// Whether datagrams leave and arrive within the machine.
fn udp() -> Finding {
    let sent = || -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"kwik", socket.local_addr()?)?;
        socket.recv(&mut [0; 8]).map(drop)
    };
    match sent() {
        Ok(()) => Finding::new(Health::Ok, "udp", "datagrams leave and arrive on this machine"),
        Err(error) => Finding::new(
            Health::Fail,
            "udp",
            format!("no datagram arrives on this machine: {error}: look at its firewall"),
        ),
    }
}

fn ipv6() -> Finding {
    // Of documentation (RFC 3849): routed like any other, and nobody's. Nothing is sent.
    let elsewhere = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9));
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0));
    let (health, text) = match socket.map(|socket| socket.connect(elsewhere)) {
        Ok(Ok(())) => (Health::Ok, "this machine has a way to IPv6 addresses"),
        Ok(Err(_)) => (
            Health::Warn,
            "this machine has no way to IPv6 addresses: servers that have no others are out of \
             reach",
        ),
        Err(_) => (
            Health::Warn,
            "this machine has no IPv6: servers that have no other addresses are out of reach",
        ),
    };
    Finding::new(health, "ipv6", text)
}

/// Whether the system grants the buffers that sockets ask for, as the folder `limits` says.
fn buffers(limits: &Path) -> Finding {
    let wished = QuicConfig::default().socket_buffer as u64;
    let limit = |name: &str| fs::read_to_string(limits.join(name)).ok()?.trim().parse::<u64>().ok();
    let (health, text) = match (limit("rmem_max"), limit("wmem_max")) {
        (Some(read), Some(write)) if read.min(write) < wished => (
            Health::Warn,
            format!(
                "the system grants {} of the {} that are asked for, so bursts lose packets: run \
                 sysctl -w net.core.rmem_max={wished} net.core.wmem_max={wished}",
                Size(read.min(write)),
                Size(wished)
            ),
        ),
        (Some(_), Some(_)) => (Health::Ok, format!("the system grants {} each way", Size(wished))),
        _ => (Health::Ok, "this system does not say what it grants".into()),
    };
    Finding::new(health, "buffers", text)
}

/// Whether the clock is kept right: edges take a primary's grants within half a minute.
async fn clock() -> Finding {
    let now = SystemTime::now();
    let program = env::current_exe().and_then(|path| path.metadata()?.modified());
    if program.is_ok_and(|made| made > now + Duration::from_secs(86_400)) {
        let text = "it is before the time at which this program was made: set the clock";
        return Finding::new(Health::Fail, "clock", text);
    }
    let (health, text) = match is_synchronised().await {
        Some(true) => (Health::Ok, "it is kept right by a time server"),
        Some(false) => (
            Health::Warn,
            "no time server keeps it right, and edges take nothing from a primary whose clock is \
             off by 30 s: run timedatectl set-ntp true",
        ),
        None => (
            Health::Ok,
            "nobody here says whether it is kept right: primaries and edges may differ by 30 s",
        ),
    };
    Finding::new(health, "clock", text)
}

/// As systemd says; none where it does not.
async fn is_synchronised() -> Option<bool> {
    let mut asking = Command::new("timedatectl");
    asking.args(["show", "--property=NTPSynchronized", "--value"]);
    asking.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let said = timeout(PATIENCE, asking.output()).await.ok()?.ok()?;
    match String::from_utf8_lossy(&said.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Whether the state folder can be used, and its secrets are nobody else's.
fn kept(folder: Option<&Path>) -> Finding {
    const WHAT: &str = "state";
    let folder = match state::folder(folder) {
        Ok(folder) => folder,
        Err(failure) => return Finding::new(Health::Fail, WHAT, failure.to_string()),
    };
    let shown = folder.display();
    if let Err(failure) = state::check(&folder) {
        return Finding::new(Health::Fail, WHAT, failure.to_string());
    }
    if !folder.exists() {
        return Finding::new(Health::Ok, WHAT, format!("{shown} is made when it is needed"));
    }
    if let Err(error) = tempfile::tempfile_in(&folder) {
        let text = format!(
            "nothing can be written to {shown}: {error}: servers keep hashes in memory, and no \
             server is remembered: give another folder with --state DIR"
        );
        return Finding::new(Health::Warn, WHAT, text);
    }
    let room = rustix::fs::statvfs(&folder).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    match room {
        Ok(room) if room < ROOM => {
            let text = format!("{shown} has room for {} alone: make some", Size(room));
            Finding::new(Health::Warn, WHAT, text)
        }
        _ => Finding::new(Health::Ok, WHAT, format!("{shown} can be used")),
    }
}

fn descriptors() -> Finding {
    let limits = getrlimit(Resource::Nofile);
    let (health, text) = match limits.current {
        Some(most) if most < DESCRIPTORS => (
            Health::Warn,
            format!("this shell allows {most} open files, few for a server: run ulimit -n 1024"),
        ),
        Some(most) => (Health::Ok, format!("{most} files may be open")),
        None => (Health::Ok, "as many files may be open as like".into()),
    };
    Finding::new(health, "files", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_buffers_come_with_the_line_that_enlarges_them() {
        let limits = tempfile::tempdir().unwrap();
        let found = |read: &str, write: &str| {
            fs::write(limits.path().join("rmem_max"), read).unwrap();
            fs::write(limits.path().join("wmem_max"), write).unwrap();
            buffers(limits.path())
        };
        let line = "run sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304";
        for (read, write) in [("212992\n", "4194304\n"), ("4194304\n", "212992\n")] {
            let finding = found(read, write);
            assert_eq!(finding.health, Health::Warn);
            assert!(
                finding.text.contains(line) && finding.text.contains("208.0 KiB of the 4.0 MiB")
            );
        }
        assert_eq!(found("4194304\n", "8388608\n").health, Health::Ok);
        assert_eq!(buffers(Path::new("/no/such")).health, Health::Ok);
    }
}
