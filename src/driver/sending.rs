//! Commands on their way to the store. What is due together leaves together.

use super::Driver;
use crate::contender::{Action, Event, Seen, SendId};
use crate::guard::ObjectId;
use crate::rules::{Command, Outcome};
use crate::store::BackingStore;

/// A command of a lock object.
pub(super) struct Parcel {
    object: ObjectId,
    id: SendId,
    key: String,
    command: Command,
    /// Only looks whether the command, a take, would change anything.
    looks: bool,
}

/// How a command failed.
pub(super) struct Failure<E> {
    pub(super) object: ObjectId,
    pub(super) id: SendId,
    pub(super) error: E,
}

fn renews(parcel: &Parcel) -> bool {
    matches!(parcel.command, Command::Renew { .. })
}

fn claims(parcel: &Parcel) -> bool {
    matches!(parcel.command, Command::Claim { .. })
}

pub(super) fn is_take(action: &Action) -> bool {
    matches!(
        action,
        Action::Send {
            command: Command::Take(_),
            ..
        }
    )
}

impl<S: BackingStore> Driver<S> {
    /// Keeps a command until all that is due has been decided.
    pub(super) fn collect(&self, object: ObjectId, id: SendId, command: Command, looks: bool) {
        if let Some(key) = self.key_of(object) {
            let key = (*key).to_owned();
            self.core().outbox.push(Parcel {
                object,
                id,
                key,
                command,
                looks,
            });
        }
    }

    /// Sends what was collected: together if the store has a step for that, side by side if not. Renewals and
    /// looks go apart. A transaction of nothing but renewals need not wait for what is read, and one of looks
    /// only reads.
    pub(super) fn send(&self, batch: Vec<Parcel>) {
        self.watch_closing();
        let (looks, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(|parcel| parcel.looks);
        let together = self.store.batches();
        let (renewals, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(renews);
        for batch in [renewals, others, looks] {
            if together && !batch.is_empty() {
                self.send_together(batch);
            } else {
                for parcel in batch {
                    self.send_together(vec![parcel]);
                }
            }
        }
    }

    fn send_together(&self, batch: Vec<Parcel>) {
        let (Some(this), Some(spawner)) = (self.this.upgrade(), self.core().spawner.clone()) else {
            return;
        };
        let together = self.store.batches();
        let renews = together && batch.iter().all(renews);
        let claims = together && batch.iter().any(claims);
        {
            let mut core = self.core();
            core.renewing += usize::from(renews);
            core.claiming += usize::from(claims);
        }
        // What was decided first reaches the store first.
        self.sends.start(&spawner, async move {
            let commands = batch.iter();
            let commands = commands.map(|parcel| (parcel.key.clone(), parcel.command.clone()));
            let commands: Vec<_> = commands.collect();
            let answers = if batch.iter().all(|parcel| parcel.looks) {
                this.store.look_all(commands).await
            } else {
                let answers = this.store.apply_all(commands).await.into_iter();
                answers.map(|answer| answer.map(Some)).collect()
            };
            {
                let core = &mut *this.core();
                core.renewing -= usize::from(renews);
                core.claiming -= usize::from(claims);
                if core.claiming == 0 {
                    let aside = core.aside.drain(..);
                    let aside = aside.map(|(object, lease)| (object, Event::SteppedAside(lease)));
                    core.events.extend(aside);
                }
            }
            this.deliver(batch, answers);
        });
    }

    /// Hands the answers to the lock objects that sent the commands.
    fn deliver(&self, batch: Vec<Parcel>, answers: Vec<Result<Option<Outcome>, S::Error>>) {
        for (parcel, answer) in batch.iter().zip(&answers) {
            trace(parcel, answer);
        }
        let mut core = self.core();
        for (parcel, answer) in batch.into_iter().zip(answers) {
            let Parcel {
                object,
                id,
                command,
                looks,
                ..
            } = parcel;
            let answer = match answer {
                // A look that has to be followed by the take.
                Ok(None) => None,
                Ok(answer) => Some(answer),
                Err(error) => {
                    core.failed.push(Failure { object, id, error });
                    Some(None)
                }
            };
            let event = match (command, answer) {
                (Command::Take(take), answer) if looks => {
                    let seen = match answer {
                        None => Seen::Change,
                        Some(Some(Outcome::Waiting(waiting))) => Seen::Waiting(waiting),
                        Some(_) => Seen::Nothing,
                    };
                    Event::Looked { id, take, seen }
                }
                (command, answer) => Event::Answer {
                    id,
                    command,
                    answer: answer.flatten(),
                },
            };
            core.events.push((object, event));
        }
        drop(core);
        self.run();
    }
}

fn trace<E: std::error::Error>(parcel: &Parcel, answer: &Result<Option<Outcome>, E>) {
    let key = &*parcel.key;
    match (&parcel.command, answer) {
        (Command::Take(_), Ok(Some(Outcome::Waiting(_)))) => tracing::trace!(key, "lock busy"),
        (
            Command::Renew { token, .. } | Command::Claim { token, .. },
            Ok(Some(Outcome::Held(_))),
        ) => {
            tracing::trace!(key, token, "lease renewed");
        }
        (Command::Renew { .. } | Command::Claim { .. }, Err(error)) => {
            tracing::warn!(key, %error, "renewal failed");
        }
        (Command::Quit { .. } | Command::Pass { .. }, Err(error)) => {
            tracing::warn!(key, %error, "release not written; the lease will lapse");
        }
        _ => {}
    }
}
