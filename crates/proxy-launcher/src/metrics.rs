//! The launcher's metrics as text: Prometheus' format 0.0.4, or OpenMetrics 1.0. Labels are closed sets.

use std::{fmt::Display, fmt::Write as _, fs, time::Duration};

use crate::{
    board::{Facts, Histogram},
    cgroup::Cgroup,
    health::Health,
    machine::STATE_NAMES,
};

/// Which of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Prometheus' own, 0.0.4.
    Plain,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Form {
    /// What a client that accepts this gets.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Plain
        }
    }

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

struct Page {
    text: String,
    form: Form,
}

/// Everything that is known, as a page. `now` is the time since the launcher's start.
pub fn page(facts: &Facts, health: &Health, now: Duration, form: Form) -> String {
    let mut page = Page { text: String::new(), form };
    let kind = if facts.is_jvm { "jvm" } else { "native" };
    let build = format!("version=\"{}\",kind=\"{kind}\"", env!("CARGO_PKG_VERSION"));
    page.many("build_info", "gauge", "Version and kind of proxy", [(build, 1)]);
    let state = |name: &&str| (label("state", name), u8::from(*name == facts.state));
    page.many(
        "state",
        "gauge",
        "1 for the state that the launcher is in",
        STATE_NAMES.iter().map(state),
    );
    page.gauge("ready", "1 while /ready is 200", u8::from(health.ready().is_ok()));
    page.gauge("proxy_up", "1 while the proxy answers", u8::from(facts.proxy_answers));
    page.gauge(
        "proxy_ready",
        "1 while the proxy says that it is ready",
        u8::from(facts.proxy_ready),
    );
    let there = u8::from(facts.user_function == Some(true));
    page.gauge("user_function_up", "1 while the user function answers", there);
    page.counter(
        "user_function_changes",
        "Times that it came or went",
        facts.user_function_changes,
    );
    page.time(
        "user_function_wait",
        "Until it answered for the first time",
        facts.user_function_wait,
    );
    page.counter("starts", "Proxies started", facts.starts);
    let restarts = facts.restarts.iter().map(|(cause, count)| (label("cause", cause), *count));
    page.many("restarts", "counter", "Proxies started again, by the end that led to it", restarts);
    page.counter("hangs", "Proxies that were found to hang", facts.hangs);
    let exits = facts.exits.iter().map(|(class, count)| (label("class", class), *count));
    page.many("exits", "counter", "Proxies that ended, by what kind of end it was", exits);
    page.gauge("budget_remaining", "Failures that are answered with a restart", facts.budget_left);
    let pause = facts.pause_until.map(|until| until.saturating_sub(now)).unwrap_or_default();
    page.time("backoff", "What is left of the pause before a restart", Some(pause));
    let start = [(String::new(), &facts.start_times)];
    page.histograms("proxy_start_seconds", "From start to first answer", start);
    let probes = [("proxy", &facts.proxy_probes), ("user_function", &facts.user_function_probes)];
    let probes = probes.map(|(target, times)| (label("target", target), times));
    page.histograms(
        "probe_seconds",
        "How long answers to questions took, or their absence",
        probes,
    );
    page.time(
        "time_to_ready",
        "From the launcher's start to its first readiness",
        facts.time_to_ready,
    );
    page.counter("probe_failures", "Questions that the proxy did not answer", facts.probe_failures);
    if let Some(calls) = facts.in_flight {
        page.gauge("inflight_requests", "Calls under way, counted while draining", calls);
    }
    let draining = facts.drain_begun.map(|begun| now.saturating_sub(begun));
    page.time("drain", "How long the drain takes, or took", facts.drain_took.or(draining));
    let forced = facts.exits.get("stop_timeout").copied().unwrap_or_default();
    page.counter("drain_forced", "Stops that ended with KILL", forced);
    let signals = facts.signals.iter().map(|(signal, count)| (label("signal", signal), *count));
    page.many("signals", "counter", "Signals received; several at once may be one", signals);
    let reaped = [("leader", facts.leaders_reaped), ("orphan", facts.orphans_reaped)];
    let reaped = reaped.map(|(kind, count)| (label("kind", kind), count));
    page.many("reaped", "counter", "Processes buried", reaped);
    page.gauge("config_warnings", "Settings that are odd", facts.warnings);
    let reloads = [("ok", facts.reloads), ("refused", facts.reloads_refused)];
    let reloads = reloads.map(|(result, count)| (label("result", result), count));
    page.many("config_reloads", "counter", "Times that settings were read again", reloads);
    memory(&mut page, facts);
    process(&mut page);
    if form == Form::OpenMetrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

fn memory(page: &mut Page, facts: &Facts) {
    let group = Cgroup::of_this_process();
    let group = group.as_ref();
    for (name, help, value) in [
        ("memory_limit_bytes", "The container's memory limit", facts.memory_limit),
        ("memory_current_bytes", "Memory that the container uses", group.and_then(Cgroup::current)),
        ("heap_max_bytes", "Largest heap of the JVM", facts.heap_max),
        ("heap_budget_estimate_bytes", "What the JVM is estimated to use", facts.heap_estimate),
    ] {
        if let Some(value) = value {
            page.gauge(name, help, value);
        }
    }
    if let Some(pressure) = group.and_then(Cgroup::pressure) {
        page.gauge(
            "memory_pressure_some_avg10",
            "Share of time that somebody waits for memory",
            pressure,
        );
    }
    if let Some(kills) = group.and_then(Cgroup::oom_kills) {
        page.counter("oom_kills", "Processes that the kernel killed for memory", kills);
    }
}

/// The launcher's own process.
fn process(page: &mut Page) {
    /// What the kernel counts processor time in, on every architecture that we build for.
    const TICKS_PER_SECOND: f64 = 100.0;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().ok());
    if let Some(kib) = resident {
        page.gauge("process_resident_memory_bytes", "Memory of the launcher itself", kib * 1024);
    }
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name stands in parentheses and may hold anything; times are the 12th and 13th field behind it.
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    let seconds = ticks.sum::<f64>() / TICKS_PER_SECOND;
    page.counter("process_cpu_seconds", "Processor time of the launcher itself", seconds);
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is the folder that is read here.
        let open = open.count().saturating_sub(1);
        page.gauge("process_open_fds", "Files that the launcher itself has open", open);
    }
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{value}\"")
}

