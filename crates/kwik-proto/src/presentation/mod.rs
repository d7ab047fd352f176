//! The presentation plane: what arrived, in order for its reader, and the credit for what may
//! arrive (8.1, 8.2), and when who sends is to slow down (8.3). It carries every byte, so it is
//! locked per stream, never by the session.

mod backpressure;
mod budget;
mod buffer;
mod memory;
mod run;
#[cfg(test)]
mod tests;
mod window;

pub use backpressure::{
    Backpressure, BackpressureChange, BackpressureReason, BackpressureStats, ReasonStats,
    SessionLoad, StreamLoad,
};
pub use budget::MemoryBudget;
pub(crate) use buffer::total;
pub use buffer::{BufferError, BufferUsage, Conflict, Stored, StreamBuffer};
pub use memory::ReceiveMemory;
pub use window::{ReceiveWindow, WindowError, WindowStatus};
