//! A proxy that does as it is told by its arguments, for `tests/launcher`.
//!
//! `--ready BODY` answers every probe with 503 and that body, `--exit CODE` leaves at once, `--words TEXT`
//! leaves last words first, `--ignore-term` outlives TERM and INT, `--orphan SECONDS` leaves a process without a parent,
//! `--daemon SECONDS` leaves one in a session of its own, `--bomb` starts one that starts more and more,
//! `--orphans COUNT` leaves that many which end at once, `--hog MIB` takes that much memory, uses it and keeps it,
//! `--stall` does nothing from then on, `--calls FILE` says among its metrics that so many calls are under way,
//! told to hold, it says so and is not ready, until it is told to serve again;
//! `--exit-once CODE FILE` leaves at once unless FILE exists, which it creates.

use std::{
    env,
    error::Error,
    fs,
    io::{self, Write as _},
    process::{Command, ExitCode},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[derive(Default)]
struct Script {
    ready: Option<String>,
    ignore_term: bool,
    calls: Option<String>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut script = Script::default();
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--ready" => script.ready = Some(value()?),
            "--exit" => return Ok(value()?.parse::<u8>()?.into()),
            "--exit-once" => {
                let code = value()?.parse::<u8>()?;
                if fs::File::create_new(value()?).is_ok() {
                    return Ok(code.into());
                }
            }
            "--words" => fs::write(variable("CLOUDSTATE_TERMINATION_PATH"), value()?)?,
            "--stall" => std::thread::sleep(std::time::Duration::from_hours(1)),
            "--calls" => script.calls = Some(value()?),
            "--ignore-term" => script.ignore_term = true,
            "--orphan" => {
                let script = format!("sleep {} & echo orphan $! >&2", value()?);
                Command::new("/bin/sh").args(["-c", &script]).status()?;
            }
            "--daemon" => {
                let script = format!("setsid sleep {} & echo orphan $! >&2", value()?);
                Command::new("/bin/sh").args(["-c", &script]).status()?;
            }
            "--bomb" => {
                // This shell waits a second when it may have no more processes, and tries again.
                let bomb = "trap '' TERM; bomb() { while :; do bomb & done; }; bomb";
                drop(Command::new("/bin/bash").args(["-c", bomb]).spawn()?);
            }
            "--orphans" => {
                let script = format!("for i in $(seq {}); do (: &); done", value()?);
                Command::new("/bin/sh").args(["-c", &script]).status()?;
                writeln!(io::stderr(), "orphans made")?;
            }
            "--hog" => {
                let memory = vec![1_u8; value()?.parse::<usize>()? << 20];
                std::hint::black_box(memory.leak());
            }
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(script))?;
    Ok(ExitCode::SUCCESS)
}

const HELD: &str = r#"{"reason":"Draining","message":"held"}"#;

async fn serve(mut script: Script) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if let Some(calls) = script.calls {
        let port: u16 = variable("METRICS_PORT").parse()?;
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        tokio::spawn(async move { tell_calls(&listener, &calls).await });
    }
    let port: u16 = variable("MANAGEMENT_PORT").parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => Some(accepted?.0),
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
        };
        let Some(mut stream) = stream else {
            if script.ignore_term {
                continue;
            }
            return Ok(());
        };
        let mut question = [0; 1024];
        let length = stream.read(&mut question).await?;
        let question = String::from_utf8_lossy(&question[..length]);
        if let Some((told @ ("POST /hold" | "DELETE /hold"), _)) = question.split_once(" HTTP/") {
            writeln!(io::stderr(), "told {told}")?;
            script.ready = (told == "POST /hold").then(|| HELD.to_owned());
        }
        let answer = match &script.ready {
            None => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
            Some(body) => format!(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ),
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

async fn tell_calls(listener: &TcpListener, file: &str) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let _ = stream.read(&mut [0; 1024]).await;
        let calls = fs::read_to_string(file).unwrap_or_default();
        let page = format!("cloudstate_requests_in_flight {calls}\n");
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
        let _ = stream.write_all(format!("{head}{page}").as_bytes()).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a fake has no config.rs")]
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}
