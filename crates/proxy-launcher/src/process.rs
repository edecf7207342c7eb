//! Starting, signalling and reaping processes: everything that touches the process table.
//!
//! The proxy leads a process group of its own, so that a signal reaches all that it started. Nothing else
//! in the launcher may wait for a process: whoever waits first takes the exit status away from the other.

use std::{
    ffi::{CString, OsString},
    fs, io, iter,
    os::unix::{ffi::OsStrExt as _, process::CommandExt},
    process::{Command, Stdio},
};

use rustix::{
    io::Errno,
    process::{
        Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid,
        getppid, getrlimit, kill_process, kill_process_group, set_child_subreaper,
        set_parent_process_death_signal, setrlimit, wait, waitid,
    },
};

use tracing::debug;

use crate::{command::ProxyCommand, config::Limits, exit::End};

/// The proxy's process, until [`reap`] has reported its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader(Pid);

/// What [`reap`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// How the proxy ended, if it did.
    pub leader: Option<End>,
    /// How many processes were buried whose own parents had died.
    pub orphans: u32,
}

/// Makes this process the parent of every orphan below it, as PID 1 is anyway.
///
/// # Errors
/// When the kernel refuses; orphans then go to the next reaper up.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Starts the proxy in a process group of its own, to be killed when this process dies.
///
/// Must be called on the main thread: the kernel ties the parent-death signal to the *thread* that forked.
///
/// # Errors
/// When the program cannot be executed, or the system has no room for a process.
pub fn spawn(proxy: &ProxyCommand, limits: Limits) -> io::Result<Leader> {
    // It gets arguments and environment by its image.
    let mut command = Command::new(&proxy.program);
    command.current_dir(&proxy.folder).stdin(Stdio::null()).process_group(0);
    prepare(&mut command, Image::of(proxy)?, limits.files);
    let child = command.spawn()?;
    // The number stays the child's until `reap` has buried it, whatever becomes of this handle.
    let leader = Leader(Pid::from_child(&child));
    if let Err(error) = expose(leader, limits.oom_score_step) {
        debug!(%error, "the proxy is as likely as the launcher to be killed when memory is short");
    }
    Ok(leader)
}

/// The proxy's program as the kernel takes it, made before fork: behind it nobody may allocate.
struct Image {
    program: CString,
    /// What the addresses below are of.
    _strings: Vec<CString>,
    /// Addresses of strings, and zero at the end.
    args: Vec<usize>,
    environment: Vec<usize>,
}

impl Image {
    fn of(proxy: &ProxyCommand) -> io::Result<Self> {
        let program = CString::new(proxy.program.as_os_str().as_bytes())?;
        let mut strings = iter::once(Ok(program.clone()))
            .chain(proxy.args.iter().map(|arg| CString::new(arg.as_bytes())))
            .collect::<Result<Vec<_>, _>>()?;
        let pair = |(name, value): (&OsString, &OsString)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
        };
        let pairs = proxy.environment.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        let table = |strings: &[CString]| {
            let addresses = strings.iter().map(|string| string.as_ptr().expose_provenance());
            addresses.chain([0]).collect()
        };
        let (args, environment) = (table(&strings), table(&pairs));
        strings.extend(pairs);
        Ok(Self { program, _strings: strings, args, environment })
    }

    /// Becomes the program, or says why the kernel will not have it. The C library's own way would give a file that is
    /// none to a shell, which then says something else, and which an image may not have.
    #[expect(unsafe_code, reason = "the standard library goes the C library's way")]
    fn execute(&self) -> io::Error {
        // SAFETY: the program and all that the tables name are strings with a zero at the end, and both tables end with
        // a zero; `self` owns them all, and a string stays where it is when its owner is moved. The call makes no use
        // of them once it is over, allocates nothing and locks nothing.
        unsafe {
            libc::execve(
                self.program.as_ptr(),
                self.args.as_ptr().cast(),
                self.environment.as_ptr().cast(),
            )
        };
        io::Error::last_os_error()
    }
}

/// Makes the proxy likelier than this process to be killed when memory is short: who is left can tell.
fn expose(leader: Leader, step: u32) -> io::Result<()> {
    /// The kernel's own.
    const MAX: i64 = 1_000;
    let own = fs::read_to_string("/proc/self/oom_score_adj")?;
    let own: i64 = own.trim().parse().map_err(io::Error::other)?;
    let score = (own + i64::from(step)).min(MAX);
    fs::write(format!("/proc/{}/oom_score_adj", leader.id()), score.to_string())
}

