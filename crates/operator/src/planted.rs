//! Bugs to plant, one at a time, to see whether the tests on the scripted API server notice:
//! `cargo xtask planted`.
//!
//! Without the feature `planted`, which no build that ships has, [`is`] is false wherever it stands, and
//! the compiler drops what would follow.

/// What can be wrong on purpose; the code asks for each of them in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bug {
    /// What belongs to another is taken over.
    OwnershipSkipped,
    /// The status is written each time.
    StatusEachTime,
    /// Objects are written though nothing differs.
    ApplyEachTime,
    /// What a service needs no more stays.
    OrphansForgotten,
    /// After a conflict the cache is believed once more.
    CacheAfterConflict,
    /// Rights stay with accounts that nobody uses.
    RightsKept,
    /// What others added to lists of ours stays.
    SurplusKept,
    /// What a former manager of an object claims is not taken from it.
    FormerClaims,
    /// A binding to another role is to be changed, which cannot be.
    RoleRefPatched,
    /// A store's change does not reach the services that name it.
    StoreReachesNobody,
    /// A Secret's change is not noticed.
    SecretUnseen,
    /// A child that is gone is not noticed.
    ChildGoneUnseen,
    /// What a list behind a gap says is not looked at.
    ListUnseen,
    /// An event from before what is known already is believed.
    StaleBelieved,
    /// A paused service is changed.
    PauseIgnored,
    /// A service that is being deleted gets its objects back.
    DyingServed,
    /// A reconcile that failed is not tried again.
    FailureForgotten,
    /// A store that is protected goes though services name it.
    StoreUnguarded,
    /// What only a setting asked for stays when that is off.
    SettingLeavesOver,
    /// What a setting asked for that was off before this process began stays.
    FormerSettingUnseen,
    /// What a hand changes in a Deployment that waits for its turn stays.
    WaitingUnguarded,
    /// What nobody answers is waited for without end.
    NoReadTimeout,
    /// A watch that failed makes all others wait with it.
    OneBackOff,
}

/// Whether this bug is planted.
#[cfg(not(feature = "planted"))]
#[inline]
pub(crate) const fn is(_bug: Bug) -> bool {
    false
}

/// What all watches wait for in turn under [`Bug::OneBackOff`].
#[cfg(not(feature = "planted"))]
#[inline]
pub(crate) fn one_back_off() -> std::future::Ready<Option<std::convert::Infallible>> {
    std::future::ready(None)
}

#[cfg(feature = "planted")]
pub use switch::plant;

#[cfg(feature = "planted")]
pub(crate) use switch::{is, one_back_off};

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;

    use tokio::sync::{Mutex, MutexGuard};

    use super::Bug;

    static BACK_OFF: Mutex<()> = Mutex::const_new(());

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted.
    pub(crate) fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// What all watches wait for in turn under [`Bug::OneBackOff`].
    pub(crate) async fn one_back_off() -> Option<MutexGuard<'static, ()>> {
        if is(Bug::OneBackOff) { Some(BACK_OFF.lock().await) } else { None }
    }

    /// Plants a bug in what this thread does from here on.
    pub fn plant(bug: Bug) {
        PLANTED.set(Some(bug));
    }
}
