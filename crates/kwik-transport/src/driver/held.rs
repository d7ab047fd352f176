//! Who holds a session.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::{AnyShared, Role, Shared, StreamRole};

/// A session as its application holds it. When the last is dropped the session is closed, as in
/// quinn.
pub(crate) struct Held<M: ?Sized> {
    shared: Arc<Shared<M>>,
    last: Arc<CloseOnDrop>,
}

pub(crate) struct CloseOnDrop(AnyShared);

impl fmt::Debug for CloseOnDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloseOnDrop").finish_non_exhaustive()
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(0, b"");
    }
}

impl<M: Role> Held<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>) -> Self {
        let last = Arc::new(CloseOnDrop(shared.clone()));
        Self { shared, last }
    }
}

impl<M: StreamRole> Held<M> {
    /// The same session, whatever its role.
    pub(crate) fn streams(&self) -> Held<dyn StreamRole> {
        Held { shared: self.shared.clone(), last: self.last.clone() }
    }
}

impl<M: ?Sized> Held<M> {
    /// For who keeps it weakly: what is shared, and what closes it.
    pub(crate) fn parts(&self) -> (&Arc<Shared<M>>, &Arc<CloseOnDrop>) {
        (&self.shared, &self.last)
    }

    pub(crate) fn from_parts(shared: Arc<Shared<M>>, last: Arc<CloseOnDrop>) -> Self {
        Self { shared, last }
    }
}

impl<M: ?Sized> Clone for Held<M> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), last: self.last.clone() }
    }
}

impl<M: ?Sized> Deref for Held<M> {
    type Target = Shared<M>;

    fn deref(&self) -> &Shared<M> {
        &self.shared
    }
}

impl<M: ?Sized> fmt::Debug for Held<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("home", &self.shared.home).finish_non_exhaustive()
    }
}
