//! The server against peers that are slow, silent, hostile or not allowed, and against other daemons.

mod fake;

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use dataplane_user::{
    control::{
        client::Client,
        page::{Cursor, Part},
        protocol::{CHANGE_LIMIT, Data, FailureKind, Reply, Request},
        row::RuleRow,
        server::{BindError, Limits, Server},
    },
    rule::ChainName,
};
use fake::{Daemon, directory, runtime};
use rustix::{fs::Mode, process::umask};

fn done() -> Daemon {
    Daemon::start(|_| Ok(Data::Done.into()))
}

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(&daemon.socket).expect("the daemon listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// Everything that the daemon says until it cuts the connection.
fn rest(mut stream: &UnixStream) -> String {
    let mut text = Vec::new();
    if let Err(error) = stream.read_to_end(&mut text) {
        // Cut with bytes unread, the kernel reports a reset behind the answer.
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8(text).expect("UTF-8")
}

fn works(daemon: &Daemon) {
    let reply = Client::connect(&daemon.socket).expect("it listens").call(&Request::PortList).expect("it answers");
    assert_eq!(reply, Reply::from(Data::Done));
}

#[test]
fn the_socket_is_0660_whatever_the_umask() {
    for mask in [0o000, 0o077, 0o022] {
        let before = umask(Mode::from_raw_mode(mask));
        let daemon = done();
        umask(before);
        let found = fs::symlink_metadata(&daemon.socket).expect("the socket");
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o7777, 0o660, "umask {mask:o}");
    }
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let daemon = done();
    let error = runtime().block_on(async { Server::bind(&daemon.socket) }).expect_err("refused");
    assert!(matches!(error, BindError::Live { .. }), "{error:?}");
    let path = daemon.socket.display();
    let want = format!("another daemon answers on {path} (pid {}); stop it", std::process::id());
    assert!(error.to_string().starts_with(&want), "{error}");
    works(&daemon);
}

#[test]
fn a_daemon_too_busy_to_accept_keeps_its_socket() {
    let directory = directory();
    let path = directory.path().join("busy.sock");
    let _listener = UnixListener::bind(&path).expect("a socket");
    // Nobody accepts: fill the queue until connect would wait.
    let (sender, receiver) = std::sync::mpsc::channel();
    let target = path.clone();
    thread::spawn(move || {
        while let Ok(stream) = UnixStream::connect(&target) {
            if sender.send(stream).is_err() {
                break;
            }
        }
    });
    let mut waiting = Vec::new();
    while let Ok(stream) = receiver.recv_timeout(Duration::from_millis(500)) {
        waiting.push(stream);
    }
    let error = runtime().block_on(async { Server::bind(&path) }).expect_err("refused");
    assert!(error.to_string().contains("find out who listens"), "{error}");
    assert!(path.exists());
}

#[test]
fn what_a_dead_daemon_left_is_replaced() {
    let directory = directory();
    let path = directory.path().join("dead.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    runtime().block_on(async {
        let server = Server::bind(&path).expect("nobody answers");
        assert!(UnixStream::connect(&path).is_ok());
        drop(server);
    });
    assert!(!path.exists(), "a clean end removes the socket");
}

