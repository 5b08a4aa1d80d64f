//! Tunnels between hosts behind veth: what is inside may have a checksum that nobody has filled in yet.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use dataplane_tests::lab::{CLIENT, SERVER};

use crate::scene::{PORTS, Scene, can_have};

/// Addresses inside, of client and server.
const INSIDE: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// Whether a stream from the client gets an answer through a tunnel.
fn talks(scene: &Scene) -> bool {
    let listener = scene.server().inside(|| Ok(TcpListener::bind((INSIDE[1], 7000))?)).expect("a listener");
    let answer = thread::spawn(move || {
        listener.set_nonblocking(true).expect("a listener that can be left");
        for _ in 0..300 {
            if let Ok((mut stream, _)) = listener.accept() {
                stream.set_nonblocking(false).expect("a stream");
                let mut said = [0; 5];
                return stream.read_exact(&mut said).is_ok() && stream.write_all(&said).is_ok();
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    });
    let ask = || {
        let to = format!("{}:7000", INSIDE[1]).parse()?;
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"hello")?;
        let mut said = [0; 5];
        stream.read_exact(&mut said)?;
        Ok(said == *b"hello")
    };
    let asked = scene.client().inside(ask).unwrap_or(false);
    answer.join().unwrap_or(false) && asked
}

fn carried(mode: &str) {
    let Some(scene) = Scene::idle(&[]) else { return };
    scene.attach(&PORTS, mode);
    scene.take_frames();
    let ends = [(scene.client(), CLIENT, SERVER, INSIDE[0]), (scene.server(), SERVER, CLIENT, INSIDE[1])];
    let mut ran = 0;
    for (kind, probe, words) in [
        ("vxlan", &["vxlan", "id", "7", "dstport", "4789"][..], "type vxlan id 7 dstport 4789 noudpcsum"),
        ("vxlan with a checksum", &["vxlan", "id", "7", "dstport", "0"], "type vxlan id 7 dstport 8472 udpcsum"),
        ("gre", &["gre", "local", "192.0.2.9"], "type gre"),
        ("ipip", &["ipip", "local", "192.0.2.9"], "type ipip"),
    ] {
        if !can_have(probe) {
            println!("this kernel has no {kind}");
            continue;
        }
        for (namespace, near, far, inside) in &ends {
            let link = near.port;
            namespace
                .run(&format!("ip link add tun9 {words} local {} remote {} dev {link}", near.v4, far.v4))
                .expect("a tunnel");
            namespace.run(&format!("ip addr add {inside}/30 dev tun9")).expect("an address");
            namespace.run("ip link set tun9 up").expect("a tunnel");
        }
        assert!(talks(&scene), "{mode}: TCP through {kind}");
        for (namespace, ..) in &ends {
            namespace.run("ip link del tun9").expect("no tunnel");
        }
        ran += 1;
    }
    println!("{mode}: {ran} kinds of tunnels");
    assert!(ran > 0, "this kernel has no tunnels at all");
    scene.close();
}

#[test]
fn tcp_goes_through_tunnels_in_native() {
    carried("native");
}

#[test]
fn tcp_goes_through_tunnels_in_generic() {
    carried("generic");
}
