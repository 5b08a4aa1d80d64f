//! Requests of HTTP/1.1 over connections that are kept: the next one on a connection as soon as its answer is there.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The end of an answer's head.
const END: &[u8] = b"\r\n\r\n";
/// Room for the head and the body of an answer.
const ROOM: usize = 4096;

/// What is asked for, and what each answer must contain.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server that clients ask for.
    pub server: SocketAddr,
    /// Connections of a thread.
    pub connections: usize,
    /// Threads.
    pub threads: usize,
    /// Texts that each answer has: of the proxy in its head, of the server in its body.
    pub marks: Vec<String>,
}

impl Load {
    /// Requests a second over `time`; an answer without a mark is an error.
    pub fn run(&self, time: Duration) -> Result<f64> {
        let counts: Result<Vec<f64>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(|| self.ask(time))).collect();
            threads.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        Ok(counts?.iter().sum())
    }

    fn ask(&self, time: Duration) -> Result<f64> {
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", self.server.ip());
        let mut streams = Vec::new();
        for _ in 0..self.connections {
            let stream = TcpStream::connect_timeout(&self.server, PATIENCE).context("no connection")?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        // Once before the clock starts: the proxy has its own connection to the server then.
        for stream in &mut streams {
            stream.write_all(request.as_bytes())?;
            self.answer(stream)?;
            stream.write_all(request.as_bytes())?;
        }
        let start = Instant::now();
        let mut count = 0_u32;
        while start.elapsed() < time {
            for stream in &mut streams {
                self.answer(stream)?;
                count += 1;
                stream.write_all(request.as_bytes())?;
            }
        }
        Ok(f64::from(count) / start.elapsed().as_secs_f64())
    }

    /// Reads one answer; nothing comes behind it, since nothing else was asked for.
    fn answer(&self, stream: &mut TcpStream) -> Result<()> {
        let mut room = [0; ROOM];
        let mut filled = 0;
        loop {
            let more = stream.read(&mut room[filled..]).context("no answer")?;
            ensure!(more > 0, "the connection ended after {:?}", String::from_utf8_lossy(&room[..filled]));
            filled += more;
            let Some(head) = place(&room[..filled], END) else { continue };
            if filled >= head + END.len() + length(&room[..head])? {
                break;
            }
        }
        let told = |mark: &String| place(&room[..filled], mark.as_bytes()).is_some();
        let text = || String::from_utf8_lossy(&room[..filled]);
        ensure!(self.marks.iter().all(told), "an answer without {:?}: {:?}", self.marks, text());
        Ok(())
    }
}

/// What the head says of the length of the body.
fn length(head: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(head).context("a head that is no text")?;
    let line = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    line.and_then(|value| value.trim().parse().ok()).with_context(|| format!("no length in {text:?}"))
}

fn place(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
