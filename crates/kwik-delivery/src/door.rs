//! Who is let in to fetch, and what a client shows for that.

use std::{
    collections::BTreeSet,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use blake3::Hash;
use bytes::Bytes;
use kwik::{Authenticator, Credentials, Identity, Introduction};
use kwik_proto::auth::PublicKey;
use prost::Message;

use crate::{Failure, FailureCode, Fingerprint, ObjectName, Pass, Ticket, wire};

/// What a client's signature begins with: no other text of this project does.
const LABEL: &[u8] = b"kwik client v1";

/// Who may fetch from a server, asked before a session takes a place and before a file is looked
/// at. It goes to `ServerConfig::authenticator` and to [`Server::with_door`](crate::Server). Paths
/// of other servers' sessions are not asked: those need the grant of a trusted primary.
///
/// Of the ways in, any one is enough.
#[derive(Debug)]
pub struct Door {
    open: bool,
    secret: Option<Hash>,
    /// Whose tickets count.
    issuer: Option<PublicKey>,
    /// None when clients are not told apart.
    clients: Option<Mutex<BTreeSet<Fingerprint>>>,
    /// For this server's own sessions with itself.
    own: Pass,
}

impl Door {
    /// Lets everybody in who reaches the server.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn open() -> io::Result<Self> {
        Ok(Self { open: true, ..Self::closed()? })
    }

    /// Lets nobody in, but by the ways that are added.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn closed() -> io::Result<Self> {
        let own = Pass::random()?;
        Ok(Self { open: false, secret: None, issuer: None, clients: None, own })
    }

    /// Lets in who knows the secret.
    #[must_use]
    pub fn with_secret(self, secret: &Pass) -> Self {
        Self { secret: Some(secret.hash()), ..self }
    }

    /// Lets in who has a [`Ticket`] that this identity signed, to where that leads.
    #[must_use]
    pub fn with_tickets(self, issuer: &Identity) -> Self {
        Self { issuer: Some(issuer.public_key()), ..self }
    }

    /// Lets in the clients with these keys.
    #[must_use]
    pub fn with_clients(self, clients: BTreeSet<Fingerprint>) -> Self {
        Self { clients: Some(clients.into()), ..self }
    }

    /// Lets in these clients from now on, where [`with_clients`](Self::with_clients) let in some.
    /// Sessions that are under way go on.
    pub fn set_clients(&self, clients: BTreeSet<Fingerprint>) {
        if let Some(known) = &self.clients {
            // The set is whole between statements, so a panic elsewhere leaves it usable.
            *known.lock().unwrap_or_else(PoisonError::into_inner) = clients;
        }
    }

    fn knows(&self, client: &Fingerprint) -> bool {
        let known = |clients: &Mutex<BTreeSet<_>>| {
            clients.lock().unwrap_or_else(PoisonError::into_inner).contains(client)
        };
        self.clients.as_ref().is_some_and(known)
    }

    /// What the server shows to itself.
    pub(crate) fn own_visitor(&self) -> Visitor {
        Visitor { pass: Some(self.own.clone()), identity: None }
    }

    fn decide(
        &self,
        credentials: &[u8],
        exporter: &[u8; 32],
        now: SystemTime,
    ) -> Result<Admission, Refusal> {
        match Shown::read(credentials, exporter) {
            Ok(shown) => self.admit(&shown, now),
            // Where nothing is asked for, nothing that is shown is wrong.
            Err(_) if self.open => Ok(Admission::default()),
            Err(refusal) => Err(refusal),
        }
    }

    fn admit(&self, shown: &Shown, now: SystemTime) -> Result<Admission, Refusal> {
        let Shown { pass, client } = shown;
        let client = *client;
        let everything = Admission { client, ticket: None };
        if self.open {
            return Ok(everything);
        }
        if client.is_some_and(|client| self.knows(&client)) {
            return Ok(everything);
        }
        let Some(pass) = pass else { return Err(self.asks_for(client)) };
        let hash = pass.hash();
        if hash == self.own.hash() || self.secret == Some(hash) {
            return Ok(everything);
        }
        match (pass.is_ticket(), &self.issuer) {
            (true, Some(issuer)) => {
                let ticket = Ticket::verify(pass, issuer).ok_or(Refusal::Foreign)?;
                match ticket.expired_for(now) {
                    Some(since) => Err(Refusal::Expired(since)),
                    None => Ok(Admission { client, ticket: Some(ticket) }),
                }
            }
            (false, _) if self.secret.is_some() => Err(Refusal::WrongSecret),
            _ => Err(self.asks_for(client)),
        }
    }

    fn asks_for(&self, client: Option<Fingerprint>) -> Refusal {
        match (self.secret.is_some(), self.clients.is_some(), client) {
            (true, ..) => Refusal::Secret,
            (_, true, Some(client)) => Refusal::Unknown(client),
            (_, true, None) => Refusal::Nameless,
            _ if self.issuer.is_some() => Refusal::Secret,
            _ => Refusal::Edge,
        }
    }
}

impl Authenticator for Door {
    fn authenticate(&self, client: &Introduction<'_>) -> Result<Bytes, String> {
        let admitted = self.decide(client.credentials, client.exporter, client.wall);
        admitted.map(|admitted| admitted.encode()).map_err(|refusal| refusal.to_string())
    }
}

