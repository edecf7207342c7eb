//! Every setting's key in the file, and the variable that sets the same.

use api::contract::env;

/// One constant and one row of [`KEYS`] for each setting of the launcher's own.
macro_rules! settings {
    ($($name:ident = $key:literal;)*) => {
        $(pub(crate) const $name: &str = concat!("CLOUDSTATE_LAUNCHER_", stringify!($name));)*

        /// Keys and their variables, sorted by key within what is the launcher's own.
        pub(super) const KEYS: &[(&str, &str)] = &[
            $(($key, $name),)*
            ("memory.heap", env::SIDECAR_JVM_MEMORY),
            ("termination.path", env::TERMINATION_PATH),
        ];
    };
}

settings! {
    ADMIN_BIND = "admin.bind";
    MERGE_METRICS = "admin.merge_metrics";
    ADMIN_PORT = "admin.port";
    ADMIN_TOKEN_FILE = "admin.token_file";
    DRAIN_KILL_MARGIN = "drain.kill_margin";
    DRAIN_PRE_DELAY = "drain.pre_delay";
    ZERO_ON_TERM = "drain.zero_on_term";
    NOFILE = "limits.nofile";
    OOM_STEP = "limits.oom_score_step";
    LOG_FORMAT = "log.format";
    LOG_LEVEL = "log.level";
    MEM_CODE_CACHE = "memory.code_cache";
    MEM_DIRECT = "memory.direct";
    MEM_METASPACE = "memory.metaspace";
    MEMORY_POLICY = "memory.policy";
    MEM_THREADS = "memory.threads";
    CLASSPATH = "proxy.classpath";
    COMMAND = "proxy.command";
    JAVA = "proxy.java";
    KIND = "proxy.kind";
    MAIN_CLASS = "proxy.main_class";
    WORKDIR = "proxy.workdir";
    ALLOW_PLAINTEXT_STORE = "security.allow_plaintext_store";
    STARTUP_REQUIRE = "startup.require";
    BACKOFF_FACTOR = "supervise.backoff_factor";
    BACKOFF_INITIAL = "supervise.backoff_initial";
    BACKOFF_JITTER = "supervise.backoff_jitter";
    BACKOFF_MAX = "supervise.backoff_max";
    BUDGET = "supervise.budget";
    BUDGET_WINDOW = "supervise.budget_window";
    HANG_ACTION = "supervise.hang_action";
    HANG_AFTER = "supervise.hang_after";
    RESTART = "supervise.restart";
    STABLE_AFTER = "supervise.stable_after";
    START_TIMEOUT = "supervise.start_timeout";
    STUCK_AFTER = "supervise.stuck_after";
    UF_DOWN_AFTER = "user_function.down_after";
    UF_GIVE_UP = "user_function.give_up_after";
    UF_INTERVAL = "user_function.interval";
    UF_ON_RETURN = "user_function.on_return";
    UF_PROBE = "user_function.probe";
    UF_REQUIRED = "user_function.required";
    UF_TIMEOUT = "user_function.timeout";
    UF_WAIT = "user_function.wait";
}

/// Names the file; no setting itself, so it has no key.
pub(crate) const CONFIG: &str = "CLOUDSTATE_LAUNCHER_CONFIG";

/// The variable behind a key.
pub(super) fn variable(key: &str) -> Option<&'static str> {
    KEYS.iter().find(|(known, _)| *known == key).map(|(_, variable)| *variable)
}

/// The key of a variable, or the variable itself when no file can set it.
pub(super) fn key(variable: &str) -> &str {
    KEYS.iter().find(|(_, known)| *known == variable).map_or(variable, |(key, _)| *key)
}

/// The key that was meant, most likely: by its whole name, or by what follows the last dot.
pub(super) fn nearest(unknown: &str) -> &'static str {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |key: &str| {
        let whole = strsim::levenshtein(unknown, key);
        if unknown.contains('.') {
            whole
        } else {
            whole.min(strsim::levenshtein(unknown, &last(key)))
        }
    };
    let keys = KEYS.iter().map(|(key, _)| *key);
    keys.min_by_key(|key| distance(key)).expect("there are keys")
}
