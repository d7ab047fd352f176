//! The listener: few connections, none of which may dawdle.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Extension;
use axum::middleware::from_fn;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::Token;
use crate::caller::Caller;
use crate::guard;
use crate::limits::{MAX_CONNECTIONS, MAX_HEAD, READ_TIMEOUT, WRITE_TIMEOUT};
use crate::tls::Tls;

/// Where the interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A port: of this machine alone, unless it has TLS and a token.
    Tcp(SocketAddr),
    /// A socket in the file system, which only its owner may use.
    Unix(PathBuf),
}

/// A place that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// Other machines reach it, and it has not what that needs.
    #[error(
        "other machines reach {0}, which needs TLS and a token (--admin-cert, --admin-key and \
         --admin-token-file); or use 127.0.0.1:PORT or the path of a socket, and ssh -L"
    )]
    Foreign(SocketAddr),
    /// Neither an address nor a path.
    #[error("{0} is no place for an administration interface: 127.0.0.1:PORT or /PATH/OF/SOCKET")]
    Unreadable(String),
    /// It cannot be listened on.
    #[error("the administration interface cannot listen on {0}: {1}")]
    Io(String, io::Error),
}

impl std::str::FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if text.contains('/') {
            return Ok(Self::Unix(text.into()));
        }
        let address = text.replacen("localhost:", "127.0.0.1:", 1);
        let address = address.parse();
        address.map(Self::Tcp).map_err(|_| PlaceError::Unreadable(kwik::escape(text).to_string()))
    }
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, Tls, Token),
    /// With what it made there.
    Unix(UnixListener, PathBuf, Inode),
}

/// A listener that is bound; the interface answers while [`Admin::run`](crate::Admin::run) is
/// polled.
#[derive(Debug)]
pub struct Bound(Listener);

impl Bound {
    /// Binds it.
    ///
    /// # Errors
    /// The place is taken, or not one of this machine.
    pub async fn new(place: &Place) -> Result<Self, PlaceError> {
        let failed = |name: String| move |error| PlaceError::Io(name, error);
        match place {
            Place::Tcp(address) if !address.ip().is_loopback() => {
                Err(PlaceError::Foreign(*address))
            }
            Place::Tcp(address) => Ok(Self(Listener::Tcp(bind_tcp(*address).await?))),
            Place::Unix(path) => {
                let name = kwik::escape(path.display()).to_string();
                let (bound, made) = bind_unix(path).await.map_err(failed(name))?;
                Ok(Self(Listener::Unix(bound, path.clone(), made)))
            }
        }
    }

    /// Binds a port that other machines may reach: who has the token may come in, over TLS.
    ///
    /// # Errors
    /// The port is taken, or not one of this machine's.
    pub async fn with_tls(address: SocketAddr, tls: Tls, token: Token) -> Result<Self, PlaceError> {
        Ok(Self(Listener::Tls(bind_tcp(address).await?, tls, token)))
    }

    /// What is asked for here, whatever the interface says.
    pub(crate) fn token(&self) -> Option<&Token> {
        match &self.0 {
            Listener::Tls(_, _, token) => Some(token),
            Listener::Tcp(_) | Listener::Unix(..) => None,
        }
    }

    /// The port that it has, or the path.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match &self.0 {
            Listener::Tcp(listener) | Listener::Tls(listener, ..) => {
                listener.local_addr().ok().map(Place::Tcp)
            }
            Listener::Unix(_, path, _) => Some(Place::Unix(path.clone())),
        }
    }

    /// Answers for as long as it is polled, and only requests that no page of another origin sent;
    /// without TLS only those for this machine.
    pub(crate) async fn run(&self, router: Router) {
        let router = match &self.0 {
            Listener::Tcp(_) => router.layer(Extension(guard::AnyUser)),
            Listener::Tls(..) | Listener::Unix(..) => router,
        };
        let router = match &self.0 {
            Listener::Tls(..) => router.layer(from_fn(guard::check_page_over_tls)),
            Listener::Tcp(_) | Listener::Unix(..) => router.layer(from_fn(guard::check_origin)),
        };
        // Who has no token could hold all places for ever, with a question now and then.
        let keeps = !matches!(self.0, Listener::Tls(..));
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // They end with this.
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (connection, caller) = match self.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    on_error(&error).await;
                    continue;
                }
            };
            let router = router.clone().layer(Extension(Caller(caller)));
            connections.spawn(async move {
                // Who is slow with TLS is as slow as who is with the head of a request.
                let Ok(Some(connection)) = timeout(READ_TIMEOUT, connection).await else { return };
                let io = TokioIo::new(Impatient::new(connection));
                let mut http = http1::Builder::new();
                http.keep_alive(keeps)
                    .timer(TokioTimer::new())
                    .header_read_timeout(READ_TIMEOUT)
                    .max_buf_size(MAX_HEAD);
                // Who asks badly is told so by the answer.
                http.serve_connection(io, TowerToHyperService::new(router)).await.ok();
                drop(place);
            });
        }
    }
}

