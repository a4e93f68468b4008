//! Lengths of time.
//!
//! Natively they are the standard library's. In a browser they are whole µs in one number: no clock there is
//! finer, and the standard library's two numbers weigh 2 kB in a visitor's download. What is done with them
//! here comes to the same, rounded down to the µs; the test below compares the two.

#[cfg(not(target_arch = "wasm32"))]
pub use std::time::Duration;

#[cfg(target_arch = "wasm32")]
pub use micros::Micros as Duration;

#[cfg_attr(not(target_arch = "wasm32"), cfg(test))]
mod micros {
    use std::ops::{Add, Div, Mul};
    use std::time;

    /// A length of time, or a point on a clock.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Micros(u64);

    impl Micros {
        /// None.
        pub const ZERO: Self = Self(0);

        /// So many ms.
        #[must_use]
        pub const fn from_millis(ms: u64) -> Self {
            Self(ms.saturating_mul(1000))
        }

        /// So many µs.
        #[must_use]
        pub const fn from_micros(us: u64) -> Self {
            Self(us)
        }

        /// In µs.
        #[must_use]
        pub const fn as_micros(self) -> u128 {
            self.0 as u128
        }

        /// Whether it is none.
        #[must_use]
        pub const fn is_zero(self) -> bool {
            self.0 == 0
        }

        /// The sum, or the longest there is.
        #[must_use]
        pub const fn saturating_add(self, other: Self) -> Self {
            Self(self.0.saturating_add(other.0))
        }

        /// The difference, or none.
        #[must_use]
        pub const fn saturating_sub(self, other: Self) -> Self {
            Self(self.0.saturating_sub(other.0))
        }

        /// So many times that, or the longest there is.
        #[must_use]
        pub const fn saturating_mul(self, times: u32) -> Self {
            Self(self.0.saturating_mul(times as u64))
        }
    }

    /// Where the standard library's panics, in half a million years, this is the longest there is: what adds
    /// up may be a number of somebody else's.
    impl Add for Micros {
        type Output = Self;

        fn add(self, other: Self) -> Self {
            self.saturating_add(other)
        }
    }

    impl Mul<u32> for Micros {
        type Output = Self;

        fn mul(self, times: u32) -> Self {
            self.saturating_mul(times)
        }
    }

    impl Mul<Micros> for u32 {
        type Output = Micros;

        fn mul(self, of: Micros) -> Micros {
            of.saturating_mul(self)
        }
    }

    impl Div<u32> for Micros {
        type Output = Self;

        fn div(self, parts: u32) -> Self {
            Self(self.0 / u64::from(parts))
        }
    }

    impl From<time::Duration> for Micros {
        fn from(duration: time::Duration) -> Self {
            Self(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
        }
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::micros::Micros;

    /// Longer ones than these no clock of ours shows, and no message means.
    const LONGEST: u64 = 1 << 53;

    fn whole(of: Duration) -> u128 {
        of.as_micros()
    }

    proptest! {
        #[test]
        fn it_comes_to_what_the_standard_library_says(
            a in 0..LONGEST,
            b in 0..LONGEST,
            ms in any::<u32>(),
            n in 1..1_000_u32,
        ) {
            let (mine, other) = (Micros::from_micros(a), Micros::from_micros(b));
            let (std, std_other) = (Duration::from_micros(a), Duration::from_micros(b));
            prop_assert_eq!(mine.as_micros(), whole(std));
            prop_assert_eq!(mine, Micros::from(std));
            prop_assert_eq!(mine.is_zero(), std.is_zero());
            prop_assert_eq!(mine.cmp(&other), std.cmp(&std_other));
            prop_assert_eq!((mine + other).as_micros(), whole(std + std_other));
            prop_assert_eq!(mine.saturating_add(other).as_micros(), whole(std + std_other));
            prop_assert_eq!(mine.saturating_sub(other).as_micros(), whole(std.saturating_sub(std_other)));
            prop_assert_eq!((mine * n).as_micros(), whole(std * n));
            prop_assert_eq!(n * mine, mine * n);
            prop_assert_eq!(mine.saturating_mul(n).as_micros(), whole(std * n));
            prop_assert_eq!((mine / n).as_micros(), whole(std / n));
            let (ms, std_ms) = (Micros::from_millis(ms.into()), Duration::from_millis(ms.into()));
            prop_assert_eq!(ms.as_micros(), whole(std_ms));
        }
    }

    #[test]
    fn there_is_a_longest() {
        let most = Micros::from_micros(u64::MAX);
        assert_eq!(most + most, most);
        assert_eq!(most * 2, most);
        assert_eq!(Micros::from_millis(u64::MAX), most);
        assert_eq!(Micros::from(Duration::MAX), most);
        assert_eq!(Micros::ZERO.saturating_sub(most), Micros::default());
    }
}
