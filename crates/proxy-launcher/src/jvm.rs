//! The command line of a proxy made of jars. Pure: settings in; arguments, warnings and problems out.
//!
//! A JVM takes the last of two contradicting flags. So what the launcher thinks best stands first, then the
//! heap that was asked for, then what people wrote into `JAVA_OPTS` and behind the launcher's own arguments.

mod options;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use api::{
    contract::env,
    environment::{Kind, Problem, Size},
};

pub(crate) use self::options::secret_name;
use self::options::{HeapFlag, heap_flag, tokens};
pub use api::heap::{Budget, Regions};

/// Heap of a proxy that nobody chose one for; the operator writes it into `JAVA_OPTS`.
const HEAP_DEFAULT: u64 = 256 << 20;
/// A default heap is not made smaller than this.
const HEAP_LOWERED_MIN: u64 = 64 << 20;
/// Below this a proxy made of jars is likely to spend its time collecting garbage.
const HEAP_SMALL: u64 = 64 << 20;
const METASPACE_CAP: u64 = 160 << 20;
const GIB: u64 = 1 << 30;
/// Linux takes more; what comes near it is a mistake.
const ARGV_MAX: usize = 128 * 1024;

/// What to do about a heap that may be too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Refuse what cannot fit, warn of what is tight.
    Warn,
    /// Refuse what is tight too.
    Strict,
    /// Say it and go on.
    Off,
}

/// What makes a JVM of it.
#[derive(Clone, Debug)]
pub struct Jvm {
    /// The program.
    pub java: PathBuf,
    /// Jars and folders.
    pub class_path: String,
    /// The class that is started.
    pub main_class: String,
    /// What is known of the memory beside the heap.
    pub regions: Regions,
    /// What to do about a heap that may be too large.
    pub policy: Policy,
}

/// What the operator and the user say about memory and options.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// `sidecarJvmMemory`, when the user set it.
    pub memory: Option<Size>,
    /// The variable `JAVA_OPTS`.
    pub java_opts: Option<String>,
    /// What a JVM reads by itself, the stronger one first; all of it weaker than its arguments.
    pub others: [Option<String>; 2],
    /// Properties that variables stand for.
    pub properties: Vec<String>,
    /// The container's limit in bytes.
    pub limit: Option<u64>,
    /// Whether a file exists.
    pub exists: fn(&Path) -> bool,
}

/// Arguments for the JVM, and what was thought about them.
#[derive(Clone, Debug)]
pub struct CommandLine {
    /// Everything after the program's name.
    pub args: Vec<OsString>,
    /// What the JVM is estimated to use.
    pub budget: Budget,
    /// What was odd and does no harm.
    pub warnings: Vec<String>,
}

impl Jvm {
    /// Builds the command line; `args` were given to the launcher for the proxy.
    ///
    /// # Errors
    /// Every [`Problem`], when the JVM would not start, or would be killed for its memory.
    pub fn command_line(
        &self,
        wishes: &Wishes,
        args: &[OsString],
    ) -> Result<CommandLine, Vec<Problem>> {
        let mut notes = Notes::default();
        let opts = wishes.java_opts.as_deref().unwrap_or_default();
        let mut opts = tokens(env::JAVA_OPTS, opts).unwrap_or_else(|problem| {
            notes.problems.push(problem);
            Vec::new()
        });
        let (jvm_args, proxy_args): (Vec<_>, Vec<_>) = args.iter().cloned().partition(is_jvm_flag);
        let jvm_args: Vec<_> = jvm_args.into_iter().map(without_mark).collect();
        let heap = self.heap(wishes, &mut opts, &jvm_args, &mut notes);
        let budget = Budget::new(heap.max, wishes.limit, self.regions);
        self.judge(&heap, &budget, &mut notes);
        let rest = jvm_args.iter().chain(&proxy_args).filter_map(|arg| arg.to_str());
        for token in opts.iter().map(String::as_str).chain(rest) {
            self.look_for_secret(token, &mut notes);
            look_for_agent(token, wishes.exists, &mut notes);
        }

        let mut all = self.defaults(&budget, &opts, &jvm_args);
        all.push(format!("-Xms{}", shown(heap.initial)).into());
        all.push(format!("-Xmx{}", shown(heap.max)).into());
        all.extend(opts.into_iter().chain(wishes.properties.clone()).map(OsString::from));
        all.extend(jvm_args);
        all.extend(["-cp".into(), self.class_path.clone().into(), self.main_class.clone().into()]);
        all.extend(proxy_args);
        let length: usize = all.iter().map(|arg| arg.len() + 1).sum();
        if length > ARGV_MAX {
            notes.problems.push(Problem {
                kind: Kind::ArgvTooLong,
                variable: "arguments of the JVM".to_owned(),
                value: format!("{length} bytes"),
                expected: format!("at most {ARGV_MAX} bytes"),
                hint: "put long settings into a file".to_owned(),
            });
        }
        if notes.problems.is_empty() {
            Ok(CommandLine { args: all, budget, warnings: notes.warnings })
        } else {
            Err(notes.problems)
        }
    }

