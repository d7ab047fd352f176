//! One face for both: the same work is written once.

use std::future::Future;
use std::marker::Send as Sendable;
use std::net::SocketAddr;

use bytes::Bytes;

use super::Settings;

/// KWIK, or bare quinn.
pub trait Stack: 'static {
    type Server: Clone + Sendable + Sync + 'static;
    type Client: Clone + Sendable + Sync + 'static;
    type Incoming: Sendable + 'static;
    type Session: Session;

    /// In the runtime in which it shall run.
    fn server(settings: &Settings) -> Self::Server;
    /// In the runtime in which it shall run.
    fn client(settings: &Settings) -> Self::Client;
    fn address(server: &Self::Server) -> SocketAddr;
    /// Ends all sessions, and accepts no more.
    fn close(server: &Self::Server);
    fn accept(server: &Self::Server) -> impl Future<Output = Option<Self::Incoming>> + Sendable;
    fn establish(
        incoming: Self::Incoming,
    ) -> impl Future<Output = Option<Self::Session>> + Sendable;
    fn connect(
        client: &Self::Client,
        address: SocketAddr,
    ) -> impl Future<Output = Self::Session> + Sendable;
    fn wait_idle(client: &Self::Client) -> impl Future<Output = ()> + Sendable;
}

/// None and false say that it is over.
pub trait Session: Clone + Sendable + Sync + 'static {
    type Send: Send;
    type Recv: Recv;

    fn open_bi(&self) -> impl Future<Output = (Self::Send, Self::Recv)> + Sendable;
    fn accept_bi(&self) -> impl Future<Output = Option<(Self::Send, Self::Recv)>> + Sendable;
    fn open_uni(&self) -> impl Future<Output = Option<Self::Send>> + Sendable;
    fn accept_uni(&self) -> impl Future<Output = Option<Self::Recv>> + Sendable;
    fn close(&self);
    fn closed(&self) -> impl Future<Output = ()> + Sendable;
    /// UDP payload sent and received, over all paths.
    fn udp_bytes(&self) -> u64;
    /// QUIC packets that this side has lost.
    fn lost_packets(&self) -> u64;
}

pub trait Send: Sendable + 'static {
    fn write_chunk(&mut self, chunk: Bytes) -> impl Future<Output = bool> + Sendable;
    fn finish(&mut self);
}

pub trait Recv: Sendable + 'static {
    fn read_chunk(&mut self, max: usize) -> impl Future<Output = Option<Bytes>> + Sendable;
    fn read_chunks(
        &mut self,
        chunks: &mut [Bytes],
    ) -> impl Future<Output = Option<usize>> + Sendable;
}

/// The two have the same calls.
macro_rules! implement {
    ($session:ty, $send:ty, $recv:ty, $close:expr, $udp:expr, $lost:expr) => {
        impl $crate::common::Session for $session {
            type Send = $send;
            type Recv = $recv;

            async fn open_bi(&self) -> ($send, $recv) {
                self.open_bi().await.unwrap()
            }

            async fn accept_bi(&self) -> Option<($send, $recv)> {
                self.accept_bi().await.ok()
            }

            async fn open_uni(&self) -> Option<$send> {
                self.open_uni().await.ok()
            }

            async fn accept_uni(&self) -> Option<$recv> {
                self.accept_uni().await.ok()
            }

            fn close(&self) {
                self.close($close, b"");
            }

            async fn closed(&self) {
                self.closed().await;
            }

            fn udp_bytes(&self) -> u64 {
                $udp(self)
            }

            fn lost_packets(&self) -> u64 {
                $lost(self)
            }
        }

        impl $crate::common::Send for $send {
            async fn write_chunk(&mut self, chunk: bytes::Bytes) -> bool {
                self.write_chunk(chunk).await.is_ok()
            }

            fn finish(&mut self) {
                self.finish().ok();
            }
        }

        impl $crate::common::Recv for $recv {
            async fn read_chunk(&mut self, max: usize) -> Option<bytes::Bytes> {
                self.read_chunk(max, true).await.ok().flatten().map(|chunk| chunk.bytes)
            }

            async fn read_chunks(&mut self, chunks: &mut [bytes::Bytes]) -> Option<usize> {
                self.read_chunks(chunks).await.ok().flatten()
            }
        }
    };
}
pub(crate) use implement;
