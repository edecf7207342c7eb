//! A sidecar that is an init container: it learns of the pod's end ahead of its own TERM.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    PRE_DELAY, SIDECAR, applied, drains,
    kind::{Kind, address},
};
use crate::e2e::{
    http,
    namespace::{Namespace, READY},
    operators,
    wait::until,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Calls under way outlive the pod. Then a user function that takes its time: meanwhile the proxy takes no calls and is
/// there.
pub(in super::super) fn init_container_drains_ahead_of_term(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let name = &namespace.name;
    namespace.kubectl(&["annotate", "namespace", name, "cloudstate.io/watch=disabled"])?;
    let made = operators::kustomized(namespace, "")?;
    let proxy = "  config.yaml: |\n    proxy:\n";
    ensure!(made.contains(proxy), "the settings do not begin with those of the proxy:\n{made}");
    namespace.apply(&made.replace(proxy, &format!("{proxy}      native-sidecar: on\n")))?;
    operators::ready(namespace)?;
    drains(namespace, Kind::Native)?;

    let hook = "    lifecycle: {preStop: {sleep: {seconds: 15}}}\n";
    let service = Kind::Native.service(namespace.cluster, "") + hook;
    let pod = applied(namespace, Kind::Native, &service)?;
    let sidecar = &pod["spec"]["initContainers"][0];
    ensure!(sidecar["name"] == SIDECAR, "the sidecar is no init container: {}", pod["spec"]);
    let calls = address(&pod, 8013)?;
    TcpStream::connect_timeout(&calls, PATIENCE).context("before the pod's end")?;
    let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
    namespace.kubectl(&["delete", "pod", name, "--wait=false"])?;
    let deleted = Instant::now();
    until("the port for calls is closed", PRE_DELAY * 2, || {
        Ok(match TcpStream::connect_timeout(&calls, PATIENCE) {
            Ok(_) => Err("it is open".to_owned()),
            Err(_) => Ok(()),
        })
    })?;
    let closed = deleted.elapsed();
    ensure!(closed > PRE_DELAY / 2, "closed after {closed:.1?}, before callers could know");
    let alive = http::get(address(&pod, 8558)?, "/alive", PATIENCE)?;
    ensure!(alive == "alive", "the proxy says {alive:?}");
    let status = http::get(address(&pod, 8559)?, "/alive", PATIENCE)?;
    ensure!(status == "alive", "the launcher says {status:?}");
    until("the pod is gone", READY, || {
        let pods = namespace.list("pods")?;
        let is_left = pods.iter().any(|left| left["metadata"]["uid"] == pod["metadata"]["uid"]);
        Ok(if is_left { Err("it is still there".to_owned()) } else { Ok(()) })
    })?;
    let gone = deleted.elapsed();
    namespace.note(format!(
        "no new call {closed:.1?} after the pod was deleted, while its proxy was there; all gone after {gone:.1?}"
    ));
    Ok(())
}
