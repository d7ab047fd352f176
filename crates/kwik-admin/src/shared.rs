//! One look at the sessions for all who look at about the same time: pages ask each second, each of
//! them for a list and for all of one session.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::body::Bytes;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::limits::{MAX_SHARED, SHARED_FOR};

/// Answers that were made a moment ago, by what was asked for: a session's name, or none for the
/// list.
#[derive(Debug, Default)]
pub(crate) struct Shared(Mutex<BTreeMap<Option<String>, (Instant, Bytes)>>);

impl Shared {
    /// The answer that is there, or else a new one. While one makes it, others wait for it, and
    /// keep no thread from the sessions.
    pub(crate) async fn answer(
        &self,
        session: Option<&str>,
        now: Instant,
        look: impl FnOnce() -> Option<Value>,
    ) -> Option<Bytes> {
        let mut answers = self.0.lock().await;
        answers.retain(|_, (at, _)| now.saturating_duration_since(*at) < SHARED_FOR);
        let key = session.map(str::to_owned);
        if let Some((_, answer)) = answers.get(&key) {
            return Some(answer.clone());
        }
        let answer = Bytes::from(format!("{}\n", look()?));
        if answers.len() < MAX_SHARED {
            answers.insert(key, (now, answer.clone()));
        }
        Some(answer)
    }

    /// Something was changed: who asks now sees it.
    pub(crate) async fn forget(&self) {
        self.0.lock().await.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn who_looks_at_once_sees_the_same_and_a_change_is_seen_at_once() {
        let (shared, start, looks) = (Shared::default(), Instant::now(), Cell::new(0));
        let ask = async |session: Option<&str>, now: Instant| {
            let look = || {
                looks.set(looks.get() + 1);
                Some(json!(looks.get()))
            };
            String::from_utf8(shared.answer(session, now, look).await.unwrap().to_vec()).unwrap()
        };
        for _ in 0..100 {
            assert_eq!(ask(None, start).await, "1\n");
        }
        assert_eq!(ask(Some("0-1"), start).await, "2\n");
        assert_eq!(ask(None, start + SHARED_FOR).await, "3\n");
        shared.forget().await;
        assert_eq!(ask(None, start + SHARED_FOR).await, "4\n");
        assert!(shared.answer(Some("0-2"), start, || None).await.is_none());
        for other in 0..1_000 {
            ask(Some(&other.to_string()), start + SHARED_FOR).await;
        }
        assert!(shared.0.lock().await.len() <= MAX_SHARED);
    }
}
