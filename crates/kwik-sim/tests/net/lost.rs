//! Sessions whose primary is away, or gone: how they go on, end, and what follows.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kwik::{
    ClientConfig, ConnectError, ConnectionError, Endpoint, HalfEnd, Identity, Primary, QuicConfig,
    ReadError, ReadToEndError, RecvStream, ServerConfig, Session,
};
use kwik_proto::limits;
use kwik_sim::{Host, Shape, Sim};

use crate::content::{check, content};
use crate::scenario::ms;

/// How an upload ended at the server.
type Upload = Result<u64, ReadToEndError>;

/// Servers that send what they are asked for and take uploads, and a client of theirs.
#[derive(Clone)]
struct Scene {
    sim: Sim,
    quic: QuicConfig,
    servers: Vec<Host>,
    client: Host,
    dialer: Endpoint,
    /// Sessions that servers have accepted, and uploads that have ended.
    accepted: Arc<Mutex<Vec<Session>>>,
    uploads: Arc<Mutex<Vec<Upload>>>,
}

fn near() -> Shape {
    Shape::rate_mbit(20).delay(ms(20))
}

/// The beginning of what servers hold.
fn object(len: u64) -> Bytes {
    let mut all = Vec::new();
    while (all.len() as u64) < len {
        all.extend_from_slice(&content(7, all.len() as u64, len - all.len() as u64));
    }
    all.into()
}

fn identity(server: usize) -> Arc<Identity> {
    Arc::new(Identity::from_seed([server as u8 + 1; 32]))
}

impl Scene {
    fn new(seed: u64, servers: usize, quic: QuicConfig) -> Self {
        let sim = Sim::new(seed);
        let client = sim.host("client");
        let dialer = client.endpoint(0, None, &quic).unwrap();
        let servers = (0..servers).map(|at| sim.host(&format!("server {at}"))).collect();
        let (accepted, uploads) = Default::default();
        let scene = Self { sim, quic, servers, client, dialer, accepted, uploads };
        (0..scene.servers.len()).for_each(|server| scene.start(server));
        scene
    }

    fn start(&self, server: usize) {
        let host = self.servers[server].clone();
        host.link(near());
        let config = ServerConfig::new(identity(server));
        let listener = host.endpoint(4433, Some(config), &self.quic).unwrap();
        let scene = self.clone();
        host.clone().spawn(async move {
            while let Some(incoming) = listener.accept().await {
                let Ok(session) = incoming.await else { continue };
                scene.accepted.lock().unwrap().push(session.clone());
                host.spawn(scene.clone().upload_all(host.clone(), session.clone()));
                host.spawn(send_all(host.clone(), session));
            }
        });
    }

    async fn upload_all(self, host: Host, session: Session) {
        while let Ok(mut stream) = session.accept_uni().await {
            let uploads = self.uploads.clone();
            host.spawn(async move {
                let mut got = 0;
                let end = loop {
                    match stream.read_chunk(usize::MAX, true).await {
                        Ok(Some(chunk)) => {
                            check(7, got, &chunk.bytes);
                            got += chunk.bytes.len() as u64;
                        }
                        Ok(None) => break Ok(got),
                        Err(error) => break Err(error.into()),
                    }
                };
                uploads.lock().unwrap().push(end);
            });
        }
    }

    fn address(&self, server: usize) -> SocketAddr {
        (self.servers[server].address(), 4433).into()
    }

    fn config() -> ClientConfig {
        ClientConfig::pinned(identity(0).fingerprint())
    }

    async fn connect(&self, config: ClientConfig) -> Session {
        let dialed = self.dialer.connect_with(config, self.address(0), "").unwrap().await;
        let session = dialed.unwrap();
        ask(&session, 100).await.read_to_end(100).await.unwrap();
        session
    }

    /// The last session that a server has accepted.
    fn last(&self) -> Session {
        self.accepted.lock().unwrap().last().unwrap().clone()
    }

    fn run<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Self) -> F) {
        self.sim.block_on(work(self.clone()));
        self.sim.end();
    }
}

async fn send_all(host: Host, session: Session) {
    while let Ok((mut send, mut recv)) = session.accept_bi().await {
        host.spawn(async move {
            let Ok(asked) = recv.read_to_end(8).await else { return };
            let len = u64::from_be_bytes(asked[..].try_into().unwrap());
            send.write_chunk(object(len)).await.ok();
            send.finish().ok();
        });
    }
}

