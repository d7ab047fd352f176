//! Blocking work off the threads that run tasks.

use std::panic::resume_unwind;

use tokio::sync::Semaphore;

use crate::limits::MAX_READS;

/// Turns to read the catalogue: each has a descriptor for as long as it takes.
static READS: Semaphore = Semaphore::const_new(MAX_READS);

/// As [`offload`], for a look into a file of the catalogue: some at a time, as clients cause them.
pub(crate) async fn offload_read<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    // Never closed.
    let _turn = READS.acquire().await;
    offload(work).await
}

/// Runs `work` on a thread for blocking work, or here when no tokio runtime is present (a
/// simulation). Cancel safety: `work` runs to its end; only its result is lost.
pub(crate) async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return work();
    };
    match runtime.spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        // The runtime is shutting down: nobody waits for the answer.
        Err(_) => std::future::pending().await,
    }
}
