//! Verified delivery of objects from several servers over KWIK.
//!
//! A [`Source`] holds the objects. A server opens an [`Object`], takes its [`Manifest`] (size,
//! BLAKE3 root, outboard) from the [`Catalogue`] and answers a [`Request`] with it. A client
//! verifies each 64 KiB group with a [`Verifier`], whoever sent it, and writes it to a
//! [`PartFile`] that takes its final name only when complete.

pub mod limits;

mod block;
mod catalogue;
mod client;
mod door;
mod fetch;
mod link;
mod manifest;
mod name;
mod offload;
mod output;
mod pace;
mod pages;
mod partial;
mod pass;
mod primaries;
mod pump;
mod repair;
mod request;
mod server;
mod source;
mod step;
mod takeover;
mod tree;
mod verify;

pub use blake3::Hash;
pub use catalogue::{Asked, Catalogue, CatalogueError};
pub use client::Client;
pub use door::{Door, Visitor};
pub use fetch::{
    Fetch, FetchError, InvalidListing, Listing, News, PackFetch, Progress, Takeover, Whole,
};
pub use kwik_proto::auth::{Fingerprint, InvalidFingerprint};
pub use link::{InvalidLink, Link};
pub use manifest::{Manifest, PageError, Published, hash_object};
pub use name::{InvalidName, ObjectName};
pub use output::Output;
pub use partial::{PartError, PartFile, Place, SmallFile, sync_names, write_small};
pub use pass::{InvalidPass, Pass, Ticket};
pub use primaries::Primaries;
pub use request::{
    About, Attributes, Blame, Call, EdgeCommand, Entry, EntryKind, Failure, FailureCode, Found,
    InvalidMessage, List, Listed, Pack, Packed, PackedFile, Part, Repair, Request, Response,
    in_order,
};
pub use server::{
    Access, AccessPart, AtOnce, Decision, Edge, EdgeState, EdgeView, Failed, JoinPolicy, KnownEdge,
    Rate, Server, SessionView, WhenItPays,
};
pub use source::{Object, ObjectStat, Source, SourceError, Survey, Unserved};
pub use step::Step;
pub use verify::{Corrupt, InvalidOutboard, Outline, Verifier};

/// Messages generated from `proto/delivery.proto` by `proto/generate`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod wire {
    include!("generated/kwik.delivery.rs");
}
