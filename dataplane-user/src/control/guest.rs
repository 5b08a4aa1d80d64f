//! What peers who may only read can have of the daemon: seats, a place at its desks, bytes. All of it is bounded for all of them
//! together, and no user has all of it. Those who may change things need none of this.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::protocol::Request;

/// Calls of guests that are answered at once, each from when it goes to the ring until its answer is text.
const DESKS: usize = 4;
/// And of those that take long.
const LARGE_DESKS: usize = 1;
/// Bytes of requests that are held for guests, and as many of answers; and those of one user among them. They are counted
/// apart: who waits for room for an answer has a request that is held.
const BYTES: usize = 32 << 20;
const OWN_BYTES: usize = 8 << 20;

/// Bytes that a guest may hold, until this is dropped.
pub(super) type Bytes = [OwnedSemaphorePermit; 2];
/// A place at a desk, until this is dropped.
pub(super) type Desk = OwnedSemaphorePermit;

/// All of them.
#[derive(Debug)]
pub(super) struct Guests {
    seats: Arc<Semaphore>,
    /// Of those who are refused a seat, how many can be made to wait for that.
    pub(super) refused: Semaphore,
    most: usize,
    desks: Arc<Semaphore>,
    large: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    users: Mutex<HashMap<u32, Weak<User>>>,
}

/// What one user has.
#[derive(Debug)]
struct User {
    seats: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

/// One connection of a guest.
#[derive(Debug)]
pub(super) struct Seat {
    guests: Arc<Guests>,
    user: Arc<User>,
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Guests {
    /// With so many seats, of which a user can have three in four.
    pub(super) fn new(seats: usize) -> Arc<Self> {
        Arc::new(Self {
            seats: Arc::new(Semaphore::new(seats)),
            refused: Semaphore::new(seats),
            most: (seats * 3 / 4).max(1),
            desks: Arc::new(Semaphore::new(DESKS)),
            large: Arc::new(Semaphore::new(LARGE_DESKS)),
            requests: Arc::new(Semaphore::new(BYTES)),
            answers: Arc::new(Semaphore::new(BYTES)),
            users: Mutex::default(),
        })
    }

    /// A seat for a user, if there is one.
    pub(super) fn seat(self: &Arc<Self>, uid: u32) -> Option<Seat> {
        let all = Arc::clone(&self.seats).try_acquire_owned().ok()?;
        let user = self.user(uid);
        let own = Arc::clone(&user.seats).try_acquire_owned().ok()?;
        Some(Seat { guests: Arc::clone(self), user, _all: all, _own: own })
    }

    fn user(&self, uid: u32) -> Arc<User> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = users.get(&uid).and_then(Weak::upgrade) {
            return user;
        }
        users.retain(|_, user| user.strong_count() > 0);
        let semaphore = |room| Arc::new(Semaphore::new(room));
        let (requests, answers) = (semaphore(OWN_BYTES), semaphore(OWN_BYTES));
        let user = Arc::new(User { seats: semaphore(self.most), requests, answers });
        users.insert(uid, Arc::downgrade(&user));
        user
    }
}

impl Seat {
    /// Waits for a desk, in turn.
    pub(super) async fn desk(&self, request: &Request) -> Result<Desk, AcquireError> {
        // Large ones take no desk from the others.
        let desks = if request.is_large() { &self.guests.large } else { &self.guests.desks };
        Arc::clone(desks).acquire_owned().await
    }

    /// Waits until so many bytes of a request may be held. Who wants more than there are has all of them, alone.
    pub(super) async fn request(&self, bytes: usize) -> Result<Bytes, AcquireError> {
        take(&self.user.requests, &self.guests.requests, bytes).await
    }

    /// The same of an answer.
    pub(super) async fn answer(&self, bytes: usize) -> Result<Bytes, AcquireError> {
        take(&self.user.answers, &self.guests.answers, bytes).await
    }
}

/// One's own first: who waits for these holds none of the others'.
async fn take(own: &Arc<Semaphore>, all: &Arc<Semaphore>, bytes: usize) -> Result<Bytes, AcquireError> {
    let own = Arc::clone(own).acquire_many_owned(bytes.min(OWN_BYTES) as u32).await?;
    Ok([own, Arc::clone(all).acquire_many_owned(bytes.min(BYTES) as u32).await?])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn no_user_has_all_seats() {
        let guests = Guests::new(8);
        let mut seats: Vec<_> = (0..8).filter_map(|_| guests.seat(1)).collect();
        assert_eq!(seats.len(), 6);
        seats.extend((0..8).filter_map(|_| guests.seat(2)));
        assert_eq!(seats.len(), 8);
        drop(seats);
        assert!(guests.seat(1).is_some(), "seats that are left are free");
        let _seat = guests.seat(3);
        assert_eq!(guests.users.lock().expect("no panic").len(), 1, "users that have left are forgotten");
    }

    #[tokio::test]
    async fn no_user_has_all_bytes() {
        let guests = Guests::new(8);
        let (greedy, other) = (guests.seat(1).expect("a seat"), guests.seat(2).expect("a seat"));
        let at_once = Duration::from_millis(100);
        let held = timeout(at_once, greedy.answer(BYTES * 2)).await.expect("alone").expect("open");
        assert!(timeout(at_once, greedy.answer(1)).await.is_err(), "it has all of a user's");
        assert!(timeout(at_once, other.answer(1)).await.is_err(), "and all that there are");
        drop(held);
        let _held = timeout(at_once, greedy.answer(OWN_BYTES)).await.expect("there is room").expect("open");
        assert!(timeout(at_once, other.answer(OWN_BYTES)).await.is_ok(), "another has its own");
    }

    #[tokio::test]
    async fn large_ones_wait_for_each_other_only() {
        let guests = Guests::new(8);
        let seat = guests.seat(1).expect("a seat");
        let at_once = Duration::from_millis(100);
        let _large = seat.desk(&Request::ConfigShow).await.expect("a desk");
        assert!(timeout(at_once, seat.desk(&Request::ConfigShow)).await.is_err());
        let mut desks = Vec::new();
        for _ in 0..DESKS {
            desks.push(timeout(at_once, seat.desk(&Request::PortList)).await.expect("a desk"));
        }
        assert!(timeout(at_once, seat.desk(&Request::PortList)).await.is_err());
    }
}
