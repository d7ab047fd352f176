//! Raw packets carry a protocol of its own between a primary and a secondary (6.1, 11.3).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]

#[path = "../examples/raw_protocol.rs"]
mod raw_protocol;

#[tokio::test]
async fn a_protocol_of_its_own_goes_through_the_client() {
    let run = raw_protocol::run("greeting", 22);
    let read = tokio::time::timeout(std::time::Duration::from_secs(30), run).await;
    assert_eq!(read.expect("the example hangs").expect("it runs"), "said to the edge alone");
}
