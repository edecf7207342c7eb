//! What is measured, one figure after the other.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use api::contract::probe;

use crate::{
    Size,
    moment::{Moment, millis, quantile},
    proc::Counted,
    supervised::{By, Kind, Programs, Setup, Supervised},
    table::Table,
};

/// How long the launcher looks closely after a start, with some room.
const SETTLED: Duration = Duration::from_secs(6);
/// As the kubelet asks in our pods.
const PROBE_EACH: Duration = Duration::from_secs(1);
/// Questions each second when the probes are asked a lot.
const RATE: u32 = 200;

const EVERYBODY: [By; 3] = [By::Nobody, By::Tini, By::Launcher];

/// Measures everything once.
pub(crate) fn everything(programs: &Programs, size: Size, table: &mut Table) -> Result<()> {
    starts_and_stops(programs, size.starts, table).context("starts and stops")?;
    arrivals(programs, size.arrivals, table).context("the user function's arrival")?;
    checks(programs, size.checks, table).context("check")?;
    idle(programs, size, table).context("left alone")?;
    asked(programs, size.asked, table).context("probes asked a lot")
}

/// From the start of whoever starts it to the stand-in's first line, and from TERM to the stand-in's handler.
/// They take turns, so that whatever else the machine does hits all alike.
fn starts_and_stops(programs: &Programs, rounds: usize, table: &mut Table) -> Result<()> {
    let setup = Setup { kind: Kind::Jvm, user_function: false };
    let mut took = EVERYBODY.map(|by| (by, Vec::new(), Vec::new()));
    for _ in 0..rounds {
        for (by, starts, stops) in &mut took {
            let mut it = Supervised::start(programs, *by, setup)?;
            starts.push(millis(it.until("begun")?));
            it.until("serving")?;
            if *by == By::Launcher {
                it.until_ready()?;
            }
            let term = it.terminate()?;
            stops.push(millis(it.moment("told")?.since(term)));
            it.until_ended()?;
        }
    }
    for (_, starts, stops) in &mut took {
        starts.sort_by(f64::total_cmp);
        stops.sort_by(f64::total_cmp);
    }
    let [(_, direct, _), ..] = &took;
    for (name, share) in [("start added, p50", 0.5), ("start added, p99", 0.99)] {
        for (by, starts, _) in &took[1..] {
            table.add(name, *by, quantile(starts, share) - quantile(direct, share));
        }
    }
    for (name, share) in [("TERM to handler, p50", 0.5), ("TERM to handler, p99", 0.99)] {
        for (by, _, stops) in &took {
            table.add(name, *by, quantile(stops, share));
        }
    }
    Ok(())
}

/// From the user function's listening to `/ready`; and from the last word of a proxy that wants a fresh start to the
/// launcher's decision to give it one, and to the next one's first word, with what a start takes in any case.
fn arrivals(programs: &Programs, rounds: usize, table: &mut Table) -> Result<()> {
    let (mut arrivals, mut decisions, mut restarts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let setup = Setup { kind: Kind::Native, user_function: true };
        let mut it = Supervised::start(programs, By::Launcher, setup)?;
        it.until("begun")?;
        it.until("serving")?;
        it.until_up()?;
        it.decided()?;
        // Long enough for the launcher to know its proxy, and within the seconds in which it looks closely.
        thread::sleep(Duration::from_millis(700));
        ensure!(it.ask(probe::READY) == Some(503), "ready without a user function");
        let arrived = it.bring_user_function()?;
        arrivals.push(millis(it.until_ready()?.since(arrived)));
        it.have_it_leave()?;
        let left = it.moment("left")?;
        restarts.push(millis(it.moment("begun")?.since(left)));
        decisions.push(millis(it.decided()?.since(left)));
        it.until("serving")?;
        it.until_ready()?;
        it.stop()?;
    }
    for (name, mut took, share) in [
        ("user function up to ready, p99", arrivals, 0.99),
        ("death to decision", decisions, 0.5),
        ("death to next one's first word", restarts, 0.5),
    ] {
        took.sort_by(f64::total_cmp);
        table.add(name, By::Launcher, quantile(&took, share));
    }
    Ok(())
}

