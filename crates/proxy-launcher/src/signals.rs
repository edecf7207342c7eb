//! The signals that reach the launcher. Those that mean something are received; those that would end or stop us
//! are taken and forgotten.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// As PID 1 the kernel drops what nobody handles, elsewhere these and those of real time would end or stop us; to the
/// proxy they mean nothing good either.
const FORGOTTEN: [i32; 5] =
    [libc::SIGALRM, libc::SIGIO, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// A signal that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the system's names")]
pub enum Received {
    Term,
    Int,
    Child,
    Hup,
    Quit,
    Usr1,
    Usr2,
}

impl Received {
    /// Its name without SIG.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Child => "CHLD",
            Self::Hup => "HUP",
            Self::Quit => "QUIT",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
        }
    }
}

/// All signals, taken over from the system.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    child: Signal,
    hangup: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
    /// Kept so that the signals stay taken; tokio would not give them back anyway.
    _forgotten: Vec<Signal>,
}

impl Signals {
    /// Takes them.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            _forgotten: FORGOTTEN
                .into_iter()
                .chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
                .map(|number| signal(SignalKind::from_raw(number)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The next one; of several those that end us come first.
    ///
    /// # Cancel safety
    /// No signal is lost when the future is dropped.
    pub async fn next(&mut self) -> Received {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Received::Term,
            _ = self.interrupt.recv() => Received::Int,
            _ = self.child.recv() => Received::Child,
            _ = self.hangup.recv() => Received::Hup,
            _ = self.quit.recv() => Received::Quit,
            _ = self.user1.recv() => Received::Usr1,
            _ = self.user2.recv() => Received::Usr2,
        }
    }

    /// Waits until some child has ended.
    pub async fn child(&mut self) {
        self.child.recv().await;
    }
}
