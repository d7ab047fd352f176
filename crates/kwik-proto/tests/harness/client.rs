//! The client's application: readers with moods, and writers of its own streams.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kwik_proto::auth::Identity;
use kwik_proto::session::{ClientConfig, ClientSession, Dial};
use kwik_proto::stream::{Halves, Read, ReadError, SharedRecv, SharedSend};
use kwik_proto::{Config, Dir, PathId, Side, StreamId, limits};

use crate::pipe::{Link, Sink, Toward};
use crate::rng::Rng;
use crate::scenario::Order;
use crate::world::{Event, World, content};

/// The application's end of a stream.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) recv: SharedRecv,
    pub(crate) at: u64,
    /// It loses interest here.
    stop_at: Option<u64>,
    /// Percent of looks after which it pauses.
    sloth: u64,
    order: Order,
    pub(crate) ended: Option<Result<(), ReadError>>,
}

#[derive(Debug)]
pub(crate) struct Writer {
    send: SharedSend,
    left: u64,
    reset_at: Option<u64>,
    over: bool,
}

pub(crate) struct ClientApp {
    pub(crate) session: ClientSession,
    pub(crate) readers: BTreeMap<StreamId, Reader>,
    pub(crate) writers: BTreeMap<StreamId, Writer>,
    pub(crate) pipes: BTreeMap<StreamId, u32>,
}

/// Windows of all sizes, from hardly a datagram per stream.
pub(crate) fn session_config(rng: &mut Rng) -> Config {
    let streams = rng.pick(&[limits::FIRST_FLIGHT_STREAMS, 12, limits::MAX_STREAMS]);
    let floors = limits::FIRST_FLIGHT_DATA * 2 * 3 * streams;
    let least = floors.max(4 * limits::FIRST_STREAM_DATA);
    let initial_window = match rng.below(5) {
        0 => least,
        1 => least + rng.below(100_000),
        2 => least * 8,
        _ => limits::INITIAL_WINDOW.max(least),
    };
    let max_window = initial_window * rng.pick(&[1, 2, 8]);
    let mut config = Config::default();
    config.set_max_streams_bidi(streams).unwrap().set_max_streams_uni(streams).unwrap();
    config.set_initial_window(initial_window).unwrap().set_max_window(max_window).unwrap();
    config.set_stream_buffer(rng.pick(&[1 << 20, 1 << 16, limits::FIRST_FLIGHT_DATA])).unwrap();
    assert_eq!(config.validate(), Ok(()));
    config
}

impl ClientApp {
    pub(crate) fn new(settings: Config, now: Instant) -> Self {
        let config = ClientConfig { settings, ..ClientConfig::default() };
        let primary = SocketAddr::from(([127, 0, 0, 1], 4433));
        let session = ClientSession::new(config, Identity::from_seed([1; 32]), primary, now);
        Self { session, readers: BTreeMap::new(), writers: BTreeMap::new(), pipes: BTreeMap::new() }
    }
}

impl World {
    pub(crate) fn dial(&mut self, dial: &Dial) {
        self.log(|| format!("dial {dial:?}"));
        if self.edges.get(&dial.path).is_some_and(|edge| edge.down_until > self.now) {
            return;
        }
        if self.rng.chance(95) {
            let delay = self.rng.millis(1..=200);
            self.after(delay, Event::Connected(dial.path));
        }
    }

    pub(crate) fn on_connected(&mut self, path: PathId) {
        // Given up meanwhile.
        if !self.edges.contains_key(&path) {
            return;
        }
        let link = Link::random(&mut self.rng, self.now);
        self.add_link(path, link);
        let now = self.now;
        if !self.session().handle_connected(path, &exporter(path), now) {
            return self.remove_link(path);
        }
        let rtt = self.net.links[&path].delay * 2;
        self.session().on_rtt(path, rtt);
    }

    /// The connections measure their round trips now and then.
    pub(crate) fn measure_rtt(&mut self) {
        let measured: Vec<_> =
            self.net.links.iter().map(|(path, link)| (*path, link.delay * 2)).collect();
        for (path, rtt) in measured {
            let rtt = rtt + self.rng.micros(0..=2000);
            self.session().on_rtt(path, rtt);
            if let (true, Some(server)) = (path.is_primary(), &mut self.primary.session) {
                server.on_rtt(rtt);
            }
        }
    }

    pub(crate) fn start_client_reader(&mut self, halves: &Halves) {
        let Some(recv) = halves.recv.clone() else { return };
        let id = halves.id;
        let expected = self.plan.expected.get(&id);
        let Some(expected) = expected else { self.fail(&format!("{id} opened by itself")) };
        let reader = Reader {
            recv,
            at: 0,
            stop_at: expected.stop_at,
            sloth: expected.sloth,
            order: expected.order,
            ended: None,
        };
        if self.client.readers.insert(id, reader).is_some() {
            self.fail(&format!("{id} was accepted twice"));
        }
        let delay = self.rng.micros(0..=1000);
        self.after(delay, Event::Read(Side::Client, id));
    }

