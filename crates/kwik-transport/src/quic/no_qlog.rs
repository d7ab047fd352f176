//! Stands for qlog where this crate is built without it: there is no folder, so nothing is traced.

use std::convert::Infallible;
use std::fmt;

use super::Runtime;

/// A folder of qlogs, of which there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Qlog(Infallible);

/// What a connection's qlog is written to.
pub(crate) struct Trace(Infallible);

/// What a trace is of.
#[expect(dead_code, reason = "nothing is traced")]
pub(crate) struct Traced<'a> {
    pub(crate) side: &'static str,
    pub(crate) name: Option<&'a dyn fmt::Display>,
    pub(crate) remote: &'a dyn fmt::Display,
}

/// What a trace is called.
#[derive(Debug, Clone)]
pub(crate) struct TraceName(Infallible);

impl Qlog {
    pub(super) fn trace(&self, _: Traced<'_>, _: &Runtime) -> Option<(Trace, TraceName)> {
        match self.0 {}
    }
}

impl TraceName {
    pub(crate) fn set(&self, _: &dyn fmt::Display) {
        match self.0 {}
    }
}

impl Trace {
    pub(super) fn apply(self, _: &mut quinn::TransportConfig) {
        match self.0 {}
    }
}
