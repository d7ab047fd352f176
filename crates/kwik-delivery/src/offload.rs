//! Blocking work off the threads that run tasks.

use std::panic::resume_unwind;

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
