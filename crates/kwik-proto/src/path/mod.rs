//! The paths of a session, with their whole history (2.4, 2.5).

mod window;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::wire::control::PathFigures;
use crate::{Code, CodedError, PathId, limits};

mod health;
mod state;

pub use health::Health;
pub(crate) use state::{PathInput, PathState};
pub use window::ConnectionWindow;

pub use crate::wire::control::PathStatus;

/// One path as it stands, or as it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// Its id.
    pub id: PathId,
    /// Where it leads; at a client, as the primary said it.
    pub address: String,
    /// Its state.
    pub status: PathStatus,
    /// Why it has that state; empty when there is nothing to say. A peer's words as they came: show
    /// them with [`escape`](crate::escape).
    pub reason: String,
    /// When it was added.
    pub created_at: Instant,
    /// When it last changed or brought something.
    pub last_active: Instant,
    /// How often it was found dead. What was leased to it before then is lost.
    pub deaths: u32,
    /// It will not come back.
    pub ended: bool,
}

/// A path changed its state (2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathEvent {
    /// Which path.
    pub path: PathId,
    /// Its state from now on.
    pub status: PathStatus,
    /// Why; empty when there is nothing to say. A peer's words as they came: show
    /// them with [`escape`](crate::escape).
    pub reason: String,
    /// What the client knew of it then; none where the primary decided by itself.
    pub figures: Option<PathFigures>,
    /// It will not come back.
    pub ended: bool,
}

/// Paths by id, and those that ended.
#[derive(Debug, Default)]
pub struct PathTable {
    /// Boxed, as the map makes room for several at once.
    paths: BTreeMap<PathId, Box<PathInfo>>,
    ended: VecDeque<PathInfo>,
    next: u32,
}

impl PathTable {
    /// Adds a path under the next free id.
    ///
    /// # Errors
    /// [`limits::MAX_PATHS`] are live.
    pub fn add(&mut self, address: String, now: Instant) -> Result<PathId, CodedError> {
        let id = PathId(self.next);
        self.insert(id, address, now)?;
        Ok(id)
    }

    /// Adds a path that the primary named.
    ///
    /// # Errors
    /// The id was used before or is the largest number, or [`limits::MAX_PATHS`] are live.
    pub fn insert(&mut self, id: PathId, address: String, now: Instant) -> Result<(), CodedError> {
        // After the largest number none would be left that is known to be new.
        if id.0 < self.next || id.0 == u32::MAX {
            let context = format!("path {id} existed already");
            return Err(CodedError::new(Code::InvalidFrame, context));
        }
        if self.paths.len() >= limits::MAX_PATHS {
            let context = format!("a session has at most {} paths", limits::MAX_PATHS);
            return Err(CodedError::new(Code::LimitExceeded, context));
        }
        self.next = id.0 + 1;
        let path = PathInfo {
            id,
            address,
            status: PathStatus::Connecting,
            reason: String::new(),
            created_at: now,
            last_active: now,
            deaths: 0,
            ended: false,
        };
        self.paths.insert(id, path.into());
        Ok(())
    }

    /// A live path's status.
    ///
    /// # Errors
    /// [`Code::PathDead`] when it has ended, [`Code::PathNotFound`] when it never was.
    pub fn status(&self, id: PathId) -> Result<PathStatus, CodedError> {
        match self.paths.get(&id) {
            Some(path) => Ok(path.status),
            None if id.0 < self.next => {
                Err(CodedError::new(Code::PathDead, format!("path {id} has ended")))
            }
            None => Err(CodedError::new(Code::PathNotFound, format!("there is no path {id}"))),
        }
    }

    /// Whether data can go over it.
    #[must_use]
    pub fn is_usable(&self, id: PathId) -> bool {
        self.paths.get(&id).is_some_and(|path| path.status.is_usable())
    }

    /// Changes a path's status. True when that is news.
    pub fn set(&mut self, id: PathId, status: PathStatus, reason: &str, now: Instant) -> bool {
        let Some(path) = self.paths.get_mut(&id) else { return false };
        let news = path.status != status;
        path.status = status;
        path.last_active = now;
        if news {
            path.deaths += u32::from(status == PathStatus::Dead);
            path.reason.clear();
            path.reason.push_str(reason);
        }
        news
    }

    /// Moves a path to the history.
    pub fn end(&mut self, id: PathId, reason: &str, now: Instant) -> bool {
        let Some(mut path) = self.paths.remove(&id) else { return false };
        path.deaths += u32::from(path.status != PathStatus::Dead);
        path.status = PathStatus::Dead;
        path.ended = true;
        path.last_active = now;
        reason.clone_into(&mut path.reason);
        if self.ended.len() == limits::MAX_PATH_HISTORY {
            self.ended.pop_front();
        }
        self.ended.push_back(*path);
        true
    }

    /// Notes that a path brought something.
    pub fn on_active(&mut self, id: PathId, now: Instant) {
        if let Some(path) = self.paths.get_mut(&id) {
            path.last_active = now;
        }
    }

    /// The path has ended, as far as the history reaches.
    #[must_use]
    pub fn has_ended(&self, id: PathId) -> bool {
        self.ended.iter().any(|path| path.id == id)
    }

    /// A path that has not ended.
    #[must_use]
    pub fn path(&self, id: PathId) -> Option<&PathInfo> {
        self.paths.get(&id).map(Box::as_ref)
    }

    /// Paths that have not ended.
    pub fn iter(&self) -> impl Iterator<Item = &PathInfo> {
        self.paths.values().map(Box::as_ref)
    }

    /// Live paths that can carry data (2.4).
    #[must_use]
    pub fn active(&self) -> Vec<PathInfo> {
        self.iter().filter(|path| path.status.is_usable()).cloned().collect()
    }

    /// Live paths that may be given leases, also while they are being dialed.
    #[must_use]
    pub fn leasable(&self) -> Vec<PathInfo> {
        let leasable =
            |path: &&PathInfo| path.status.is_usable() || path.status == PathStatus::Connecting;
        self.iter().filter(leasable).cloned().collect()
    }

    /// Paths that died (2.4).
    #[must_use]
    pub fn dead(&self) -> Vec<PathInfo> {
        let silent = self.iter().filter(|path| path.status == PathStatus::Dead);
        self.ended.iter().chain(silent).cloned().collect()
    }

    /// Every path since the session began, as far as [`limits::MAX_PATH_HISTORY`] reaches (2.4).
    #[must_use]
    pub fn all(&self) -> Vec<PathInfo> {
        let mut all: Vec<_> = self.ended.iter().chain(self.iter()).cloned().collect();
        all.sort_by_key(|path| path.id);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_path_is_dead_and_an_unknown_one_is_not_found() {
        let mut now = crate::test_now();
        let mut table = PathTable::default();
        let id = table.add("a".into(), now).unwrap();
        now += std::time::Duration::from_secs(1);
        assert!(table.set(id, PathStatus::Active, "", now));
        assert!(!table.set(id, PathStatus::Active, "", now));
        assert!(table.end(id, "killed", now));
        assert_eq!(table.status(id).unwrap_err().code, Code::PathDead);
        assert_eq!(table.status(PathId(9)).unwrap_err().code, Code::PathNotFound);
        assert_eq!(table.all()[0].reason, "killed");
        assert!(table.insert(id, "again".into(), now).is_err());
    }
}
