//! `kwik ctl` over TLS, to an interface on another machine.

use std::{fs::File, net::TcpStream, path::Path, sync::Arc, time::Duration};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::TLS13,
};

use crate::{
    admin::read_pem,
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
    let pem = read_pem(ca, File::open(ca))?;
    let mut roots = RootCertStore::empty();
    let shown = kwik::escape(ca.display());
    let unusable = |error: String| {
        let text = format!("{shown} has a certificate that cannot be used: {error}: make it anew");
        Failure::new(Kind::Usage, text)
    };
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        let text =
            format!("{shown} has no certificate: give the server's in PEM form, or its CA's");
        return Err(Failure::new(Kind::Usage, text));
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
            Some(inner) => match inner.downcast_ref::<rustls::Error>() {
                Some(error) => trust(advised(error)),
                None => network(error),
            },
            None => network(error),
        })?;
    }
    Ok(StreamOwned::new(client, socket))
}

/// What is wrong with the server's certificate, and what to do about it.
fn advised(error: &Error) -> String {
    use CertificateError as Wrong;
    let Error::InvalidCertificate(wrong) = error else { return error.to_string() };
    let advice = match wrong {
        // webpki takes no certificate that may sign others for that of a server (RFC 5280 section
        // 4.2.1.9 leaves it open). What it says comes as text alone.
        Wrong::Other(inner) if inner.to_string().contains("CaUsedAsEndEntity") => {
            return "its certificate is that of an authority (CA:TRUE), as openssl req -x509 makes \
                    them by itself: make one with -addext basicConstraints=critical,CA:FALSE \
                    (docs/operations.md has all of it)"
                .to_owned();
        }
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
            "make one whose subjectAltName has the name or the address after https://"
        }
        Wrong::UnknownIssuer | Wrong::BadSignature => {
            "give as --admin-ca the certificate that it has now, or that of its CA"
        }
        Wrong::Expired | Wrong::ExpiredContext { .. } => {
            "renew it, and have the server read it again: kwik ctl reload there, or SIGHUP"
        }
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => "look at the clocks of both",
        _ => "make it anew, as docs/operations.md says",
    };
    format!("{error}: {advice}")
}