impl Page {
    /// Writing into a string cannot fail, so nobody looks.
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // OpenMetrics names the family of a counter without its suffix.
        let suffix = if kind == "counter" && self.form == Form::Plain { "_total" } else { "" };
        let name = format!("cloudstate_launcher_{name}{suffix}");
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn many<V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        self.head(name, kind, help);
        let suffix = if kind == "counter" { "_total" } else { "" };
        for (labels, value) in samples {
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let _ = writeln!(self.text, "cloudstate_launcher_{name}{suffix}{labels} {value}");
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.many(name, "gauge", help, [(String::new(), value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.many(name, "counter", help, [(String::new(), value)]);
    }

    /// Absent as long as it is unknown.
    fn time(&mut self, name: &str, help: &str, time: Option<Duration>) {
        if let Some(time) = time {
            self.gauge(&format!("{name}_seconds"), help, time.as_secs_f64());
        }
    }

    fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, &'a Histogram)>,
    ) {
        self.head(name, "histogram", help);
        let name = format!("cloudstate_launcher_{name}");
        for (labels, times) in samples {
            let comma = if labels.is_empty() { "" } else { "," };
            for (count, bound) in times.counts.iter().zip(Histogram::BOUNDS) {
                let _ =
                    writeln!(self.text, "{name}_bucket{{{labels}{comma}le=\"{bound:?}\"}} {count}");
            }
            let Histogram { count, sum, .. } = times;
            let _ = writeln!(self.text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let _ = writeln!(self.text, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::health::Drain;

    fn text(form: Form) -> String {
        let mut facts = Facts { state: "running", starts: 3, ..Facts::default() };
        facts.exits.insert("hang", 2);
        facts.restarts.insert("hang", 2);
        facts.hangs = 2;
        facts.proxy_probes.observe(Duration::from_millis(2));
        facts.signals.insert("TERM", 1);
        facts.start_times.observe(Duration::from_millis(300));
        let health = Health { started: true, alive: true, reasons: Vec::new(), drain: Drain::No };
        page(&facts, &health, Duration::from_secs(1), form)
    }

    #[test]
    fn both_formats_say_the_same() {
        let (plain, open) = (text(Form::Plain), text(Form::OpenMetrics));
        for line in [
            "cloudstate_launcher_starts_total 3",
            "cloudstate_launcher_state{state=\"running\"} 1",
            "cloudstate_launcher_state{state=\"failed\"} 0",
            "cloudstate_launcher_exits_total{class=\"hang\"} 2",
            "cloudstate_launcher_proxy_start_seconds_bucket{le=\"0.25\"} 0",
            "cloudstate_launcher_proxy_start_seconds_bucket{le=\"0.5\"} 1",
            "cloudstate_launcher_proxy_start_seconds_sum 0.3",
            "cloudstate_launcher_ready 1",
            "cloudstate_launcher_restarts_total{cause=\"hang\"} 2",
            "cloudstate_launcher_hangs_total 2",
            "cloudstate_launcher_probe_seconds_bucket{target=\"proxy\",le=\"0.05\"} 1",
            "cloudstate_launcher_probe_seconds_count{target=\"user_function\"} 0",
        ] {
            assert!(plain.lines().any(|found| found == line), "{line} is missing in\n{plain}");
            assert!(open.lines().any(|found| found == line), "{line} is missing in\n{open}");
        }
        assert!(plain.contains("# TYPE cloudstate_launcher_starts_total counter\n"));
        assert!(open.contains("# TYPE cloudstate_launcher_starts counter\n"));
        assert!(open.ends_with("# EOF\n") && !plain.contains("EOF"));
    }

    #[test]
    fn a_family_stands_once_and_there_are_few_series() {
        let plain = text(Form::Plain);
        let families: Vec<_> = plain.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let distinct: BTreeSet<_> = families.iter().collect();
        assert_eq!(families.len(), distinct.len());
        // Classes and signals are closed sets of about thirty in all.
        assert!(plain.lines().filter(|line| !line.starts_with('#')).count() < 120, "{plain}");
    }
}
