//! Specs by the hundred before the real API server, by dry run: those that are refused, and those that are valid.

use std::{fs, path::Path, thread, time::Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::{
    e2e::{
        http::{Answer, Request},
        namespace::Namespace,
        proxy::Proxy,
    },
    layout,
};

const REFUSED: &str = "crates/translate/tests/refused";
const BY_VALIDATION: &str = "# Refused by the validation:";
const BY_THE_API_SERVER: &str = "# Refused by the API server:";
/// How many services are generated.
const GENERATED: u32 = 300;
/// Requests at a time.
const WORKERS: usize = 4;

/// What schema and CEL refuse is refused by the real API server in the words that its file says; what validation refuses
/// reaches validation.
pub(super) fn refused_specs_are_refused_in_these_words(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let proxy = Proxy::start(namespace.cluster)?;
    let folder = layout::root().join(REFUSED);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .and_then(Iterator::collect::<Result<_, _>>)
        .with_context(|| format!("cannot read {}", folder.display()))?;
    files.sort_by_key(fs::DirEntry::path);
    let (mut refused, mut admitted, mut wrong) = (0, 0, Vec::new());
    for file in files {
        let text = fs::read_to_string(file.path()).context("cannot read a refused spec")?;
        let said = said_to(&proxy, &namespace.name, &text)?;
        let (by, wanted) = expected(&text);
        match by {
            BY_THE_API_SERVER => refused += 1,
            BY_VALIDATION => admitted += 1,
            other => bail!("{}: {other:?} says not who refuses it", file.path().display()),
        }
        if said != wanted {
            wrong.push(format!("{}: said {said:?}, not {wanted:?}", name(&file.path())));
        }
    }
    ensure!(wrong.is_empty(), "{} are answered otherwise:\n{}", wrong.len(), wrong.join("\n"));
    ensure!(refused > 0 && admitted > 0, "{refused} refused, {admitted} admitted");
    namespace.note(format!(
        "{refused} refused in the words of their files, {admitted} admitted for validation to refuse, in {:.1?}",
        begun.elapsed()
    ));
    Ok(())
}

/// Who refuses a spec, and the lines that the API server is to say.
fn expected(text: &str) -> (&str, Vec<String>) {
    let mut comments = text.lines().take_while(|line| line.starts_with('#'));
    let by = comments.next().unwrap_or_default();
    // As kubectl writes it, which made these files.
    let lines = comments.map(|line| line.trim_start_matches("# ")).map(|line| {
        line.strip_prefix("Error from server (BadRequest): error when creating \"STDIN\": ")
            .unwrap_or(line)
            .to_owned()
    });
    (by, if by == BY_THE_API_SERVER { lines.collect() } else { Vec::new() })
}

/// What the API server says to each document that it refuses.
fn said_to(proxy: &Proxy, namespace: &str, text: &str) -> anyhow::Result<Vec<String>> {
    let body: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut said = Vec::new();
    for document in body.join("\n").split("\n---\n") {
        let kind = document.lines().find_map(|line| line.strip_prefix("kind: "));
        let plural = plural(kind.unwrap_or_default())?;
        let path = format!(
            "/apis/cloudstate.io/v1alpha1/namespaces/{namespace}/{plural}?dryRun=All&fieldValidation=Strict"
        );
        let (content, body) = ("application/yaml", document);
        let answer = proxy.send(Request { method: "POST", path: &path, content, body })?;
        said.extend(refusal(&answer)?);
    }
    Ok(said)
}

/// The lines of a refusal as kubectl writes them, or none.
fn refusal(answer: &Answer) -> anyhow::Result<Vec<String>> {
    if answer.is_success() {
        return Ok(Vec::new());
    }
    let status: Value = serde_json::from_str(&answer.body)
        .with_context(|| format!("no JSON came back: {}", answer.body))?;
    if status["reason"] != "Invalid" {
        let message = status["message"].as_str().context("a refusal without a message")?;
        return Ok(message.lines().map(str::to_owned).collect());
    }
    let details = &status["details"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut causes: Vec<String> = Vec::new();
    for cause in details["causes"].as_array().into_iter().flatten() {
        let line = format!("{}: {}", text(&cause["field"]), text(&cause["message"]));
        if !causes.contains(&line) {
            causes.push(line);
        }
    }
    let head = format!("The {} {:?} is invalid:", text(&details["kind"]), text(&details["name"]));
    Ok(match &causes[..] {
        [only] => format!("{head} {only}").lines().map(str::to_owned).collect(),
        several => {
            let lines = several.iter().map(|line| format!("* {line}"));
            std::iter::once(head).chain(lines).collect()
        }
    })
}

/// Nothing valid is refused: generated services, and every object that is rendered for them.
pub(super) fn generated_services_pass_the_api_server(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let list = namespace.cluster.generated(&namespace.name, GENERATED)?;
    let items = list["items"].as_array().context("no list was generated")?;
    let services = items.iter().filter(|item| item["kind"] == "StatefulService").count();
    ensure!(u32::try_from(services) == Ok(GENERATED), "{services} services were generated");
    let proxy = Proxy::start(namespace.cluster)?;
    let refused = thread::scope(|scope| {
        let chunks = items.chunks(items.len().div_ceil(WORKERS));
        let work: Vec<_> = chunks
            .map(|chunk| {
                let proxy = &proxy;
                scope.spawn(move || -> anyhow::Result<Vec<String>> {
                    let mut refused = Vec::new();
                    for item in chunk {
                        let answer = apply(proxy, item)?;
                        if !answer.is_success() {
                            refused.push(format!("{}\nto {item}", answer.body));
                        }
                    }
                    Ok(refused)
                })
            })
            .collect();
        let mut all = Vec::new();
        for thread in work {
            all.extend(thread.join().unwrap_or_else(|_| bail!("a thread panicked"))?);
        }
        anyhow::Ok(all)
    })?;
    let some: Vec<_> = refused.iter().take(3).map(String::as_str).collect();
    ensure!(refused.is_empty(), "{} were refused:\n{}", refused.len(), some.join("\n"));
    namespace.note(format!(
        "{services} services with {} objects taken in {:.1?}",
        items.len() - services,
        begun.elapsed()
    ));
    Ok(())
}

/// Server-side apply, as the operator does it.
fn apply(proxy: &Proxy, object: &Value) -> anyhow::Result<Answer> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let metadata = &object["metadata"];
    let root = if version.contains('/') { "apis" } else { "api" };
    let path = format!(
        "/{root}/{version}/namespaces/{}/{}/{}?dryRun=All&fieldManager=e2e&force=true&fieldValidation=Strict",
        text(&metadata["namespace"]),
        plural(&kind)?,
        text(&metadata["name"])
    );
    let (content, body) = ("application/apply-patch+yaml", &object.to_string());
    proxy.send(Request { method: "PATCH", path: &path, content, body })
}

fn plural(kind: &str) -> anyhow::Result<&'static str> {
    Ok(match kind {
        "StatefulService" => "statefulservices",
        "StatefulStore" => "statefulstores",
        "ServiceAccount" => "serviceaccounts",
        "Role" => "roles",
        "RoleBinding" => "rolebindings",
        "Service" => "services",
        "NetworkPolicy" => "networkpolicies",
        "PodDisruptionBudget" => "poddisruptionbudgets",
        "Deployment" => "deployments",
        other => bail!("no plural of {other:?} is known"),
    })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(status: u16, body: &str) -> Vec<String> {
        refusal(&Answer { status, body: body.to_owned() }).unwrap()
    }

    #[test]
    fn refusals_read_as_kubectl_writes_them() {
        assert!(lines(201, "{}").is_empty());
        let one = r#"{"reason": "Invalid", "details": {"kind": "A", "name": "b",
            "causes": [{"field": "c", "message": "no"}]}}"#;
        assert_eq!(lines(422, one), ["The A \"b\" is invalid: c: no"]);
        let two = one.replace("}]", "}, {\"field\": \"d\", \"message\": \"no\"}]");
        assert_eq!(lines(422, &two), ["The A \"b\" is invalid:", "* c: no", "* d: no"]);
        assert_eq!(lines(400, r#"{"reason": "BadRequest", "message": "what"}"#), ["what"]);
    }

    #[test]
    fn a_file_says_who_refuses_it_and_how() {
        let file = format!("{BY_THE_API_SERVER}\n# The A is invalid:\n# * b\nkind: A\n");
        assert_eq!(expected(&file).1, ["The A is invalid:", "* b"]);
        assert!(expected(&format!("{BY_VALIDATION}\n# No\nkind: A\n")).1.is_empty());
    }
}
