//! What a lock manager's word proves about another tab's end. Pure: words in, a verdict out.
//!
//! A tab holds a beacon, a Web Lock of a name of its own, for as long as it lives. Another tab that asks
//! for that name is granted it when the first has ended; that is the word. It may come late or twice, and it
//! may be a lie: a polyfill has its own idea of who is dead, a wrapper calls back with `null`, and a frame
//! whose locks are partitioned, while its IndexedDB is not, is granted every name at once. A lie that is
//! believed makes two holders. So a grant proves an end only if all of this holds:
//!
//! - the manager is the browser's own;
//! - the grant came with a real lock of that very name;
//! - the same manager has said before, to this watcher, that *somebody else* held that beacon.
//!
//! A tab that cannot prove an end observes the lease, as if there were no beacons.
//!
//! # Example
//!
//! ```
//! use tab_lease::evidence::{Evidence, Manager, Word};
//!
//! let mut evidence = Evidence::new(Manager::Browser);
//! assert!(!evidence.proves_end("other", Word::Granted { lock: true }), "never seen alive");
//! assert!(!evidence.proves_end("other", Word::Held { by_us: false }));
//! assert!(evidence.proves_end("other", Word::Granted { lock: true }));
//! ```

/// Whose lock manager it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Manager {
    /// The browser's own, untouched.
    Browser,
    /// A polyfill, or the browser's behind somebody's wrapper.
    Foreign,
}

/// What a lock manager says of a tab's beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// Its list of held locks names the beacon.
    Held {
        /// The list names the watcher itself as the holder.
        by_us: bool,
    },
    /// The watcher, which asked for the beacon's name, was called back.
    Granted {
        /// It was given a real lock of that name.
        lock: bool,
    },
}

/// What one watcher has heard of beacons, from one manager. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Evidence {
    manager: Manager,
    /// Whose beacons were seen to be held by somebody else. An end is never taken back, so nothing is
    /// ever removed: ten letters for each tab that was met.
    seen_alive: Vec<String>,
}

impl Evidence {
    /// Nothing heard yet.
    #[must_use]
    pub fn new(manager: Manager) -> Self {
        Self {
            manager,
            seen_alive: Vec::new(),
        }
    }

    /// Takes a word about the beacon of `tab`. Whether it proves that this tab has ended.
    pub fn proves_end(&mut self, tab: &str, word: Word) -> bool {
        match word {
            _ if self.manager == Manager::Foreign => false,
            Word::Held { by_us } => {
                if !by_us && !self.has_seen(tab) {
                    self.seen_alive.push(tab.to_owned());
                }
                false
            }
            Word::Granted { lock } => lock && self.has_seen(tab),
        }
    }

    /// Whether the end of `tab` could be proved: its beacon was seen while it lived.
    #[must_use]
    pub fn has_seen(&self, tab: &str) -> bool {
        self.seen_alive.iter().any(|seen| seen == tab)
    }
}