/// Asks for so many bytes.
async fn ask(session: &Session, len: u64) -> RecvStream {
    let (mut send, recv) = session.open_bi().await.unwrap();
    send.write_all(&len.to_be_bytes()).await.unwrap();
    send.finish().unwrap();
    recv
}

/// Reads up to `until`, from `at` on.
async fn read(recv: &mut RecvStream, at: &mut u64, until: u64) -> Result<(), ReadError> {
    while *at < until {
        let most = usize::try_from(until - *at).unwrap();
        let Some(chunk) = recv.read_chunk(most, true).await? else { panic!("ends at {at}") };
        check(7, *at, &chunk.bytes);
        *at += chunk.bytes.len() as u64;
    }
    Ok(())
}

/// Whatever the client is at when it closes its session, the server hears of it once the link is
/// back, and does not wait for a client that is gone.
#[test]
fn a_close_while_the_primary_is_away_reaches_it() {
    const MENDED: u64 = 3_000;
    // Dialing, from 1 s of silence on; then a connection stands and waits for its answer.
    let closes = (1_600..MENDED).step_by(200).chain((MENDED..MENDED + 1_200).step_by(20));
    for (at, idle) in closes.flat_map(|at| [(at, 30_000), (at, 1_500)]) {
        let quic = QuicConfig { idle_timeout: ms(idle), ..QuicConfig::default() };
        Scene::new(at, 1, quic).run(|scene| async move {
            let session = scene.connect(Scene::config()).await;
            let mut recv = ask(&session, 4_000_000).await;
            read(&mut recv, &mut 0, 200_000).await.unwrap();
            let began = scene.sim.elapsed();
            scene.servers[0].cut(true);
            let host = scene.servers[0].clone();
            scene.sim.at(began + ms(MENDED), move || host.cut(false));
            scene.sim.sleep(ms(at)).await;
            session.close(7, b"enough");
            let ended = scene.last().closed().await;
            let took = scene.sim.elapsed().saturating_sub(began + ms(at.max(MENDED)));
            let code = matches!(ended, ConnectionError::ApplicationClosed { code: 7, .. });
            assert!(code && took < ms(3_000), "closed at {at}, {idle}: {ended:?} after {took:?}");
        });
    }
}

/// A farewell that nobody hears is given up.
#[test]
fn a_close_while_the_primary_is_gone_ends() {
    Scene::new(1, 1, QuicConfig::default()).run(|scene| async move {
        let session = scene.connect(Scene::config()).await;
        let mut recv = ask(&session, 4_000_000).await;
        read(&mut recv, &mut 0, 200_000).await.unwrap();
        scene.servers[0].crash();
        scene.sim.sleep(ms(2_500)).await;
        session.close(7, b"enough");
        drop((session, recv));
        let began = scene.sim.elapsed();
        scene.dialer.wait_idle().await;
        let took = scene.sim.elapsed() - began;
        // It was tried for as long as that: whoever waits until all is idle waits for it.
        let least = limits::FAREWELL_TIME;
        assert!(least <= took && took < 3 * least, "{took:?}");
    });
}

#[test]
fn how_long_a_client_waits_for_its_primary_is_its_choice() {
    for (resume, least, most) in [(0, 0, 100), (4_000, 4_000, 5_000)] {
        let quic = QuicConfig { idle_timeout: ms(2_000), ..QuicConfig::default() };
        Scene::new(1, 1, quic).run(|scene| async move {
            let mut config = Scene::config();
            config.session.resume_time = ms(resume);
            let session = scene.connect(config).await;
            let mut recv = ask(&session, 4_000_000).await;
            read(&mut recv, &mut 0, 200_000).await.unwrap();
            scene.servers[0].crash();
            let began = scene.sim.elapsed();
            assert_eq!(session.closed().await, ConnectionError::TimedOut);
            // QUIC's idle timeout begins with the last packet that it could send.
            let took = scene.sim.elapsed() - began;
            let bounds = ms(1_900 + least)..ms(4_100 + most);
            assert!(bounds.contains(&took), "{resume}: {took:?}");
        });
    }
}

