//! The live heap of a test binary, as its allocator counts it.

#![allow(dead_code, unreachable_pub, reason = "each test target uses a part")]

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Who looks at the heap does so alone: it is everybody's.
pub static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Bytes on the heap.
pub fn live() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// Watches the heap: its peak above what it was.
pub struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
    baseline: usize,
}

impl Watch {
    pub fn start() -> Self {
        // First: what an earlier test frees meanwhile would count from the first look on.
        let baseline = live();
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, highest) = (stop.clone(), peak.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                highest.fetch_max(live(), Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Self { stop, peak, thread, baseline }
    }

    pub fn stop(self) -> usize {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap();
        self.peak.load(Relaxed).max(live()).saturating_sub(self.baseline)
    }
}
