//! Metrics over HTTP: `GET /metrics`, and nothing else.
//!
//! Whoever reaches the address may ask. So a connection is one request and one answer, both bounded in size and time; only
//! so many are served at once, of one peer few, the others wait to be accepted; and the ring writes a text at most once in
//! [`Limits::fresh`], however many ask.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink},
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{timeout, timeout_at},
};

use super::{
    plain::plain,
    protocol::{Data, Request},
    server::{Call, Peer},
    visitor::{Visitor, Visitors},
};

/// Longest head of a request that is read, in bytes.
pub const HEAD_LIMIT: usize = 8 << 10;
/// Most header lines of a request.
const HEADERS: usize = 64;
/// What is read, and thrown away, of a request that goes on behind its head: closing before would cut the answer short.
const REST: u64 = 64 << 10;
/// Of the text (OpenMetrics 1.0, "Overall Structure").
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Of the same in the format before.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
/// Who asks here is nobody whom the kernel knows: `fs.overflowuid`.
const NOBODY: Peer = Peer { uid: 65534, gid: 65534, pid: None };

/// How long those who ask are borne, and how many.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// And of one peer: an IPv4 address, or what an IPv6 host has for itself, a /64.
    pub each: usize,
    /// For a request to arrive.
    pub request: Duration,
    /// For an answer to be taken, all of it.
    pub answer: Duration,
    /// For the ring to take a call.
    pub ring: Duration,
    /// How old a text may be that is told again.
    pub fresh: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            each: 4,
            request: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            ring: Duration::from_secs(10),
            fresh: Duration::from_millis(500),
        }
    }
}

/// An address that is served, until this is dropped.
#[derive(Debug)]
pub struct Exposition {
    address: SocketAddr,
    task: AbortHandle,
}

impl Exposition {
    /// Listens on an address and serves it, as long as the receiver of `calls` is open. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// What the kernel says: the address is not this machine's, or in use, or the port below 1024 and not for this user.
    pub fn open(address: SocketAddr, calls: mpsc::Sender<Call>, limits: Limits) -> io::Result<Self> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let task = tokio::spawn(serve(listener, calls, limits)).abort_handle();
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Exposition {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, calls: mpsc::Sender<Call>, limits: Limits) {
    let visitors = Visitors::default();
    let seats = Arc::new(Semaphore::new(limits.connections));
    let source = Arc::new(Source { calls: calls.clone(), limits, last: Mutex::default() });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = calls.closed() => return,
            Some(_) = connections.join_next() => {}
            // Without a seat nobody is let in: the kernel's queue is bounded, too.
            (seat, accepted) = async { (Arc::clone(&seats).acquire_owned().await, listener.accept().await) } => {
                match accepted {
                    Ok((stream, address)) => {
                        // One that has as many as it may is cut at once: the seat is for others.
                        let Some(visitor) = Visitor::of(&visitors, address.ip(), limits.each) else { continue };
                        let source = Arc::clone(&source);
                        connections.spawn(async move {
                            if let Err(error) = welcome(stream, &source).await {
                                tracing::debug!("a connection for metrics ended: {error}");
                            }
                            drop((seat, visitor));
                        });
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: other connections will end and give theirs back.
                        tracing::warn!("cannot accept a connection for metrics: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }
}

/// A text, and when it was asked for.
type Told = (Instant, Arc<str>);

/// Where texts come from.
struct Source {
    calls: mpsc::Sender<Call>,
    limits: Limits,
    /// The latest texts, in both formats, and when they were asked for.
    last: Mutex<[Option<Told>; 2]>,
}

impl Source {
    /// A text that is fresh, or why there is none. One at a time asks the ring; who waited for that has the same text.
    async fn text(&self, format: Format) -> Result<Arc<str>, String> {
        let mut last = self.last.lock().await;
        let last = &mut last[format as usize];
        if let Some((asked, text)) = last
            && asked.elapsed() < self.limits.fresh
        {
            return Ok(Arc::clone(text));
        }
        let asked = Instant::now();
        let (reply, answer) = oneshot::channel();
        let (from, stream, connection) = (None, None, None);
        let call =
            Call { request: Request::Metrics, peer: NOBODY, from, stream, sockets: Vec::new(), reply, connection };
        match self.calls.send_timeout(call, self.limits.ring).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => return Err("the daemon is busy; try again\n".to_owned()),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err("the daemon is stopping\n".to_owned()),
        }
        match answer.await {
            Ok(Ok(part)) => match part.reply.data {
                Data::Metrics(text) => {
                    let text = if format == Format::Plain { plain(&text) } else { text };
                    let text: Arc<str> = text.into();
                    *last = Some((asked, Arc::clone(&text)));
                    Ok(text)
                }
                _ => Err("the daemon answered something else\n".to_owned()),
            },
            Ok(Err(failure)) => Err(format!("{failure}\n")),
            Err(_) => Err("the daemon is stopping\n".to_owned()),
        }
    }
}

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    OpenMetrics,
    /// As before that: for who takes plain text and does not ask for the other.
    Plain,
}

impl Format {
    /// What the peer takes (`Accept`).
    fn of(headers: &[httparse::Header<'_>]) -> Self {
        let accepts = |wanted: &str| {
            let accept = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("accept"));
            let mut kinds = accept.flat_map(|header| header.value.split(|byte| b",;".contains(byte)));
            kinds.any(|kind| kind.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
        };
        if accepts("text/plain") && !accepts("application/openmetrics-text") { Self::Plain } else { Self::OpenMetrics }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::OpenMetrics => OPENMETRICS,
            Self::Plain => PROMETHEUS,
        }
    }
}

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
struct HttpResponse {
    status: &'static str,
    /// Whether the text follows, or a `HEAD` was asked.
    bodied: bool,
    kind: &'static str,
    body: Arc<str>,
}

impl HttpResponse {
    fn plain(status: &'static str, body: &str) -> Self {
        Self { status, bodied: true, kind: PLAIN, body: body.into() }
    }

    fn bytes(&self) -> Vec<u8> {
        let Self { status, bodied, kind, body } = self;
        let allow = if *status == NOT_ALLOWED { "Allow: GET, HEAD\r\n" } else { "" };
        let length = body.len();
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n"
        )
        .into_bytes();
        if *bodied {
            bytes.extend_from_slice(body.as_bytes());
        }
        bytes
    }
}

const NOT_ALLOWED: &str = "405 Method Not Allowed";

/// One connection from its first to its last byte.
async fn welcome(mut stream: TcpStream, source: &Source) -> io::Result<()> {
    let limits = source.limits;
    let answer = match timeout(limits.request, head(&mut stream)).await {
        Ok(Ok(Some(head))) => match asked(&head) {
            Ok((bodied, format)) => match source.text(format).await {
                Ok(body) => HttpResponse { status: "200 OK", bodied, kind: format.kind(), body },
                Err(why) => HttpResponse::plain("503 Service Unavailable", &why),
            },
            Err(refusal) => refusal,
        },
        // Nothing was asked.
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
            HttpResponse::plain("431 Request Header Fields Too Large", "the head of the request is too long\n")
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => HttpResponse::plain("408 Request Timeout", "no request came in time\n"),
    };
    let end = tokio::time::Instant::now() + limits.answer;
    timeout_at(end, stream.write_all(&answer.bytes())).await??;
    timeout_at(end, stream.shutdown()).await??;
    // Closed with something unread, the kernel would reset the connection, and what we said might not arrive.
    let rest = async { copy(&mut (&mut stream).take(REST), &mut sink()).await };
    timeout(Duration::from_secs(1), rest).await.map_or(Ok(()), |read| read.map(drop))
}

/// The head of a request, with the empty line that ends it; `None` where the peer leaves without a word.
async fn head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let searched = head.len().saturating_sub(3);
        let room = HEAD_LIMIT - head.len();
        if room == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        match stream.take(room as u64).read_buf(&mut head).await? {
            0 if head.is_empty() => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
        let new = &head[searched..];
        if new.windows(2).any(|end| end == b"\n\n") || new.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(Some(head));
        }
    }
}

