//! Messages generated from `proto/*.proto`; see there for what they mean. What they say leaves
//! `wire` as types of ours ([`Convert`](super::convert::Convert)).

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#![allow(dead_code, reason = "data packets are coded by hand, and checked against these in tests")]

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
