//! The files of a directory, as a web server gives them out: types, ranges, validators, compression. What is outside the
//! directory, or hidden, is not found; directories are not listed.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::future::{Future, Ready, ready};
use std::io::{self, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tokio::sync::{AcquireError, Semaphore};
use tokio::task::spawn_blocking;
use tower_http::CompressionLevel;
use tower_http::compression::Compression;
use tower_http::compression::predicate::{DefaultPredicate, Predicate};
use tower_http::services::ServeDir;
use tower_http::services::fs::Backend;
use tower_service::Service as _;

use super::message::Body;
use crate::limits::{MAX_COMPRESSED, MAX_SITE_FILES};
use crate::net::linux;

/// The page that is given out where nothing is found, if the directory has one.
const NOT_FOUND: &str = "/404.html";
/// The only hidden directory that a site has (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// The files of a directory.
pub(super) struct Files(Beneath);

impl Files {
    pub(super) fn new(root: PathBuf) -> Self {
        Self(Beneath {
            root: root.into(),
            places: Arc::new(Semaphore::new(MAX_SITE_FILES)),
        })
    }

    pub(super) fn try_root(&self) -> io::Result<()> {
        linux::open_beneath(&self.0.root, Path::new(".")).map(drop)
    }

    /// The answer to a request.
    pub(super) async fn respond<B: Send + 'static>(&self, request: Request<B>) -> Response<Body> {
        let (mut head, _) = request.into_parts();
        if head.headers.contains_key(RANGE) && head.headers.contains_key(IF_RANGE) {
            let is_current = self.is_current(&head.uri, &head.headers).await;
            head.headers.remove(IF_RANGE);
            if !is_current {
                head.headers.remove(RANGE);
            }
        }
        let wants_page = matches!(head.method, Method::GET | Method::HEAD);
        let method = head.method.clone();
        let encodings = head.headers.get(ACCEPT_ENCODING).cloned();
        let response = self.ask(Request::from_parts(head, Empty::new())).await;
        if response.status() != StatusCode::NOT_FOUND || !wants_page {
            return response;
        }
        let mut page = Request::new(Empty::new());
        *page.method_mut() = method;
        *page.uri_mut() = Uri::from_static(NOT_FOUND);
        if let Some(encodings) = encodings {
            page.headers_mut().insert(ACCEPT_ENCODING, encodings);
        }
        let mut page = self.ask(page).await;
        if !page.status().is_success() {
            return response;
        }
        *page.status_mut() = StatusCode::NOT_FOUND;
        for field in [ETAG, LAST_MODIFIED, http::header::ACCEPT_RANGES] {
            page.headers_mut().remove(field);
        }
        page
    }

    async fn ask(&self, request: Request<Empty<Bytes>>) -> Response<Body> {
        let files = ServeDir::with_backend("", self.0.clone());
        let mut files = Compression::new(files)
            .quality(CompressionLevel::Fastest)
            .compress_when(IsSmall(DefaultPredicate::new()));
        let mut response = match files.call(request).await {
            Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
            Err(never) => match never {},
        };
        // What is compressed on the way is not the same byte by byte (RFC 9110 §8.8.1).
        let headers = response.headers_mut();
        if headers.contains_key(CONTENT_ENCODING)
            && let Some(tag) = headers.get(ETAG).and_then(weak)
        {
            headers.insert(ETAG, tag);
        }
        response
    }

    /// Whether the file is what `If-Range` says (RFC 9110 §13.1.5).
    async fn is_current(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::HEAD;
        request.uri_mut().clone_from(uri);
        let current = self.ask(request).await;
        let said = headers.get(IF_RANGE);
        [ETAG, LAST_MODIFIED]
            .iter()
            .any(|field| said.is_some() && current.headers().get(field) == said)
    }
}

fn weak(tag: &HeaderValue) -> Option<HeaderValue> {
    let tag = tag.to_str().ok()?;
    HeaderValue::from_str(&format!("W/{tag}")).ok()
}

/// What is worth to be compressed, and not too much work: strangers ask for it.
#[derive(Clone)]
struct IsSmall(DefaultPredicate);

impl Predicate for IsSmall {
    fn should_compress<B>(&self, response: &Response<B>) -> bool
    where
        B: hyper::body::Body,
    {
        let length = response.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        length.is_some_and(|length| length <= MAX_COMPRESSED) && self.0.should_compress(response)
    }
}

/// Opens files beneath a directory only: the system refuses links that lead out of it.
#[derive(Clone)]
pub(super) struct Beneath {
    root: Arc<Path>,
    /// For what opens files at once.
    places: Arc<Semaphore>,
}

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Beneath {
    /// Does `work` with an open file or directory.
    fn with<T: Send + 'static>(
        &self,
        path: PathBuf,
        work: fn(File, Metadata) -> io::Result<T>,
    ) -> Opening<T> {
        let Self { root, places } = self.clone();
        Box::pin(async move {
            if is_hidden(&path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let closed = |_: AcquireError| io::Error::from(io::ErrorKind::NotFound);
            let _place = places.acquire_owned().await.map_err(closed)?;
            let opened = spawn_blocking(move || {
                let file = linux::open_beneath(&root, &path).map_err(not_found)?;
                let data = file.metadata()?;
                work(file, data)
            });
            opened.await.map_err(io::Error::other)?
        })
    }
}

impl Backend for Beneath {
    type File = OpenFile;
    type Metadata = Metadata;
    type OpenFuture = Opening<OpenFile>;
    type MetadataFuture = Opening<Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        self.with(path, |file, data| {
            if data.is_file() {
                let file = tokio::fs::File::from_std(file);
                Ok(OpenFile { file, data })
            } else {
                Err(io::ErrorKind::NotFound.into())
            }
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        self.with(path, |_, data| Ok(data))
    }
}

/// A file, and what it was when it was opened.
pub(super) struct OpenFile {
    file: tokio::fs::File,
    data: Metadata,
}

impl tower_http::services::fs::File for OpenFile {
    type Metadata = Metadata;
    type MetadataFuture<'a> = Ready<io::Result<Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(self.data.clone()))
    }
}

impl AsyncRead for OpenFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(cx, room)
    }
}

impl AsyncSeek for OpenFile {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(to)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(cx)
    }
}

/// Whether a name in the path begins with a dot.
fn is_hidden(path: &Path) -> bool {
    path.components().any(|part| match part {
        Component::Normal(name) => {
            name.as_encoded_bytes().starts_with(b".") && name != OsStr::new(WELL_KNOWN)
        }
        Component::CurDir => false,
        _ => true,
    })
}

/// A stranger does not learn why there is nothing.
fn not_found(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => error,
        _ => io::ErrorKind::NotFound.into(),
    }
}