    pub(crate) fn client_reads(&mut self, id: StreamId) {
        let Some(reader) = self.client.readers.get_mut(&id) else { return };
        if reader.ended.is_some() {
            return;
        }
        if self.rng.chance(reader.sloth) {
            let pause = self.rng.millis(1..=150);
            return self.after(pause, Event::Read(Side::Client, id));
        }
        let never = reader.order == Order::Never;
        if self.is_waiting(id) {
            return self.after(Duration::from_millis(20), Event::Read(Side::Client, id));
        }
        let Some(reader) = self.client.readers.get_mut(&id) else { return };
        if never || reader.stop_at.is_some_and(|at| reader.at >= at) {
            if never {
                self.covered.count("never read");
            }
            reader.ended = Some(Err(ReadError::Stopped));
            self.covered.count("stopped");
            self.log(|| format!("the reader stops {id}"));
            return self.client.session.stop(id, 7, self.now);
        }
        let recv = reader.recv.clone();
        let max = if self.rng.chance(70) { 1 << 20 } else { self.rng.len(70_000) + 1 };
        let max = usize::try_from(max).unwrap();
        let mut chunks = 1 + self.rng.below(8);
        let (again, due) = loop {
            let result = if reader.order == Order::Unordered {
                recv.lock().unwrap().read_unordered(max)
            } else {
                recv.lock().unwrap().read(max).map(|read| (reader.at, read))
            };
            match result {
                Ok((at, Read::Data(data))) => {
                    let end = at + data.len() as u64;
                    if data != content(id, Side::Server, at..end) {
                        self.fail(&format!("{id}: wrong bytes in {at}..{end}"));
                    }
                    if at > reader.at {
                        self.covered.count("read out of order");
                    }
                    reader.at += data.len() as u64;
                }
                Ok((_, Read::Blocked)) => break (false, recv.lock().unwrap().is_update_due()),
                Ok((_, Read::Finished)) => reader.ended = Some(Ok(())),
                Err(error) => reader.ended = Some(Err(error)),
            }
            chunks -= 1;
            let ended = reader.ended.is_some();
            if ended || chunks == 0 {
                break (!ended, recv.lock().unwrap().is_update_due());
            }
        };
        if reader.ended.is_some() {
            self.check_end(id);
        }
        if due {
            self.client.session.on_consumed(id, self.now);
        }
        if again {
            let delay = self.rng.micros(0..=200);
            self.after(delay, Event::Read(Side::Client, id));
        }
    }

    /// Whether a stream is not to be read yet.
    fn is_waiting(&self, id: StreamId) -> bool {
        let all = self.client.readers.len() == self.plan.streams.len();
        let mut others = self.client.readers.iter().filter(|(_, other)| other.ended.is_none());
        match self.client.readers[&id].order {
            Order::Ordered | Order::Unordered => false,
            Order::LastFirst => others.any(|(o, r)| *o > id && r.order == Order::LastFirst),
            Order::Never => !all || others.any(|(_, other)| other.order != Order::Never),
        }
    }

    /// Opens a bidirectional stream of the client's; later if the limit is reached.
    pub(crate) fn client_opens(&mut self, index: usize) {
        let now = self.now;
        let Some(halves) = self.session().streams_mut().open(Dir::Bi, now) else {
            return self.after(Duration::from_millis(5), Event::Open(index));
        };
        let pipe = self.add_pipe(PathId::PRIMARY, Toward::Server, Sink::data());
        let stream = self.plan.open_client_stream(index, halves.id).clone();
        self.log(|| format!("the client opens {} for {stream:?}", halves.id));
        let send = halves.send.clone().unwrap();
        let writer =
            Writer { send, left: stream.size, reset_at: stream.client_reset_at, over: false };
        self.client.writers.insert(halves.id, writer);
        self.client.pipes.insert(halves.id, pipe);
        self.start_client_reader(&halves);
        self.pump(pipe, Duration::ZERO);
    }

    pub(crate) fn client_writes(&mut self, pipe: u32) {
        let found = self.client.pipes.iter().find(|(_, p)| **p == pipe);
        let Some(id) = found.map(|(id, _)| *id) else { return };
        let Some(writer) = self.client.writers.get_mut(&id).filter(|w| !w.over) else { return };
        let want = (1 + self.rng.len(64 * 1024 - 1)).min(writer.left);
        let mut send = writer.send.lock().unwrap();
        if writer.reset_at.is_some_and(|at| send.cursor() >= at) {
            writer.over = true;
            drop(send);
            return self.client.session.streams_mut().reset(id, 9);
        }
        // Stopped by the peer: there is nobody to write to.
        let Ok(range) = send.commit(want) else {
            writer.over = true;
            return;
        };
        writer.left -= range.end - range.start;
        let fin = writer.left == 0 && (range.is_empty() || self.rng.chance(50));
        if fin {
            send.finish().unwrap();
            writer.over = true;
        }
        drop(send);
        // Without credit, the next one wakes this writer.
        if !range.is_empty() || fin {
            let body = content(id, Side::Client, range.clone());
            self.send_frame(pipe, id, range.start, body, fin);
            if !fin {
                self.pump(pipe, Duration::ZERO);
            }
        }
        if fin {
            self.session().streams_mut().retire(id);
        }
    }
}

/// Keying material of a path's connection, the same at both ends.
pub(crate) fn exporter(path: PathId) -> [u8; 32] {
    let mut exporter = [0; 32];
    exporter[..4].copy_from_slice(&path.0.to_be_bytes());
    exporter
}
