//! A proxy made of jars in a real pod.

use std::time::Duration;

use anyhow::ensure;

use super::{
    LAUNCHER, SIDECAR, USER, deployed, drains, hangs,
    kind::{Kind, address},
    last_words, same_pod,
};
use crate::e2e::{
    http,
    namespace::{Namespace, READY},
    processes,
    scenarios::manifests::SERVICE,
    wait::until,
};

/// How long a JVM may take to answer on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

pub(in super::super) fn jvm_proxy_that_hangs_is_replaced(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    hangs(namespace, Kind::Jvm)
}

pub(in super::super) fn jvm_calls_outlive_their_pod(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    drains(namespace, Kind::Jvm)
}

/// What `sidecarJvmMemory` says is on the JVM's command line, and is what the JVM has.
pub(in super::super) fn jvm_heap_is_the_one_asked_for(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    const MIB: u64 = 1 << 20;
    let pod = deployed(namespace, Kind::Jvm, "  sidecarJvmMemory: 128m")?;
    let arguments = Kind::Jvm.proxy(&pod)?.arguments()?;
    for flag in ["-Xms128m", "-Xmx128m"] {
        ensure!(arguments.iter().any(|argument| argument == flag), "no {flag} in {arguments:?}");
    }
    let heap: u64 = http::get(address(&pod, 8013)?, "/heap", PATIENCE)?.parse()?;
    // The serial collector keeps one of two survivor spaces to itself.
    ensure!((120 * MIB..=128 * MIB).contains(&heap), "the JVM says that its heap is {heap} bytes");
    let account = format!("--as=system:serviceaccount:{}:default", namespace.name);
    let may = namespace.kubectl(&["auth", "can-i", "list", "pods", &account])?;
    ensure!(may.trim() == "yes", "its pods may not find each other: {may}");
    namespace.note(format!("-Xmx128m, Runtime.maxMemory {heap}"));
    Ok(())
}

/// What the pods of such services may do is taken back when there is no such service any more.
pub(in super::super) fn jvm_rights_go_with_the_last_service(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let rights = |is_wanted: bool| {
        until("rights are as they should be", PATIENCE, || {
            let kinds = ["get", "roles,rolebindings", "--output=name"];
            let names = namespace.kubectl(&kinds)?;
            let is_there = names.lines().count() == if is_wanted { 2 } else { 0 };
            Ok(if is_there { Ok(()) } else { Err(format!("{names:?}")) })
        })
    };
    namespace.apply(&Kind::Jvm.service(namespace.cluster, "  replicas: 0"))?;
    rights(true)?;
    namespace.kubectl(&["delete", "statefulservice", SERVICE])?;
    let ((), took) = rights(false)?;
    namespace.note(format!("gone {took:.1?} after the service"));
    Ok(())
}

/// `kill -9` of the JVM: the launcher starts it again, and Kubernetes does not notice.
pub(in super::super) fn jvm_proxy_that_is_killed_comes_back(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let before = deployed(namespace, Kind::Jvm, "")?;
    let (proxy, launcher) =
        (Kind::Jvm.proxy(&before)?, processes::find(&before, SIDECAR, LAUNCHER)?);
    proxy.kill()?;
    let ((), took) = until("a call works again", PATIENCE, || {
        Ok(Kind::Jvm.call(namespace).map_err(|error| format!("{error:#}")))
    })?;
    namespace.note(format!("first call after kill -9 of the JVM: {took:.1?}"));
    let after = same_pod(namespace, &before, launcher)?;
    ensure!(Kind::Jvm.proxy(&after)? != proxy, "the JVM was not killed at all");
    ensure!(processes::restarts(&after, USER)? == 0, "the user function was restarted as well");
    Ok(())
}

/// The kubelet starts a user function again that was killed, and calls go on in the container that is there. A proxy made
/// of jars does not ask a user function again what it is, so the launcher starts one anew once it has noticed.
pub(in super::super) fn jvm_sidecar_outlives_its_user_function(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let before = deployed(namespace, Kind::Jvm, "")?;
    let launcher = processes::find(&before, SIDECAR, LAUNCHER)?;
    processes::find(&before, USER, "/scripted-function")?.kill()?;
    until("the user function was started again", READY, || {
        let restarts = processes::restarts(&namespace.pod(SERVICE)?, USER)?;
        Ok(if restarts == 1 { Ok(()) } else { Err(format!("{restarts} restarts")) })
    })?;
    until("a call works", PATIENCE, || {
        Ok(Kind::Jvm.call(namespace).map_err(|error| format!("{error:#}")))
    })?;
    same_pod(namespace, &before, launcher).map(drop)
}

/// A heap that is too small for what is asked of it, time and again: the launcher gives up and says what to do.
pub(in super::super) fn jvm_last_words_in_describe_pod(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let pod = deployed(namespace, Kind::Jvm, "  sidecarJvmMemory: 64m")?;
    let calls = address(&pod, 8013)?;
    // Six ends and five pauses, of 16 s together or a little more.
    until("the sidecar was given up", Duration::from_mins(2), || {
        // It breaks off with the JVM, or there is none at the moment.
        let _broken = http::get(calls, "/allocate?128", PATIENCE);
        let restarts = processes::restarts(&namespace.pod(SERVICE)?, SIDECAR)?;
        Ok(if restarts > 0 { Ok(()) } else { Err("it goes on".to_owned()) })
    })?;
    let words = ["Exit Code: 3", "ProxyCrashed", "heap was full", "raise spec.sidecarJvmMemory"];
    last_words(namespace, &words)
}