/// `check` from its start to its end; of tini, what a start and an end cost in any case.
fn checks(programs: &Programs, rounds: usize, table: &mut Table) -> Result<()> {
    for (by, argument) in [(By::Launcher, "check"), (By::Tini, "--version")] {
        let mut took = Vec::new();
        for _ in 0..rounds {
            let mut command = Command::new(programs.of(by));
            command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.env("CLOUDSTATE_LAUNCHER_COMMAND", programs.of(By::Nobody)).arg(argument);
            let begun = Moment::now();
            let status = command.status()?;
            took.push(millis(Moment::now().since(begun)));
            ensure!(status.success(), "{by} {argument} ended with {status}");
        }
        took.sort_by(f64::total_cmp);
        table.add("check, whole", by, quantile(&took, 0.5));
    }
    Ok(())
}

/// What both do, and what they hold, when nothing happens but the kubelet's probes. At the same time, since it may take
/// minutes.
fn idle(programs: &Programs, size: Size, table: &mut Table) -> Result<()> {
    let setup = Setup { kind: Kind::Native, user_function: true };
    let mut both = Vec::new();
    for by in [By::Launcher, By::Tini] {
        let mut it = Supervised::start(programs, by, setup)?;
        it.until("begun")?;
        it.until("serving")?;
        both.push((by, it));
    }
    let [(_, launcher), _] = &mut both[..] else { bail!("both were started") };
    launcher.until_up()?;
    launcher.bring_user_function()?;
    launcher.until_ready()?;
    thread::sleep(SETTLED.min(size.idle));
    let launcher = &both[0].1;
    let look = || both.iter().map(|(_, it)| Counted::of(it.id())).collect::<Result<Vec<_>>>();
    let before = look()?;
    let begun = Instant::now();
    while begun.elapsed() < size.idle {
        ensure!(launcher.ask(probe::READY) == Some(200), "not ready any more");
        thread::sleep(PROBE_EACH.min(size.idle));
    }
    let after = look()?;
    let seconds = begun.elapsed().as_secs_f64();
    for (((by, it), before), after) in both.into_iter().zip(before).zip(after) {
        table.add("memory idle", by, after.memory as f64 / f64::from(1 << 20));
        table.add("processor idle", by, 100.0 * after.cpu_since(&before) / seconds);
        table.add("wake-ups idle", by, (after.wakeups - before.wakeups) as f64 / seconds);
        table.add("threads", by, after.threads as f64);
        table.add("open files", by, after.descriptors as f64);
        it.stop()?;
    }
    Ok(())
}

/// The probe, asked two hundred times a second over a connection each, as the kubelet does.
fn asked(programs: &Programs, how_long: Duration, table: &mut Table) -> Result<()> {
    let setup = Setup { kind: Kind::Native, user_function: false };
    let mut it = Supervised::start(programs, By::Launcher, setup)?;
    it.until("begun")?;
    it.until("serving")?;
    it.until_ready()?;
    let before = Counted::of(it.id())?;
    let mut took = Vec::new();
    let begun = Instant::now();
    let mut due = begun;
    while begun.elapsed() < how_long {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        ensure!(it.ask(probe::READY) == Some(200), "a question without a good answer");
        // Counted from when it should have gone out: a late one makes those behind it late.
        took.push(millis(due.elapsed()));
        due += Duration::from_secs(1) / RATE;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let used = Counted::of(it.id())?.cpu_since(&before);
    took.sort_by(f64::total_cmp);
    table.add("/ready at 200/s, p99", By::Launcher, quantile(&took, 0.99));
    table.add("/ready at 200/s, processor", By::Launcher, 100.0 * used / seconds);
    it.stop()
}
