//! The administration interface of `kwik serve`.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kwik::{Endpoint, Fingerprint};
use kwik_admin::{
    Admin, Bound, EdgeRow, Place, PlaceError, Reloading, Service, Thresholds, Tls, TlsError, Token,
    limits::MAX_TOKEN,
};
use kwik_delivery::Server;
use tokio::sync::{Notify, mpsc, oneshot};
use zeroize::Zeroizing;

use crate::{
    args::admin::AdminOptions,
    door::open_kept,
    failure::{Failure, Kind},
    say,
};

/// Bytes of a file with certificates or a key: a chain has a few thousand, and all authorities that
/// a system trusts have some 220,000.
const MAX_PEM: u64 = 256 * 1024;

/// What a server is asked from outside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Reload,
    End,
}

/// An interface that listens, if one is wanted.
pub(crate) struct Administration(Option<(Bound, Option<Token>, Option<Renewal>)>);

/// A certificate that may be renewed.
struct Renewal {
    tls: Tls,
    cert: PathBuf,
    key: PathBuf,
}

impl Administration {
    pub(crate) async fn open(options: &AdminOptions) -> Result<Self, Failure> {
        let Some(place) = &options.admin else { return Ok(Self(None)) };
        let token = options.admin_token_file.as_deref().map(read_token).transpose()?;
        let renewal = match (&options.admin_cert, &options.admin_key) {
            (Some(cert), Some(key)) => {
                let tls = read_tls(cert, key)?;
                Some(Renewal { tls, cert: cert.clone(), key: key.clone() })
            }
            _ => None,
        };
        let tls = renewal.as_ref().map(|renewal| renewal.tls.clone());
        let bound = match (place, tls, &token) {
            (Place::Tcp(address), Some(tls), Some(token)) => {
                Bound::with_tls(*address, tls, token.clone()).await
            }
            (_, Some(_), _) => {
                let text = "--admin-cert is for an --admin ADDRESS:PORT with --admin-token-file";
                return Err(Failure::new(Kind::Usage, text));
            }
            _ => Bound::new(place).await,
        };
        let bound = bound.map_err(|error| match &error {
            PlaceError::Foreign(_) => Failure::new(Kind::Usage, error.to_string()),
            _ => Failure::new(Kind::Network, error.to_string()),
        })?;
        Ok(Self(Some((bound, token, renewal))))
    }

    /// Answers from now on; what is asked of the server comes out.
    pub(crate) fn start(
        self,
        options: &AdminOptions,
        endpoints: Vec<Endpoint>,
        server: &Arc<Server>,
        drain: Duration,
    ) -> Wishes {
        let (reload, reloads) = mpsc::channel(4);
        let mut wishes = Wishes { reloads, end: Arc::default(), renewal: None };
        let Some((bound, token, renewal)) = self.0 else { return wishes };
        wishes.renewal = renewal;
        match bound.place() {
            Some(Place::Tcp(address)) => {
                let scheme = if options.admin_cert.is_some() { "https" } else { "http" };
                say(&format!("kwik: administration: {scheme}://{address}/"));
                if token.is_none() {
                    say("kwik: every user of this machine may look there; for commands give \
                         --admin-token-file");
                }
            }
            Some(Place::Unix(path)) => {
                let path = path.display();
                say(&format!("kwik: administration: kwik ctl --admin {}", kwik::escape(path)));
            }
            None => {}
        }
        let mut thresholds = Thresholds::default();
        for (name, value) in &options.alert {
            match name.as_str() {
                "memory" => thresholds.memory = *value,
                "degraded" => thresholds.degraded = Duration::from_secs_f64(*value),
                _ => thresholds.failures = *value,
            }
        }
        let (server, end) = (Arc::clone(server), Arc::clone(&wishes.end));
        let service = Serving { server, reload, end, drain };
        let mut admin = Admin::of(endpoints).with_service(service).with_thresholds(thresholds);
        if let Some(token) = token {
            admin = admin.with_token(token);
        }
        if let Some(every) = options.report_every {
            admin = admin.with_reports(every);
        }
        tokio::spawn(async move { admin.run(&bound).await });
        wishes
    }
}

/// The token in a file.
fn read_token(path: &Path) -> Result<Token, Failure> {
    let text = token_text(path)?;
    Token::new(&text).map_err(|error| {
        Failure::new(Kind::Usage, format!("{}: {error}", kwik::escape(path.display())))
    })
}

