//! Peers that speak QUIC themselves and KWIK by hand, so that they may break its rules.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kwik::{Code, Identity, PathId, SessionId};
use kwik_proto::auth::{EXPORTER_LABEL, prove};
use kwik_proto::limits;
use kwik_proto::wire::control::{
    self, Ack, Activate, AuthenticationRequest, AuthenticationResponse, Heartbeat, Lease,
    RawPacketTransmission, Resume, StreamLimits,
};
use kwik_proto::wire::{ControlDecoder, ControlMessage, StreamKind, raw};
use prost::Message as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;

use super::proto::{DataFrame, DataPacket, Field, message};

/// One connection with its control stream, at either end.
pub struct Peer {
    pub connection: quinn::Connection,
    pub send: quinn::SendStream,
    pub recv: quinn::RecvStream,
    /// Kept alive with the connection.
    pub endpoint: quinn::Endpoint,
    decoder: ControlDecoder,
    next_frame: u64,
    /// Says what it has heard: an edge does not.
    acknowledges: bool,
}

/// A socket that dials.
pub fn dialer() -> quinn::Endpoint {
    quinn::Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap()
}

/// A socket that serves as `identity`.
pub fn listener(identity: &Identity) -> quinn::Endpoint {
    let key = PrivatePkcs8KeyDer::from(identity.pkcs8_der().to_vec());
    let signer = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["kwik".to_owned()]).unwrap();
    let chain = vec![certificate.self_signed(&signer).unwrap().der().clone()];
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    tls.alpn_protocols = vec![limits::ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    quinn::Endpoint::server(config, super::LOOPBACK.parse().unwrap()).unwrap()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A connection of a client that names these protocols besides ours.
pub async fn handshake(
    endpoint: &quinn::Endpoint,
    address: SocketAddr,
    protocols: Vec<Vec<u8>>,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    tls.alpn_protocols = protocols;
    tls.alpn_protocols.push(limits::ALPN.to_vec());
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    endpoint.connect_with(config, address, "kwik").unwrap().await
}

impl Peer {
    /// Dials, and opens a control stream on which nothing was said yet.
    pub async fn dial(endpoint: &quinn::Endpoint, address: SocketAddr) -> Self {
        let connection = handshake(endpoint, address, Vec::new()).await.unwrap();
        let (send, recv) = connection.open_bi().await.unwrap();
        Self::new(endpoint, connection, send, recv)
    }

    /// Accepts a client and its control stream; its first frame waits to be received.
    pub async fn accept(endpoint: &quinn::Endpoint) -> Self {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (send, recv) = connection.accept_bi().await.unwrap();
        Self::new(endpoint, connection, send, recv)
    }

    fn new(
        endpoint: &quinn::Endpoint,
        connection: quinn::Connection,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    ) -> Self {
        let (endpoint, decoder) = (endpoint.clone(), ControlDecoder::new());
        Self { connection, send, recv, endpoint, decoder, next_frame: 0, acknowledges: true }
    }

    /// Dials a primary and is let in.
    pub async fn join(endpoint: &quinn::Endpoint, address: SocketAddr) -> Self {
        let mut peer = Self::dial(endpoint, address).await;
        peer.say(introduction(&Identity::from_seed([9; 32]))).await;
        let ControlMessage::AuthenticationResponse(response) = peer.hear().await else {
            panic!("no answer to the introduction")
        };
        assert!(response.result.is_ok());
        peer
    }

    /// The session that it joined.
    pub async fn join_as(
        endpoint: &quinn::Endpoint,
        address: SocketAddr,
        key: &Identity,
    ) -> (Self, SessionId) {
        let mut peer = Self::dial(endpoint, address).await;
        peer.say(introduction(key)).await;
        let ControlMessage::AuthenticationResponse(response) = peer.hear().await else {
            panic!("no answer to the introduction")
        };
        (peer, response.result.unwrap())
    }

    /// Says what a client says that takes its session up, proving `key`.
    pub async fn ask_to_resume(&mut self, key: &Identity, session: SessionId, resume: Resume) {
        let exporter = self.exporter();
        self.say(visit(key, &exporter, session, PathId::PRIMARY, Bytes::new())).await;
        self.say(ControlMessage::Resume(resume)).await;
    }

    /// The server's answer to that; the peer goes on where both are.
    pub async fn hear_resumed(&mut self, handled: u64) -> Resume {
        let ControlMessage::AuthenticationResponse(response) = self.hear().await else {
            panic!("no answer to the introduction")
        };
        assert!(response.result.is_ok());
        let ControlMessage::Resume(resume) = self.hear().await else { panic!("no resumption") };
        self.decoder.go_on_at(handled);
        self.next_frame = resume.frame_id;
        resume
    }

    /// Control frames that came.
    pub fn heard(&self) -> u64 {
        self.decoder.frames()
    }

    /// Accepts a client and lets it in, as a primary or an edge.
    pub async fn welcome(endpoint: &quinn::Endpoint) -> Self {
        let mut peer = Self::accept(endpoint).await;
        let ControlMessage::AuthenticationRequest(request) = peer.hear().await else {
            panic!("no introduction")
        };
        peer.acknowledges = request.session_id.is_none();
        let session = request.session_id.unwrap_or(SessionId([5; 16]));
        peer.say(ControlMessage::AuthenticationResponse(welcome(session))).await;
        peer
    }

    /// Sends a frame as it should be.
    pub async fn say(&mut self, message: ControlMessage) {
        let mut encoded = BytesMut::new();
        control::encode(self.next_frame, &message, &mut encoded);
        self.next_frame += 1;
        self.say_bytes(&encoded).await;
    }

    /// Sends a frame of that type with that payload, whatever they are.
    pub async fn say_frame(&mut self, number: i32, payload: Vec<u8>) {
        let frame = self.frame(self.next_frame, number, &payload);
        self.next_frame += 1;
        self.say_bytes(&frame).await;
    }

    /// An encoded frame, whatever it is.
    pub fn frame(&self, frame_id: u64, number: i32, payload: &[u8]) -> Vec<u8> {
        let number = u64::from_ne_bytes(i64::from(number).to_ne_bytes());
        let fields = [(1, Field::Number(frame_id)), (2, Field::Number(number))];
        delimited(&message(&[&fields[..], &[(3, Field::Bytes(payload))]].concat()))
    }

    /// The frame id that is due.
    pub fn due(&self) -> u64 {
        self.next_frame
    }

    /// Sends bytes on the control stream; a peer that closed already is no matter.
    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.ok();
    }

    fn acknowledge(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let control_frames = self.decoder.frames();
        let ack = Ack { control_frames, ..Ack::default() };
        Box::pin(self.say(ControlMessage::Ack(ack)))
    }

    /// The next control frame.
    pub async fn hear(&mut self) -> ControlMessage {
        loop {
            if let Some(message) = self.decoder.poll_frame().unwrap() {
                // Who hears many has to say so, or no more are sent.
                if self.acknowledges && self.decoder.frames().is_multiple_of(1000) {
                    self.acknowledge().await;
                }
                return message;
            }
            let chunk = self.recv.read_chunk(usize::MAX, true).await.unwrap().unwrap();
            self.decoder.handle_input(chunk.bytes);
        }
    }

    /// The next control frame that `pick` wants.
    pub async fn hear_until<T>(&mut self, pick: impl Fn(&ControlMessage) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(&self.hear().await) {
                return found;
            }
        }
    }

    /// The next lease and the activation after it.
    pub async fn hear_activation(&mut self) -> (Lease, Activate) {
        let lease = self
            .hear_until(|m| match m {
                ControlMessage::Lease(lease) => Some(lease.clone()),
                _ => None,
            })
            .await;
        let activate = |m: &ControlMessage| match m {
            ControlMessage::Activate(activate) => Some(activate.clone()),
            _ => None,
        };
        (lease, self.hear_until(activate).await)
    }

    /// Asks for a sign of life and waits for it.
    pub async fn ping(&mut self) {
        self.say(ControlMessage::Heartbeat(Heartbeat { sequence: 77, reply: false })).await;
        let answer = |m: &ControlMessage| matches!(m, ControlMessage::Heartbeat(m) if m.reply);
        self.hear_until(|m| answer(m).then_some(())).await;
    }

    /// Sends a unidirectional QUIC stream with these bytes and its end.
    pub async fn throw(&self, bytes: impl Into<Bytes>) -> quinn::SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_chunk(bytes.into()).await.ok();
        stream.finish().ok();
        stream
    }

    /// Waits until the other side closes: its code and words.
    pub async fn closed(&self) -> (Option<Code>, String) {
        match self.connection.closed().await {
            quinn::ConnectionError::ApplicationClosed(close) => {
                let reason = String::from_utf8_lossy(&close.reason).into_owned();
                (Code::from_u64(close.error_code.into_inner()), reason)
            }
            error => (None, error.to_string()),
        }
    }

    /// Waits until the other side closes for this reason, within a time in which it must.
    pub async fn expect(&self, code: Code, what: &str) {
        let Ok((found, reason)) = timeout(Duration::from_secs(10), self.closed()).await else {
            panic!("{what}: is not closed")
        };
        assert_eq!(found, Some(code), "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
    }

    /// This connection's exported keying material.
    pub fn exporter(&self) -> [u8; 32] {
        let mut exporter = [0; 32];
        self.connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").unwrap();
        exporter
    }
}

