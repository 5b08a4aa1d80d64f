//! What the kernel announces of connections: any bytes are read without a panic, and what is read makes sense.

use std::path::Path;

use dataplane_user::netlink::conntrack::announced;

use super::Target;

pub const TARGET: Target = Target { name: "conntrack", corpus, words: &[], feed };

/// An UPDATE of TCP through masquerade and a DESTROY of UDP over IPv6, as Linux 6.18 writes them.
const MESSAGES: [&str; 2] = [
    "d400000000010000000000000000000002000000340001801400018008000100c6120002080002\
     00c61201021c00028005000100060000000600020 0d65200000600030 01b5800003400028014000180\
     08000100c612010208000200c61201011c0002800500010006000000060002001b58000006000300d6520000\
     080003000000019e0800080000000100080007000006978030000480 2c00018005000100030000000500020007000000\
     05000300070000000600040 02b000000060005002b0000000800 0c00deadbeef06001200000700 00",
    "9800000002010000000000000000000 00a0000004c0001802c0001801400030020010db8000000000000000000000001\
     1400040020010db80000000000000000000000021c000280050001001100000006000200d6520000\
     0600030000350000 4c0002802c0001801400030020010db8000000000000000000000002\
     1400040020010db80000000000000000000000011c0002800500010011000000060002000035000006000300d6520000\
     080003000000020e08000c0000000007",
];

fn corpus(_: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    MESSAGES.iter().map(|hex| bytes(hex)).collect()
}

fn bytes(hex: &str) -> anyhow::Result<Vec<u8>> {
    let digits: Vec<_> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
    let pair = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
    let mut message = digits.chunks(2).map(pair).collect::<Result<Vec<_>, _>>()?;
    let length = u32::try_from(message.len())?;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    anyhow::ensure!(announced(&message) == 1, "an input of the corpus is not read: {hex}");
    Ok(message)
}

fn feed(input: &[u8]) {
    let _ = announced(input);
}
