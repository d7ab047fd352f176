//! What a server says of itself.

use super::{FetchError, Progress, ask::Answer};
use crate::Client;
use crate::{About, InvalidMessage, Response};

/// What a server says of itself, now and whenever that changes. Dropping it ends that.
#[derive(Debug)]
pub struct News {
    about: About,
    answer: Answer,
}

impl Client {
    /// Asks the server about itself. Cancel safe.
    ///
    /// # Errors
    /// When the server is of an older version and does not know that request, answers nonsense or
    /// nothing, or the session ends.
    pub async fn news(&self) -> Result<News, FetchError> {
        let mut answer = self.ask_for(About::request(), &Progress::default()).await?;
        match std::mem::replace(&mut answer.response, Response::Noted) {
            Response::About(about) => Ok(News { about, answer }),
            other => Err(other.unexpected()),
        }
    }
}

impl News {
    /// What it said last.
    #[must_use]
    pub const fn about(&self) -> &About {
        &self.about
    }

    /// Waits until it says something else, for ever if need be: false when it will not, as it
    /// tells one asker of a session alone. Cancel safe.
    ///
    /// # Errors
    /// When it says nonsense, or the session ends.
    pub async fn changed(&mut self) -> Result<bool, FetchError> {
        match self.answer.next().await? {
            Some(Response::About(about)) => {
                self.about = about;
                Ok(true)
            }
            Some(_) => Err(InvalidMessage::Malformed.into()),
            None => Ok(false),
        }
    }
}
