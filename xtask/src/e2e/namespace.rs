//! A scenario's own corner of the cluster, seen through `kubectl`.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::{
    cluster::{Cluster, LABEL},
    wait::until,
};

/// How long a service may take from being applied to serving calls.
pub(super) const READY: Duration = Duration::from_mins(1);

/// A namespace for one scenario.
pub(super) struct Namespace<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) name: String,
    /// Measured values, printed below the scenario's line.
    pub(super) notes: Vec<String>,
}

impl<'a> Namespace<'a> {
    /// Names it after the scenario.
    pub(super) fn new(cluster: &'a Cluster, scenario: &str) -> Self {
        let name = format!("e2e-{}", scenario.replace('_', "-"));
        Self { cluster, name, notes: Vec::new() }
    }

    /// Creates it, labelled for the clean-up of the next run.
    pub(super) fn create(&self) -> anyhow::Result<()> {
        let Self { name, .. } = self;
        self.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{LABEL}: \"true\"}}}}}}"
        ))
        .map(drop)
    }

    /// Removes it, without waiting for its end. One of a scenario that failed stays to be looked at.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        self.kubectl(&["delete", "namespace", &self.name, "--wait=false"]).map(drop)
    }

    /// Adds a measured value to what is printed.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Runs kubectl in the namespace; what it prints.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        text(self.command(arguments).output(), arguments)
    }

    /// Runs kubectl in the namespace, which must fail; all that it prints.
    pub(super) fn fails(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output().context("cannot run kubectl")?;
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        ensure!(
            !output.status.success(),
            "kubectl {} did not fail: {printed}",
            arguments.join(" ")
        );
        Ok(printed)
    }

    /// Applies YAML as a user does.
    pub(super) fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        let output = self.try_apply(yaml)?;
        text(Ok(output), &["apply", "--filename=-"]).with_context(|| format!("applying\n{yaml}"))
    }

    /// Applies YAML; what kubectl says to the user besides, such as warnings.
    pub(super) fn apply_aloud(&self, yaml: &str) -> anyhow::Result<String> {
        let output = self.try_apply(yaml)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{told}\napplying\n{yaml}");
        Ok(told)
    }

    /// Applies YAML that must be refused; what kubectl says to the user.
    pub(super) fn refused(&self, yaml: &str) -> anyhow::Result<String> {
        let output = self.try_apply(yaml)?;
        ensure!(!output.status.success(), "this was taken, and must be refused:\n{yaml}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Asks the API server what it would say to YAML that may be of other namespaces, and changes nothing.
    pub(super) fn dry_run(&self, yaml: &str) -> anyhow::Result<String> {
        let arguments =
            ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename=-"];
        let mut kubectl = self.cluster.kubectl();
        text(feed(kubectl.args(arguments), yaml), &arguments)
    }

    /// Creates an object in the name of another tool, which claims all of its fields.
    pub(super) fn create_as(&self, manager: &str, object: &Value) -> anyhow::Result<()> {
        let manager = format!("--field-manager={manager}");
        let arguments = ["create", &manager, "--filename=-"];
        text(self.fed(&arguments, &object.to_string()), &arguments).map(drop)
    }

    /// Deletes what YAML names, and waits until it is gone.
    pub(super) fn delete(&self, yaml: &str) -> anyhow::Result<()> {
        let arguments = ["delete", "--filename=-", "--timeout=60s"];
        text(self.fed(&arguments, yaml), &arguments).map(drop)
    }

    /// Runs Helm in the namespace; what it prints.
    pub(super) fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut helm = self.cluster.helm();
        let output = helm.args(["--namespace", &self.name]).args(arguments).output();
        said("helm", output, arguments)
    }

    fn try_apply(&self, yaml: &str) -> anyhow::Result<Output> {
        self.fed(&["apply", "--filename=-"], yaml).context("cannot run kubectl")
    }

    /// Runs kubectl on YAML.
    fn fed(&self, arguments: &[&str], yaml: &str) -> std::io::Result<Output> {
        feed(&mut self.command(arguments), yaml)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cluster.kubectl();
        // The namespace of a scenario, unless the arguments name another.
        command.args(["--namespace", &self.name]).args(arguments);
        // What waits has a limit of its own; this one would cut its watch short.
        if let ["get" | "describe" | "logs", ..] = arguments {
            command.arg("--request-timeout=20s");
        }
        command
    }

    /// One object.
    pub(super) fn get(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        let json = self.kubectl(&["get", kind, name, "--output=json"])?;
        serde_json::from_str(&json).context("kubectl prints no JSON")
    }

    /// All objects of the kinds, which are separated by commas.
    pub(super) fn list(&self, kinds: &str) -> anyhow::Result<Vec<Value>> {
        let json = self.kubectl(&["get", kinds, "--output=json"])?;
        let mut list: Value = serde_json::from_str(&json).context("kubectl prints no JSON")?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("kubectl printed no list but {other}"),
        }
    }

    /// What plain `kubectl describe` tells about a service.
    pub(super) fn describe(&self, service: &str) -> anyhow::Result<String> {
        self.kubectl(&["describe", "statefulservice", service])
    }

    /// Waits until the service serves calls, and says how long that took.
    pub(super) fn ready(&self, service: &str) -> anyhow::Result<Duration> {
        let what = format!("statefulservice/{service} becomes Ready");
        let ((), took) = until(&what, READY, || {
            let object = self.get("statefulservice", service)?;
            let ready = condition(&object, "Ready");
            // A condition that speaks of an older spec says nothing about this one.
            let current = ready["observedGeneration"] == object["metadata"]["generation"];
            Ok(if current && ready["status"] == "True" {
                Ok(())
            } else {
                Err(format!("condition Ready: {ready}"))
            })
        })?;
        Ok(took)
    }

    /// Waits until plain `kubectl describe` of a service shows every one of the words, after which it
    /// must not be Ready. Returns the message of the condition.
    pub(super) fn described(&self, service: &str, words: &[&str]) -> anyhow::Result<String> {
        let what = format!("kubectl describe statefulservice {service} shows {words:?}");
        until(&what, READY, || {
            let description = self.describe(service)?;
            let missing: Vec<_> =
                words.iter().filter(|word| !description.contains(**word)).collect();
            Ok(if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("no {missing:?} in\n{description}"))
            })
        })?;
        let object = self.get("statefulservice", service)?;
        let ready = condition(&object, "Ready");
        ensure!(ready["status"] == "False", "is Ready with bad input: {ready}");
        let message = ready["message"].as_str().unwrap_or_default();
        ensure!(!message.is_empty(), "the condition Ready has no message: {ready}");
        Ok(message.to_owned())
    }

    /// The one pod of a service that is not on its way out.
    pub(super) fn pod(&self, service: &str) -> anyhow::Result<Value> {
        let mut pods = self.list("pods")?;
        pods.retain(|pod| {
            pod["metadata"]["labels"]["cloudstate.io/statefulService"] == service
                && pod["metadata"]["deletionTimestamp"].is_null()
        });
        ensure!(pods.len() == 1, "{service} has {} pods instead of one", pods.len());
        Ok(pods.remove(0))
    }
}

/// The condition of that type, or null.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .and_then(|conditions| conditions.iter().find(|condition| condition["type"] == kind))
        .unwrap_or(&Value::Null)
}

/// The container of that name in a pod or in the template of a Deployment.
pub(super) fn container<'a>(pod: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    pod["spec"]["containers"]
        .as_array()
        .and_then(|containers| containers.iter().find(|container| container["name"] == name))
        .with_context(|| format!("there is no container {name} in {}", pod["spec"]["containers"]))
}

/// The plain value of a container's variable, or null.
pub(super) fn variable<'a>(container: &'a Value, name: &str) -> &'a Value {
    let variables = container["env"].as_array();
    variables
        .and_then(|variables| variables.iter().find(|variable| variable["name"] == name))
        .map_or(&Value::Null, |variable| &variable["value"])
}

/// Runs a program on that input.
fn feed(command: &mut Command, input: &str) -> std::io::Result<Output> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    child.wait_with_output()
}

fn text(output: std::io::Result<Output>, arguments: &[&str]) -> anyhow::Result<String> {
    said("kubectl", output, arguments)
}

/// What a program has printed, unless it failed.
fn said(
    program: &str,
    output: std::io::Result<Output>,
    arguments: &[&str],
) -> anyhow::Result<String> {
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