#[test]
fn of_many_daemons_at_once_one_wins() {
    let directory = directory();
    let path = directory.path().join("race.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    let barrier = Arc::new(Barrier::new(8));
    let start = |_| {
        let (barrier, path) = (Arc::clone(&barrier), path.clone());
        thread::spawn(move || {
            runtime().block_on(async {
                barrier.wait();
                let server = Server::bind(&path);
                barrier.wait();
                server.is_ok()
            })
        })
    };
    let threads: Vec<_> = (0..8).map(start).collect();
    let won = threads.into_iter().map(|thread| thread.join().expect("no panic")).filter(|won| *won).count();
    assert_eq!(won, 1);
}

#[test]
fn only_sockets_of_its_own_are_removed() {
    let directory = directory();
    let file = directory.path().join("file");
    fs::write(&file, "precious").expect("a file");
    let error = runtime().block_on(async { Server::bind(&file) }).expect_err("refused");
    assert!(matches!(error, BindError::NotASocket { .. }), "{error:?}");
    assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");

    let path = directory.path().join("moved.sock");
    runtime().block_on(async {
        let server = Server::bind(&path).expect("a socket");
        fs::remove_file(&path).expect("the socket");
        fs::write(&path, "another's").expect("a file");
        drop(server);
    });
    assert_eq!(fs::read_to_string(&path).expect("still there"), "another's");

    let long = directory.path().join("x".repeat(120));
    let error = runtime().block_on(async { Server::bind(&long) }).expect_err("refused");
    assert!(error.to_string().contains("cannot listen on"), "{error}");
}

#[test]
fn malformed_requests_are_refused() {
    let deep = "[".repeat(100_000);
    let rows: [&[u8]; 11] = [
        b"",
        b"hello",
        b"{}",
        b"null",
        b"{\"verb\":\"frobnicate\"}",
        b"{\"verb\":\"port list\",\"extra\":1}",
        b"{\"verb\":\"rule list\",\"with\":{\"chain\":\"sideways\"}}",
        b"{\"verb\":\"rule del\",\"with\":{\"chain\":\"input\",\"handle\":-1}}",
        b"{\"verb\":\"attach\",\"with\":{\"ifaces\":[],\"mode\":\"warp\"}}",
        b"\"\xff\xfe\"",
        deep.as_bytes(),
    ];
    let daemon = done();
    for row in rows {
        let mut stream = connect(&daemon);
        // The request behind the nonsense must not be heard.
        let lines = [row, b"\n{\"verb\":\"detach\",\"with\":\"all\"}\n"].concat();
        stream.write_all(&lines).expect("the daemon reads");
        let answer = rest(&stream);
        let row = String::from_utf8_lossy(&row[..row.len().min(80)]);
        assert!(
            answer.starts_with("{\"failure\":{\"kind\":\"usage\",\"message\":\"the daemon does not know"),
            "{row}: {answer}"
        );
        assert_eq!(answer.matches('\n').count(), 1, "{row}: {answer}");
        assert_eq!(daemon.take_calls(), [], "{row}");
    }
    works(&daemon);
}

/// A request whose line, with its end, is `length` bytes long.
fn sized(length: usize) -> Request {
    let request = |rule| Request::RuleAdd { chain: ChainName::Forward, rule };
    let empty = dataplane_user::control::json::line(&request(String::new())).expect("JSON").len() + 1;
    request("x".repeat(length - empty))
}

#[test]
fn a_request_is_not_longer_than_a_large_config() {
    let daemon = done();
    let mut client = Client::connect(&daemon.socket).expect("it listens");
    assert_eq!(client.call(&sized(CHANGE_LIMIT)), Ok(Data::Done.into()));
    assert_eq!(daemon.take_calls(), [sized(CHANGE_LIMIT)]);
    let refused = client.call(&sized(CHANGE_LIMIT + 1)).expect_err("too long");
    assert_eq!(refused.kind, FailureKind::Rejected);

    // A peer that does not care: with and without an end of its line, and one that goes on for ever.
    for (length, end) in [(CHANGE_LIMIT, "\n"), (CHANGE_LIMIT, ""), (CHANGE_LIMIT + 1, "\n"), (CHANGE_LIMIT * 2, "")] {
        let stream = connect(&daemon);
        let mut writer = stream.try_clone().expect("a descriptor");
        let flood = thread::spawn(move || {
            // The daemon cuts it at some point.
            let _ = writer.write_all(&vec![b'x'; length]);
            let _ = writer.write_all(end.as_bytes());
        });
        let answer = rest(&stream);
        flood.join().expect("no panic");
        assert!(answer.contains("\"the request is longer than 67108864 bytes\""), "{length} {end:?}: {answer}");
    }
    assert_eq!(daemon.take_calls(), []);
    works(&daemon);
}

#[test]
fn half_a_request_is_no_request() {
    let daemon = done();
    let mut stream = connect(&daemon);
    stream.write_all(b"{\"verb\":\"detach\",\"with\":\"all\"}").expect("the daemon reads");
    stream.shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(rest(&stream), "");
    drop(stream);
    // Gone before the answer.
    let mut stream = connect(&daemon);
    stream.write_all(b"{\"verb\":\"port list\"}\n").expect("the daemon reads");
    drop(stream);
    works(&daemon);
    assert!(!daemon.take_calls().contains(&Request::Detach(dataplane_user::control::protocol::Selection::All)));
}

#[test]
fn requests_are_answered_in_order_and_in_pieces() {
    let daemon = Daemon::start(|request| {
        let name = if *request == Request::NeighList { "second" } else { "first" };
        Ok(Data::Config(name.to_owned()).into())
    });
    let mut stream = connect(&daemon);
    stream.write_all(b"{\"verb\":\"port list\"}\n{\"verb\":\"nei").expect("the daemon reads");
    thread::sleep(Duration::from_millis(50));
    stream.write_all(b"gh list\"}\n").expect("the daemon reads");
    stream.shutdown(Shutdown::Write).expect("a socket");
    let answers = rest(&stream);
    let found: Vec<_> = answers.lines().map(|line| line.contains("first")).collect();
    assert_eq!(found, [true, false], "{answers}");
}

#[test]
fn silent_peers_are_cut_and_delay_no_one() {
    let limits = Limits { request: Duration::from_secs(2), ..Limits::default() };
    let daemon = Daemon::start_with(limits, |call| {
        let _ = call.reply.send(Ok(Data::Done.into()));
    });
    let silent: Vec<_> = (0..200).map(|_| connect(&daemon)).collect();
    let mut dripping = connect(&daemon);
    let start = Instant::now();
    works(&daemon);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // A byte now and then does not buy time.
    while dripping.write_all(b" ").is_ok() {
        assert!(start.elapsed() < Duration::from_secs(10), "it is still borne");
        thread::sleep(Duration::from_millis(100));
    }
    for stream in &silent {
        assert!(rest(stream).contains("no request within 2 s"));
    }
}

#[test]
fn a_peer_that_does_not_read_delays_no_one() {
    const BIG: usize = 4 << 20;
    let limits = Limits { write: Duration::from_millis(500), ..Limits::default() };
    let daemon = Daemon::start_with(limits, |call| {
        let data = if call.request == Request::ConfigShow { Data::Config("x".repeat(BIG)) } else { Data::Done };
        let _ = call.reply.send(Ok(data.into()));
    });
    let mut deaf = connect(&daemon);
    deaf.write_all(b"{\"verb\":\"config show\"}\n").expect("the daemon reads");
    works(&daemon);
    let start = Instant::now();
    while deaf.write_all(b" ").is_ok() {
        assert!(start.elapsed() < Duration::from_secs(20), "it is still borne");
        thread::sleep(Duration::from_millis(100));
    }
    let taken = rest(&deaf).len();
    assert!(taken < BIG / 2, "{taken} bytes were kept for it");
    // One that does read gets it all.
    let reply = Client::connect(&daemon.socket).expect("it listens").call(&Request::ConfigShow).expect("it answers");
    assert_eq!(reply, Data::Config("x".repeat(BIG)).into());
}

#[test]
fn a_stuck_or_closed_ring_is_reported() {
    let limits = Limits { ring: Duration::from_millis(200), ..Limits::default() };
    let stuck = Daemon::start_with(limits, |_| thread::sleep(Duration::from_millis(10)));
    let failure = Client::connect(&stuck.socket).expect("it listens").call(&Request::PortList).expect_err("dropped");
    assert_eq!((failure.kind, failure.message.contains("stopping")), (FailureKind::Unreachable, true), "{failure}");

    let directory = directory();
    let path = directory.path().join("ring.sock");
    runtime().block_on(async {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let server = tokio::spawn(Server::bind(&path).expect("a socket").with_limits(limits).serve(sender));
        let ask = |path: &Path| {
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || {
                Client::connect(&path).and_then(|mut client| client.call(&Request::PortList))
            })
        };
        // The first fills the queue that nobody empties, the second does not get in.
        let first = ask(&path);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let failure = ask(&path).await.expect("no panic").expect_err("busy");
        assert_eq!((failure.kind, failure.message.contains("busy")), (FailureKind::Failed, true), "{failure}");
        // The ring ends: so does the server, and its socket goes.
        drop(receiver);
        assert_eq!(first.await.expect("no panic").expect_err("gone").kind, FailureKind::Unreachable);
        server.await.expect("no panic");
    });
    assert!(!path.exists());
}

