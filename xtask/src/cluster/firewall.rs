//! Takes the cluster's rules out of iptables, and leaves those of others.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use super::net::NETWORK;

/// Chains that the pod network shares with other networks of the same plug-ins.
const SHARED: [&str; 3] = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"];

/// Removes what kube-proxy and the pod network made, for both families.
///
/// # Errors
/// When iptables refuses.
pub fn clean(sh: &Shell) -> Result<()> {
    for (save, restore) in
        [("iptables-save", "iptables-restore"), ("ip6tables-save", "ip6tables-restore")]
    {
        let Ok(rules) = cmd!(sh, "{save}").quiet().ignore_stderr().read() else { continue };
        let removal = removal(&rules);
        if removal.is_empty() {
            continue;
        }
        let mut child = Command::new(restore)
            .arg("--noflush")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {restore}"))?;
        child.stdin.take().context("a pipe was asked for")?.write_all(removal.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{restore} refuses:\n{removal}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(())
}

/// What to feed to `iptables-restore --noflush` so that none of our rules remains in what `iptables-save` said.
fn removal(rules: &str) -> String {
    let mut text = String::new();
    for table in tables(rules) {
        let lines = table.removal();
        if !lines.is_empty() {
            text += &["*", table.name, "\n", &lines, "COMMIT\n"].concat();
        }
    }
    text
}

#[derive(Default)]
struct Table<'a> {
    name: &'a str,
    chains: Vec<&'a str>,
    /// Each as `iptables-save` prints it, without `-A`.
    rules: Vec<&'a str>,
}

fn tables(text: &str) -> Vec<Table<'_>> {
    let mut tables = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table { name, ..Table::default() });
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            table.chains.extend(chain.split(' ').next());
        } else if let Some(rule) = line.strip_prefix("-A ") {
            table.rules.push(rule);
        }
    }
    tables
}

impl Table<'_> {
    fn removal(&self) -> String {
        // Every rule of the pod network names it in a comment; the chains it jumps to are its own.
        let named = |rule: &str| {
            rule.contains(&format!("\\\"{NETWORK}\\\"")) || rule.contains(&format!("\"{NETWORK}\""))
        };
        let mut doomed: BTreeSet<&str> =
            self.chains.iter().copied().filter(|chain| chain.starts_with("KUBE-")).collect();
        for rule in self.rules.iter().filter(|rule| named(rule)) {
            doomed.extend(
                target(rule).filter(|chain| chain.starts_with("CNI-") && !SHARED.contains(chain)),
            );
        }
        // A shared chain goes when nobody else is left in it.
        let mut ours = !doomed.is_empty();
        for shared in SHARED.iter().filter(|shared| self.chains.contains(shared)) {
            let mut used = self.rules.iter().filter(|rule| chain(rule) == *shared);
            let foreign = used.any(|rule| {
                target(rule).is_some_and(|chain| {
                    chain.starts_with("CNI-") && !SHARED.contains(&chain) && !doomed.contains(chain)
                })
            });
            if !foreign && self.portmap_was_ours() {
                doomed.insert(shared);
                ours = true;
            }
        }
        if !ours {
            return String::new();
        }
        let mut text = String::new();
        for rule in &self.rules {
            let jumps = target(rule).is_some_and(|chain| doomed.contains(chain));
            if !doomed.contains(chain(rule)) && (jumps || named(rule)) {
                text += &["-D ", rule, "\n"].concat();
            }
        }
        for verb in ["-F", "-X"] {
            for chain in &doomed {
                text += &[verb, " ", chain, "\n"].concat();
            }
        }
        text
    }

    /// The port mapping chains carry no name. They are taken for ours when no other pod network has a rule.
    fn portmap_was_ours(&self) -> bool {
        !self.rules.iter().any(|rule| {
            chain(rule).starts_with("CNI-") && !SHARED.contains(&chain(rule)) && {
                rule.contains("name: ") && !rule.contains(NETWORK)
            }
        })
    }
}

fn chain(rule: &str) -> &str {
    rule.split(' ').next().unwrap_or_default()
}

fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split(' ').skip_while(|word| *word != "-j" && *word != "-g");
    words.next()?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:CNI-0123 - [0:0]
:CNI-foreign - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j DOCKER
-A POSTROUTING -s 10.244.0.2/32 -m comment --comment "name: \"cloudstate-dev\" id: \"ab\"" -j CNI-0123
-A POSTROUTING -s 10.1.0.2/32 -m comment --comment "name: \"other\" id: \"cd\"" -j CNI-foreign
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SERVICES
-A CNI-0123 -d 10.244.0.0/24 -m comment --comment "name: \"cloudstate-dev\" id: \"ab\"" -j ACCEPT
COMMIT
*filter
:INPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
COMMIT
"#;

    #[test]
    fn our_rules_go_and_those_of_others_stay() {
        let expected = r#"*nat
-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-D POSTROUTING -s 10.244.0.2/32 -m comment --comment "name: \"cloudstate-dev\" id: \"ab\"" -j CNI-0123
-F CNI-0123
-F KUBE-SERVICES
-X CNI-0123
-X KUBE-SERVICES
COMMIT
"#;
        assert_eq!(removal(RULES), expected);
    }

    #[test]
    fn a_machine_without_our_rules_is_left_alone() {
        assert_eq!(removal("*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n"), "");
        assert_eq!(removal(""), "");
    }
}
