//! Who is believed: servers by their key, clients by their grant and its proof
//! (docs/protocol.md#trust).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::hostile::{self, Peer, visit};
use common::{
    LOOPBACK, Servers, accept_secondary, address, client, echo, identity, serve_echo, server,
    within,
};
use kwik::{
    Accepted, Authenticator, ClientConfig, Code, ConnectError, ConnectionError, Credentials,
    Endpoint, Fingerprint, Identity, Introduction, PathError, PathId, PrivateRanges, ServerConfig,
    ServerTrust, SessionId,
};
use kwik_proto::auth::{Grant, GrantClaims, prove};
use kwik_proto::limits;
use kwik_proto::wire::ControlMessage;
use kwik_proto::wire::control::AuthenticationRequest;

const SESSION: SessionId = SessionId([3; 16]);
const PATH: PathId = PathId(1);

fn strangers() -> Fingerprint {
    identity(99).fingerprint()
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_both_keys_are_named() {
    within(async {
        let servers = Servers::new(0);
        let accepting = tokio::spawn({
            let primary = servers.primary.clone();
            async move { primary.accept().await.unwrap().accept_any().await }
        });
        let dialing =
            client().connect_with(ClientConfig::pinned(strangers()), address(&servers.primary), "");
        let error = dialing.unwrap().await.unwrap_err();
        let ConnectError::PinMismatch { expected, actual } = error else { panic!("{error}") };
        assert_eq!((expected, actual), (strangers(), identity(0).fingerprint()));
        assert!(accepting.await.unwrap().is_err());
    })
    .await;
}

#[tokio::test]
async fn a_captured_key_is_the_servers() {
    within(async {
        let servers = Servers::new(0);
        let config = ClientConfig::new(ServerTrust::Capture);
        let (session, primary) = servers.connect_with(&client(), config).await;
        assert_eq!(session.peer_fingerprint(), servers.primary.fingerprint());
        assert_eq!(primary.session().peer_fingerprint(), None);
    })
    .await;
}

#[tokio::test]
async fn a_path_to_another_key_than_the_primary_named_fails() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let accept = async { servers.edges[0].accept().await.unwrap().accept_any().await };
        let (added, accepted) =
            tokio::join!(primary.add_path(address(&servers.edges[0]), strangers()), accept);
        let Err(PathError::Failed(reason)) = added else { panic!("{added:?}") };
        assert!(reason.contains(&strangers().to_string()), "{reason}");
        assert!(reason.contains(&identity(1).fingerprint().to_string()), "{reason}");
        assert!(accepted.is_err());
        assert_eq!(session.close_reason(), None);
    })
    .await;
}

#[tokio::test]
async fn an_edge_that_does_not_trust_the_primary_says_so_to_it() {
    within(async {
        let servers = Servers::new(0);
        let edge = server(ServerConfig::new(identity(1)));
        let (session, primary) = servers.connect(&client()).await;
        let accept = async { edge.accept().await.unwrap().accept_any().await };
        let add = primary.add_path(address(&edge), identity(1).fingerprint());
        let (added, accepted) = tokio::join!(add, accept);
        let Err(PathError::Failed(reason)) = added else { panic!("{added:?}") };
        assert!(reason.contains(Code::AuthFailed.name()), "{reason}");
        assert!(reason.contains("not trusted here"), "{reason}");
        let Err(ConnectError::Refused(reason)) = accepted else { panic!("{accepted:?}") };
        let primary = identity(0).fingerprint().to_string();
        assert!(reason.contains(&primary), "{reason}");
        assert_eq!(session.close_reason(), None);
    })
    .await;
}

#[tokio::test]
async fn an_edge_that_expects_sessions_only_refuses_paths() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let accept = async { servers.edges[0].accept().await.unwrap().await };
        let add = primary.add_path(address(&servers.edges[0]), identity(1).fingerprint());
        let (added, accepted) = tokio::join!(add, accept);
        let Err(PathError::Failed(reason)) = added else { panic!("{added:?}") };
        assert!(reason.contains(Code::InvalidStreamRole.name()), "{reason}");
        assert!(matches!(accepted, Err(ConnectError::Refused(_))), "{accepted:?}");
        assert_eq!(session.close_reason(), None);
        // The same endpoint takes paths when it is asked to.
        let (path, _) = servers.add_edge(&primary, 0).await;
        assert!(path > PATH);
    })
    .await;
}

