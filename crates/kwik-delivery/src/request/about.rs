//! What a server says of itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::{InvalidMessage, frame};
use crate::{
    Link,
    limits::{DELIVERY_VERSION, MAX_SUCCESSORS},
    wire,
};

/// Primary to client: what a server says of itself. It is no more than its word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its clock, in whole milliseconds.
    pub time: SystemTime,
    /// It begins nothing new, and ends before long.
    pub ending: bool,
    /// Servers to go on with once it has ended, the first choice first: links without a name, which
    /// pin their keys; at most [`MAX_SUCCESSORS`].
    pub successors: Vec<Link>,
}

impl About {
    /// The request for it, with its length prefix.
    pub(crate) fn request() -> Bytes {
        let part = Some(wire::request::Part::About(wire::AskAbout {}));
        frame(&wire::Request { name: Bytes::new(), version: DELIVERY_VERSION, part })
    }

    pub(super) fn to_wire(&self) -> wire::About {
        let since = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let successors = self.successors.iter().take(MAX_SUCCESSORS);
        wire::About {
            time: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            ending: self.ending,
            successors: successors.map(ToString::to_string).collect(),
        }
    }

    pub(super) fn from_wire(about: &wire::About) -> Result<Self, InvalidMessage> {
        let wire::About { time, ending, successors } = about;
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(*time));
        let link = |text: &String| {
            let link: Link = text.parse().ok()?;
            (link.fingerprint.is_some() && link.name.is_none()).then_some(link)
        };
        let successors: Option<Vec<_>> = successors.iter().map(link).collect();
        match (time, successors) {
            (Some(time), Some(successors)) if successors.len() <= MAX_SUCCESSORS => {
                Ok(Self { time, ending: *ending, successors })
            }
            _ => Err(InvalidMessage::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::{Call, Request, Response};

    fn decode(about: wire::About) -> Result<Option<Response>, InvalidMessage> {
        let outcome = Some(wire::response::Outcome::About(about));
        Response::decode(&mut BytesMut::from(frame(&wire::Response { outcome })))
    }

    #[test]
    fn what_a_server_says_of_itself_round_trips() {
        assert_eq!(Call::decode(&mut About::request().into()), Ok(Some(Call::About)));
        // It is no request for an object.
        let object = Request::decode(&mut About::request().into());
        assert_eq!(object, Err(InvalidMessage::Malformed));
        let link = |host: &str| format!("kwik://{}@{host}:1", "ab".repeat(32)).parse().unwrap();
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        for successors in [Vec::new(), vec![link("h"), link("[::1]")]] {
            let about = About { time, ending: !successors.is_empty(), successors };
            let sent = Response::About(about.clone()).encode();
            assert_eq!(Response::decode(&mut sent.into()), Ok(Some(Response::About(about))));
        }
    }

    #[test]
    fn successors_pin_their_keys_and_are_few() {
        let pin = "ab".repeat(32);
        let good = format!("kwik://{pin}@h:1");
        let about = |successors: &[&str]| {
            let successors = successors.iter().map(|link| (*link).to_owned()).collect();
            decode(wire::About { time: 0, ending: true, successors })
        };
        assert!(about(&[&*good; MAX_SUCCESSORS]).is_ok());
        assert_eq!(about(&[&*good; MAX_SUCCESSORS + 1]), Err(InvalidMessage::Malformed));
        for wrong in ["", "h:1", "kwik://h:1", &format!("{good}/x"), &format!("kwik://{pin}@h:0")] {
            assert_eq!(about(&[&good, wrong]), Err(InvalidMessage::Malformed), "{wrong}");
        }
        let late = wire::About { time: u64::MAX, ..Default::default() };
        assert!(matches!(decode(late), Ok(_) | Err(InvalidMessage::Malformed)));
    }
}
