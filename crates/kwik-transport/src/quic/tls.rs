//! TLS 1.3: who a server is, and whom a client trusts.
//!
//! There are no session tickets, no resumption and no 0-RTT, since they would bypass the
//! verifier. Clients have no certificate: they authenticate on the control stream.

use std::sync::{Arc, OnceLock};

use kwik_proto::auth::Fingerprint;
use kwik_proto::limits::ALPN;
use quinn::crypto::HmacKey;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ring::hmac;
use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, ParsedCertificate},
    version::TLS13,
};

use super::ConnectError;

/// Attempts that may wait for the application to accept them.
const MAX_INCOMING: usize = 1024;
/// Bytes kept for one of them beyond its first packet: the rest of a ClientHello.
const MAX_INCOMING_BYTES: u64 = 64 * 1024;
/// Bytes kept for all of them.
const MAX_INCOMING_TOTAL: u64 = 16 * 1024 * 1024;

/// The key of a certificate.
pub(super) fn certificate_key(
    certificate: &CertificateDer<'_>,
) -> Result<Fingerprint, rustls::Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(Fingerprint::of_spki(&key))
}

/// Why a key, certificate or root cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Not a private key of a known kind, or not the certificate's.
    #[error("private key: {0}; it must be the certificate's, in DER (PKCS #8)")]
    Key(String),
    /// Not a usable certificate.
    #[error("certificate: {0}; a chain is X.509 v3 in DER, the server's own first")]
    Certificate(String),
    /// Not usable roots.
    #[error("trust roots: {0}; at least one X.509 certificate in DER is needed")]
    Roots(String),
}

/// Which servers a client trusts. The handshake's signature is verified in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerTrust {
    /// The server with this key.
    Pin(Fingerprint),
    /// Servers with a valid certificate for their name under one of these roots (X.509, DER).
    WebPki(Vec<Vec<u8>>),
    /// Any server, for trust on first use: the caller looks at its key after the handshake.
    Capture,
}

/// Who a server is: its certificate and private key.
#[derive(Debug, Clone)]
pub(crate) struct ServerTls {
    pub(super) config: Arc<rustls::ServerConfig>,
    fingerprint: Fingerprint,
    /// Made from the private key, so that it is the same when the server starts again.
    reset_key: hmac::Key,
}

impl ServerTls {
    /// With a self-signed certificate for an Ed25519 key in PKCS #8 DER.
    pub(crate) fn self_signed(pkcs8: &[u8]) -> Result<Self, TlsError> {
        let key = PrivatePkcs8KeyDer::from(pkcs8.to_vec());
        let signer = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)
            .map_err(|error| TlsError::Key(error.to_string()))?;
        let certificate = rcgen::CertificateParams::new(vec!["kwik".to_owned()])
            .and_then(|mut params| {
                params.distinguished_name = rcgen::DistinguishedName::new();
                params.distinguished_name.push(rcgen::DnType::CommonName, "kwik");
                params.self_signed(&signer)
            })
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
        Self::new(vec![certificate.der().clone()], key.into())
    }

    /// With a CA's certificate `chain`, the server's own first, and its private `key`, all DER.
    pub(crate) fn from_chain(chain: Vec<Vec<u8>>, key: Vec<u8>) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::try_from(key).map_err(|error| TlsError::Key(error.to_owned()))?;
        Self::new(chain.into_iter().map(CertificateDer::from).collect(), key)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let own = chain.first().ok_or_else(|| TlsError::Certificate("none".to_owned()))?;
        let fingerprint =
            certificate_key(own).map_err(|error| TlsError::Certificate(error.to_string()))?;
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.secret_der());
        let reset_key = hmac::sign(&secret, b"kwik stateless reset");
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, reset_key.as_ref());
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("invariant: the provider has TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::Key(error.to_string()))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), fingerprint, reset_key })
    }

    /// With it the next process of this server can tell clients of this one that their connections
    /// are gone (stateless reset, RFC 9000 section 10.3). Servers that share a private key share
    /// it.
    pub(super) fn reset_key(&self) -> Arc<dyn HmacKey> {
        Arc::new(self.reset_key.clone())
    }

    /// What clients pin.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn quic_config(
        &self,
        transport: Arc<quinn::TransportConfig>,
    ) -> quinn::ServerConfig {
        let crypto = QuicServerConfig::try_from(Arc::clone(&self.config))
            .expect("invariant: the provider has QUIC's initial cipher suite");
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(transport)
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(MAX_INCOMING_BYTES)
            .incoming_buffer_size_total(MAX_INCOMING_TOTAL)
            .validation_token
            .sent(0);
        config
    }
}

/// A client's trust, ready to dial with. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ClientTls {
    verifier: Verifier,
    alpn: &'static [u8],
}

#[derive(Debug, Clone)]
enum Verifier {
    Pin(Fingerprint),
    WebPki(Arc<WebPkiServerVerifier>),
    Capture,
}

impl ClientTls {
    /// Trusting as `trust` says.
    pub(crate) fn new(trust: ServerTrust) -> Result<Self, TlsError> {
        let verifier = match trust {
            ServerTrust::Pin(pin) => Verifier::Pin(pin),
            ServerTrust::WebPki(roots) => Verifier::WebPki(webpki(roots)?),
            ServerTrust::Capture => Verifier::Capture,
        };
        Ok(Self { verifier, alpn: ALPN })
    }

    #[cfg(test)]
    pub(super) fn with_alpn(self, alpn: &'static [u8]) -> Self {
        Self { alpn, ..self }
    }

    /// For one dial, with what its verifier finds out.
    pub(super) fn quic_config(
        &self,
        transport: Arc<quinn::TransportConfig>,
    ) -> (quinn::ClientConfig, PinCheck) {
        let pin = match &self.verifier {
            Verifier::Pin(pin) => Some(*pin),
            Verifier::WebPki(_) | Verifier::Capture => None,
        };
        let check = PinCheck { expected: pin, refused: Arc::default() };
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = match &self.verifier {
            Verifier::WebPki(verifier) => Arc::clone(verifier) as _,
            Verifier::Pin(_) | Verifier::Capture => Arc::new(KeyVerifier {
                check: check.clone(),
                algorithms: provider.signature_verification_algorithms,
            }),
        };
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("invariant: the provider has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![self.alpn.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        let crypto = QuicClientConfig::try_from(config)
            .expect("invariant: the provider has QUIC's initial cipher suite");
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport).token_store(Arc::new(quinn::NoneTokenStore));
        (config, check)
    }
}

fn webpki(roots: Vec<Vec<u8>>) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.into()).map_err(|error| TlsError::Roots(error.to_string()))?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(|error| TlsError::Roots(error.to_string()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The pin of one dial and the other key that was refused for it.
#[derive(Debug, Clone)]
pub(super) struct PinCheck {
    expected: Option<Fingerprint>,
    refused: Arc<OnceLock<Fingerprint>>,
}

impl PinCheck {
    /// The error to report instead of the handshake's, if the pin is what failed.
    pub(super) fn mismatch(&self) -> Option<ConnectError> {
        let (expected, actual) = (self.expected?, *self.refused.get()?);
        Some(ConnectError::PinMismatch { expected, actual })
    }
}

/// Accepts the pinned key, or any key without a pin, whatever else its certificate says.
#[derive(Debug)]
struct KeyVerifier {
    check: PinCheck,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let actual = certificate_key(end_entity)?;
        if self.check.expected.is_some_and(|expected| expected != actual) {
            self.check.refused.get_or_init(|| actual);
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