    /// The heap that the JVM will have, and who asked for it. A default that does not fit is lowered.
    fn heap(
        &self,
        wishes: &Wishes,
        opts: &mut Vec<String>,
        jvm_args: &[OsString],
        notes: &mut Notes,
    ) -> Heap {
        let args = jvm_args.iter().filter_map(|arg| arg.to_str());
        let flags = notes.heap_flags("arguments after --", args);
        let from_opts = notes.heap_flags(env::JAVA_OPTS, opts.iter().map(String::as_str));
        let explicit = wishes.memory.map(Size::bytes);
        let mut asked = flags.max.or(from_opts.max).or(explicit);
        // Nobody of ours was told a size; a JVM would look here next.
        for other in wishes.others.iter().flatten() {
            let tokens: Vec<_> = other.split_ascii_whitespace().collect();
            let found = tokens.iter().filter_map(|token| heap_flag("", 0, token).ok().flatten());
            asked = asked
                .or_else(|| found.filter(|flag| flag.is_max).map(|flag| flag.bytes).next_back());
        }
        let is_operators_default = explicit.is_none()
            && flags.max.is_none()
            && asked.is_none_or(|max| max == HEAP_DEFAULT);
        let heap = Heap {
            max: asked.unwrap_or(HEAP_DEFAULT),
            initial: flags
                .initial
                .or(from_opts.initial)
                .or(explicit)
                .or(asked)
                .unwrap_or(HEAP_DEFAULT),
            from: match (flags.max, from_opts.max, explicit) {
                (Some(_), ..) => "arguments after --",
                (None, Some(max), Some(memory)) if max == memory => env::SIDECAR_JVM_MEMORY,
                (None, Some(_), _) => env::JAVA_OPTS,
                (None, None, _) => env::SIDECAR_JVM_MEMORY,
            },
        };
        let budget = Budget::new(heap.max, wishes.limit, self.regions);
        let Some(largest) =
            budget.largest_heap().filter(|_| is_operators_default && !budget.fits())
        else {
            return heap;
        };
        // Nobody chose this heap, so nobody is refused for it.
        let lowered = largest.max(HEAP_LOWERED_MIN);
        opts.retain(|token| !matches!(heap_flag("", 0, token), Ok(Some(_))));
        notes.warnings.push(format!(
            "the default heap of {} does not fit into the container's limit ({budget}) and is lowered to {}; \
             set sidecarJvmMemory to choose another",
            shown(heap.max),
            shown(lowered)
        ));
        Heap { max: lowered, initial: lowered, from: heap.from }
    }

    fn judge(&self, heap: &Heap, budget: &Budget, notes: &mut Notes) {
        let problem = |kind, expected: String, hint: String| Problem {
            kind,
            variable: heap.from.to_owned(),
            value: shown(heap.max),
            expected,
            hint,
        };
        if heap.initial > heap.max {
            notes.problems.push(problem(
                Kind::InitialHeapExceedsMax,
                format!("at least the initial heap, which is {}", shown(heap.initial)),
                "lower -Xms or raise -Xmx; the JVM would refuse to start".to_owned(),
            ));
        }
        if heap.max < HEAP_SMALL {
            notes.warnings.push(format!(
                "{} is {}, which is little for a proxy made of jars",
                heap.from,
                shown(heap.max)
            ));
        }
        let Some(limit) = budget.limit else {
            let text = "no memory limit is known, so nothing says whether the heap fits".to_owned();
            if self.policy == Policy::Strict {
                let hint = "set spec.sidecarResources.limits.memory".to_owned();
                notes.problems.push(problem(Kind::NoMemoryLimit, text, hint));
            } else {
                notes.warnings.push(text);
            }
            return;
        };
        if budget.fits() {
            return;
        }
        let hint = match budget.largest_heap() {
            Some(largest) if largest > 0 => format!(
                "the largest heap that fits is {}: set sidecarJvmMemory to it, or raise the sidecar's memory \
                 limit",
                shown(largest)
            ),
            _ => "no heap fits: raise the sidecar's memory limit".to_owned(),
        };
        let exceeds = heap.max >= limit;
        let kind = if exceeds { Kind::HeapExceedsLimit } else { Kind::MemoryBudgetTight };
        let expected =
            format!("a heap that fits into the container's limit of {} ({budget})", shown(limit));
        let problem = problem(kind, expected, hint);
        match self.policy {
            Policy::Warn if exceeds => notes.problems.push(problem),
            Policy::Strict => notes.problems.push(problem),
            Policy::Warn | Policy::Off => notes.warnings.push(problem.to_string()),
        }
    }

    fn look_for_secret(&self, token: &str, notes: &mut Notes) {
        let Some(name) = secret_name(token) else { return };
        let problem = Problem {
            kind: Kind::SecretInArgv,
            variable: env::JAVA_OPTS.to_owned(),
            value: format!("{name}=***"),
            expected: "no secret among the arguments, which every process of the pod may read"
                .to_owned(),
            hint: "hand it over in an environment variable or a file".to_owned(),
        };
        if self.policy == Policy::Strict {
            notes.problems.push(problem);
        } else {
            notes.warnings.push(problem.to_string());
        }
    }

