//! The one way to lock what the session and the byte path share.
//!
//! Lock order: a session before a half or a writer, never the reverse.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whatever a panic elsewhere did: what we share is consistent between calls.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
