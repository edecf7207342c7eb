//! Every kind of bad input: what is set, what is said of it, and with which exit code.

#![expect(clippy::unwrap_used, reason = "clippy.toml frees tests, and these are their helpers")]
#![expect(clippy::too_many_lines, reason = "one table")]

mod support;

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
    process::Command,
};

use self::support::{PROXY, group::Group};

const SIZE: &str = "CLOUDSTATE_SIDECAR_JVM_MEMORY";
const FILE: &str = "CLOUDSTATE_LAUNCHER_CONFIG";
const JVM: (&str, &str) = ("CLOUDSTATE_LAUNCHER_KIND", "jvm");

/// A program of a machine that nobody has.
const ELSEWHERE: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\xff";

/// One input.
struct Row {
    /// First word of the message, after `error: ` or `warning: `.
    kind: &'static str,
    code: i32,
    /// The whole line; `DIR` stands for the test's folder.
    message: &'static str,
    env: Vec<(&'static str, OsString)>,
    args: Vec<String>,
    /// Files in the test's folder; a variable `DIR/name` finds them.
    file: Option<(&'static str, Vec<u8>)>,
    /// Memory limit in MiB.
    limit: Option<u64>,
    verb: &'static str,
}

/// An input that is refused.
fn row(kind: &'static str, pairs: &[(&'static str, &str)], message: &'static str) -> Row {
    let env = pairs.iter().map(|(name, value)| (*name, OsString::from(value))).collect();
    let (args, file, limit, verb) = (Vec::new(), None, None, "check");
    Row { kind, code: 78, message, env, args, file, limit, verb }
}

/// A value of a variable of its own, refused.
fn value(kind: &'static str, name: &'static str, value: &str, message: &'static str) -> Row {
    row(kind, &[(name, value)], message)
}

impl Row {
    /// Said and not refused.
    fn warns(mut self) -> Self {
        self.code = 0;
        self
    }

    fn file(mut self, name: &'static str, content: impl AsRef<[u8]>) -> Self {
        self.file = Some((name, content.as_ref().to_vec()));
        self
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(ToString::to_string).collect();
        self
    }

    fn limit(mut self, mib: u64) -> Self {
        self.limit = Some(mib);
        self
    }

    /// Found out by trying.
    fn run(mut self, code: i32) -> Self {
        (self.verb, self.code) = ("run", code);
        self
    }

    fn os(mut self, name: &'static str, value: &[u8]) -> Self {
        self.env.push((name, OsStr::from_bytes(value).to_owned()));
        self
    }

