//! What the sidecar is made of: two static programs, and nothing else.

use anyhow::ensure;

use super::{LAUNCHER, SIDECAR, deployed, kind::Kind, same_pod};
use crate::e2e::{
    namespace::{Namespace, READY},
    processes::{self, Process},
    scenarios::manifests::SERVICE,
    wait::until,
};

/// F30: static programs from scratch, an ordinary user, no capabilities, a root that cannot be written to: started, ready,
/// killed and back, stopped.
pub(in super::super) fn f30_a_whole_life_from_scratch(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let pod = deployed(namespace, Kind::Native, "")?;
    let launcher = processes::find(&pod, SIDECAR, LAUNCHER)?;
    let proxy = Kind::Native.proxy(&pod)?;
    for process in [launcher, proxy] {
        is_bare(process)?;
    }
    proxy.kill()?;
    until("a call works again", READY, || {
        Ok(Kind::Native.call(namespace).map_err(|error| format!("{error:#}")))
    })?;
    same_pod(namespace, &pod, launcher)?;
    let service = format!("statefulservice/{SERVICE}");
    namespace.kubectl(&["scale", &service, "--replicas=0"])?;
    until("the pod leaves by itself", READY, || {
        let pods = namespace.list("pods")?;
        Ok(if pods.is_empty() { Ok(()) } else { Err(format!("{} are there", pods.len())) })
    })?;
    namespace.note("static, from scratch, user 65532, no capabilities, a root that is read-only");
    Ok(())
}

fn is_bare(process: Process) -> anyhow::Result<()> {
    ensure!(process.is_static()?, "{process:?} needs a loader");
    let status = process.file("status")?;
    for line in [
        "Uid:\t65532\t65532\t65532\t65532",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        ensure!(status.lines().any(|found| found == line), "no {line:?} in\n{status}");
    }
    let mounts = process.file("mountinfo")?;
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    let is_read_only = root
        .and_then(|line| line.split(' ').nth(5))
        .is_some_and(|options| options.split(',').any(|option| option == "ro"));
    ensure!(is_read_only, "the root can be written to: {root:?}");
    let shell = process.file("root/bin/sh");
    ensure!(shell.is_err(), "there is a shell");
    Ok(())
}
