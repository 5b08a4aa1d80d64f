//! The constants that the loss observer is loaded with.

/// Words of [`Observer`].
const WORDS: usize = 5;

/// The identity of an observer, and the offsets by which it finds a device in structures of the kernel. The kernel identifies
/// devices by pointers, and interface indices belong to one network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observer {
    /// Never 0. The one that is on watch counts; those of earlier daemons do no more.
    pub id: u64,
    /// Number of the network namespace, as the inode of `/proc/self/ns/net`.
    pub namespace: u64,
    /// Bytes from the start of `struct net_device` to its `ifindex`.
    pub ifindex: u64,
    /// Bytes from the start of `struct net_device` to its pointer to `struct net`.
    pub net: u64,
    /// Bytes from the start of `struct net` to the number of the namespace.
    pub number: u64,
}

impl Observer {
    /// As the global is laid out.
    pub const fn words(self) -> [u64; WORDS] {
        [self.id, self.namespace, self.ifindex, self.net, self.number]
    }

    /// What [`Self::words`] made words.
    pub const fn from_words([id, namespace, ifindex, net, number]: [u64; WORDS]) -> Self {
        Self { id, namespace, ifindex, net, number }
    }
}