/// A visit to an edge of a client that may have got its grant in any way.
struct Visit {
    session: SessionId,
    path: PathId,
    grant: Bytes,
    key: Identity,
}

impl Visit {
    fn claims(key: &Identity) -> GrantClaims {
        GrantClaims {
            session: SESSION,
            path: PATH,
            audience: identity(1).fingerprint(),
            client_key: key.fingerprint(),
        }
    }

    fn good() -> Self {
        let key = Identity::from_seed([4; 32]);
        let grant = Grant::issue(&identity(0), &Self::claims(&key), SystemTime::now());
        Self { session: SESSION, path: PATH, grant, key }
    }

    fn granted(issuer: &Identity, change: impl FnOnce(&mut GrantClaims), now: SystemTime) -> Self {
        let good = Self::good();
        let mut claims = Self::claims(&good.key);
        change(&mut claims);
        Self { grant: Grant::issue(issuer, &claims, now), ..good }
    }
}

/// Visits that are refused, and words of why.
fn bad_visits() -> Vec<(&'static str, Visit)> {
    let (now, none) = (SystemTime::now(), |_: &mut GrantClaims| {});
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let stranger = identity(9);
    let mut forged = Visit::good();
    let mut token = forged.grant.to_vec();
    let at = token.len() / 3;
    token[at] = if token[at] == b'A' { b'B' } else { b'A' };
    forged.grant = token.into();
    let primary = &*identity(0);
    vec![
        ("expired", Visit::granted(primary, none, now - minutes(10))),
        ("in the future", Visit::granted(primary, none, now + minutes(10))),
        ("not trusted here", Visit::granted(&stranger, none, now)),
        ("signature does not match", forged),
        ("for server", Visit::granted(primary, |claims| claims.audience = strangers(), now)),
        (
            "another client key",
            Visit::granted(primary, |claims| claims.client_key = strangers(), now),
        ),
        (
            "another session",
            Visit::granted(primary, |claims| claims.session = SessionId([8; 16]), now),
        ),
        ("another path", Visit::granted(primary, |claims| claims.path = PathId(2), now)),
        ("primary path", Visit::granted(primary, |claims| claims.path = PathId::PRIMARY, now)),
        ("another session", Visit { session: SessionId([9; 16]), ..Visit::good() }),
        ("another path", Visit { path: PathId(7), ..Visit::good() }),
        ("another client key", Visit { key: Identity::from_seed([5; 32]), ..Visit::good() }),
        ("not a PASETO", Visit { grant: Bytes::from_static(b"let me in"), ..Visit::good() }),
        ("not a PASETO", Visit { grant: Bytes::new(), ..Visit::good() }),
    ]
}

#[tokio::test]
async fn bad_grants_are_refused_and_named() {
    within(async {
        let servers = Servers::new(1);
        let edge = &servers.edges[0];
        let serving = edge.clone();
        tokio::spawn(async move {
            while let Some(incoming) = serving.accept().await {
                tokio::spawn(incoming.accept_any());
            }
        });
        let dialer = hostile::dialer();
        for (words, case) in bad_visits() {
            let mut peer = Peer::dial(&dialer, address(edge)).await;
            let exporter = peer.exporter();
            peer.say(visit(&case.key, &exporter, case.session, case.path, case.grant)).await;
            let (code, reason) = peer.closed().await;
            assert_eq!(code, Some(Code::AuthFailed), "{words}: {reason}");
            assert!(reason.contains(words), "{words}: {reason}");
        }
        // The grant alone is worth nothing: a proof of another connection is none.
        let good = Visit::good();
        let other = Peer::dial(&dialer, address(edge)).await;
        let mut thief = Peer::dial(&dialer, address(edge)).await;
        let stolen = visit(&good.key, &other.exporter(), SESSION, PATH, good.grant.clone());
        thief.say(stolen).await;
        let (code, reason) = thief.closed().await;
        assert_eq!(code, Some(Code::AuthFailed), "{reason}");
        assert!(reason.contains("not of this connection"), "{reason}");
        let mut thief = Peer::dial(&dialer, address(edge)).await;
        let exporter = thief.exporter();
        let ControlMessage::AuthenticationRequest(request) =
            visit(&good.key, &exporter, SESSION, PATH, good.grant)
        else {
            unreachable!()
        };
        let thieves = Identity::from_seed([6; 32]);
        let proof = Some(prove(&thieves, &exporter, SESSION, PATH));
        let request = AuthenticationRequest { proof, ..request };
        thief.say(ControlMessage::AuthenticationRequest(request)).await;
        let (code, reason) = thief.closed().await;
        assert_eq!(code, Some(Code::AuthFailed), "{reason}");
    })
    .await;
}

