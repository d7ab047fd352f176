//! Messages generated from `proto/*.proto` by `proto/generate`; see there for what they mean. What
//! they say leaves `wire` as types of ours ([`Convert`](super::convert::Convert)).

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#![allow(dead_code, reason = "data packets are coded by hand, and checked against these in tests")]

pub mod common {
    include!("generated/kwik.common.rs");
}
pub mod control {
    include!("generated/kwik.control.rs");
}
pub mod data {
    include!("generated/kwik.data.rs");
}
pub mod metadata {
    include!("generated/kwik.metadata.rs");
}
pub mod secondary {
    include!("generated/kwik.secondary.rs");
}
