//! Runs the simulation for many seeds: `cargo xtask sim`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program of ours")]

use std::{
    env,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use proxy::sim::{self, Broken, Counts};

/// The first seed and how many.
fn main() -> ExitCode {
    let mut numbers = env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(many)), None) = (numbers.next(), numbers.next(), numbers.next())
    else {
        eprintln!("usage: sim FIRST_SEED HOW_MANY");
        return ExitCode::FAILURE;
    };
    let begun = Instant::now();
    let (all, broken) = run(first, first.saturating_add(many));
    if let Some(first) = broken.iter().min_by_key(|broken| broken.seed) {
        println!("{first}");
    }
    for Broken { promise, what, seed, .. } in &broken {
        println!("{promise} is broken: {what} (seed {seed})");
    }
    let Counts { commands, replies, writes, lost_answers, crashes, epochs, steps } = all;
    println!(
        "{many} seeds from {first}: {commands} commands, {replies} replies, {writes} durable changes, \
         {lost_answers} lost answers, {crashes} crashes, {epochs} epochs, {steps} steps in {:.1}s",
        begun.elapsed().as_secs_f64()
    );
    println!("{} broken promises", broken.len());
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs these seeds on every processor.
fn run(first: u64, end: u64) -> (Counts, Vec<Broken>) {
    let next = AtomicU64::new(first);
    let results = Mutex::new((Counts::default(), Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let outcome = sim::run(seed);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(counts) => results.0.add(counts),
                Err(broken) => results.1.push(*broken),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}