/// Lets every signal through that this process was started without an ear for. Wants somebody to take them already, and
/// no second thread.
///
/// # Errors
/// When the kernel refuses.
#[expect(unsafe_code, reason = "there is no safe way to the mask of signals")]
pub fn unblock_signals() -> io::Result<()> {
    // SAFETY: a set of signals is plain bits, so that one of zeros is valid, also before `sigemptyset` makes it empty in
    // the library's own way. Both calls get pointers to it that live as long as they do; a null pointer says that nobody
    // wants the former mask.
    let error = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

#[expect(
    unsafe_code,
    reason = "a parent-death signal and limits of its own can only be set by the child itself, after fork"
)]
fn prepare(command: &mut Command, image: Image, files: u64) {
    let launcher = getpid();
    let hard = getrlimit(Resource::Nofile).maximum;
    let files = Rlimit { current: Some(hard.map_or(files, |hard| hard.min(files))), maximum: hard };
    let in_child = move || {
        // Never above the hard limit, so the kernel has no reason to refuse; and one file less is no reason to fail.
        let _ = setrlimit(Resource::Nofile, files);
        inherit_nothing();
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The launcher may have died before the line above, which would then wait for ever.
        if getppid() == Some(launcher) { Err(image.execute()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe things may happen. The closure makes
    // system calls (prlimit, prctl, getppid, execve, and those of `inherit_nothing`) through wrappers that neither
    // allocate nor lock; an error is made of a bare errno, which does not allocate either. What it captures it alone
    // has, so that no other thread could have left it half written.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// Of what a runtime has left open or switched off, the proxy gets nothing: no file but the three, no signal that is
/// ignored. A JVM would ignore it for life.
#[expect(unsafe_code, reason = "there is no safe way to either")]
fn inherit_nothing() {
    const SIGNALS: i32 = 64;
    for signal in 1..=SIGNALS {
        // SAFETY: the default needs no handler that would have to be sound. For those that cannot be set the call fails
        // and changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: the descriptors are only marked, to be closed by exec; nobody uses them in between. A kernel that does not
    // know the call (before 5.11) refuses it, and all is as it was.
    unsafe {
        let (first, last, mark) = (3, u64::from(u32::MAX), u64::from(libc::CLOSE_RANGE_CLOEXEC));
        libc::syscall(libc::SYS_close_range, first, last, mark);
    }
}

impl Leader {
    /// Sends QUIT to the leader alone: a JVM writes down what its threads do and goes on.
    pub fn dump(self) {
        // An error means that it is gone, which its end will tell.
        let _ = kill_process(self.0, Signal::QUIT);
    }

    /// Sends TERM to the group, or to the leader alone should it have left its group.
    pub fn stop(self) {
        self.tell(Signal::TERM);
    }

    /// Sends INT likewise.
    pub fn interrupt(self) {
        self.tell(Signal::INT);
    }

    fn tell(self, signal: Signal) {
        if kill_process_group(self.0, signal) == Err(Errno::SRCH) {
            // An error means that it is gone, which its end will tell.
            let _ = kill_process(self.0, signal);
        }
    }

    /// Sends KILL to the group and to the leader.
    pub fn kill(self) {
        // An error means that there is nobody left to kill.
        let _ = kill_process_group(self.0, Signal::KILL);
        let _ = kill_process(self.0, Signal::KILL);
    }

    /// The process id.
    pub fn id(self) -> i32 {
        self.0.as_raw_nonzero().get()
    }
}

/// Kills every child of this process; gives how many there are that are not buried. What a dead proxy left behind
/// comes here as an orphan, also when it had left the group. Those that an orphan leaves come here in turn, so all are
/// gone only once there is none.
///
/// # Errors
/// When the process table cannot be read.
pub fn sweep() -> io::Result<usize> {
    let this = getpid().as_raw_nonzero().get().to_string();
    let mut left = 0;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        // A process that is gone meanwhile needs no kill.
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else {
            continue;
        };
        if is_child(&stat, &this) {
            let _ = kill_process(pid, Signal::KILL);
            left += 1;
        }
    }
    Ok(left)
}

/// The name stands in parentheses and may hold anything; behind it come the state and the parent.
fn is_child(stat: &str, parent: &str) -> bool {
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split(' ').nth(1)) == Some(parent)
}

/// Buries every process that has ended, and kills what a dead leader left in its group.
pub fn reap(leader: Option<Leader>) -> Reaped {
    let mut reaped = Reaped::default();
    // The leader is looked at first and buried last: while it lies there its number, which is the group's,
    // belongs to nobody else, so the KILL cannot hit a stranger.
    if let Some(leader) = leader
        && let Some(end) = peek(leader)
    {
        let _ = kill_process_group(leader.0, Signal::KILL);
        let _ = waitid(WaitId::Pid(leader.0), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        reaped.leader = Some(end);
    }
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        // Between the look and here the leader may have ended after all. Its number is anybody's now: who is left of
        // its group is found by [`sweep`].
        if leader.is_some_and(|leader| leader.0 == pid) {
            reaped.leader = Some(end_of(status));
        } else {
            reaped.orphans += 1;
        }
    }
    reaped
}

fn peek(leader: Leader) -> Option<End> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(leader.0), options).ok()??;
    Some(end(status.exit_status(), status.terminating_signal()))
}

fn end_of(status: WaitStatus) -> End {
    end(status.exit_status(), status.terminating_signal())
}

fn end(code: Option<i32>, signal: Option<i32>) -> End {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (code, signal) {
        (_, Some(signal)) => End::Signal(byte(signal)),
        (code, None) => End::Code(code.map_or(u8::MAX, byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_known_by_its_parent_whatever_it_calls_itself() {
        assert!(is_child("7 (sleep) S 1 7 7 0", "1"));
        assert!(is_child("7 (a) Z 5 (b) R 1 7", "1"));
        assert!(is_child("7 (sleep) Z 1 7 7 0", "1"), "it waits to be buried");
        assert!(!is_child("7 (sleep) S 12 7 7 0", "1"));
        assert!(!is_child("", "1"));
    }
}
