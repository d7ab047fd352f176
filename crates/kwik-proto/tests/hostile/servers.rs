//! A primary and a secondary against a hostile client.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use kwik_proto::auth::{AcceptAny, Identity};
use kwik_proto::session::{
    AcceptContext, Accepted, Action, ClientConfig, ClientSession, Machine, PrimarySession,
    SecondarySession, accept,
};
use kwik_proto::stream::Halves;
use kwik_proto::wire::control::AddPathResponse;
use kwik_proto::wire::{ControlDecoder, ControlMessage as M};
use kwik_proto::{Config, Dir, PathId, SessionId, Side, StreamId};

use crate::choices::Choices;
use crate::messages::{self, keep};
use crate::victim::Victim;

const EXPORTER: [u8; 32] = [0; 32];
const EDGE: PathId = PathId(1);
const WALL: Duration = Duration::from_secs(1_800_000_000);

fn identity(which: usize) -> &'static Arc<Identity> {
    static ALL: OnceLock<[Arc<Identity>; 2]> = OnceLock::new();
    &ALL.get_or_init(|| [1, 2].map(|seed| Arc::new(Identity::from_seed([seed; 32]))))[which]
}

fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + WALL
}

fn accepted(first: &M, which: usize, now: Instant) -> Accepted {
    let trusted = BTreeSet::from([identity(0).fingerprint()]);
    let context = AcceptContext {
        identity: identity(which),
        trusted: &trusted,
        authenticator: &AcceptAny,
        settings: &Config::default(),
        exporter: &EXPORTER,
        session_id: SessionId([5; 16]),
        now,
        wall: wall(),
    };
    accept(first, &context).expect("an honest introduction is accepted")
}

fn decode(decoder: &mut ControlDecoder, bytes: Bytes) -> Vec<M> {
    decoder.handle_input(bytes);
    std::iter::from_fn(|| decoder.poll_frame().expect("frames of ours decode")).collect()
}

fn introduced(now: Instant) -> (ClientSession, PrimarySession) {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let key = Identity::from_seed([1; 32]);
    let mut client = ClientSession::new(ClientConfig::default(), key, address, now);
    let (_, first) = client.poll_transmit(now).expect("a client introduces itself");
    let first = decode(&mut ControlDecoder::new(), first);
    let Accepted::Primary(primary) = accepted(&first[0], 0, now) else {
        panic!("a client came as a path")
    };
    (client, *primary)
}

/// A primary whose application leases, and whose client does what it likes: the steps until its
/// end.
pub(crate) fn play_primary(choices: &mut Choices<'_>, steps: usize, now: Instant) -> usize {
    let (_, machine) = introduced(now);
    let mut victim = Victim::new(machine, now);
    let (mut streams, mut own) = (Vec::<Halves>::new(), 0);
    for step in 0..steps {
        if victim.closed || choices.is_empty() {
            return step;
        }
        match choices.below(32) {
            0..6 => {
                victim.settle();
                let before = victim.bytes_out;
                apply_own(&mut victim, choices, &mut streams);
                settle_primary(&mut victim);
                own += victim.bytes_out - before;
            }
            6..20 => {
                let message = messages::to_primary(choices, &victim.heard);
                victim.say(PathId::PRIMARY, &message);
            }
            20..23 => receive(&mut victim, choices),
            23 if choices.chance(20) => {
                let cycle = messages::cycle(choices, &victim.heard);
                for message in cycle.iter().cycle().take(600) {
                    victim.say(PathId::PRIMARY, message);
                    settle_primary(&mut victim);
                }
            }
            24 if choices.chance(10) => {
                let message = messages::any(choices, &victim.heard);
                victim.say(PathId::PRIMARY, &message);
            }
            _ => victim.pass(choices.time()),
        }
        settle_primary(&mut victim);
        victim.check_answers(own);
    }
    steps
}

fn settle_primary(victim: &mut Victim<PrimarySession>) {
    for _ in 0..100 {
        let actions = victim.settle();
        let grants = actions.into_iter().filter_map(|action| match action {
            Action::RenewGrant(path) => Some(path),
            _ => None,
        });
        let grants: Vec<_> = grants.collect();
        if grants.is_empty() {
            return;
        }
        for path in grants {
            victim.machine.renew_grant(path, victim.now, wall());
        }
    }
    panic!("grants bring about grants without end");
}

