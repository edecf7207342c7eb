//! Starting, signalling and reaping processes: everything that touches the process table.
//!
//! The proxy leads a process group of its own, so that a signal reaches all that it started. Nothing else
//! in the launcher may wait for a process: whoever waits first takes the exit status away from the other.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::process::CommandExt,
    path::Path,
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

/// As much of a program as says which machine it is for.
const ELF_HEAD: u64 = 20;

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
    refuse_foreign(&proxy.program)?;
    let mut command = Command::new(&proxy.program);
    command.args(&proxy.args).env_clear().envs(&proxy.environment);
    command.current_dir(&proxy.folder).stdin(Stdio::null()).process_group(0);
    prepare(&mut command, limits.files);
    let child = command.spawn()?;
    // The number stays the child's until `reap` has buried it, whatever becomes of this handle.
    let leader = Leader(Pid::from_child(&child));
    if let Err(error) = expose(leader, limits.oom_score_step) {
        debug!(%error, "the proxy is as likely as the launcher to be killed when memory is short");
    }
    Ok(leader)
}

/// Refuses what the kernel would not execute. The C library gives such a file to a shell, which then says something else,
/// and an image without one has nothing to say at all.
fn refuse_foreign(program: &Path) -> io::Result<()> {
    let head = |path: &Path| -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        File::open(path)?.take(ELF_HEAD).read_to_end(&mut head)?;
        Ok(head)
    };
    // One that may be executed and not read is left to the kernel.
    let (Ok(theirs), Ok(ours)) = (head(program), head(Path::new("/proc/self/exe"))) else {
        return Ok(());
    };
    if is_for_this_machine(&theirs, &ours) { Ok(()) } else { Err(Errno::NOEXEC.into()) }
}

/// A script, or a program of our own kind: word size and byte order stand in bytes 4 and 5, the machine in 18 and 19.
fn is_for_this_machine(theirs: &[u8], ours: &[u8]) -> bool {
    let kind = |head: &[u8]| Some((head.get(..6)?.to_owned(), head.get(18..20)?.to_owned()));
    theirs.starts_with(b"#!") || kind(theirs).is_some_and(|theirs| Some(theirs) == kind(ours))
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
fn prepare(command: &mut Command, files: u64) {
    let launcher = getpid();
    let hard = getrlimit(Resource::Nofile).maximum;
    let files = Rlimit { current: Some(hard.map_or(files, |hard| hard.min(files))), maximum: hard };
    let in_child = move || {
        // Never above the hard limit, so the kernel has no reason to refuse; and one file less is no reason to fail.
        let _ = setrlimit(Resource::Nofile, files);
        inherit_nothing();
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The launcher may have died before the line above, which would then wait for ever.
        if getppid() == Some(launcher) { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe things may happen. The closure makes
    // system calls (prlimit, prctl, getppid, and those of `inherit_nothing`) through wrappers that neither allocate nor
    // lock; an error is made of a bare errno, which does not allocate either. It captures two `Copy` values and touches
    // no memory that another thread could have left half written.
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
        if kill_process_group(self.0, Signal::TERM) == Err(Errno::SRCH) {
            // An error means that it is gone, which its end will tell.
            let _ = kill_process(self.0, Signal::TERM);
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
    fn a_program_of_another_machine_is_none() {
        let head =
            |machine| [&b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0"[..], machine].concat();
        let (amd64, arm64) = (head(b"\x3e\0"), head(b"\xb7\0"));
        assert!(is_for_this_machine(&amd64, &amd64));
        assert!(!is_for_this_machine(&arm64, &amd64));
        assert!(is_for_this_machine(b"#!/bin/sh\n", &amd64));
        assert!(!is_for_this_machine(b"text", &amd64));
        assert!(!is_for_this_machine(b"", &amd64));
    }

    #[test]
    fn a_child_is_known_by_its_parent_whatever_it_calls_itself() {
        assert!(is_child("7 (sleep) S 1 7 7 0", "1"));
        assert!(is_child("7 (a) Z 5 (b) R 1 7", "1"));
        assert!(is_child("7 (sleep) Z 1 7 7 0", "1"), "it waits to be buried");
        assert!(!is_child("7 (sleep) S 12 7 7 0", "1"));
        assert!(!is_child("", "1"));
    }
}