#[tokio::test]
async fn a_refused_client_harms_no_other_of_the_edge() {
    within(async {
        let servers = Servers::new(1);
        let (_session, primary) = servers.connect(&client()).await;
        let (_path, edge) = servers.add_edge(&primary, 0).await;
        let dialer = hostile::dialer();
        // A visitor for the same path of the same session, with a grant of nobody.
        let key = Identity::from_seed([4; 32]);
        let claims = GrantClaims { session: primary.id(), ..Visit::claims(&key) };
        let grant = Grant::issue(&identity(9), &claims, SystemTime::now());
        let visiting = async {
            let mut peer = Peer::dial(&dialer, address(&servers.edges[0])).await;
            let exporter = peer.exporter();
            peer.say(visit(&key, &exporter, primary.id(), edge.path(), grant)).await;
            peer.expect(Code::AuthFailed, "a stranger").await;
        };
        let accept = async { servers.edges[0].accept().await.unwrap().accept_any().await };
        let ((), accepted) = tokio::join!(visiting, accept);
        assert!(accepted.is_err());
        let sequence = primary.send_raw(edge.path(), Bytes::from_static(b"still there")).unwrap();
        assert_eq!(edge.recv_raw().await.unwrap(), &b"still there"[..]);
        assert_eq!(primary.relay_report().await.unwrap().sequence, sequence);
    })
    .await;
}

/// Admits who knows the word.
struct Password;

impl Authenticator for Password {
    fn authenticate(&self, client: &Introduction<'_>) -> Result<Bytes, String> {
        match client.credentials {
            b"swordfish" => Ok("a friend".into()),
            // Proves that both ends have the same value of this very connection.
            shown if shown == client.exporter => Ok("who is on this connection".into()),
            _ => Err("that is not the word".into()),
        }
    }
}

/// Shows what the connection's ends alone know.
#[derive(Debug)]
struct Bound;

impl Credentials for Bound {
    fn credentials(&self, exporter: &[u8; 32]) -> Bytes {
        Bytes::copy_from_slice(exporter)
    }
}

#[tokio::test]
async fn an_authenticator_decides_who_may_be_a_client() {
    within(async {
        let config =
            ServerConfig { authenticator: Arc::new(Password), ..ServerConfig::new(identity(0)) };
        let primary = server(config);
        let serving = primary.clone();
        let (told, mut admitted) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(incoming) = serving.accept().await {
                match incoming.accept_any().await {
                    Ok(Accepted::Primary(primary)) => {
                        told.send(primary.admitted_as()).unwrap();
                        serve_echo(primary.session().clone());
                    }
                    Ok(Accepted::Secondary(_)) => panic!("a path"),
                    Err(error) => {
                        assert!(error.to_string().contains("not the word"), "{error}");
                    }
                }
            }
        });
        let client = client();
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        let session =
            client.connect_with(config.clone(), address(&primary), "").unwrap().await.unwrap();
        let closed = session.closed().await;
        let ConnectionError::ApplicationClosed { code, reason } = closed else {
            panic!("{closed:?}")
        };
        assert_eq!(code, Code::AuthFailed.as_u64());
        assert!(String::from_utf8_lossy(&reason).contains("not the word"));
        assert!(session.open_bi().await.is_err() && session.accept_uni().await.is_err());
        config.session.credentials = Bytes::from_static(b"swordfish");
        let session =
            client.connect_with(config.clone(), address(&primary), "").unwrap().await.unwrap();
        echo(&session).await;
        assert_eq!(admitted.recv().await.unwrap(), "a friend");
        // Made for the connection, in place of the others.
        let bound = ClientConfig { credentials: Some(Arc::new(Bound)), ..config.clone() };
        echo(&client.connect_with(bound, address(&primary), "").unwrap().await.unwrap()).await;
        assert_eq!(admitted.recv().await.unwrap(), "who is on this connection");
        config.session.credentials = vec![0; limits::MAX_CREDENTIALS + 1].into();
        let refused = client.connect_with(config, address(&primary), "");
        assert!(matches!(refused, Err(ConnectError::InvalidConfig(_))));
    })
    .await;
}