/// Whether the text is asked for (with `HEAD`: only what would come with it) and how, or what is answered instead.
fn asked(head: &[u8]) -> Result<(bool, Format), HttpResponse> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let malformed = || HttpResponse::plain("400 Bad Request", "this is no request of HTTP/1\n");
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(HttpResponse::plain(
                "431 Request Header Fields Too Large",
                "the request has too many headers\n",
            ));
        }
        Ok(httparse::Status::Partial) | Err(_) => return Err(malformed()),
    }
    let path = request.path.and_then(|target| target.split('?').next()).unwrap_or_default();
    match (request.method, path) {
        (Some(method @ ("GET" | "HEAD")), "/metrics") => Ok((method == "GET", Format::of(request.headers))),
        (Some("GET" | "HEAD"), _) => Err(HttpResponse::plain("404 Not Found", "metrics are at /metrics\n")),
        _ => Err(HttpResponse::plain(NOT_ALLOWED, "metrics can be read only: GET /metrics\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked() {
        use Format::{OpenMetrics, Plain};

        // What a Prometheus of today and one of long ago send.
        let both = "Accept: application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let old = "accept: text/plain;version=0.0.4;q=1,*/*;q=0.1";
        for (accept, want) in
            [(both, OpenMetrics), (old, Plain), ("Accept: */*", OpenMetrics), ("A: text/plain", OpenMetrics)]
        {
            let head = format!("GET /metrics HTTP/1.1\r\n{accept}\r\n\r\n");
            assert_eq!(asked(head.as_bytes()), Ok((true, want)), "{accept}");
        }
        for (head, want) in [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Ok(true)),
            ("GET /metrics?name[]=up HTTP/1.0\r\n\r\n", Ok(true)),
            ("GET /metrics HTTP/1.1\nHost: a\n\n", Ok(true)),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", Ok(false)),
            ("GET / HTTP/1.1\r\n\r\n", Err("404 Not Found")),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", Err("404 Not Found")),
            ("GET /metricsx HTTP/1.1\r\n\r\n", Err("404 Not Found")),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", Err(NOT_ALLOWED)),
            ("get /metrics HTTP/1.1\r\n\r\n", Err(NOT_ALLOWED)),
            ("GET /metrics\r\n\r\n", Err("400 Bad Request")),
            ("{\"verb\":\"stats\"}\n\n", Err("400 Bad Request")),
            ("PRI * HTTP/2.0\r\n\r\n", Err("400 Bad Request")),
        ] {
            let got = asked(head.as_bytes()).map(|(bodied, _)| bodied).map_err(|answer| answer.status);
            assert_eq!(got, want, "{head}");
        }
        let many = "GET /metrics HTTP/1.1\r\n".to_owned() + &"a: b\r\n".repeat(HEADERS + 1) + "\r\n";
        assert_eq!(asked(many.as_bytes()).map_err(|answer| answer.status.split_at(3).0), Err("431"));
    }

    #[test]
    fn a_head_has_no_body() {
        let answer = |bodied| HttpResponse { status: "200 OK", bodied, kind: OPENMETRICS, body: "# EOF\n".into() };
        let text = |bodied| String::from_utf8(answer(bodied).bytes()).expect("text");
        assert_eq!(text(true), text(false) + "# EOF\n");
        assert!(text(false).contains("\r\nContent-Length: 6\r\n") && text(false).ends_with("\r\n\r\n"));
    }
}