/// Why a client is not let in, for itself and the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("this server asks for a secret: take the whole link")]
    Secret,
    #[error("the link's secret is not this server's: ask its owner for a new link")]
    WrongSecret,
    #[error("the link was not made by this server: ask its owner for a new one")]
    Foreign,
    #[error("the link expired {} ago: ask its owner for a new one", Ago(*.0))]
    Expired(Duration),
    #[error(
        "this server lets in clients that it knows: send its owner what `kwik identity` prints"
    )]
    Nameless,
    #[error("this server does not know the key {0} of this client: send it to its owner")]
    Unknown(Fingerprint),
    #[error("this server is an edge of others: take the link of its primary")]
    Edge,
    #[error("the client's credentials make no sense: update the older side")]
    Malformed,
    #[error("the client did not prove its key")]
    Unproven,
}

/// A time that has passed, in its largest unit.
struct Ago(Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..60 => write!(f, "{seconds} s"),
            60..3600 => write!(f, "{} min", seconds / 60),
            3600..86_400 => write!(f, "{} h", seconds / 3600),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

/// What a client showed.
#[derive(Debug, Default)]
struct Shown {
    pass: Option<Pass>,
    /// The key that it proved on this connection.
    client: Option<Fingerprint>,
}

impl Shown {
    fn read(credentials: &[u8], exporter: &[u8; 32]) -> Result<Self, Refusal> {
        let credentials = wire::Credentials::decode(credentials);
        let wire::Credentials { pass, client_key, signature } =
            credentials.map_err(|_| Refusal::Malformed)?;
        let pass = match &*pass {
            "" => None,
            pass => Some(pass.parse().map_err(|_| Refusal::WrongSecret)?),
        };
        let client = match &client_key[..] {
            [] => None,
            key => {
                let key = PublicKey::try_from(key).map_err(|_| Refusal::Malformed)?;
                let message = [LABEL, exporter].concat();
                key.verify(&message, &signature).map_err(|_| Refusal::Unproven)?;
                Some(key.fingerprint())
            }
        };
        Ok(Self { pass, client })
    }
}

/// What a client shows of itself. A pass is sent as it is, within a connection to the server whose
/// key is pinned: use it for no other. A key is proven for each connection, and is of no use to
/// who sees that.
#[derive(Debug, Clone, Default)]
pub struct Visitor {
    /// What its link has.
    pub pass: Option<Pass>,
    /// Who it is, for servers that know their clients; without it, it is nobody.
    pub identity: Option<Arc<Identity>>,
}

impl Credentials for Visitor {
    fn credentials(&self, exporter: &[u8; 32]) -> Bytes {
        let mut shown = wire::Credentials::default();
        if let Some(pass) = &self.pass {
            shown.pass = pass.as_str().to_owned();
        }
        if let Some(identity) = &self.identity {
            let signature = identity.sign(&[LABEL, exporter].concat());
            shown.client_key = Bytes::copy_from_slice(&identity.public_key().0);
            shown.signature = Bytes::copy_from_slice(signature.as_ref());
        }
        shown.encode_to_vec().into()
    }
}

/// What a client was let in as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Admission {
    /// The key that it proved.
    pub(crate) client: Option<Fingerprint>,
    /// Where it may go; none for everywhere.
    ticket: Option<Ticket>,
}

impl Admission {
    /// The key's 32 bytes or none after their number, and the ticket.
    fn encode(&self) -> Bytes {
        let mut text = Vec::new();
        match &self.client {
            Some(client) => {
                text.push(32);
                text.extend_from_slice(&client.0);
            }
            None => text.push(0),
        }
        if let Some(ticket) = &self.ticket {
            text.push(1);
            text.extend_from_slice(&ticket.encode());
        }
        text.into()
    }

    /// What a [`Door`] said; none when it was none that did.
    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let (length, rest) = text.split_first()?;
        let (client, rest) = rest.split_at_checked(usize::from(*length))?;
        let client = match client {
            [] => None,
            key => Some(Fingerprint(key.try_into().ok()?)),
        };
        let ticket = match rest {
            [] => None,
            [_, ticket @ ..] => Some(Ticket::decode(ticket)?),
        };
        Some(Self { client, ticket })
    }

    /// Whether it leads to a part alone, or ends.
    pub(crate) const fn is_limited(&self) -> bool {
        self.ticket.is_some()
    }

    /// Whether it may know what is in a folder; without one, in all that is served.
    pub(crate) fn check_list(
        &self,
        folder: Option<&ObjectName>,
        now: SystemTime,
    ) -> Result<(), Failure> {
        match (folder, self.ticket.as_ref().and_then(|ticket| ticket.scope.as_ref())) {
            (Some(folder), _) => self.check(folder, true, now),
            (None, Some(scope)) => {
                let message = format!("the link leads to {scope} alone: name that");
                Err(Failure { code: FailureCode::Forbidden, message })
            }
            (None, None) => self.check_expired(now),
        }
    }

    /// Whether it may have an object: one that it `begins` to fetch now, or one that it began to
    /// fetch in time.
    pub(crate) fn check(
        &self,
        name: &ObjectName,
        begins: bool,
        now: SystemTime,
    ) -> Result<(), Failure> {
        let Some(ticket) = &self.ticket else { return Ok(()) };
        let forbidden = |message: String| Err(Failure { code: FailureCode::Forbidden, message });
        if !ticket.leads_to(name) {
            return forbidden(format!("the link does not lead to {name}: take the link to that"));
        }
        if begins { self.check_expired(now) } else { Ok(()) }
    }

    fn check_expired(&self, now: SystemTime) -> Result<(), Failure> {
        match self.ticket.as_ref().and_then(|ticket| ticket.expired_for(now)) {
            Some(since) => {
                let message = Refusal::Expired(since).to_string();
                Err(Failure { code: FailureCode::Forbidden, message })
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
