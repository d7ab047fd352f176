//! Several servers at once: one KWIK stream that all of them fill under leases, next to one quinn
//! connection to each.

use bytes::Bytes;
use kwik::{Accepted, LeaseWriter};

use super::common::{
    Bare, Bed, FRAME, Kwik, Meter, Metric, Report, Session, Stack, frame, kwik as stack, read_all,
    write_all,
};
use super::throughput::figures;

const METRICS: [Metric; 3] = [
    Metric::ratio("throughput", "Gbit/s").at_least(0.93),
    Metric::ratio("processor time", "s/GiB").at_most(1.05),
    Metric::difference("wire over payload", "%").at_most(0.5),
];

pub fn run(report: &mut Report, bed: &Bed) {
    let bytes = report.options.mib << 20;
    for servers in [2, 3] {
        report.compare(
            &format!("{servers} servers"),
            METRICS,
            || leased(bed, servers, bytes),
            || apart(bed, servers, bytes),
        );
    }
}

/// Each server brings an even part over a connection of its own.
fn apart(bed: &Bed, servers: usize, bytes: usize) -> [f64; 3] {
    let part = bytes / servers;
    let servers: Vec<_> = bed.servers[..servers]
        .iter()
        .map(|runtime| {
            bed.serve_on::<Bare, _>(runtime, move |session| async move {
                let mut stream = session.open_uni().await.unwrap();
                write_all(&mut stream, part).await;
                session.closed().await;
            })
        })
        .collect();
    let clients: Vec<_> = servers.iter().map(|_| bed.client::<Bare>()).collect();
    bed.run(async move {
        let mut sessions = Vec::new();
        for (client, server) in clients.iter().zip(&servers) {
            sessions.push(Bare::connect(client, Bare::address(server)).await);
        }
        let meter = Meter::start();
        let reads = sessions.iter().map(|session| {
            let session = session.clone();
            tokio::spawn(async move { read_all(&mut session.accept_uni().await.unwrap()).await })
        });
        let mut read = 0;
        for task in reads.collect::<Vec<_>>() {
            read += task.await.unwrap();
        }
        let (seconds, cpu) = meter.stop();
        assert_eq!(read, part * servers.len());
        let udp = sessions.iter().map(Session::udp_bytes).sum();
        for (session, client) in sessions.iter().zip(&clients) {
            Session::close(session);
            Bare::wait_idle(client).await;
        }
        figures(seconds, cpu, udp, read)
    })
}

/// The primary reserves the stream and leases all of it to every server, itself included.
fn leased(bed: &Bed, servers: usize, bytes: usize) -> [f64; 3] {
    let endpoints: Vec<_> = (0..servers)
        .map(|number| {
            let _inside = bed.servers[number].enter();
            stack::server(&bed.settings, u8::try_from(number).unwrap())
        })
        .collect();
    for (endpoint, runtime) in endpoints[1..].iter().cloned().zip(&bed.servers[1..]) {
        runtime.spawn(async move {
            let accepted = endpoint.accept().await.unwrap().accept_any().await.unwrap();
            let Accepted::Secondary(session) = accepted else { panic!("not a path") };
            while let Ok(writer) = session.accept_lease().await {
                tokio::spawn(fill(writer));
            }
        });
    }
    let (primary, edges) = (endpoints[0].clone(), endpoints[1..].to_vec());
    bed.servers[0].spawn(async move {
        let accepted = primary.accept().await.unwrap().accept_any().await.unwrap();
        let Accepted::Primary(session) = accepted else { panic!("not a client") };
        let mut paths = Vec::new();
        for edge in &edges {
            let address = edge.local_addr().unwrap();
            paths.push(session.add_path(address, edge.fingerprint().unwrap()).await.unwrap());
        }
        let mut stream = session.session().open_uni().await.unwrap();
        let range = stream.reserve(bytes as u64).unwrap();
        let (own, writer) = session.lease_own(stream.id(), range.clone()).unwrap();
        tokio::spawn(fill(writer));
        let lease = |path| session.lease(stream.id(), range.clone(), path, Bytes::new()).unwrap();
        let leases: Vec<_> = paths.into_iter().map(lease).collect();
        stream.finish().unwrap();
        session.session().closed().await;
        drop((own, leases));
    });
    let client = bed.client::<Kwik>();
    let address = endpoints[0].local_addr().unwrap();
    bed.run(async move {
        let session = Kwik::connect(&client, address).await;
        let mut stream = session.accept_uni().await.unwrap();
        let meter = Meter::start();
        let read = read_all(&mut stream).await;
        let (seconds, cpu) = meter.stop();
        assert_eq!(read, bytes);
        let udp = Session::udp_bytes(&session);
        Session::close(&session);
        Kwik::wait_idle(&client).await;
        figures(seconds, cpu, udp, bytes)
    })
}

/// Writes what is activated, until the lease is over.
async fn fill(mut writer: LeaseWriter) {
    let frame = frame();
    while let Ok(Some(piece)) = writer.activated().await {
        let len = (piece.end - piece.start).min(FRAME as u64) as usize;
        if writer.write_chunk(frame.slice(..len)).await.is_err() {
            return;
        }
    }
}
