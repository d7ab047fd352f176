//! Messages generated from `proto/*.proto`; see there for what they mean.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

pub mod common {
    include!(concat!(env!("OUT_DIR"), "/kwik.common.rs"));
}
pub mod control {
    include!(concat!(env!("OUT_DIR"), "/kwik.control.rs"));
}
pub mod data {
    include!(concat!(env!("OUT_DIR"), "/kwik.data.rs"));
}
pub mod metadata {
    include!(concat!(env!("OUT_DIR"), "/kwik.metadata.rs"));
}
pub mod secondary {
    include!(concat!(env!("OUT_DIR"), "/kwik.secondary.rs"));
}
