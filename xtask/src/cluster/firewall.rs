//! Takes the cluster's rules out of iptables, and leaves those of others.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use super::net::{BRIDGE, NETWORK};

/// Chains that the pod network shares with other networks of the same plug-ins.
const SHARED: [&str; 3] = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"];

/// Lets pods talk to each other and outwards on machines that forward nothing by default.
///
/// # Errors
/// When iptables refuses.
pub fn open(sh: &Shell) -> Result<()> {
    for direction in ["-i", "-o"] {
        let rule =
            ["FORWARD", direction, BRIDGE, "-m", "comment", "--comment", NETWORK, "-j", "ACCEPT"];
        let there = cmd!(sh, "iptables --wait --check {rule...}").quiet().ignore_stderr().run();
        if there.is_err() {
            cmd!(sh, "iptables --wait --insert {rule...}").quiet().run()?;
        }
    }
    Ok(())
}

/// Removes what kube-proxy, the pod network and [`open`] made, for both families.
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
        let mut doomed: BTreeSet<&str> =
            self.chains.iter().copied().filter(|chain| chain.starts_with("KUBE-")).collect();
        // Rules of the pod network name it in a comment, and jump to chains that nobody else uses.
        for rule in self.rules.iter().filter(|rule| is_named(rule)) {
            let own = |chain: &&str| chain.starts_with("CNI-") && !SHARED.contains(chain);
            doomed.extend(target(rule).filter(own));
        }
        // The shared chains go with us unless another pod network has rules in this table.
        let shared = self.rules.iter().any(|rule| rule.contains("name: ") && !is_named(rule));
        if !shared && self.rules.iter().any(|rule| is_named(rule)) {
            doomed.extend(self.chains.iter().filter(|chain| SHARED.contains(chain)));
        }
        let mut text = String::new();
        for rule in self.rules.iter().filter(|rule| !doomed.contains(chain(rule))) {
            if is_named(rule) || target(rule).is_some_and(|chain| doomed.contains(chain)) {
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
}

/// Whether the rule's comment names our network: as the plug-ins write it, or as [`open`] does.
fn is_named(rule: &str) -> bool {
    rule.contains(&format!("name: \\\"{NETWORK}\\\""))
        || rule.contains(&format!("--comment {NETWORK} "))
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
-A FORWARD -i cloudstate0 -m comment --comment cloudstate-dev -j ACCEPT
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
*filter
-D FORWARD -i cloudstate0 -m comment --comment cloudstate-dev -j ACCEPT
COMMIT
"#;
        assert_eq!(removal(RULES), expected);
    }

    #[test]
    fn port_mappings_go_unless_another_network_has_some() {
        let ours = r#"*nat
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-DN-1 - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"cloudstate-dev\" id: \"1\"" -j CNI-DN-1
"#;
        let removed = removal(ours);
        assert!(removed.contains("-D PREROUTING -m addrtype"), "{removed}");
        assert!(removed.contains("-X CNI-DN-1\n-X CNI-HOSTPORT-DNAT"), "{removed}");
        let foreign = r#"-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"other\" id: \"2\"" -j CNI-DN-2"#;
        let removed = removal(&format!("{ours}{foreign}\n"));
        assert!(removed.contains("-D CNI-HOSTPORT-DNAT -p tcp"), "{removed}");
        assert!(removed.contains("-X CNI-DN-1"), "{removed}");
        assert!(
            !removed.contains("-X CNI-HOSTPORT-DNAT") && !removed.contains("CNI-DN-2"),
            "{removed}"
        );
    }

    #[test]
    fn a_machine_without_our_rules_is_left_alone() {
        assert_eq!(removal("*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n"), "");
        assert_eq!(removal(""), "");
    }
}
