//! Parts of a state that most steps leave as they are: a step copies only what it changes, and only that is
//! hashed anew.

use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use ahash::RandomState;

/// The same in each run, and fast: it hashes every state.
const FIXED: RandomState = RandomState::with_seeds(1, 2, 3, 4);

/// A value that the states before and after a step share, until one changes it.
#[derive(Clone, Debug)]
pub struct Shared<T>(Arc<Kept<T>>);

#[derive(Clone, Debug)]
struct Kept<T> {
    value: T,
    /// Its fingerprint, once it was asked for.
    print: OnceLock<u64>,
}

impl<T> Shared<T> {
    pub fn new(value: T) -> Self {
        let print = OnceLock::new();
        Self(Arc::new(Kept { value, print }))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        let kept = Arc::make_mut(&mut self.0);
        kept.print.take();
        &mut kept.value
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || **self == **other
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: Hash> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let print = self.0.print.get_or_init(|| FIXED.hash_one(&self.0.value));
        state.write_u64(*print);
    }
}
