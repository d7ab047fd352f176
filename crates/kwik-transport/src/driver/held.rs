//! Who holds a session.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use super::role::{Role, StreamRole};
use super::shared::{AnyShared, Shared};

/// A session as its application holds it. When the last is dropped the session is closed, as in
/// quinn.
pub(crate) struct Held<M: ?Sized> {
    shared: Arc<Shared<M>>,
    last: Arc<CloseOnDrop>,
}

struct CloseOnDrop(AnyShared);

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
        f.debug_struct("Held").field("home", &self.shared.home.path).finish_non_exhaustive()
    }
}

/// A session that its application may let go.
pub(crate) struct WeakHeld<M: ?Sized> {
    shared: Weak<Shared<M>>,
    last: Weak<CloseOnDrop>,
}

impl<M: ?Sized> WeakHeld<M> {
    pub(crate) fn new(held: &Held<M>) -> Self {
        Self { shared: Arc::downgrade(&held.shared), last: Arc::downgrade(&held.last) }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.shared.strong_count() == 0
    }

    pub(crate) fn upgrade(&self) -> Option<Held<M>> {
        Some(Held { shared: self.shared.upgrade()?, last: self.last.upgrade()? })
    }
}

impl<M: ?Sized> fmt::Debug for WeakHeld<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakHeld").finish_non_exhaustive()
    }
}