    /// What the launcher thinks best, except where somebody else gave the same flag.
    fn defaults(&self, budget: &Budget, opts: &[String], args: &[OsString]) -> Vec<OsString> {
        let is_small = budget.limit.is_some_and(|limit| limit <= GIB);
        let given = |flag: &str| {
            let args = args.iter().filter_map(|arg| arg.to_str());
            opts.iter().map(String::as_str).chain(args).any(|token| token.starts_with(flag))
        };
        let sized = |flag: &str, bytes: u64| format!("{flag}{}", shown(bytes));
        let mut flags = vec![
            "-XX:+ExitOnOutOfMemoryError".to_owned(),
            sized("-XX:MaxDirectMemorySize=", budget.direct),
            // Otherwise Netty counts a second limit of the same size.
            "-Dio.grpc.netty.shaded.io.netty.maxDirectMemory=0".to_owned(),
        ];
        if is_small || self.regions.code_cache.is_some() {
            flags.push(sized("-XX:ReservedCodeCacheSize=", budget.code_cache));
        }
        if is_small || self.regions.metaspace.is_some() {
            let cap = self.regions.metaspace.unwrap_or(METASPACE_CAP);
            flags.push(sized("-XX:MaxMetaspaceSize=", cap));
        }
        flags.retain(|flag| {
            let name = flag.trim_start_matches("-XX:+").trim_start_matches("-XX:");
            let name = name.split('=').next().unwrap_or(name);
            let forms = [
                format!("-XX:+{name}"),
                format!("-XX:-{name}"),
                format!("-XX:{name}"),
                name.to_owned(),
            ];
            !forms.iter().any(|form| given(form))
        });
        flags.into_iter().map(OsString::from).collect()
    }
}

struct Heap {
    max: u64,
    initial: u64,
    from: &'static str,
}

#[derive(Default)]
struct Notes {
    warnings: Vec<String>,
    problems: Vec<Problem>,
}

#[derive(Default)]
struct HeapFlags {
    max: Option<u64>,
    initial: Option<u64>,
}

impl Notes {
    /// The last flag of each sort; two different ones are worth a word.
    fn heap_flags<'a>(
        &mut self,
        variable: &str,
        tokens: impl Iterator<Item = &'a str>,
    ) -> HeapFlags {
        let mut flags = HeapFlags::default();
        for (index, token) in tokens.enumerate() {
            match heap_flag(variable, index + 1, token) {
                Ok(Some(HeapFlag { is_max, bytes })) => {
                    let slot = if is_max { &mut flags.max } else { &mut flags.initial };
                    if let Some(earlier) = slot.replace(bytes).filter(|earlier| *earlier != bytes) {
                        self.warnings.push(format!(
                            "DuplicateHeapFlag: {variable} sets it to {} and then to {}: the last one counts",
                            shown(earlier),
                            shown(bytes)
                        ));
                    }
                }
                Ok(None) => {}
                Err(problem) => self.problems.push(problem),
            }
        }
        flags
    }
}

/// Whether an argument is for the JVM rather than for the program that it runs.
pub fn is_jvm_flag(arg: &OsString) -> bool {
    const PREFIXES: [&str; 6] = ["-D", "-X", "-J", "-agentlib", "-agentpath", "-javaagent"];
    arg.to_str().is_some_and(|arg| PREFIXES.iter().any(|prefix| arg.starts_with(prefix)))
}

/// `-J` only marks a flag as one for the JVM.
fn without_mark(arg: OsString) -> OsString {
    match arg.to_str().and_then(|text| text.strip_prefix("-J")) {
        Some(flag) => flag.into(),
        None => arg,
    }
}

/// A JVM does not start without an agent that it was told to load.
fn look_for_agent(token: &str, exists: fn(&Path) -> bool, notes: &mut Notes) {
    let path = ["-javaagent:", "-agentpath:"].iter().find_map(|flag| token.strip_prefix(flag));
    let path = path.and_then(|path| path.split('=').next());
    if token.starts_with('@') {
        notes
            .warnings
            .push(format!("{token} is handed on, and what stands in that file is not checked"));
    }
    if let Some(path) = path.filter(|path| !exists(Path::new(path))) {
        notes.problems.push(Problem {
            kind: Kind::FileNotFound,
            variable: env::JAVA_OPTS.to_owned(),
            value: path.to_owned(),
            expected: "an agent that exists".to_owned(),
            hint: "put it into the image, or leave the flag out".to_owned(),
        });
    }
}

/// As a JVM reads it: the largest unit that divides it.
fn shown(bytes: u64) -> String {
    let unit = [(30, "g"), (20, "m"), (10, "k")];
    let found = unit.into_iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    found.map_or_else(|| bytes.to_string(), |(shift, name)| format!("{}{name}", bytes >> shift))
}

#[cfg(test)]
mod tests;
