//! What the kernel lists of sockets: any bytes are read without a panic, and no more is read than is there.

use std::path::Path;

use dataplane_user::netlink::sock_diag::listed;

use super::Target;

pub const TARGET: Target = Target { name: "socket", corpus, words: &[], feed };

/// Bytes of a header of netlink, and of one with `struct inet_diag_msg`.
const HEADER: usize = 16;
const LEAST: usize = HEADER + 72;

/// A listener of TCP on `[::]:22`, with the attributes of Linux 6.18: shutdown, v6only, cgroup, options.
const MESSAGE: &str = "14000200010000000000000 00a0a000000160000\
     00000000000000000000000000000000000000000000000000000000000000000000000001000000 00000000\
     00000000000000000000000000000000 67120000\
     0500080000000000 05000b0001000000 0c00150001000000 00000000 06001600 32000000";

fn corpus(_: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let digits: Vec<_> = MESSAGE.chars().filter(|digit| !digit.is_whitespace()).collect();
    let pair = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
    let mut message = digits.chunks(2).map(pair).collect::<Result<Vec<_>, _>>()?;
    let length = u32::try_from(message.len() + 4)?;
    message.splice(0..0, length.to_ne_bytes());
    anyhow::ensure!(listed(&message) == 1, "the input of the corpus is not read");
    Ok(vec![message.clone(), message.repeat(3)])
}

fn feed(input: &[u8]) {
    assert!(listed(input) <= input.len() / LEAST, "more sockets than there is room for");
}