/// With one QUIC stream at a time, or two, what a stream that was given up had written must not
/// keep the others from repeating theirs.
#[test]
fn a_reset_right_after_a_resumption_harms_no_other_stream() {
    for (uni, idle) in [(1, 30_000), (2, 30_000), (1, 1_500), (2, 1_500)] {
        for after in [0, 1, 10, 40, 60, 100, 200, 500] {
            let idle_timeout = ms(idle);
            let quic = QuicConfig { max_uni_streams: uni, idle_timeout, ..QuicConfig::default() };
            Scene::new(after, 1, quic).run(|scene| async move {
                let session = scene.connect(Scene::config()).await;
                let mut resets = Vec::new();
                for number in 0..6 {
                    let mut send = session.open_uni().await.unwrap();
                    if number % 3 == 0 {
                        send.write_chunk(object(150_000)).await.unwrap();
                        resets.push(send);
                        continue;
                    }
                    scene.client.spawn(async move {
                        send.write_chunk(object(600_000)).await.unwrap();
                        send.finish().unwrap();
                    });
                }
                scene.sim.sleep(ms(300)).await;
                scene.servers[0].cut(true);
                scene.sim.sleep(ms(2_500)).await;
                scene.servers[0].cut(false);
                let back = scene.sim.elapsed();
                // Where the connection was not given up, it may speak before another one stands.
                while session.stats().resumptions == 0 && scene.sim.elapsed() < back + ms(3_000) {
                    scene.sim.sleep(ms(1)).await;
                }
                assert!(idle > 1_500 || session.stats().resumptions == 1);
                scene.sim.sleep(ms(after)).await;
                resets.iter_mut().for_each(|send| send.reset(9).unwrap());
                let end = scene.sim.elapsed() + ms(20_000);
                while scene.uploads.lock().unwrap().len() < 6 {
                    assert!(scene.sim.elapsed() < end, "{uni}, {idle}, {after}: it hangs");
                    scene.sim.sleep(ms(10)).await;
                }
                let mut ends = scene.uploads.lock().unwrap().clone();
                ends.sort_by_key(|end| end.is_ok());
                let reset = Err(ReadError::Reset(9).into());
                let whole = |end: &Upload| *end == Ok(600_000);
                assert!(ends[..2].iter().all(|end| *end == reset), "{ends:?}");
                assert!(ends[2..].iter().all(whole), "{ends:?}");
                session.close(0, b"");
            });
        }
    }
}

/// From a cable to a satellite: what was measured of round trips says nothing any more.
#[test]
fn a_link_that_comes_back_forty_times_longer_is_taken_up() {
    for idle in [3_000, 30_000] {
        for cut in [500, 2_000, 8_000] {
            let quic = QuicConfig { idle_timeout: ms(idle), ..QuicConfig::default() };
            Scene::new(cut, 1, quic).run(|scene| async move {
                scene.servers[0].link(Shape::rate_mbit(20).delay(ms(10)));
                let session = scene.connect(Scene::config()).await;
                let mut upload = session.open_uni().await.unwrap();
                let client = scene.client.clone();
                client.spawn(async move {
                    upload.write_chunk(object(2_000_000)).await.unwrap();
                    upload.finish().unwrap();
                });
                let (mut recv, mut at) = (ask(&session, 4_000_000).await, 0);
                read(&mut recv, &mut at, 1_000_000).await.unwrap();
                scene.servers[0].cut(true);
                scene.sim.sleep(ms(cut)).await;
                scene.servers[0].link(Shape::rate_mbit(20).delay(ms(400)));
                let began = scene.sim.elapsed();
                read(&mut recv, &mut at, 4_000_000).await.unwrap();
                assert_eq!(recv.read_chunk(1, true).await, Ok(None));
                let took = scene.sim.elapsed() - began;
                while scene.uploads.lock().unwrap().is_empty() {
                    scene.sim.sleep(ms(10)).await;
                }
                assert_eq!(scene.uploads.lock().unwrap()[..], [Ok(2_000_000)]);
                // Handshakes and slow start, of 800 ms a round trip.
                assert!(took < ms(20_000), "idle {idle}, cut {cut}: {took:?}");
                session.close(0, b"");
            });
        }
    }
}