/// How a client introduces itself to a primary.
pub fn introduction(key: &Identity) -> ControlMessage {
    ControlMessage::AuthenticationRequest(AuthenticationRequest {
        protocol_version: limits::PROTOCOL_VERSION,
        client_key: Some(key.public_key()),
        limits: Some(granted()),
        ..Default::default()
    })
}

/// How a client introduces itself to an edge.
pub fn visit(
    key: &Identity,
    exporter: &[u8; 32],
    session: SessionId,
    path: PathId,
    grant: Bytes,
) -> ControlMessage {
    ControlMessage::AuthenticationRequest(AuthenticationRequest {
        session_id: Some(session),
        credentials: grant,
        protocol_version: limits::PROTOCOL_VERSION,
        client_key: Some(key.public_key()),
        path_id: path,
        proof: Some(prove(key, exporter, session, path)),
        ..Default::default()
    })
}

fn granted() -> StreamLimits {
    StreamLimits {
        max_streams_bidi: 100,
        max_streams_uni: 100,
        initial_max_stream_data: 1 << 16,
        ..Default::default()
    }
}

/// How a server lets a client in.
pub fn welcome(session: SessionId) -> AuthenticationResponse {
    AuthenticationResponse { result: Ok(session), limits: Some(granted()), data: <_>::default() }
}

