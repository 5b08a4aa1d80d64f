//! Integers in network byte order.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! big_endian {
    ($(#[$doc:meta])* $name:ident, $native:ty, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(transparent)]
        pub struct $name([u8; $size]);

        impl $name {
            /// From the host's byte order.
            pub const fn new(value: $native) -> Self {
                Self(value.to_be_bytes())
            }

            /// From bytes as they stand on the wire.
            #[inline(always)]
            pub const fn from_bytes(bytes: [u8; $size]) -> Self {
                Self(bytes)
            }

            /// In the host's byte order.
            #[inline(always)]
            pub const fn get(self) -> $native {
                <$native>::from_be_bytes(self.0)
            }

            /// The bytes as the machine loads them: what a ones'-complement sum adds up (RFC 1071, 2(B)).
            #[inline(always)]
            pub const fn raw(self) -> $native {
                <$native>::from_ne_bytes(self.0)
            }
        }

        impl From<$native> for $name {
            fn from(value: $native) -> Self {
                Self::new(value)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.get())
            }
        }
    };
}

big_endian!(
    /// 16 bits in network byte order.
    Be16, u16, 2
);
big_endian!(
    /// 32 bits in network byte order.
    Be32, u32, 4
);