/// What is in a file of certificates or of a key. One that is longer than such files are is
/// refused, lest a part of it is taken for all.
pub(crate) fn read_pem(path: &Path, file: io::Result<File>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = file.and_then(|file| file.take(MAX_PEM + 1).read_to_end(&mut bytes));
    let shown = kwik::escape(path.display());
    read.map_err(|error| Failure::new(Kind::Disk, format!("cannot read {shown}: {error}")))?;
    if bytes.len() as u64 > MAX_PEM {
        let text = format!("{shown} has more than {MAX_PEM} bytes: give a file with fewer in it");
        return Err(Failure::new(Kind::Usage, text));
    }
    Ok(bytes)
}

/// The certificate and its key, in two files.
fn read_tls(cert: &Path, key: &Path) -> Result<Tls, Failure> {
    let chain = read_pem(cert, File::open(cert))?;
    let secret = Zeroizing::new(read_pem(key, Ok(open_kept(key, "key")?))?);
    Tls::from_pem(&chain, &secret).map_err(|error| {
        let path = match error {
            TlsError::Key(_) => key,
            _ => cert,
        };
        Failure::new(Kind::Usage, format!("{}: {error}", kwik::escape(path.display())))
    })
}

/// What is in the file, without the end of its line.
pub(crate) fn token_text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    // More than a token is none.
    let read = open_kept(path, "token")?.take(MAX_TOKEN as u64 + 16).read_to_string(&mut text);
    read.map_err(|error| {
        let path = kwik::escape(path.display());
        Failure::new(Kind::Disk, format!("cannot read the token {path}: {error}"))
    })?;
    Ok(text.trim().to_owned())
}

/// What is asked of the server there.
pub(crate) struct Wishes {
    /// To read lists and open logs again; each is told once that is done.
    reloads: mpsc::Receiver<oneshot::Sender<()>>,
    end: Arc<Notify>,
    renewal: Option<Renewal>,
}

impl Wishes {
    /// Reads the certificate again, which may have been renewed.
    pub(crate) fn reload(&self) {
        let Some(Renewal { tls, cert, key }) = &self.renewal else { return };
        match read_tls(cert, key) {
            Ok(new) => tls.renew(&new),
            Err(failure) => say(&format!("kwik: {failure}: going on with the certificate before")),
        }
    }

    /// The next, and who is told once it is done.
    pub(crate) async fn next(&mut self) -> (Asked, Option<oneshot::Sender<()>>) {
        tokio::select! {
            () = self.end.notified() => (Asked::End, None),
            Some(done) = self.reloads.recv() => (Asked::Reload, Some(done)),
        }
    }
}

struct Serving {
    server: Arc<Server>,
    reload: mpsc::Sender<oneshot::Sender<()>>,
    end: Arc<Notify>,
    /// How long clients may take to finish.
    drain: Duration,
}

impl Service for Serving {
    fn drain(&self) -> Option<Duration> {
        // At once, so that who asks sees it; the rest is the server's.
        self.server.drain();
        self.end.notify_one();
        Some(self.drain)
    }

    fn is_draining(&self) -> bool {
        self.server.is_draining()
    }

    fn reload(&self) -> Option<Reloading> {
        let reload = self.reload.clone();
        Some(Box::pin(async move {
            let (done, told) = oneshot::channel();
            reload.send(done).await.is_ok() && told.await.is_ok()
        }))
    }

    fn edges(&self) -> Vec<EdgeRow> {
        let edges = self.server.known_edges().into_iter();
        edges
            .map(|known| EdgeRow {
                fingerprint: known.edge.fingerprint,
                addresses: known.edge.addresses.iter().map(ToString::to_string).collect(),
                weight: known.edge.weight,
                sessions: known.sessions,
                unreached: known.unreached,
                drained: known.draining,
            })
            .collect()
    }

    fn set_edge_weight(&self, edge: Fingerprint, weight: u32) -> bool {
        self.server.set_edge_weight(edge, weight)
    }

    fn set_edge_drained(&self, edge: Fingerprint, drained: bool) -> bool {
        let known = self.server.known_edges().iter().any(|known| known.edge.fingerprint == edge);
        if known {
            self.server.set_draining(edge, drained);
        }
        known
    }
}