/// A message behind its length.
pub fn delimited(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(message.len() as u64, &mut out);
    out.extend_from_slice(message);
    out
}

/// The bytes of a raw stream with these packets.
pub fn raw_stream(packets: &[RawPacketTransmission]) -> Vec<u8> {
    let mut out = BytesMut::new();
    StreamKind::Raw.encode(&mut out);
    packets.iter().for_each(|packet| raw::encode_raw(packet, &mut out));
    out.to_vec()
}

/// The bytes of a data stream with one packet of these frames.
pub fn packet(frames: Vec<DataFrame>) -> Vec<u8> {
    let mut out = BytesMut::new();
    StreamKind::Data.encode(&mut out);
    numbered(frames).encode_length_delimited(&mut out).unwrap();
    out.to_vec()
}

/// A packet with an id that no other has, near enough to the first for every connection.
pub fn numbered(frames: Vec<DataFrame>) -> DataPacket {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let packet_id = NEXT.fetch_add(1, Ordering::Relaxed);
    DataPacket { packet_id, frames, ..Default::default() }
}

/// One data frame.
pub fn frame(stream: u64, offset: u64, data: impl Into<Bytes>, fin: bool) -> DataFrame {
    let data = data.into();
    DataFrame { logical_stream_id: stream, offset, data, fin, ..Default::default() }
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
