//! Offsets in structures of the kernel, for the programs that read `rx_handler` of devices.

/// Where it finds things in the kernel's own structures: bytes from the start of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelOffsets {
    /// `struct bpf_link`: its type.
    pub kind: u64,
    /// `struct bpf_xdp_link`: the device.
    pub xdp: u64,
    /// `struct tcx_link`: the device.
    pub tcx: u64,
    /// `struct net_device`: its index.
    pub ifindex: u64,
    /// `struct net_device`: its network namespace.
    pub net: u64,
    /// `struct net`: its number.
    pub number: u64,
    /// `struct net_device`: the handler that gets its frames before IP.
    pub handler: u64,
    /// `struct sk_buff`: the device; 0 where programs on the path of packets may not read it.
    pub device: u64,
}

impl KernelOffsets {
    /// How many words it has.
    pub const WORDS: usize = 8;

    /// As the global is laid out.
    pub const fn words(self) -> [u64; Self::WORDS] {
        [self.kind, self.xdp, self.tcx, self.ifindex, self.net, self.number, self.handler, self.device]
    }

    /// What [`Self::words`] made words.
    pub const fn from_words([kind, xdp, tcx, ifindex, net, number, handler, device]: [u64; Self::WORDS]) -> Self {
        Self { kind, xdp, tcx, ifindex, net, number, handler, device }
    }
}