#[tokio::test]
async fn contradictory_configurations_are_refused() {
    within(async {
        let mut config = ClientConfig::pinned(strangers());
        config.session.settings.set_initial_window(1).unwrap();
        let refused = client().connect_with(config, "127.0.0.1:9".parse().unwrap(), "");
        assert!(matches!(refused, Err(ConnectError::InvalidConfig(_))));
        let mut config = ServerConfig::new(identity(0));
        config.settings.set_max_stream_buffer(1 << 16).unwrap();
        assert!(Endpoint::server(config, LOOPBACK.parse().unwrap()).is_err());
        let dialed = client().connect("127.0.0.1:9".parse().unwrap(), "");
        assert!(matches!(dialed, Err(ConnectError::NoDefaultClientConfig)));
        let pinned = ClientConfig::pinned(strangers());
        let dialed = client().connect_with(pinned, "127.0.0.1:0".parse().unwrap(), "");
        assert!(matches!(dialed, Err(ConnectError::InvalidRemoteAddress(_))));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_dials_no_private_ranges_tells_the_primary() {
    within(async {
        let servers = Servers::new(0);
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        config.session.dial.private = PrivateRanges::Deny;
        let (_session, primary) = servers.connect_with(&client(), config).await;
        let added = primary.add_path("10.1.2.3:9".parse().unwrap(), strangers()).await;
        let Err(PathError::Failed(reason)) = added else { panic!("{added:?}") };
        assert!(reason.contains("private"), "{reason}");
    })
    .await;
}

#[tokio::test]
async fn one_endpoint_may_be_primary_and_edge_at_once() {
    within(async {
        let key = |seed| identity(seed).fingerprint();
        let both = |own, other| {
            let trusted = [key(other)].into();
            server(ServerConfig { trusted, ..ServerConfig::new(identity(own)) })
        };
        let (one, two) = (both(1, 2), both(2, 1));
        let client = client();
        let mut sessions = Vec::new();
        for (primary, edge, own, other) in [(&one, &two, 1, 2), (&two, &one, 2, 1)] {
            let config = ClientConfig::pinned(key(own));
            let dial = client.connect_with(config, address(primary), "").unwrap();
            let accept = async { primary.accept().await.unwrap().accept_any().await.unwrap() };
            let (session, Accepted::Primary(accepted)) =
                tokio::join!(async { dial.await.unwrap() }, accept)
            else {
                panic!("no client")
            };
            let add = accepted.add_path(address(edge), key(other));
            let (path, second) = tokio::join!(add, accept_secondary(edge));
            assert_eq!((path.unwrap(), second.id()), (second.path(), accepted.id()));
            serve_echo(accepted.session().clone());
            sessions.push((session, accepted, second));
        }
        for (session, ..) in &sessions {
            echo(session).await;
        }
        sessions[0].0.close(3, b"one is enough");
        let (_, _, second) = &sessions[0];
        let closed = second.closed().await;
        assert!(matches!(closed, ConnectionError::ApplicationClosed { code: 3, .. }), "{closed:?}");
        echo(&sessions[1].0).await;
    })
    .await;
}
