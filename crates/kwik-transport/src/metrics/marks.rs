//! What the figures of a session are compared with, when somebody asks what limits it.

use std::time::Duration;

use kwik_proto::bottleneck::{Bottleneck, Marks, Snapshot};

/// The least time that is judged: shorter ones measure how tasks take turns.
const LEAST: Duration = Duration::from_millis(250);

/// The marks that were set last, and those before. However often several ask, at least [`LEAST`]
/// is judged.
#[derive(Debug)]
pub(crate) struct MarkPair {
    earlier: Option<Marks>,
    latest: Marks,
}

impl MarkPair {
    /// What limits a session with these figures, which later ones are compared with.
    pub(crate) fn judge(pair: &mut Option<Box<Self>>, snapshot: &Snapshot) -> Bottleneck {
        let Some(pair) = pair else {
            let first = Self { earlier: None, latest: snapshot.marks() };
            *pair = Some(Box::new(first));
            return Bottleneck::of(snapshot, None);
        };
        if snapshot.at.saturating_duration_since(pair.latest.at) < LEAST {
            return Bottleneck::of(snapshot, pair.earlier.as_ref());
        }
        let latest = std::mem::replace(&mut pair.latest, snapshot.marks());
        let judged = Bottleneck::of(snapshot, Some(&latest));
        pair.earlier = Some(latest);
        judged
    }
}
