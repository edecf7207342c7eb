//! Two replicas of the operator, of which one leads: what happens when it is killed, frozen or cut off.
//!
//! They run as processes of this machine, each with a token of its own, so that the API server's audit log tells them
//! apart. All the time somebody edits services, so that there is always something to write.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    e2e::{
        audit::{self, Audit, Request},
        cluster::OPERATOR,
        namespace::{Namespace, READY},
        operators,
        relay::Relay,
        rights::{self, Mode},
        wait::until,
    },
    layout,
};

/// By then somebody else does the work.
const TAKEN_OVER: Duration = Duration::from_secs(20);
const FROZEN: Duration = Duration::from_secs(30);
/// After a frozen or cut off leader is back, it is watched for so long.
const WATCHED: Duration = Duration::from_secs(10);
/// Services that are edited in turn.
const EDITED: u32 = 4;

/// Each in turn befalls the leader.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Frozen,
    CutOff,
}

pub(super) fn another_leads_when_the_leader_is_killed_frozen_or_cut_off(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let begun = Audit::from_now()?;
    operators::make_room(namespace)?;
    let installed = operators::kustomized(namespace, "")?;
    // The rights without the pod.
    namespace.apply(&installed.replace("\n  replicas: 1\n", "\n  replicas: 0\n"))?;
    for number in 0..EDITED {
        namespace.apply(&service(&format!("edited-{number}")))?;
    }
    let mut replicas =
        vec![Replica::start(namespace, "replica-0")?, Replica::start(namespace, "replica-1")?];
    let is_over = AtomicBool::new(false);
    let edits = AtomicU32::new(0);
    let notes = thread::scope(|scope| {
        scope.spawn(|| edit(namespace, &is_over, &edits));
        let notes = [Fault::Killed, Fault::Frozen, Fault::CutOff]
            .map(|fault| befall(namespace, &mut replicas, fault));
        is_over.store(true, Ordering::Relaxed);
        notes.into_iter().collect::<anyhow::Result<Vec<_>>>()
    })?;
    for note in notes {
        namespace.note(note);
    }
    namespace.note(format!("{} edits meanwhile", edits.into_inner()));
    rights::keep(namespace, Mode::OneNamespace, &namespace.name, &begun)
}

/// Does it to the leader, and looks at what follows.
fn befall(
    namespace: &Namespace<'_>,
    replicas: &mut Vec<Replica>,
    fault: Fault,
) -> anyhow::Result<String> {
    let leader = leader(namespace)?;
    let index =
        replicas.iter().position(|replica| leader.starts_with(&format!("{}_", replica.name)));
    let index = index.with_context(|| format!("{leader} leads, and is none of ours"))?;
    let old = replicas[index].credential.clone();
    let name = format!("after-{}", format!("{fault:?}").to_lowercase());
    let since_fault = Audit::from_now()?;
    match fault {
        Fault::Killed => replicas[index].signal(Signal::KILL)?,
        Fault::Frozen => replicas[index].signal(Signal::STOP)?,
        Fault::CutOff => replicas[index].relay.cut(),
    }
    let (begun, second) = (Instant::now(), audit::second_of_day());
    namespace.apply(&service(&name))?;
    until(&format!("{name} has its Deployment"), READY, || {
        let deployment = format!("{name}-deployment");
        let found = namespace.kubectl(&["get", "deployment", &deployment, "--ignore-not-found"])?;
        Ok(if found.is_empty() { Err("it has none".to_owned()) } else { Ok(()) })
    })?;
    let took = taken_over(&since_fault, &namespace.name, &old, second)?;
    ensure!(took <= TAKEN_OVER.as_secs_f64(), "{fault:?}: nobody did the work for {took:.1} s");
    match fault {
        Fault::Killed => {
            // Another one, so that there are two again.
            let name = format!("{}-again", replicas[index].name);
            replicas.remove(index);
            replicas.push(Replica::start(namespace, &name)?);
        }
        Fault::Frozen => {
            // For as long as was said, whoever has taken over.
            thread::sleep(FROZEN.saturating_sub(begun.elapsed()));
            replicas[index].signal(Signal::CONT)?;
            thread::sleep(WATCHED);
        }
        Fault::CutOff => {
            thread::sleep(FROZEN.saturating_sub(begun.elapsed()));
            replicas[index].relay.mend();
            thread::sleep(WATCHED);
        }
    }
    let (late, writes) = late_writes(&since_fault, &namespace.name, &old)?;
    ensure!(
        late.is_empty(),
        "{fault:?}: writes of the old leader were accepted after the new one's first: {}",
        late.join("; ")
    );
    Ok(format!(
        "{fault:?}: work goes on after {took:.1} s; {writes} writes by the new leader, none by the old one since"
    ))
}

/// How many seconds after that second of the day another than the old leader had the first of its writes accepted: the
/// API server knows, and kubectl's own time does not count.
fn taken_over(since_fault: &Audit, namespace: &str, old: &str, second: f64) -> anyhow::Result<f64> {
    let requests = since_fault.of_account(namespace, OPERATOR)?;
    let first = requests.iter().find(|request| {
        request.is_write()
            && request.is_accepted()
            && request.credential != old
            && !request.resource.starts_with("leases.")
    });
    let first = first.and_then(Request::seconds_of_day).context("nobody took over")?;
    Ok((first - second).rem_euclid(86_400.0))
}

