//! Metrics, as tests compare them with what they did.

use kwik::{Endpoint, Session, Value};

use super::object;

pub const NONE: &[(&str, &str)] = &[];

/// The number with these labels, or 0.
pub fn number(endpoint: &Endpoint, name: &str, labels: &[(&str, &str)]) -> u64 {
    let families = endpoint.metrics();
    let family = families.iter().find(|family| family.name == name).expect(name);
    let sample = family.samples.iter().find(|sample| sample.labels == labels);
    match sample.map(|sample| sample.value) {
        None => 0,
        Some(Value::Number(number)) => number,
        Some(Value::Time(time)) => time.as_micros() as u64,
        Some(Value::Times(times)) => times.counts.iter().sum(),
    }
}

/// `found` is `sent` to one percent.
pub fn about(found: u64, sent: u64) {
    assert!(found.abs_diff(sent) * 100 <= sent, "{found} is not {sent}");
}

/// The client sends so much to the primary, which reads it all.
pub async fn upload(from: &Session, to: &Session, bytes: u64) {
    let write = async {
        let mut send = from.open_uni().await.unwrap();
        send.write_chunk(object(0..bytes)).await.unwrap();
        send.finish().unwrap();
    };
    let read = async { to.accept_uni().await.unwrap().read_to_end(bytes as usize).await.unwrap() };
    let ((), read) = tokio::join!(write, read);
    assert_eq!(read.len() as u64, bytes);
}
