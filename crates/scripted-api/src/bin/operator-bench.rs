//! How long the operator takes for many services that it has never seen, and what it needs for that:
//! `cargo xtask bench operator`. The API server is the scripted one, in this process; the operator is a
//! process of its own.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use scripted_api::{Kind, Server, Store};
use serde_json::{Value, json};
use tokio::net::TcpListener;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How many services, in how many seconds, with how many MiB at most.
const TARGETS: [(usize, f64, f64); 2] = [(1_000, 8.0, 32.0), (5_000, 40.0, 64.0)];
/// Longest wait, as a multiple of the target.
const PATIENCE: u32 = 10;
/// How long writes are counted when all is done.
const REST: Duration = Duration::from_secs(10);
/// Clock ticks of `/proc`, which has been the same on every Linux for ages.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let operator = PathBuf::from(arguments.next().ok_or("say where the operator's program is")?);
    let wanted: Vec<usize> =
        arguments.map(|argument| Ok(argument.to_string_lossy().parse()?)).collect::<Result<_>>()?;
    let runtime = tokio::runtime::Runtime::new()?;
    println!(
        "{:<10}{:>10}{:>10}{:>12}{:>12}{:>12}{:>16}",
        "services", "seconds", "CPU s", "MiB peak", "MiB after", "calls", "writes at rest"
    );
    for (count, seconds, mib) in TARGETS {
        if !wanted.is_empty() && !wanted.contains(&count) {
            continue;
        }
        let limit = Duration::from_secs_f64(seconds) * PATIENCE;
        let figures = runtime.block_on(measure(&operator, count, limit))?;
        let Figures { took, cpu, peak, after, calls, writes } = figures;
        println!(
            "{count:<10}{took:>10.1}{cpu:>10.1}{peak:>12.1}{after:>12.1}{calls:>12}{writes:>16}"
        );
        let word = |is_met: bool| if is_met { "met" } else { "MISSED" };
        println!(
            "          target {seconds} s: {}, {mib} MiB: {}, no write at rest: {}",
            word(took <= seconds),
            word(peak <= mib),
            word(writes == 0)
        );
    }
    Ok(())
}

struct Figures {
    took: f64,
    cpu: f64,
    peak: f64,
    after: f64,
    calls: usize,
    writes: usize,
}

/// An operator that is killed when nobody needs it any more.
struct Running {
    child: Child,
    kubeconfig: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to clean up.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.kubeconfig);
    }
}

async fn measure(operator: &PathBuf, count: usize, limit: Duration) -> Result<Figures> {
    let server = Server::new(filled(count));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serving = server.clone();
    let serving = tokio::spawn(async move { serving.serve(listener).await });

    let kubeconfig = std::env::temp_dir().join(format!("operator-bench-{}", std::process::id()));
    fs::write(&kubeconfig, kubeconfig_for(&address.to_string()).to_string())?;
    let begin = Instant::now();
    let child = Command::new(operator)
        .env("KUBECONFIG", &kubeconfig)
        .env("NAMESPACE", "cloudstate")
        .env("RUST_LOG", "warn")
        .env("CLOUDSTATE_OPERATOR__ADMIN__LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .spawn()?;
    let mut running = Running { child, kubeconfig };
    while server.with(|store| ready(store)) < count {
        if let Some(status) = running.child.try_wait()? {
            return Err(format!("the operator ended: {status}").into());
        }
        if begin.elapsed() > limit {
            let done = server.with(|store| ready(store));
            return Err(format!("{done} of {count} services after {limit:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = begin.elapsed().as_secs_f64();
    let pid = running.child.id();
    let cpu = cpu_seconds(pid)?;
    let calls = server.calls();
    // What follows from the last status.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = server.writes();
    tokio::time::sleep(REST).await;
    let writes = server.writes() - before;
    let (peak, after) = (memory(pid, "VmHWM:")?, memory(pid, "VmRSS:")?);
    serving.abort();
    Ok(Figures { took, cpu, peak, after, calls, writes })
}

fn filled(count: usize) -> Store {
    let mut store = Store::new();
    let namespaces = ["cloudstate", "shop", "stock"];
    for name in namespaces {
        store
            .put(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }));
    }
    for namespace in &namespaces[1..] {
        store.put(&json!({
            "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulStore",
            "metadata": { "name": "memory", "namespace": namespace },
            "spec": { "type": "InMemory" },
        }));
    }
    for number in 0..count {
        let namespace = namespaces[1 + number % 2];
        let mut service = json!({
            "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
            "metadata": { "name": format!("service-{number:05}"), "namespace": namespace },
            "spec": { "containers": [{ "image": "registry.example/cart:1" }] },
        });
        if number % 4 == 0 {
            service["spec"]["datastore"] = json!({ "name": "memory" });
        }
        store.put(&service);
    }
    store
}

/// How many services are ready, and say so.
fn ready(store: &Store) -> usize {
    let Some(kind) = Kind::named("StatefulService") else { return 0 };
    let is_ready = |object: &Value| object["status"]["summary"] == "Ready";
    store.list(kind, None).iter().filter(|object| is_ready(object)).count()
}

fn kubeconfig_for(address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": "bench" } }],
        "clusters": [{ "name": "bench", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "bench", "user": {} }],
    })
}

/// Of all threads, since the start.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may hold anything, stands the state; ticks are the 12th and 13th then.
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    let ticks = ticks.sum::<std::result::Result<u32, _>>()?;
    Ok(f64::from(ticks) / TICKS_PER_SECOND)
}

/// In MiB.
fn memory(pid: u32, line: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = status.lines().find_map(|each| each.strip_prefix(line));
    let kib: u32 =
        found.ok_or("no memory in /proc/PID/status")?.trim().trim_end_matches(" kB").parse()?;
    Ok(f64::from(kib) / 1024.0)
}
