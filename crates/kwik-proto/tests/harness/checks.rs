//! What must hold all along, when a stream ends, and when all is over.

use std::collections::BTreeMap;
use std::fmt;

use kwik_proto::path::PathStatus;
use kwik_proto::stream::ReadError;
use kwik_proto::{Code, CodedError, PathId, StreamId};

use crate::pipe::Toward;
use crate::world::World;

/// How often what happened: a harness in which something never happens proves nothing of it.
#[derive(Debug, Default)]
pub(crate) struct Coverage(pub(crate) BTreeMap<String, u64>);

impl Coverage {
    pub(crate) fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            *self.0.entry(what.clone()).or_default() += times;
        }
    }

    /// Everything that the scenarios are there for has happened.
    pub(crate) fn check(&self) {
        let expected = [
            "read whole",
            "reset",
            "starved",
            "never read",
            "read out of order",
            "stopped",
            "session lost",
            "resumed",
            "packet repeated",
            "closed KWIK_SECONDARY_STREAM_ISOLATION",
            "closed KWIK_OFFSET_SYNC_FAILURE",
            "closed KWIK_INVALID_STREAM_ROLE",
            "closed KWIK_INVALID_FRAME",
            "closed KWIK_PATH_DEAD",
            "closed KWIK_NO_ERROR",
            "lease Done",
            "lease Stopped",
            "lease Lost",
            "path it speaks again",
            "path connected again",
            "path silent with bytes outstanding",
            "path silent again and again",
        ];
        for what in expected {
            assert!(self.0.contains_key(what), "{what} never happened: {self}");
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.0.iter().map(|(what, times)| format!("{what} {times}")).collect();
        f.write_str(&counts.join(", "))
    }
}

impl World {
    /// Nobody is granted more than the window has, or than its own allowance.
    pub(crate) fn check_credit(&mut self) {
        let mut broken = None;
        let streams = self.client.session.streams();
        let window = streams.window();
        let mut sum = 0;
        for halves in streams.iter() {
            let Some(recv) = &halves.recv else { continue };
            let recv = recv.lock().unwrap();
            let allowance = window.allowance(halves.id);
            sum += allowance;
            let granted = recv.max_data() - recv.consumed();
            if allowance > 0 && granted > allowance {
                broken = Some((halves.id, granted, allowance));
            }
        }
        let size = window.size();
        if let Some((id, granted, allowance)) = broken {
            self.fail(&format!("{id} was granted {granted} of an allowance of {allowance}"));
        }
        if sum > size {
            self.fail(&format!("allowances of {sum} in a window of {size}"));
        }
    }

    /// A stream ended for its reader: once, with its bytes or an error that the plan permits.
    pub(crate) fn check_end(&mut self, id: StreamId) {
        let reader = &self.client.readers[&id];
        let plan = &self.plan.expected[&id];
        let total = plan.total();
        self.log(|| format!("{id} ended: {:?} at {} of {total}", reader.ended, reader.at));
        let ended = reader.ended.as_ref().unwrap();
        self.covered.count(match ended {
            Ok(()) => "read whole",
            Err(ReadError::Reset(_)) => "reset",
            Err(_) => "starved",
        });
        let fine = match ended {
            Ok(()) => reader.at == total && !plan.may_reset(),
            Err(ReadError::Reset(code)) => *code == 8 && plan.may_reset() && reader.at <= total,
            Err(ReadError::Failed(error)) => {
                error.code == Code::AggregationTimeout && plan.may_starve
            }
            Err(_) => false,
        };
        if !fine {
            let (ended, at) = (reader.ended.clone(), reader.at);
            self.fail(&format!("{id} ended with {ended:?} at {at} of {total}"));
        }
    }

    /// The client's request came whole, unless it was reset.
    pub(crate) fn check_request(&mut self, id: StreamId, at: u64) {
        let plan = &self.plan.expected[&id];
        if at != plan.size && plan.client_reset_at.is_none() {
            self.fail(&format!("{id}: {at} of {} bytes reached the primary", plan.size));
        }
    }

    /// Paths are closed for a reason: honest ones never for a violation, hostile ones with
    /// its code.
    pub(crate) fn check_path_close(&mut self, path: PathId, error: &CodedError) {
        self.covered.count(format!("closed {}", error.code));
        let harmless = matches!(error.code, Code::PathDead | Code::NoError);
        let late = error.context.contains("in time");
        let guilty = self.edges.get(&path).filter(|edge| edge.guilty);
        let deserved = guilty.and_then(|edge| edge.hostility).map(|h| h.code());
        if !harmless && !late && deserved != Some(error.code) {
            self.fail(&format!("path {path} was closed: {error}"));
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        let all = self.client.readers.len() == self.plan.streams.len();
        all && self.client.readers.values().all(|reader| reader.ended.is_some())
    }

    pub(crate) fn fail_stuck(&mut self) -> ! {
        let stats = self.client.session.stats(self.now);
        let streams: Vec<_> = self.client.session.streams().iter().cloned().collect();
        self.fail(&format!("stuck: {stats:#?}\n{streams:#?}"));
    }

    /// Nothing is left of streams that are over.
    pub(crate) fn check_clean(&mut self) {
        let stats = self.client.session.stats(self.now);
        if (stats.streams, stats.leases, stats.pieces) != (0, 0, 0) {
            let streams: Vec<_> = self.client.session.streams().iter().cloned().collect();
            self.fail(&format!("the client keeps {stats:#?}\n{streams:#?}"));
        }
        let duplicates = stats.duplicates;
        let charged = duplicates.moved + duplicates.reclaimed + duplicates.unasked;
        // What a connection that broke had brought comes again on the next, charged to nobody.
        let exact = self.home.resumed == 0;
        let charged = charged + self.home.own;
        if duplicates.moved > duplicates.budget || exact && duplicates.received > charged {
            self.fail(&format!("more came twice than was charged: {duplicates:?}"));
        }
        let window = self.client.session.streams().window();
        if (window.available(), window.lent()) != (window.size(), 0) {
            let status = window.status();
            self.fail(&format!("the client's window leaks: {status:?}"));
        }
        let server = self.primary.session.as_mut().unwrap();
        let (leases, writers) = (server.leases().count(), server.writers());
        let live = server.streams().iter().count();
        let window = server.streams().window();
        let leak = window.size() - window.available();
        if (leases, writers, live, leak) != (0, 0, 0, 0) {
            let streams: Vec<_> = server.streams().iter().cloned().collect();
            self.fail(&format!(
                "the primary keeps {leases} leases, {writers} writers, {leak} bytes; {streams:#?}"
            ));
        }
        for (path, edge) in &self.edges {
            let cut = self.net.links.get(path).is_none_or(|link| link.cut);
            let left = edge.session.as_ref().map_or(0, |session| session.leases());
            if left > 0 && !cut {
                self.fail(&format!("the edge of path {path} keeps {left} writers"));
            }
        }
        for (name, toward) in [("client", Toward::Server), ("primary", Toward::Client)] {
            let sent = self.sent(PathId::PRIMARY, toward).unwrap();
            let outstanding = sent.lock().unwrap().outstanding();
            if outstanding > 0 {
                self.fail(&format!("the {name} waits for acknowledgement of {outstanding} bytes"));
            }
        }
        let primary = self.server().paths().status(PathId::PRIMARY);
        if !matches!(primary, Ok(PathStatus::Active | PathStatus::Degraded)) {
            self.fail(&format!("the primary's own path is {primary:?}"));
        }
    }
}
