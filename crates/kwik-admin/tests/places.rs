//! Where the interface listens, and where it does not.

#![allow(clippy::unwrap_used, reason = "test code")]

use kwik_admin::{Bound, Place, PlaceError};

#[tokio::test]
async fn the_interface_is_of_this_machine_alone() {
    for foreign in ["0.0.0.0:0", "192.0.2.1:9000", "[::]:9000", "[2001:db8::1]:9000"] {
        let place = Place::Tcp(foreign.parse().unwrap());
        assert!(matches!(Bound::new(&place).await, Err(PlaceError::Foreign(_))), "{foreign}");
    }
    for wrong in ["", "9000", "example.org:9000"] {
        assert!(matches!(wrong.parse::<Place>(), Err(PlaceError::Unreadable(_))), "{wrong}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin");
    let place: Place = path.to_str().unwrap().parse().unwrap();
    let bound = Bound::new(&place).await.unwrap();
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Taken by one that answers; and no file is replaced.
    assert!(Bound::new(&place).await.is_err());
    // Nothing is left of how it was made.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    drop(bound);
    assert!(!path.exists());
    // One that a process left is replaced, and what another put there stays.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let bound = Bound::new(&place).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "another").unwrap();
    drop(bound);
    assert!(path.exists());
    std::fs::write(&path, "a file").unwrap();
    assert!(Bound::new(&place).await.is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
}

/// A live socket whose queue of connections is full does not answer, and is not stale.
#[tokio::test]
async fn a_socket_of_a_busy_process_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin");
    let listener = tokio::net::UnixSocket::new_stream().unwrap();
    listener.bind(&path).unwrap();
    let listener = listener.listen(1).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::net::UnixStream::connect(&path).await {
        waiting.push(stream);
        assert!(waiting.len() < 100);
    }
    let before = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    assert!(Bound::new(&Place::Unix(path.clone())).await.is_err());
    let after = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    assert_eq!(before, after);
    drop(listener);
}
