//! Commands on their way to the store. What is due together leaves together.

use super::Driver;
use crate::contender::{Action, Event, SendId};
use crate::guard::ObjectId;
use crate::rules::{Command, Outcome};
use crate::store::BackingStore;

/// A command of a lock object.
pub(super) struct Parcel {
    object: ObjectId,
    id: SendId,
    key: String,
    command: Command,
}

/// How a command failed.
pub(super) struct Failure<E> {
    pub(super) object: ObjectId,
    pub(super) id: SendId,
    pub(super) error: E,
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
    pub(super) fn collect(&self, object: ObjectId, id: SendId, command: Command) {
        if let Some(key) = self.key_of(object) {
            let key = (*key).to_owned();
            self.core().outbox.push(Parcel {
                object,
                id,
                key,
                command,
            });
        }
    }

    /// Sends what was collected: together, if the store has a step for that, else side by side. Renewals go
    /// by themselves: in a transaction of nothing else they need not wait for what is read.
    pub(super) fn send(&self, batch: Vec<Parcel>) {
        if batch.len() == 1 || !self.store.batches() {
            return batch
                .into_iter()
                .for_each(|parcel| self.send_together(vec![parcel]));
        }
        let renews = |parcel: &Parcel| matches!(parcel.command, Command::Renew { .. });
        let (renewals, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(renews);
        for batch in [renewals, others] {
            if !batch.is_empty() {
                self.send_together(batch);
            }
        }
    }

    fn send_together(&self, batch: Vec<Parcel>) {
        let (Some(this), Some(spawner)) = (self.this.upgrade(), self.core().spawner.clone()) else {
            return;
        };
        spawner.spawn(async move {
            let commands = batch.iter();
            let commands = commands.map(|parcel| (parcel.key.clone(), parcel.command.clone()));
            let answers = this.store.apply_all(commands.collect()).await;
            this.answered(batch, answers);
        });
    }

    fn answered(&self, batch: Vec<Parcel>, answers: Vec<Result<Outcome, S::Error>>) {
        for (parcel, answer) in batch.iter().zip(&answers) {
            trace(parcel, answer);
        }
        let mut core = self.core();
        for (parcel, answer) in batch.into_iter().zip(answers) {
            let Parcel {
                object,
                id,
                command,
                ..
            } = parcel;
            let answer = match answer {
                Ok(outcome) => Some(outcome),
                Err(error) => {
                    core.failed.push(Failure { object, id, error });
                    None
                }
            };
            let event = Event::Answer {
                id,
                command,
                answer,
            };
            core.events.push((object, event));
        }
        drop(core);
        self.run();
    }
}

fn trace<E: std::error::Error>(parcel: &Parcel, answer: &Result<Outcome, E>) {
    let key = &*parcel.key;
    match (&parcel.command, answer) {
        (Command::Take(_), Ok(Outcome::Waiting(_))) => tracing::trace!(key, "lock busy"),
        (Command::Renew { token, .. } | Command::Claim { token, .. }, Ok(Outcome::Held(_))) => {
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