impl Bound {
    /// The next connection, once it is made, and who that is.
    async fn accept(&self) -> io::Result<(Making, String)> {
        Ok(match &self.0 {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                (Box::pin(async move { Some(Box::pin(stream) as _) }), from.to_string())
            }
            Listener::Tls(listener, tls, _) => {
                let (stream, from) = listener.accept().await?;
                let making = tls.acceptor().accept(stream);
                let made = async move { Some(Box::pin(making.await.ok()?) as _) };
                (Box::pin(made), from.to_string())
            }
            Listener::Unix(listener, path, _) => {
                let (stream, _) = listener.accept().await?;
                let of = stream.peer_cred().map(|peer| format!("user {}", peer.uid()));
                let of = of.unwrap_or_else(|_| path.display().to_string());
                (Box::pin(async move { Some(Box::pin(stream) as _) }), of)
            }
        })
    }
}

/// A connection that is being made; none when it was not.
type Making = Pin<Box<dyn Future<Output = Option<Pin<Box<dyn Connection>>>> + Send>>;

async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, PlaceError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| PlaceError::Io(address.to_string(), error))
}

/// No descriptors are left, say: that passes.
async fn on_error(error: &io::Error) {
    tracing::debug!(%error, "a connection of the administration interface was not accepted");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

/// A socket that an earlier process left is replaced, and one that answers is not, or may.
async fn bind_unix(path: &Path) -> io::Result<(UnixListener, Inode)> {
    if let Ok(there) = std::fs::symlink_metadata(path) {
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        let is_stale = there.file_type().is_socket()
            && tokio::net::UnixStream::connect(path).await.is_err_and(refused);
        if !is_stale {
            return Err(io::ErrorKind::AddrInUse.into());
        }
    }
    // Made in a folder that others cannot enter, so that nobody reaches it before it is closed to
    // them; then it takes its place at once.
    let mut folder = path.as_os_str().to_owned();
    folder.push(format!(".{}", std::process::id()));
    let folder = PathBuf::from(folder);
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let made = folder.join("s");
    let placed = UnixListener::bind(&made).and_then(|bound| {
        std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&made, path)?;
        Ok((bound, inode(path)?))
    });
    if placed.is_err() {
        // It may not have been made.
        std::fs::remove_file(&made).ok();
    }
    std::fs::remove_dir(&folder).ok();
    placed
}

/// Device and number of a file.
type Inode = (u64, u64);

fn inode(path: &Path) -> io::Result<Inode> {
    std::fs::symlink_metadata(path).map(|there| (there.dev(), there.ino()))
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Listener::Unix(_, path, made) = &self.0
            && inode(path).is_ok_and(|there| there == *made)
        {
            // What is left is replaced by the next one anyhow.
            std::fs::remove_file(path).ok();
        }
    }
}

trait Connection: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Connection for T {}

/// A connection that fails once its peer has taken nothing for [`WRITE_TIMEOUT`].
struct Impatient {
    inner: Pin<Box<dyn Connection>>,
    timeout: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn new(inner: Pin<Box<dyn Connection>>) -> Self {
        Self { inner, timeout: None }
    }

    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.timeout = None;
            return result;
        }
        let until = Instant::now() + WRITE_TIMEOUT;
        let timeout = self.timeout.get_or_insert_with(|| Box::pin(sleep_until(until)));
        timeout.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.inner.as_mut().poll_write(cx, data);
        self.judge(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.inner.as_mut().poll_flush(cx);
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Time is virtual here: it passes when nothing else can.
    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_an_answer_is_cut_off_and_who_is_slow_is_not() {
        let (mut reader, writer) = duplex(1_000);
        let mut answers = Impatient::new(Box::pin(writer));
        let begun = Instant::now();
        let error = answers.write_all(&[0; 100_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
        reader.read_exact(&mut [0; 1_000]).await.unwrap();

        let (mut reader, writer) = duplex(1_000);
        let mut answers = Impatient::new(Box::pin(writer));
        let slow = async {
            for _ in 0..100 {
                tokio::time::sleep(WRITE_TIMEOUT * 9 / 10).await;
                reader.read_exact(&mut [0; 1_000]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(answers.write_all(&[0; 100_000]), slow);
        written.unwrap();
    }
}
