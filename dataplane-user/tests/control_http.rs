//! Metrics over HTTP against those who are slow, silent, many or ask for something else.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dataplane_user::control::{
    http::{Exposition, HEAD_LIMIT, Limits},
    protocol::{Data, Failure, FailureKind, Request},
    server::Call,
};
use tokio::sync::mpsc;

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
const QUICK: Limits = Limits {
    connections: 4,
    each: 4,
    request: Duration::from_millis(300),
    answer: Duration::from_millis(300),
    ring: Duration::from_millis(100),
    fresh: Duration::ZERO,
};

/// An exposition, and a ring that answers with a text, or fails.
struct Served {
    address: SocketAddr,
    /// How often the ring was asked.
    asked: Arc<AtomicUsize>,
    _end: tokio::sync::oneshot::Sender<()>,
}

fn serve(limits: Limits, text: Option<String>) -> Served {
    let (end, ended) = tokio::sync::oneshot::channel();
    let (ready, address) = std::sync::mpsc::channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (calls, mut waiting) = mpsc::channel::<Call>(1);
            let local = "127.0.0.1:0".parse().expect("an address");
            let exposition = Exposition::open(local, calls, limits).expect("it listens");
            ready.send(exposition.address()).expect("somebody waits");
            let answers = async {
                while let Some(call) = waiting.recv().await {
                    assert_eq!(call.request, Request::Metrics);
                    count.fetch_add(1, Ordering::Relaxed);
                    let answer = match &text {
                        Some(text) => Ok(Data::Metrics(text.clone()).into()),
                        None => Err(Failure::new(FailureKind::Failed, "it is purple")),
                    };
                    let _ = call.reply.send(answer);
                }
            };
            tokio::select! {
                () = answers => {}
                _ = ended => {}
            }
        });
    });
    Served { address: address.recv().expect("an address"), asked, _end: end }
}

fn connect(served: &Served) -> TcpStream {
    let stream = TcpStream::connect(served.address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    stream
}

/// Says something; all that is answered.
fn say(served: &Served, words: &[u8]) -> String {
    let mut stream = connect(served);
    // What is too much may not be taken.
    let _ = stream.write_all(words);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn a_scrape_is_answered_in_full() {
    let text = "# a line\n".repeat(1 << 18) + "# EOF\n";
    let served = serve(Limits { answer: Duration::from_secs(20), ..QUICK }, Some(text.clone()));
    let answer = say(&served, GET.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", text.len())), "{head}");
    assert!(body == text, "{} bytes of {}", body.len(), text.len());
}

#[test]
fn what_is_not_a_scrape_is_refused() {
    let served = serve(QUICK, Some("# EOF\n".to_owned()));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_LIMIT));
    let body = format!("POST /metrics HTTP/1.1\r\nContent-Length: 50000\r\n\r\n{}", "x".repeat(50_000));
    for (words, want) in [
        ("GET /secret HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
        (body.as_str(), "HTTP/1.1 405 "),
        ("\u{16}\u{3}\u{1}\n\n", "HTTP/1.1 400 "),
        (long.as_str(), "HTTP/1.1 431 "),
        ("GET /metrics HTTP/1.1\r\n", "HTTP/1.1 408 "),
    ] {
        let answer = say(&served, words.as_bytes());
        assert!(answer.starts_with(want), "{want} but {answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
    assert_eq!(served.asked.load(Ordering::Relaxed), 0, "the ring is not asked");
    assert!(say(&served, GET.as_bytes()).ends_with("# EOF\n"), "it goes on");
}

#[test]
fn a_failed_scrape_has_a_reason() {
    let answer = say(&serve(QUICK, None), GET.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("it is purple\n"), "{answer}");
}

#[test]
fn the_silent_and_the_slow_are_cut() {
    // More than the kernel's buffers hold.
    let served = serve(QUICK, Some("x".repeat(32 << 20)));
    let silent: Vec<_> = (0..QUICK.connections).map(|_| connect(&served)).collect();
    let start = Instant::now();
    // All seats are taken; this one waits until they are cut.
    let mut slow = connect(&served);
    slow.write_all(GET.as_bytes()).expect("sent");
    let mut byte = [0];
    slow.read_exact(&mut byte).expect("an answer begins");
    assert!(start.elapsed() >= QUICK.request / 2, "{:?}", start.elapsed());
    drop(silent);
    // It takes no more for a while; what was not taken in time is gone.
    thread::sleep(QUICK.answer * 3);
    let mut taken = Vec::new();
    let _ = slow.read_to_end(&mut taken);
    assert!(taken.len() < 32 << 20, "cut after {} bytes", taken.len());
}

#[test]
fn concurrent_scrapes_share_one_answer() {
    let served = serve(Limits { fresh: Duration::from_mins(1), ..QUICK }, Some("# EOF\n".to_owned()));
    let all: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(|| say(&served, GET.as_bytes()))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    assert!(all.iter().all(|answer| answer.ends_with("# EOF\n")), "{all:?}");
    assert_eq!(served.asked.load(Ordering::Relaxed), 1);
}