    /// Exit code, and every line that says what is wrong.
    fn outcome(&self) -> (i32, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        if let Some((name, content)) = &self.file {
            let path = Path::new(dir).join(name);
            let content_path = path.with_extension("content");
            fs::write(&content_path, content).unwrap();
            // Another process writes it, so that no other thread's child has it open for writing when it is executed.
            let copied = Command::new("/bin/cp").arg(content_path).arg(&path).status();
            assert!(copied.unwrap().success());
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let words = Path::new(dir).join("words");
        let group = self.limit.map(Group::of_mib);
        let mut line: Vec<String> = group.iter().flat_map(Group::starter).collect();
        line.push(env!("CARGO_BIN_EXE_proxy-launcher").to_owned());
        line.push(self.verb.to_owned());
        line.extend(self.args.iter().map(|arg| arg.replace("DIR", dir)));
        let mut command = Command::new(&line[0]);
        command.env_clear().args(&line[1..]).env("CLOUDSTATE_LAUNCHER_COMMAND", PROXY);
        command.env("CLOUDSTATE_LAUNCHER_ADMIN_PORT", support::free_port().to_string());
        command.env("CLOUDSTATE_LAUNCHER_JAVA", PROXY).env("CLOUDSTATE_TERMINATION_PATH", &words);
        for (name, value) in &self.env {
            let text = value.to_str().map(|text| OsString::from(text.replace("DIR", dir)));
            command.env(name, text.as_ref().unwrap_or(value));
        }
        let output = command.output().unwrap();
        let shown = |text: &str| text.replace(dir, "DIR").replace(PROXY, "PROXY");
        let mut lines: Vec<_> = shown(&String::from_utf8(output.stdout).unwrap())
            .lines()
            .filter_map(|line| {
                line.strip_prefix("error: ").or_else(|| line.strip_prefix("warning: "))
            })
            .map(str::to_owned)
            .collect();
        if lines.is_empty() {
            let words = fs::read_to_string(words).unwrap_or_default();
            let words: serde_json::Value = serde_json::from_str(&words).unwrap_or_default();
            lines.extend(words["message"].as_str().map(shown));
        }
        (output.status.code().unwrap(), lines)
    }
}

fn rows() -> Vec<Row> {
    let long = "a".repeat(130 * 1024);
    let jvm = |pair: (&'static str, &str), kind, message| row(kind, &[JVM, pair], message);
    let opts = |text: &str, kind, message| row(kind, &[JVM, ("JAVA_OPTS", text)], message);
    vec![
        value("EmptyValue", "HTTP_PORT", "", "EmptyValue: HTTP_PORT is \"\", expected a value that is not empty; set it so, or leave it out for the default 8013"),
        value("InvalidInteger", "HTTP_PORT", "abc", "InvalidInteger: HTTP_PORT is \"abc\", expected a port from 1 to 65535; set it so, or leave it out for the default 8013"),
        value("PortOutOfRange", "HTTP_PORT", "0", "PortOutOfRange: HTTP_PORT is \"0\", expected a port from 1 to 65535; set it so, or leave it out for the default 8013"),
        value("PortOutOfRange", "HTTP_PORT", "65536", "PortOutOfRange: HTTP_PORT is \"65536\", expected a port from 1 to 65535; set it so, or leave it out for the default 8013"),
        value("PortOutOfRange", "HTTP_PORT", "99999999999", "PortOutOfRange: HTTP_PORT is \"99999999999\", expected a port from 1 to 65535; set it so, or leave it out for the default 8013"),
        value("InvalidInteger", "HTTP_PORT", "8013.0", "InvalidInteger: HTTP_PORT is \"8013.0\", expected a port from 1 to 65535; set it so, or leave it out for the default 8013"),
        value("InvalidInteger", "HTTP_PORT", "-1", "InvalidInteger: HTTP_PORT is \"-1\", expected a port from 1 to 65535; set it so, or leave it out for the default 8013"),
        value("InvalidInteger", "HTTP_PORT", "+8013", "InvalidInteger: HTTP_PORT is \"+8013\", expected a port from 1 to 65535; set it so, or leave it out for the default 8013"),
        value("InvalidInteger", "HTTP_PORT", "0x1F4D", "InvalidInteger: HTTP_PORT is \"0x1F4D\", expected a port from 1 to 65535; set it so, or leave it out for the default 8013"),
        value("InvalidInteger", "HTTP_PORT", "08013", "InvalidInteger: HTTP_PORT is \"08013\", expected a port from 1 to 65535; set it so, or leave it out for the default 8013"),
        row("PortConflict", &[("HTTP_PORT", "8080"), ("USER_FUNCTION_PORT", "8080")], "PortConflict: HTTP_PORT and USER_FUNCTION_PORT is \"8080\", expected two different ports; give one of them another port"),
        value("PortConflict", "CLOUDSTATE_LAUNCHER_ADMIN_PORT", "8558", "PortConflict: MANAGEMENT_PORT and CLOUDSTATE_LAUNCHER_ADMIN_PORT is \"8558\", expected two different ports; give one of them another port"),
        value("ServiceLinkCollision", "POSTGRES_PORT", "tcp://10.0.0.1:5432", "ServiceLinkCollision: POSTGRES_PORT is \"tcp://10.0.0.1:5432\", which Kubernetes set for a Service of that name; dropped, 5432 is used; set enableServiceLinks: false in the pod").warns(),
        row("NotUtf8", &[], "NotUtf8: HTTP_PORT is \"80�\", expected text in UTF-8; set it so, or leave it out for the default 8013").os("HTTP_PORT", b"80\xff"),
        row("NotUtf8", &[JVM], "NotUtf8: JAVA_OPTS is \"hidden\", expected text in UTF-8; set it so, or leave it out").os("JAVA_OPTS", b"-Dx=\xff"),
        value("EmptyValue", SIZE, "", "EmptyValue: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"\", expected a value that is not empty; set it so, or leave it out"),
        value("MissingDigits", SIZE, "m", "MissingDigits: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"m\", expected digits before the unit, such as 256m; set it so, or leave it out"),
        value("MissingDigits", SIZE, "Mi", "MissingDigits: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"Mi\", expected digits before the unit, such as 256m; set it so, or leave it out"),
        value("UnknownUnit", SIZE, "256MB", "UnknownUnit: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"256MB\", expected one of the units k, m, g, t, such as 256m; set it so, or leave it out"),
        value("UnknownUnit", SIZE, "256mb", "UnknownUnit: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"256mb\", expected one of the units k, m, g, t, such as 256m; set it so, or leave it out"),
        value("UnknownUnit", SIZE, "256MiB", "UnknownUnit: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"256MiB\", expected one of the units k, m, g, t, such as 256m; set it so, or leave it out"),
        value("UnknownUnit", SIZE, "1P", "UnknownUnit: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"1P\", expected one of the units k, m, g, t, such as 256m; set it so, or leave it out"),
        value("UnknownUnit", SIZE, "1e9", "UnknownUnit: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"1e9\", expected one of the units k, m, g, t, such as 256m; set it so, or leave it out"),
        value("UnknownUnit", SIZE, "256q", "UnknownUnit: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"256q\", expected one of the units k, m, g, t, such as 256m; set it so, or leave it out"),
        value("FractionalSize", SIZE, "1.5g", "FractionalSize: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"1.5g\", expected a whole number, such as 1536m for 1.5g; set it so, or leave it out"),
        value("FractionalSize", SIZE, ".5g", "FractionalSize: CLOUDSTATE_SIDECAR_JVM_MEMORY is \".5g\", expected a whole number, such as 1536m for 1.5g; set it so, or leave it out"),
        value("NegativeSize", SIZE, "-256m", "NegativeSize: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"-256m\", expected a size above zero, such as 256m; set it so, or leave it out"),
        value("ZeroSize", SIZE, "0", "ZeroSize: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"0\", expected a size above zero, such as 256m; set it so, or leave it out"),
        value("ZeroSize", SIZE, "0m", "ZeroSize: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"0m\", expected a size above zero, such as 256m; set it so, or leave it out"),
        value("InvalidSize", SIZE, "256 m", "InvalidSize: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"256 m\", expected digits and a unit, such as 256m; set it so, or leave it out"),
        value("InvalidSize", SIZE, "1_024m", "InvalidSize: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"1_024m\", expected digits and a unit, such as 256m; set it so, or leave it out"),
        value("InvalidSize", SIZE, "0x10m", "InvalidSize: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"0x10m\", expected digits and a unit, such as 256m; set it so, or leave it out"),
        value("InvalidSize", SIZE, "２５６m", "InvalidSize: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"２５６m\", expected digits and a unit, such as 256m; set it so, or leave it out"),
        value("SizeOverflow", SIZE, "99999999999g", "SizeOverflow: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"99999999999g\", expected less than 16 million t; set it so, or leave it out"),
        value("SizeTooSmall", SIZE, "256", "SizeTooSmall: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"256\", expected at least 16m; a number without a unit is bytes: did you mean 256m?; set it so, or leave it out"),
        value("SizeTooSmall", SIZE, "2m", "SizeTooSmall: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"2m\", expected at least 16m, such as 256m; set it so, or leave it out"),
        jvm((SIZE, "1g"), "HeapExceedsLimit", "HeapExceedsLimit: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"1g\", expected a heap that fits into the container's limit of 512m (heap 1024 + direct 32 + code 48 + metaspace 112 + threads 25 + collector 11 + base 24 + launcher 8 = 1284 MiB of 512); the largest heap that fits is 240m: set sidecarJvmMemory to it, or raise the sidecar's memory limit").limit(512),
        jvm((SIZE, "256m"), "MemoryBudgetTight", "MemoryBudgetTight: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"256m\", expected a heap that fits into the container's limit of 300m (heap 256 + direct 32 + code 48 + metaspace 112 + threads 25 + collector 3 + base 24 + launcher 8 = 508 MiB of 300); the largest heap that fits is 48m: set sidecarJvmMemory to it, or raise the sidecar's memory limit").limit(300).warns(),
        row(
            "MemoryBudgetTight",
            &[JVM, (SIZE, "256m"), ("CLOUDSTATE_LAUNCHER_MEMORY_POLICY", "strict")],
            "MemoryBudgetTight: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"256m\", expected a heap that fits into the container's limit of 300m (heap 256 + direct 32 + code 48 + metaspace 112 + threads 25 + collector 3 + base 24 + launcher 8 = 508 MiB of 300); the largest heap that fits is 48m: set sidecarJvmMemory to it, or raise the sidecar's memory limit",
        )
        .limit(300),
        opts("-Xms512m -Xmx256m", "InitialHeapExceedsMax", "InitialHeapExceedsMax: JAVA_OPTS is \"256m\", expected at least the initial heap, which is 512m; lower -Xms or raise -Xmx; the JVM would refuse to start"),
        opts("-Xmx256m -Xmx512m", "DuplicateHeapFlag", "DuplicateHeapFlag: JAVA_OPTS sets it to 256m and then to 512m: the last one counts").warns(),
        opts("-Xmx256Mi", "InvalidJvmSize", "InvalidJvmSize: JAVA_OPTS is \"-Xmx256Mi (argument 1)\", expected a size as a JVM reads it: a whole number with k, m, g or t; write 256m for 256Mi; the JVM would refuse to start"),
        opts("-Dx=\"a", "UnbalancedQuote", "UnbalancedQuote: JAVA_OPTS is \"… \\\" at byte 4\", expected every quote to be closed; close it, or put a backslash before it"),
        opts("-javaagent:/nonexistent.jar", "FileNotFound", "FileNotFound: JAVA_OPTS is \"/nonexistent.jar\", expected an agent that exists; put it into the image, or leave the flag out"),
        row("NulByte", &[(FILE, "DIR/t.toml")], "NulByte: memory.heap in DIR/t.toml is \"hidden\", expected text without a NUL byte; take it out of the file").file("t.toml", r#"memory.heap = "256m\u0000""#),
        row("NulByte", &[("POSTGRES_PASSWORD_FILE", "DIR/password")], "NulByte: POSTGRES_PASSWORD in DIR/password is \"hidden\", expected text without a NUL byte; take it out of the file").file("password", b"a\0b"),
        value("OverridingJavaOptions", "_JAVA_OPTIONS", "-Xmx1g", "OverridingJavaOptions: _JAVA_OPTIONS is set and taken away: a JVM prefers it to its arguments").warns(),
        opts("-Djavax.net.ssl.keyStorePassword=x", "SecretInArgv", "SecretInArgv: JAVA_OPTS is \"-Djavax.net.ssl.keyStorePassword=***\", expected no secret among the arguments, which every process of the pod may read; hand it over in an environment variable or a file").warns(),
        row(
            "SecretInArgv",
            &[
                JVM,
                ("JAVA_OPTS", "-Djavax.net.ssl.keyStorePassword=x"),
                (SIZE, "128m"),
                ("CLOUDSTATE_LAUNCHER_MEMORY_POLICY", "strict"),
            ],
            "SecretInArgv: JAVA_OPTS is \"-Djavax.net.ssl.keyStorePassword=***\", expected no secret among the arguments, which every process of the pod may read; hand it over in an environment variable or a file",
        )
        .limit(1_024),
        jvm(("POSTGRES_SSL", "true"), "UnsupportedByKind", "UnsupportedByKind: POSTGRES_SSL is \"true\", expected nothing: a proxy made of jars does not read it, and would talk in plain text; leave it out, and set security.allow_plaintext_store=true if that is what you want"),
        row("UnsupportedByKind", &[], "UnsupportedByKind: -Xmx1g is for a JVM, and the native proxy does not get it").args(&["-Xmx1g"]).warns(),
        jvm(("CASSANDRA_USERNAME", "me"), "MissingRequired", "MissingRequired: CASSANDRA_PASSWORD is \"\", expected a value, since CASSANDRA_USERNAME is set; set it"),
        jvm(("SELECTOR_LABEL", "cloudstate.io/statefulService"), "MissingRequired", "MissingRequired: SELECTOR_LABEL_VALUE is \"\", expected a value, since SELECTOR_LABEL is set; set it"),
        jvm(("AUTOSCALER_ENABLED", "yes"), "InvalidBool", "InvalidBool: AUTOSCALER_ENABLED is \"yes\", expected true or false; set it so, or leave it out"),
        jvm(("REQUIRED_CONTACT_POINT_NR", "0"), "OutOfRange", "OutOfRange: REQUIRED_CONTACT_POINT_NR is \"0\", expected a whole number above zero; set it so, or leave it out"),
        row(
            "ConflictingKeys",
            &[("POSTGRES_PASSWORD", "x"), ("POSTGRES_PASSWORD_FILE", "DIR/password")],
            "ConflictingKeys: POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE is \"hidden\", expected one of them; leave the other one out",
        ),
        value("FileNotFound", "POSTGRES_PASSWORD_FILE", "DIR/password", "FileNotFound: POSTGRES_PASSWORD_FILE is \"DIR/password\", expected a file that exists; name a file that holds what POSTGRES_PASSWORD would"),
        value("FilePermission", "POSTGRES_PASSWORD_FILE", "DIR", "FilePermission: POSTGRES_PASSWORD_FILE is \"DIR\", expected a file that can be read: Is a directory (os error 21); name a file that holds what POSTGRES_PASSWORD would"),
        value("FileTooLarge", "POSTGRES_PASSWORD_FILE", "DIR/password", "FileTooLarge: POSTGRES_PASSWORD_FILE is \"DIR/password\", expected a file of at most 65536 bytes; name a file that holds what POSTGRES_PASSWORD would").file("password", &long),
        value("FileNotFound", FILE, "DIR/t.toml", "FileNotFound: DIR/t.toml is \"DIR/t.toml\", expected a file that exists; name a file of TOML with --config or CLOUDSTATE_LAUNCHER_CONFIG"),
        row("FileNotFound", &[], "FileNotFound: DIR/t.toml is \"DIR/t.toml\", expected a file that exists; name a file of TOML with --config or CLOUDSTATE_LAUNCHER_CONFIG").args(&["--config", "DIR/t.toml"]),
        value("FileParse", FILE, "DIR/t.toml", "FileParse: DIR/t.toml is \"line 2, column 8\", expected TOML: extra `=`, expected nothing; correct that line").file("t.toml", "[log]\nlevel == 1\n"),
        value("UnknownKey", FILE, "DIR/t.toml", "UnknownKey: heep in DIR/t.toml is \"1g\", expected a known key; did you mean memory.heap? see docs/environment.md").file("t.toml", "heep = \"1g\"\n"),
        row("UnknownKey", &[], "UnknownKey: --set drain.predelay is \"5s\", expected a known key; did you mean drain.pre_delay? see docs/environment.md").args(&["--set", "drain.predelay=5s"]),
        value("UnknownVariant", FILE, "DIR/t.toml", "UnknownVariant: log.level in DIR/t.toml is \"loud\", expected one of error, warn, info, debug; set it so, or leave it out for the default info").file("t.toml", "log.level = \"loud\"\n"),
        value("UnknownVariant", "CLOUDSTATE_STORE", "redis", "UnknownVariant: CLOUDSTATE_STORE is \"redis\", expected one of none, in-memory, sqlite, postgres, cassandra; set it so, or leave it out"),
        value("RangeConflict", "CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL", "40s", "RangeConflict: CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL is \"40s\", expected at most CLOUDSTATE_LAUNCHER_BACKOFF_MAX, which is 30s; lower the first or raise the second"),
        value("OutOfRange", "CLOUDSTATE_LAUNCHER_BACKOFF_JITTER", "1.5", "OutOfRange: CLOUDSTATE_LAUNCHER_BACKOFF_JITTER is \"1.5\", expected a plain number from 0 to 1; set it so, or leave it out for the default 0.2"),
        value("OutOfRange", "CLOUDSTATE_LAUNCHER_BACKOFF_FACTOR", "0.5", "OutOfRange: CLOUDSTATE_LAUNCHER_BACKOFF_FACTOR is \"0.5\", expected a plain number from 1 to 10; set it so, or leave it out for the default 2.0"),
        value("OutOfRange", "CLOUDSTATE_LAUNCHER_BACKOFF_FACTOR", "NaN", "OutOfRange: CLOUDSTATE_LAUNCHER_BACKOFF_FACTOR is \"NaN\", expected a plain number from 1 to 10; set it so, or leave it out for the default 2.0"),
        value("UnknownVariant", "CLOUDSTATE_LAUNCHER_RESTART", "sometimes", "UnknownVariant: CLOUDSTATE_LAUNCHER_RESTART is \"sometimes\", expected one of always, on-failure, never; set it so, or leave it out for the default always"),
        value("InvalidInteger", "CLOUDSTATE_LAUNCHER_NOFILE", "many", "InvalidInteger: CLOUDSTATE_LAUNCHER_NOFILE is \"many\", expected max, or a whole number from 64 to 1048576; set it so, or leave it out for the default max"),
        value("OutOfRange", "CLOUDSTATE_LAUNCHER_NOFILE", "63", "OutOfRange: CLOUDSTATE_LAUNCHER_NOFILE is \"63\", expected max, or a whole number from 64 to 1048576; set it so, or leave it out for the default max"),
        row(
            "StartupDeadlock",
            &[("CLOUDSTATE_LAUNCHER_STARTUP_REQUIRE", "proxy"), ("CLOUDSTATE_LAUNCHER_UF_WAIT", "gate")],
            "StartupDeadlock: CLOUDSTATE_LAUNCHER_STARTUP_REQUIRE and CLOUDSTATE_LAUNCHER_UF_WAIT is \"proxy and gate\", expected a start that does not wait for the user function: as an init container the sidecar comes first; set one of them to its default, launcher or parallel",
        ),
        value("InvalidDuration", "CLOUDSTATE_LAUNCHER_UF_INTERVAL", "250", "InvalidDuration: CLOUDSTATE_LAUNCHER_UF_INTERVAL is \"250\", expected a whole number with one unit of ms, s, m or h, at most 24h, such as 500ms; set it so, or leave it out for the default 250ms"),
        value("InvalidDuration", "CLOUDSTATE_LAUNCHER_UF_INTERVAL", "5 s", "InvalidDuration: CLOUDSTATE_LAUNCHER_UF_INTERVAL is \"5 s\", expected a whole number with one unit of ms, s, m or h, at most 24h, such as 500ms; set it so, or leave it out for the default 250ms"),
        value("InvalidDuration", "CLOUDSTATE_LAUNCHER_UF_INTERVAL", "1h30m", "InvalidDuration: CLOUDSTATE_LAUNCHER_UF_INTERVAL is \"1h30m\", expected a whole number with one unit of ms, s, m or h, at most 24h, such as 500ms; set it so, or leave it out for the default 250ms"),
        value("InvalidBool", "CLOUDSTATE_LAUNCHER_UF_REQUIRED", "yes", "InvalidBool: CLOUDSTATE_LAUNCHER_UF_REQUIRED is \"yes\", expected true or false; set it so, or leave it out for the default true"),
        value("RangeConflict", "CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "16s", "RangeConflict: CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY is \"16s\", expected at most 15s: half of TERMINATION_GRACE_PERIOD_SECONDS, which is 30s, and nothing below 4s; lower the delay, or raise terminationGracePeriodSeconds of the pod"),
        value("ExecNotFound", "CLOUDSTATE_LAUNCHER_COMMAND", "/nonexistent/proxy", "ExecNotFound: CLOUDSTATE_LAUNCHER_COMMAND is \"/nonexistent/proxy\", expected a file that exists; name the proxy's program, or leave it out for the image's own"),
        value("ExecNotExecutable", "CLOUDSTATE_LAUNCHER_COMMAND", "/etc/passwd", "ExecNotExecutable: CLOUDSTATE_LAUNCHER_COMMAND is \"/etc/passwd\", expected a file that may be executed; name the proxy's program, or leave it out for the image's own"),
        value("FileNotFound", "CLOUDSTATE_LAUNCHER_WORKDIR", "DIR/none", "FileNotFound: CLOUDSTATE_LAUNCHER_WORKDIR is \"DIR/none\", expected a folder that exists; name one, or leave it out for the default /"),
        value("FileNotFound", "CLOUDSTATE_LAUNCHER_WORKDIR", "/etc/passwd", "FileNotFound: CLOUDSTATE_LAUNCHER_WORKDIR is \"/etc/passwd\", expected a folder that exists; name one, or leave it out for the default /"),
        // Without `check` it is found out by trying.
        value("the proxy could not be started", "CLOUDSTATE_LAUNCHER_COMMAND", "/nonexistent/proxy", "the proxy could not be started: its program does not exist; CLOUDSTATE_LAUNCHER_COMMAND must name the proxy's program, or CLOUDSTATE_LAUNCHER_JAVA a JVM").run(127),
        value("the proxy could not be started", "CLOUDSTATE_LAUNCHER_COMMAND", "/etc/passwd", "the proxy could not be started: its file is no program for this machine; CLOUDSTATE_LAUNCHER_COMMAND must name the proxy's program, or CLOUDSTATE_LAUNCHER_JAVA a JVM").run(126),
        value("the proxy could not be started", "CLOUDSTATE_LAUNCHER_COMMAND", "DIR/proxy", "the proxy could not be started: its file is no program for this machine; CLOUDSTATE_LAUNCHER_COMMAND must name the proxy's program, or CLOUDSTATE_LAUNCHER_JAVA a JVM").file("proxy", ELSEWHERE).run(126),
        value("UnknownOption", "HTTP_PORT", "8013", "UnknownOption: \"--frobnicate\": options for the proxy stand after `--`; usage: proxy-launcher [--config FILE] [--set KEY=VALUE]... [--log-format FORMAT] [--log-level LEVEL] [--output table|json] [--deny-warnings] [--help] [--version] [run|check|print-config|version|probe|wait|drain] [--] [PROXY-ARGS...]").args(&["--frobnicate"]).run(64),
        jvm(
            (
                "CLOUDSTATE_LAUNCHER_MAIN_CLASS",
                "io.cloudstate.proxy.spanner.CloudstateSpannerProxyMain",
            ),
            "MissingRequired",
            "MissingRequired: GCP_PROJECT is \"\", expected a value, since the main class is io.cloudstate.proxy.spanner.CloudstateSpannerProxyMain; set it",
        ),
        // One variable alone cannot be as long.
        opts(&format!("-Dx={}", &long[..120 * 1_024]), "ArgvTooLong", "ArgvTooLong: arguments of the JVM is \"143555 bytes\", expected at most 131072 bytes; put long settings into a file")
            .args(&[&format!("-Dy={}", &long[..20 * 1_024])]),
    ]
}

/// Whatever is bad is named with its kind, its place, its value, what would be right and what to do.
#[test]
fn every_bad_input_has_its_kind_exit_code_and_message() {
    let mut wrong = Vec::new();
    for row in rows() {
        let (code, lines) = row.outcome();
        let kinds: Vec<_> = lines.iter().filter_map(|line| line.split(':').next()).collect();
        let is_right = code == row.code
            && kinds.contains(&row.kind)
            && lines.iter().any(|line| line == row.message);
        if !is_right {
            wrong.push(format!("{} {:?} gives {code} and {lines:#?}", row.kind, row.env));
        }
    }
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn several_bad_inputs_are_reported_together() {
    let pairs =
        [("HTTP_PORT", "0"), ("CLOUDSTATE_STORE", "redis"), JVM, ("JAVA_OPTS", "-Xmx256Mi")];
    let row = row("", &pairs, "").args(&["--set", "drain.predelay=5s", "--set", "log.level=loud"]);
    let (code, lines) = row.outcome();
    let kinds: Vec<_> = lines.iter().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(code, 78);
    assert_eq!(
        kinds,
        ["UnknownKey", "UnknownVariant", "PortOutOfRange", "InvalidJvmSize", "UnknownVariant"],
        "{lines:#?}"
    );
}