#[test]
fn calls_of_closed_connections_are_dropped() {
    let wanted = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&wanted);
    let daemon = Daemon::start_with(Limits::default(), move |call| {
        // Long enough for the peer to leave.
        thread::sleep(Duration::from_millis(300));
        seen.lock().expect("no panic").push((call.request.clone(), call.is_wanted()));
        let _ = call.reply.send(Ok(Data::Done.into()));
    });
    let ask = |request: &Request| {
        let mut stream = connect(&daemon);
        let line = dataplane_user::control::json::line(request).expect("JSON") + "\n";
        stream.write_all(line.as_bytes()).expect("the daemon reads");
        stream
    };
    let add = |port| Request::RuleAdd { chain: ChainName::Forward, rule: format!("udp dport {port} drop") };
    // One leaves at once, one says that it has no more to say, one stays.
    drop(ask(&add(1)));
    let (half, whole) = (ask(&add(2)), ask(&add(3)));
    half.shutdown(Shutdown::Write).expect("a socket");
    assert!(rest(&half).contains("done"));
    whole.shutdown(Shutdown::Write).expect("a socket");
    assert!(rest(&whole).contains("done"));
    let wanted = wanted.lock().expect("no panic");
    assert!(!wanted.contains(&(add(1), true)), "{wanted:?}");
    assert!(wanted.contains(&(add(2), true)) && wanted.contains(&(add(3), true)), "{wanted:?}");
}

