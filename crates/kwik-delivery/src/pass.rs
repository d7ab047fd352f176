//! What a link has beside its fingerprint, so that its holder is let in: a secret, or a ticket.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use blake3::Hash;
use data_encoding::{BASE64URL_NOPAD as BASE64, HEXLOWER};
use kwik::Identity;
use kwik_proto::auth::PublicKey;
use prost::Message;

use crate::{
    ObjectName,
    limits::{MAX_PASS, MAX_SECRET, MIN_SECRET},
    wire,
};

/// Before a ticket; no secret has a dot.
const TICKET: &str = "t.";
/// What a ticket's signature begins with: no other text of this project does.
const LABEL: &[u8] = b"kwik ticket v1";
/// Bytes of an Ed25519 signature.
const SIGNATURE: usize = 64;

/// What lets a client in: a secret that a server shares with all to whom its owner gives the link,
/// or a [`Ticket`]. Whoever has it may use it, so it is shown in links alone, never by `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pass(Box<str>);

impl Pass {
    /// A secret of 128 random bits.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(HEXLOWER.encode(&bytes).into()))
    }

    /// As a link has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a ticket.
    #[must_use]
    pub fn is_ticket(&self) -> bool {
        self.0.starts_with(TICKET)
    }

    /// Two hashes are compared in constant time, whatever the secrets are.
    pub(crate) fn hash(&self) -> Hash {
        blake3::hash(self.0.as_bytes())
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_ticket() { "Pass(ticket)" } else { "Pass(secret)" })
    }
}

impl FromStr for Pass {
    type Err = InvalidPass;
    fn from_str(text: &str) -> Result<Self, InvalidPass> {
        let plain = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let fits = match text.strip_prefix(TICKET) {
            Some(ticket) => text.len() <= MAX_PASS && plain(ticket),
            None => (MIN_SECRET..=MAX_SECRET).contains(&text.len()) && plain(text),
        };
        if fits { Ok(Self(text.into())) } else { Err(InvalidPass) }
    }
}

/// A text that neither is a secret nor looks like a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret is {MIN_SECRET} to {MAX_SECRET} letters, digits, `-` and `_`")]
pub struct InvalidPass;

/// Leads to an object, a folder or all that a server has, until it expires. Made by the server's
/// own identity, which alone can check it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// When it counts no more; in whole seconds.
    pub expires: SystemTime,
    /// The object, or the folder with all that is in it; none for everything.
    pub scope: Option<ObjectName>,
}

impl Ticket {
    /// The text of it that only `identity` can make.
    #[must_use]
    pub fn sign(&self, identity: &Identity) -> Pass {
        let body = wire::Ticket {
            expires: seconds(self.expires),
            scope: self
                .scope
                .as_ref()
                .map(ObjectName::as_bytes)
                .unwrap_or_default()
                .to_vec()
                .into(),
        };
        let mut text = body.encode_to_vec();
        let signature = identity.sign(&[LABEL, &text].concat());
        text.extend_from_slice(signature.as_ref());
        Pass(format!("{TICKET}{}", BASE64.encode(&text)).into())
    }

    /// What `pass` says, if it is a ticket that this key's owner made.
    pub(crate) fn verify(pass: &Pass, issuer: &PublicKey) -> Option<Self> {
        let text = BASE64.decode(pass.0.strip_prefix(TICKET)?.as_bytes()).ok()?;
        let (body, signature) = text.split_at_checked(text.len().checked_sub(SIGNATURE)?)?;
        issuer.verify(&[LABEL, body].concat(), signature).ok()?;
        Self::decode(body)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let scope = self.scope.as_ref().map(ObjectName::as_bytes).unwrap_or_default();
        wire::Ticket { expires: seconds(self.expires), scope: scope.to_vec().into() }
            .encode_to_vec()
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let wire::Ticket { expires, scope } = wire::Ticket::decode(body).ok()?;
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(expires))?;
        let scope = match &scope[..] {
            [] => None,
            scope => Some(ObjectName::new(scope).ok()?),
        };
        Some(Self { expires, scope })
    }

    /// Whether it leads to `name`.
    pub(crate) fn leads_to(&self, name: &ObjectName) -> bool {
        let Some(scope) = &self.scope else { return true };
        name.as_bytes()
            .strip_prefix(scope.as_bytes())
            .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }

    /// For how long it has not counted any more at `now`; none while it does.
    pub(crate) fn expired_for(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.expires).ok()
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ObjectName {
        ObjectName::new(text).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_pass_is_shown_in_links_alone() {
        let secret: Pass = "correct-horse_battery".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "Pass(secret)");
        let random = Pass::random().unwrap();
        assert_eq!(random.as_str().parse(), Ok(random.clone()));
        assert!(random != Pass::random().unwrap() && !random.is_ticket());
        let long = "a".repeat(MAX_SECRET + 1);
        for wrong in
            ["", "short", "a:b:c:d:e:f:g:h:i", "with a space in it", "dots.in.a.secret.no", &long]
        {
            assert_eq!(wrong.parse::<Pass>(), Err(InvalidPass), "{wrong}");
        }
    }

    #[test]
    fn a_ticket_counts_where_it_was_made_and_as_it_was_made() {
        let (own, other) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
        let ticket = Ticket { expires: at(1_800_000_000), scope: Some(name("a/b")) };
        let pass = ticket.sign(&own);
        assert!(pass.is_ticket() && pass.as_str().parse() == Ok(pass.clone()));
        assert_eq!(Ticket::verify(&pass, &own.public_key()), Some(ticket.clone()));
        assert_eq!(Ticket::verify(&pass, &other.public_key()), None);
        // Every byte counts.
        let text = BASE64.decode(&pass.as_str().as_bytes()[2..]).unwrap();
        for at in 0..text.len() {
            let mut forged = text.clone();
            forged[at] ^= 1;
            let forged = Pass(format!("t.{}", BASE64.encode(&forged)).into());
            assert_eq!(Ticket::verify(&forged, &own.public_key()), None);
            let cut = Pass(format!("t.{}", BASE64.encode(&text[..at])).into());
            assert_eq!(Ticket::verify(&cut, &own.public_key()), None);
        }
        let secret = "correct-horse_battery".parse().unwrap();
        assert_eq!(Ticket::verify(&secret, &own.public_key()), None);

        assert_eq!(ticket.expired_for(at(1_799_999_999)), None);
        assert_eq!(ticket.expired_for(at(1_800_000_007)), Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_ticket_leads_to_its_object_or_folder_alone() {
        let to = |scope: Option<&str>| Ticket { expires: at(0), scope: scope.map(name) };
        for (scope, leads, not) in [
            (None, &["a", "a/b"][..], &[][..]),
            (Some("a"), &["a", "a/b", "a/b/c"], &["b", "ab", "a.txt", "b/a"]),
            (Some("a/b"), &["a/b", "a/b/c"], &["a", "a/bc", "a/c"]),
        ] {
            for path in leads {
                assert!(to(scope).leads_to(&name(path)), "{scope:?} {path}");
            }
            for path in not {
                assert!(!to(scope).leads_to(&name(path)), "{scope:?} {path}");
            }
        }
    }
}
