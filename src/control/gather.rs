//! One question to all workers, and the wait for the last of their answers.

use crate::pipeline::report::{Answer, Query};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Where a worker can be asked. `io` puts the question into a bounded queue and wakes the worker's thread, which
/// answers between two batches by calling `reply` there.
pub trait WorkerPort: Send + Sync {
    /// Asks; never blocks. A `reply` that is dropped without being called says that the worker is gone.
    fn ask(&self, query: Query, reply: Box<dyn FnOnce(Answer) + Send>) -> Result<(), WorkerGone>;
}

/// The worker's thread has ended, or its queue of questions is full: either way it will not answer this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker is gone")]
pub struct WorkerGone;

/// A worker gave no answer, or none before the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {worker} does not answer")]
pub struct Unanswered {
    /// The first of them, counted from 0 as in its receiver indices; the entrance comes after the last.
    pub worker: usize,
}

/// The answers of all workers, in their order.
pub(super) async fn ask_all(
    workers: &[Box<dyn WorkerPort>],
    query: Query,
    deadline: impl Future<Output = ()>,
) -> Result<Vec<Answer>, Unanswered> {
    let round = Arc::new(Round::of(workers.len()));
    for (worker, port) in workers.iter().enumerate() {
        let seat = Seat { round: round.clone(), worker };
        let reply = Box::new(move |answer| seat.round.settle(seat.worker, Slot::Answered(answer)));
        port.ask(query.clone(), reply).map_err(|WorkerGone| Unanswered { worker })?;
    }
    let mut deadline = pin!(deadline);
    poll_fn(|context| match round.poll(context) {
        Poll::Ready(outcome) => Poll::Ready(outcome),
        Poll::Pending => deadline.as_mut().poll(context).map(|()| Err(round.missing())),
    })
    .await
}

/// One question's answers so far.
struct Round(Mutex<State>);

struct State {
    slots: Vec<Slot>,
    waker: Option<Waker>,
}

enum Slot {
    Waiting,
    Answered(Answer),
    Gone,
}

impl Round {
    fn of(workers: usize) -> Round {
        let slots = std::iter::repeat_with(|| Slot::Waiting).take(workers).collect();
        Round(Mutex::new(State { slots, waker: None }))
    }

    /// The first outcome counts.
    fn settle(&self, worker: usize, outcome: Slot) {
        let waker = {
            let mut state = self.state();
            match state.slots.get_mut(worker) {
                Some(slot @ Slot::Waiting) => *slot = outcome,
                _ => return,
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Result<Vec<Answer>, Unanswered>> {
        let mut state = self.state();
        if let Some(worker) = state.slots.iter().position(|slot| matches!(slot, Slot::Gone)) {
            return Poll::Ready(Err(Unanswered { worker }));
        }
        if state.slots.iter().any(|slot| matches!(slot, Slot::Waiting)) {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let answers = state.slots.drain(..).filter_map(|slot| match slot {
            Slot::Answered(answer) => Some(answer),
            Slot::Waiting | Slot::Gone => None,
        });
        Poll::Ready(Ok(answers.collect()))
    }

    fn missing(&self) -> Unanswered {
        let waiting = self.state().slots.iter().position(|slot| !matches!(slot, Slot::Answered(_)));
        Unanswered { worker: waiting.unwrap_or_default() }
    }

    /// A panic while the lock was held cannot leave half an answer behind, so a poisoned lock is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's seat in a round: given up without an answer, it says so.
struct Seat {
    round: Arc<Round>,
    worker: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.round.settle(self.worker, Slot::Gone);
    }
}
