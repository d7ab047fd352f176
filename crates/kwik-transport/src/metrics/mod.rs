//! What is counted and told of sessions beside their snapshots.

mod marks;

pub(crate) use marks::MarkPair;
