//! That a session is over.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use crate::quic::ConnectionError;

/// Why a session is over, if it is, and whether that was told.
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) reason: Mutex<Option<ConnectionError>>,
    pub(super) told: AtomicBool,
}