/// What the application does by itself.
fn apply_own(
    victim: &mut Victim<PrimarySession>,
    choices: &mut Choices<'_>,
    streams: &mut Vec<Halves>,
) {
    let now = victim.now;
    let machine = &mut victim.machine;
    let path = PathId(choices.below(3) as u32);
    match choices.below(10) {
        0 | 1 => {
            let Some(halves) = machine.streams_mut().open(Dir::Uni, now) else { return };
            keep(&mut victim.heard.streams, halves.id);
            streams.push(halves);
        }
        2..5 => {
            let Some(halves) = choices.pick(streams) else { return };
            let Some(send) = &halves.send else { return };
            let reserved = send.lock().expect("nobody panics").reserve(1 + choices.below(100_000));
            if let Ok(range) = reserved {
                machine.lease(halves.id, range, path, Bytes::from_static(b"go"), now).ok();
            }
        }
        5 | 6 => {
            let key = identity(1).fingerprint();
            machine.add_path("127.0.0.1:2", key, now, wall()).ok();
        }
        7 => drop(machine.send_raw(path, Bytes::from_static(b"raw"), now)),
        8 => {
            let Some(halves) = choices.pick(streams) else { return };
            machine.streams_mut().reset(halves.id, 3);
        }
        _ if choices.chance(20) => drop(machine.remove_path(path, now)),
        _ => {
            if let Some(lease) = choices.pick(&victim.heard.leases) {
                machine.revoke(lease.lease_id, now);
            }
        }
    }
}

fn receive(victim: &mut Victim<PrimarySession>, choices: &mut Choices<'_>) {
    let stream = StreamId::new(Side::Client, Dir::Uni, choices.below(6));
    let (now, machine) = (victim.now, &mut victim.machine);
    let data = Bytes::from(vec![7; choices.below(2_000) as usize]);
    let offset = choices.below(3_000);
    let result = match machine.streams_mut().receiving(PathId::PRIMARY, stream, now) {
        Ok(None) => return,
        Ok(Some(recv)) => {
            recv.lock().expect("nobody panics").receive(PathId::PRIMARY, offset, data)
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(_) => machine.on_received(stream, now),
        Err(error) => machine.handle_violation(PathId::PRIMARY, &error, now),
    }
}

/// A secondary that gets leases of its primary through a client that does what it likes.
pub(crate) fn play_secondary(choices: &mut Choices<'_>, steps: usize, now: Instant) -> usize {
    let (mut mint, mut minted, machine) = joined(now);
    let mut victim = Victim::new(machine, now);
    let mut leases = Vec::new();
    let mut writers = Vec::new();
    for step in 0..steps {
        if victim.closed || choices.is_empty() {
            return step;
        }
        match choices.below(32) {
            0..5 => {
                if let Some(halves) = mint.streams_mut().open(Dir::Uni, now)
                    && let Some(send) = &halves.send
                {
                    let range = send.lock().expect("nobody panics").reserve(100_000);
                    let range = range.expect("a new stream has room");
                    mint.lease(halves.id, range, EDGE, Bytes::from_static(b"go"), now).ok();
                }
                while let Some((_, bytes)) = mint.poll_transmit(now) {
                    leases.extend(decode(&mut minted, bytes));
                }
                for lease in leases.drain(..).filter(|message| matches!(message, M::Lease(_))) {
                    victim.heard.note(&lease);
                    victim.say(EDGE, &lease);
                }
            }
            5..16 => {
                let message = messages::to_secondary(choices, &victim.heard);
                victim.say(EDGE, &message);
            }
            16..22 => {
                writers.extend(victim.machine.accept_lease());
                for writer in &writers {
                    let mut writer = kwik_proto::sync::lock(writer);
                    while writer.commit(1 + choices.below(100_000)).is_some() {}
                }
            }
            22 => {
                if let Some(lease) = choices.pick(&victim.heard.leases) {
                    let id = lease.lease_id;
                    victim.machine.abandon(id, "no", victim.now);
                }
            }
            23 if choices.chance(10) => {
                let message = messages::any(choices, &victim.heard);
                victim.say(EDGE, &message);
            }
            _ => victim.pass(choices.time()),
        }
        victim.settle();
        victim.check_answers(0);
    }
    steps
}

/// A secondary with its client's path, and the primary that signs for it.
fn joined(now: Instant) -> (PrimarySession, ControlDecoder, SecondarySession) {
    let (mut client, mut primary) = introduced(now);
    let key = identity(1).fingerprint();
    primary.add_path("127.0.0.1:2", key, now, wall()).expect("there is room for a path");
    let mut to_client = ControlDecoder::new();
    while let Some((_, bytes)) = primary.poll_transmit(now) {
        for message in decode(&mut to_client, bytes) {
            client.handle_control(PathId::PRIMARY, message, now);
        }
    }
    assert!(client.handle_connected(EDGE, &EXPORTER, now));
    let first = std::iter::from_fn(|| client.poll_transmit(now))
        .find(|(path, _)| *path == EDGE)
        .expect("a client introduces itself to an edge");
    let first = decode(&mut ControlDecoder::new(), first.1);
    let Accepted::Secondary(edge) = accepted(&first[0], 1, now) else {
        panic!("a path came as a client")
    };
    let joined = M::AddPathResponse(AddPathResponse { path_id: EDGE, result: Ok(()) });
    primary.handle_control(PathId::PRIMARY, joined, now);
    (primary, to_client, *edge)
}
