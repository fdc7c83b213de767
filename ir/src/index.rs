//! Typed `u32` ids: what they index is in their name, and they print as the text form spells them.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $name {
            /// The id of the element at `index`.
            ///
            /// # Panics
            /// When `index` does not fit in 32 bits: a graph of 4 billion nodes is a bug.
            pub fn new(index: usize) -> Self {
                $name(u32::try_from(index).expect("fewer than 2^32 elements"))
            }

            /// The position in the arena.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A node of one [`Graph`](crate::Graph).
    NodeId,
    "n"
);
id!(
    /// A value of one [`Graph`](crate::Graph).
    ValueId,
    "%"
);
id!(
    /// A block of one [`Module`](crate::Module).
    BlockId,
    "@block"
);