#[test]
fn pages_are_requested_as_they_are_read() {
    const PAGES: usize = 400;
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let limits = Limits { write: Duration::from_secs(5), ..Limits::default() };
    let daemon = Daemon::start_with(limits, move |call| {
        let place = match call.from {
            Some(Cursor::Rules { place, .. }) => place,
            _ => 0,
        };
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let row = |handle| RuleRow { chain: ChainName::Forward, handle, rule: "x".repeat(1000), packets: 0, bytes: 0 };
        let rows = (0..50).map(|index| row((place * 50 + index) as u64)).collect();
        let next = Cursor::Rules { chain: ChainName::Forward, place: place + 1, handle: 0 };
        let next = Some(next).filter(|_| place + 1 < PAGES);
        let _ = call.reply.send(Ok(Part { reply: Data::Rules(rows).into(), next }));
    });
    let mut slow = connect(&daemon);
    slow.write_all(b"{\"verb\":\"rule list\",\"with\":{\"chain\":null}}\n").expect("the daemon reads");
    thread::sleep(Duration::from_secs(1));
    let ahead = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!(ahead < 20, "{ahead} of {PAGES} pages were made for a peer that takes nothing");
    let reply = Client::connect(&daemon.socket).expect("it listens").call(&Request::RuleList { chain: None });
    let Ok(Reply { data: Data::Rules(rows), .. }) = reply else { panic!("{reply:?}") };
    let handles: Vec<_> = rows.iter().map(|row| row.handle).collect();
    assert_eq!(handles, (0..(PAGES * 50) as u64).collect::<Vec<_>>());
}

/// Makes this thread another user's, in no other group: to the kernel, credentials are a thread's.
fn become_user(user: u32) {
    use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_groups(&[]).expect("root may");
    set_thread_res_gid(group, group, group).expect("root may");
    set_thread_res_uid(user, user, user).expect("root may");
}

/// Calls the daemon as another user.
fn call_as(user: u32, daemon: &Daemon, requests: Vec<Request>) -> Vec<Result<Reply, FailureKind>> {
    let socket = daemon.socket.clone();
    let caller = thread::spawn(move || {
        become_user(user);
        let call = |request| Client::connect(&socket).and_then(|mut client| client.call(&request));
        requests.into_iter().map(|request| call(request).map_err(|failure| failure.kind)).collect()
    });
    caller.join().expect("no panic")
}

#[test]
fn others_may_read_but_not_change() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP others_may_read_but_not_change: only root can be another user");
        return;
    }
    let limits = Limits { guests: 2, ..Limits::default() };
    let daemon = Daemon::start_with(limits, |call| {
        let text = call.peer.uid.to_string();
        let _ = call.reply.send(Ok(Data::Config(text).into()));
    });
    let change = || Request::RuleFlush { chain: ChainName::Forward };
    let seen = |uid: u32| Ok(Data::Config(uid.to_string()).into());
    // Without access to the socket there is nothing to see.
    assert_eq!(call_as(NOBODY, &daemon, vec![Request::PortList]), [Err(FailureKind::Unreachable)]);
    for path in daemon.socket.ancestors().take(3) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("ours");
    }
    let asked = vec![Request::PortList, change(), Request::ConfigShow];
    let found = call_as(NOBODY, &daemon, asked.clone());
    assert_eq!(found, [seen(NOBODY), Err(FailureKind::Failed), seen(NOBODY)]);
    assert_eq!(daemon.take_calls(), [Request::PortList, Request::ConfigShow]);
    assert_eq!(call_as(0, &daemon, asked), [seen(0), seen(0), seen(0)]);

    // Guests may take all of their seats, and none of ours.
    let socket = daemon.socket.clone();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (ready, seated) = std::sync::mpsc::channel();
    let guests = thread::spawn(move || {
        become_user(NOBODY);
        let held: Vec<_> = (0..2).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
        ready.send(()).expect("the test waits");
        let _ = released.recv();
        drop(held);
    });
    seated.recv().expect("seated");
    assert_eq!(call_as(NOBODY, &daemon, vec![Request::PortList]), [Err(FailureKind::Failed)]);
    assert_eq!(call_as(0, &daemon, vec![change()]), [seen(0)]);
    drop(release);
    guests.join().expect("no panic");
}