/// What of the old leader was accepted after the new one's first write, and how many writes of the new one were.
fn late_writes(
    since_fault: &Audit,
    namespace: &str,
    old: &str,
) -> anyhow::Result<(Vec<String>, usize)> {
    let mut writes = since_fault.of_account(namespace, OPERATOR)?;
    writes.retain(|request| request.is_write() && request.is_accepted());
    let first = writes.iter().position(|request| request.credential != old);
    let after = &writes[first.context("nobody took over")?..];
    let late: Vec<_> = after.iter().filter(|request| request.credential == old).collect();
    Ok((late.iter().map(|request| request.describe()).collect(), after.len() - late.len()))
}

/// Edits services until it is over. What the API server says to it does not matter here.
fn edit(namespace: &Namespace<'_>, is_over: &AtomicBool, edits: &AtomicU32) {
    while !is_over.load(Ordering::Relaxed) {
        let number = edits.fetch_add(1, Ordering::Relaxed);
        let service = format!("edited-{}", number % EDITED);
        let patch =
            format!(r#"{{"spec": {{"podAnnotations": {{"example.com/edit": "{number}"}}}}}}"#);
        let _whatever = namespace.kubectl(&[
            "patch",
            "statefulservice",
            &service,
            "--type=merge",
            "--patch",
            &patch,
        ]);
    }
}

/// Who holds the Lease.
fn leader(namespace: &Namespace<'_>) -> anyhow::Result<String> {
    let (leader, _) = until("one of them leads", READY, || {
        let path = "--output=jsonpath={.spec.holderIdentity}";
        let holder = namespace.kubectl(&["get", "lease", OPERATOR, "--ignore-not-found", path])?;
        Ok(if holder.is_empty() { Err("nobody does".to_owned()) } else { Ok(holder) })
    })?;
    Ok(leader)
}

fn service(name: &str) -> String {
    format!(
        "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata: {{name: {name}}}
spec:
  replicas: 0
  containers:
  - image: localhost/nothing:1
"
    )
}

/// One operator, as a process of this machine.
struct Replica {
    name: String,
    /// By which the audit log knows its token.
    credential: String,
    process: Child,
    relay: Relay,
    kubeconfig: PathBuf,
}

impl Replica {
    fn start(namespace: &Namespace<'_>, name: &str) -> anyhow::Result<Self> {
        let token = namespace.kubectl(&["create", "token", OPERATOR, "--duration=1h"])?;
        let token = token.trim();
        let server = namespace.kubectl(&[
            "config",
            "view",
            "--minify",
            "--output=jsonpath={.clusters[0].cluster.server}",
        ])?;
        let authority = namespace.kubectl(&[
            "config",
            "view",
            "--minify",
            "--output=jsonpath={.clusters[0].cluster.certificate-authority}",
        ])?;
        let address = server.trim_start_matches("https://");
        let target: SocketAddr = address.parse().with_context(|| format!("address {address}"))?;
        let relay = Relay::start(target)?;
        let kubeconfig =
            layout::root().join("target").join(format!("{}-{name}.kubeconfig", namespace.name));
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: e2e,
contexts: [{{name: e2e, context: {{cluster: e2e, user: e2e}}}}],
clusters: [{{name: e2e, cluster: {{server: \"https://{}\", tls-server-name: kubernetes, certificate-authority: \"{authority}\"}}}}],
users: [{{name: e2e, user: {{token: \"{token}\"}}}}]}}",
            relay.address
        );
        fs::write(&kubeconfig, text).with_context(|| format!("write {}", kubeconfig.display()))?;
        // A free port; another program that takes it meanwhile makes the operator end with its name.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = port.context("no free port")?.port();
        let log = layout::logs().join(format!("{}-{name}.log", namespace.name));
        let log = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let process = Command::new(layout::images().join("operator/operator"))
            .env_clear()
            .env("KUBECONFIG", &kubeconfig)
            .env("HOSTNAME", name)
            .env("NAMESPACE", &namespace.name)
            .env("CLOUDSTATE_OPERATOR__WATCH__NAMESPACES", format!("[{:?}]", namespace.name))
            .env("CLOUDSTATE_OPERATOR__ADMIN__LISTEN", format!("\"127.0.0.1:{port}\""))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot run the operator")?;
        let credential = format!("JTI={}", id(token)?);
        Ok(Self { name: name.to_owned(), credential, process, relay, kubeconfig })
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process without id")?, signal).context("cannot send a signal")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
        // It holds a token.
        let _absent = fs::remove_file(&self.kubeconfig);
    }
}

/// The id that a token carries.
fn id(token: &str) -> anyhow::Result<String> {
    let claims = token.split('.').nth(1).context("a token has three parts")?;
    let claims: serde_json::Value = serde_json::from_slice(&decode(claims)?)?;
    claims["jti"].as_str().map(str::to_owned).context("a token without id")
}

/// Reads base64 as it is in URLs, without padding.
fn decode(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut length) = (0_u32, 0);
    for character in text.bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => anyhow::bail!("{:?} is not base64", char::from(character)),
        };
        bits = (bits << 6) | u32::from(value);
        length += 6;
        if length >= 8 {
            length -= 8;
            bytes.extend(u8::try_from((bits >> length) & 0xff));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_token_is_read() {
        // {"jti":"4f-7"}
        assert_eq!(id("x.eyJqdGkiOiI0Zi03In0.y").unwrap(), "4f-7");
        assert!(id("x.%.y").is_err());
        assert!(id("x").is_err());
    }
}
