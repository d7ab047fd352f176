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
    /// What limits a session with these figures, which later ones are compared with. At a primary
    /// its own path gets the rate at which it sends.
    pub(crate) fn judge(pair: &mut Option<Box<Self>>, snapshot: &mut Snapshot) -> Bottleneck {
        let before = match pair {
            None => {
                let first = Self { earlier: None, latest: snapshot.marks(None) };
                *pair = Some(Box::new(first));
                None
            }
            Some(pair) => {
                if snapshot.at.saturating_duration_since(pair.latest.at) >= LEAST {
                    let next = snapshot.marks(Some(&pair.latest));
                    pair.earlier = Some(std::mem::replace(&mut pair.latest, next));
                }
                pair.earlier.as_ref()
            }
        };
        let judged = Bottleneck::of(snapshot, before);
        let rate = snapshot.send_rate(before);
        if let Some(own) = snapshot.own_path() {
            own.figures.goodput = rate;
        }
        judged
    }
}
