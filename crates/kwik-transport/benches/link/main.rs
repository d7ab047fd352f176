//! KWIK next to bare quinn, in turn, between two hosts: one server sends one stream. Run it
//! with bench/lab/one-link.sh.
//!
//! `link -- [--mib N] serve ADDRESS` serves, at four ports from the address's on, until it is
//! killed; `link -- [--rounds N] [--mib N] get ADDRESS` measures: from the same call of the client
//! to the same read.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures are rounded anyway"
)]

#[path = "../common/mod.rs"]
mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use common::{
    BATCH, Bare, Bed, Kwik, Metric, Options, Recv, Report, Send, Session, Stack, read_exact,
    write_all,
};

/// Who makes the stream.
#[derive(Debug, Clone, Copy)]
enum Made {
    /// The server does as soon as it has a session.
    ByServer,
    /// The client does, and asks.
    ByClient,
}

const CASES: [(&str, Made); 2] =
    [("the server's stream", Made::ByServer), ("the client's stream", Made::ByClient)];

/// Both fill the link, and 0.03 % of what it carries are the headers of KWIK's packets.
const NO_SLOWER: f64 = 1.001;

fn main() {
    let mut options = Options::parse();
    let [what, address] = &std::mem::take(&mut options.names)[..] else {
        panic!("serve ADDRESS, or get ADDRESS")
    };
    let address: SocketAddr = address.parse().unwrap();
    options.settings.client = (Ipv4Addr::UNSPECIFIED, 0).into();
    let mut bed = Bed::new(options.settings.clone());
    match what.as_str() {
        "serve" => serve(&mut bed, address, options.mib << 20),
        "get" => get(Report::new(options), &bed, address),
        _ => panic!("serve or get"),
    }
}

/// Each case has a port for KWIK, and the next for quinn.
fn at(mut address: SocketAddr, case: usize) -> [SocketAddr; 2] {
    [0, 1].map(|stack| {
        address.set_port(address.port() + 2 * case as u16 + stack);
        address
    })
}

fn serve(bed: &mut Bed, address: SocketAddr, bytes: usize) {
    let mut served = (Vec::new(), Vec::new());
    for (case, (_, made)) in CASES.into_iter().enumerate() {
        let [kwik, bare] = at(address, case);
        bed.settings.server = kwik;
        served.0.push(bed.serve::<Kwik, _>(move |session| send(session, made, bytes)));
        bed.settings.server = bare;
        served.1.push(bed.serve::<Bare, _>(move |session| send(session, made, bytes)));
    }
    println!("ready");
    bed.servers[0].block_on(std::future::pending::<()>());
}

/// Sends, and says afterwards how many packets were lost.
async fn send<S: Session>(session: S, made: Made, bytes: usize) {
    let mut stream = match made {
        Made::ByServer => session.open_uni().await.unwrap(),
        Made::ByClient => {
            let (send, mut recv) = session.accept_bi().await.unwrap();
            assert!(read_exact(&mut recv, 1).await);
            send
        }
    };
    write_all(&mut stream, bytes).await;
    let (mut answer, _asks) = session.accept_bi().await.unwrap();
    answer.write_chunk(Bytes::copy_from_slice(&session.lost_packets().to_be_bytes())).await;
    session.closed().await;
}

fn get(mut report: Report, bed: &Bed, address: SocketAddr) {
    let bytes = report.options.mib << 20;
    report.bench("link", |report| {
        for (case, (name, made)) in CASES.into_iter().enumerate() {
            let metrics = [
                Metric::ratio("from dialing to the end", "s").at_most(NO_SLOWER),
                Metric::ratio("from the first byte to the end", "s").at_most(NO_SLOWER),
                Metric::ratio("from dialing to the first byte", "ms"),
                Metric::difference("lost packets", "").at_most(0.0),
            ];
            let [kwik, bare] = at(address, case);
            report.compare(
                name,
                metrics,
                || download::<Kwik>(bed, kwik, made, bytes),
                || download::<Bare>(bed, bare, made, bytes),
            );
        }
    });
    report.finish();
}

fn download<S: Stack>(bed: &Bed, address: SocketAddr, made: Made, bytes: usize) -> [f64; 4] {
    let client = bed.client::<S>();
    bed.run(async move {
        let dialed = Instant::now();
        let session = S::connect(&client, address).await;
        let mut stream = match made {
            Made::ByServer => session.accept_uni().await.unwrap(),
            Made::ByClient => {
                let (mut send, recv) = session.open_bi().await;
                send.write_chunk(Bytes::from_static(b"?")).await;
                send.finish();
                recv
            }
        };
        let (mut chunks, mut read, mut first) = (vec![Bytes::new(); BATCH], 0, None);
        while let Some(filled) = stream.read_chunks(&mut chunks).await {
            first.get_or_insert_with(Instant::now);
            read += chunks[..filled].iter_mut().map(|c| std::mem::take(c).len()).sum::<usize>();
        }
        let (ended, first) = (Instant::now(), first.unwrap());
        assert_eq!(read, bytes);

        let (mut ask, mut answer) = session.open_bi().await;
        ask.finish();
        let mut lost = Vec::new();
        while lost.len() < size_of::<u64>() {
            lost.extend(answer.read_chunk(usize::MAX).await.unwrap());
        }
        session.close();
        S::wait_idle(&client).await;
        let lost = u64::from_be_bytes(lost[..].try_into().unwrap());
        [
            (ended - dialed).as_secs_f64(),
            (ended - first).as_secs_f64(),
            (first - dialed).as_secs_f64() * 1e3,
            lost as f64,
        ]
    })
}