/// Little is left, all of it is written, and nobody expects anything any more.
#[test]
fn the_last_bytes_that_a_cut_swallows_come_all_the_same() {
    const LEN: u64 = 2_000_000;
    for (upload, idle) in [(false, 30_000), (false, 2_000), (true, 30_000), (true, 2_000)] {
        // 200 kB take 80 ms, and the last acknowledgement a round trip more.
        for before in (0..=220).step_by(20) {
            let quic = QuicConfig { idle_timeout: ms(idle), ..QuicConfig::default() };
            Scene::new(before, 1, quic).run(|scene| async move {
                let session = scene.connect(Scene::config()).await;
                let host = scene.servers[0].clone();
                let began = scene.sim.elapsed();
                let cut = began + ms(980 - before);
                scene.sim.at(cut, move || host.cut(true));
                let host = scene.servers[0].clone();
                scene.sim.at(cut + ms(5_000), move || host.cut(false));
                if upload {
                    let mut send = session.open_uni().await.unwrap();
                    send.write_chunk(object(LEN)).await.unwrap();
                    send.finish().unwrap();
                    assert_eq!(send.stopped().await, Ok(None));
                    assert_eq!(scene.uploads.lock().unwrap()[..], [Ok(LEN)]);
                } else {
                    let (mut recv, mut at) = (ask(&session, LEN).await, 0);
                    read(&mut recv, &mut at, LEN).await.unwrap();
                    assert_eq!(recv.read_chunk(1, true).await, Ok(None));
                }
                let took = scene.sim.elapsed() - began;
                assert!(took < ms(980 + 5_000 + 2_500), "{upload}, {idle}, {before}: {took:?}");
                session.close(0, b"");
            });
        }
    }
}

fn primaries(scene: &Scene) -> Vec<Primary> {
    let primary = |at| Primary::pinned(scene.address(at), Identity::fingerprint(&identity(at)));
    (0..scene.servers.len()).map(primary).collect()
}

/// The first is killed and stays away: the session's end says what came, and leads to the next.
#[test]
fn a_primary_that_is_gone_is_followed_by_the_next_one() {
    let quic = QuicConfig { idle_timeout: ms(3_000), ..QuicConfig::default() };
    Scene::new(2, 3, quic).run(|scene| async move {
        let session = scene.dialer.connect_any(primaries(&scene)).unwrap().await.unwrap();
        assert_eq!(session.remote_address(), scene.address(0));
        let (mut recv, mut at) = (ask(&session, 4_000_000).await, 0);
        read(&mut recv, &mut at, 1_000_000).await.unwrap();
        let mut upload = session.open_uni().await.unwrap();
        upload.write_chunk(object(10_000)).await.unwrap();
        scene.sim.sleep(ms(100)).await;
        for server in [0, 1] {
            scene.servers[server].crash();
        }
        // What was here when it ended can be read.
        let failed = read(&mut recv, &mut at, 4_000_000).await;
        let end = session.ended().await;
        assert_eq!(failed, Err(end.reason.clone().into()));
        assert_eq!(end.reason, ConnectionError::TimedOut);
        let order = [1, 2, 0].map(|server| scene.address(server));
        assert_eq!(end.primaries, order);
        let told = |id| end.streams.iter().find(|stream| stream.id == id).unwrap();
        let received = told(recv.id()).received.unwrap();
        assert_eq!((received.read, received.consumed), (at, at));
        assert!(at > 1_000_000 && at < 4_000_000, "{at}");
        let sent = told(upload.id()).sent.unwrap();
        assert_eq!((sent.written, sent.acknowledged, sent.end), (10_000, 10_000, HalfEnd::Open));
        // It is told again, and nothing was sent again by itself.
        assert_eq!(session.ended().await.streams, end.streams);
        let next = end.connect().unwrap().await.unwrap();
        assert_eq!(next.remote_address(), scene.address(2));
        assert_eq!(next.stats().streams, 0);
        let (mut recv, mut at) = (ask(&next, 100_000).await, 0);
        read(&mut recv, &mut at, 100_000).await.unwrap();
        // The first comes back, and takes its turn behind the second, which is still away.
        scene.start(0);
        scene.servers[2].crash();
        let end = next.ended().await;
        let again = end.connect().unwrap().await.unwrap();
        assert_eq!(again.remote_address(), scene.address(0));
        ask(&again, 100).await.read_to_end(100).await.unwrap();
        again.close(0, b"");
        let end = again.ended().await;
        assert_eq!((end.reason, end.primaries), (ConnectionError::LocallyClosed, Vec::new()));
        assert_eq!(scene.accepted.lock().unwrap().len(), 3);
    });
}

