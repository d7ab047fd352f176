//! `kwik ctl` over TLS, to an interface on another machine.

use std::{fs::File, io::Read, net::TcpStream, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::TLS13,
};

use crate::{
    admin::MAX_PEM,
    failure::{Failure, Kind},
};

/// Connects to a server whose certificate is in the file, or is signed by one that is.
pub(super) fn connect(
    host: &str,
    port: u16,
    ca: Option<&Path>,
    patience: Duration,
) -> Result<StreamOwned<ClientConnection, TcpStream>, Failure> {
    let trust =
        |error: String| Failure::new(Kind::Trust, format!("cannot trust {host}:{port}: {error}"));
    let Some(ca) = ca else {
        let text = "say which certificate to trust: --admin-ca FILE, the server's --admin-cert or \
                    that of its CA";
        return Err(Failure::new(Kind::Usage, text));
    };
    let mut pem = Vec::new();
    let read = File::open(ca).and_then(|file| file.take(MAX_PEM).read_to_end(&mut pem));
    read.map_err(|error| {
        let ca = kwik::escape(ca.display());
        Failure::new(Kind::Disk, format!("cannot read the certificate {ca}: {error}"))
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| trust(error.to_string()))?;
        roots.add(certificate).map_err(|error| trust(error.to_string()))?;
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("invariant: the provider has TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| trust(error.to_string()))?;
    let network = |error: std::io::Error| {
        Failure::new(Kind::Network, format!("no server answers at {host}:{port}: {error}"))
    };
    let mut socket = TcpStream::connect((bare, port)).map_err(network)?;
    socket.set_read_timeout(Some(patience)).map_err(network)?;
    let client = ClientConnection::new(Arc::new(config), name);
    let mut client = client.map_err(|error| trust(error.to_string()))?;
    // Before the token is sent.
    while client.is_handshaking() {
        client.complete_io(&mut socket).map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<rustls::Error>() => trust(inner.to_string()),
            _ => network(error),
        })?;
    }
    Ok(StreamOwned::new(client, socket))
}