/// It says so at once, and its new process is a primary like any other.
#[test]
fn a_primary_that_was_restarted_can_be_dialed_again() {
    Scene::new(3, 1, QuicConfig::default()).run(|scene| async move {
        let session = scene.dialer.connect_any(primaries(&scene)).unwrap().await.unwrap();
        let (mut recv, mut at) = (ask(&session, 4_000_000).await, 0);
        read(&mut recv, &mut at, 1_000_000).await.unwrap();
        scene.servers[0].crash();
        scene.sim.sleep(ms(300)).await;
        scene.start(0);
        let began = scene.sim.elapsed();
        let end = session.ended().await;
        assert_eq!(end.reason, ConnectionError::ServerRestarted);
        let again = end.connect().unwrap().await.unwrap();
        let (mut recv, mut at) = (ask(&again, 1_000).await, 0);
        read(&mut recv, &mut at, 1_000).await.unwrap();
        assert!(scene.sim.elapsed() - began < ms(3_000));
        again.close(0, b"");
    });
}

#[test]
fn of_primaries_that_are_all_gone_each_is_named() {
    Scene::new(4, 2, QuicConfig::default()).run(|scene| async move {
        let (a, b) = (scene.address(0), scene.address(1));
        let session = scene.dialer.connect_any(primaries(&scene)).unwrap().await.unwrap();
        ask(&session, 100).await.read_to_end(100).await.unwrap();
        scene.servers.iter().for_each(Host::crash);
        let mut upload = session.open_uni().await.unwrap();
        upload.write_chunk(Bytes::from_static(b"x")).await.unwrap();
        let end = session.ended().await;
        assert_eq!(end.primaries, [b, a]);
        let began = scene.sim.elapsed();
        let failed = end.connect().unwrap().await.unwrap_err();
        let ConnectError::AllFailed(all) = &failed else { panic!("{failed:?}") };
        assert_eq!(all.iter().map(|(address, _)| *address).collect::<Vec<_>>(), [b, a]);
        let text = failed.to_string();
        assert!(text.contains(&a.to_string()) && text.contains(&b.to_string()), "{text}");
        let took = scene.sim.elapsed() - began;
        assert!(took < ms(100_000), "{took:?}");
        // A first session is not waited for as long.
        let began = scene.sim.elapsed();
        let dialed = scene.dialer.connect_any(primaries(&scene)).unwrap().await;
        assert!(matches!(dialed, Err(ConnectError::AllFailed(_))), "{dialed:?}");
        assert!(scene.sim.elapsed() - began < ms(45_000));
        let none = scene.dialer.connect_any([]).map(drop);
        assert!(matches!(none, Err(ConnectError::InvalidConfig(_))), "{none:?}");
        let many = std::iter::repeat_n(primaries(&scene).remove(0), limits::MAX_PRIMARIES + 1);
        assert!(scene.dialer.connect_any(many).is_err());
    });
}

/// What ends a session before anything comes of it ends the next as well.
/// What was read whole is no stream any more when the session ends.
#[test]
fn sessions_that_bring_something_are_not_in_vain() {
    Scene::new(6, 1, QuicConfig::default()).run(|scene| async move {
        let mut dialed = scene.dialer.connect_any(primaries(&scene)).unwrap();
        for _ in 0..2 * limits::MAX_VAIN_SESSIONS {
            let session = dialed.await.unwrap();
            let mut recv = ask(&session, 100).await;
            recv.read_to_end(100).await.unwrap();
            scene.last().close(3, b"no");
            dialed = session.ended().await.connect().unwrap();
        }
    });
}

#[test]
fn sessions_that_end_in_vain_are_not_begun_for_ever() {
    Scene::new(5, 1, QuicConfig::default()).run(|scene| async move {
        let mut dialed = scene.dialer.connect_any(primaries(&scene)).unwrap();
        for number in 1.. {
            let session = dialed.await.unwrap();
            while scene.accepted.lock().unwrap().len() < number {
                scene.sim.sleep(ms(10)).await;
            }
            scene.last().close(3, b"no");
            let end = session.ended().await;
            if end.primaries.is_empty() {
                assert_eq!(number, limits::MAX_VAIN_SESSIONS as usize);
                assert_eq!(end.connect().unwrap_err(), ConnectError::NoPrimary);
                // However late somebody asks.
                scene.sim.sleep(limits::REDIAL_CALM).await;
                assert_eq!(session.ended().await.primaries, []);
                // Each waited longer than the one before.
                assert!(scene.sim.elapsed() > ms(10_000), "{:?}", scene.sim.elapsed());
                return;
            }
            dialed = end.connect().unwrap();
        }
    });
}
