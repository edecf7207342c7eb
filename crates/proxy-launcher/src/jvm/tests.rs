use api::environment::size;

use super::*;

const MIB: u64 = 1 << 20;

fn jvm(policy: Policy) -> Jvm {
    Jvm {
        java: "/usr/bin/java".into(),
        class_path: "/opt/proxy/lib/*".to_owned(),
        main_class: "Main".to_owned(),
        regions: Regions::default(),
        policy,
    }
}

fn wishes(memory: Option<&str>, java_opts: &str, limit: Option<u64>) -> Wishes {
    Wishes {
        memory: memory.map(|text| size(text).unwrap()),
        java_opts: Some(java_opts.to_owned()),
        others: [None, None],
        properties: Vec::new(),
        limit: limit.map(|mib| mib * MIB),
        exists: |_| true,
    }
}

#[track_caller]
fn args(wishes: &Wishes, args: &[&str]) -> (Vec<String>, Vec<String>) {
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let line = jvm(Policy::Warn).command_line(wishes, &args).unwrap();
    (line.args.into_iter().map(|arg| arg.into_string().unwrap()).collect(), line.warnings)
}

#[track_caller]
fn kinds(policy: Policy, wishes: &Wishes) -> Vec<Kind> {
    jvm(policy).command_line(wishes, &[]).unwrap_err().iter().map(|problem| problem.kind).collect()
}

#[test]
fn the_last_flag_is_the_one_that_was_asked_for() {
    let (args, warnings) = args(
        &wishes(Some("128m"), "-Xms128m -Xmx128m -Dx=1", Some(512)),
        &["-Dy=2", "--port", "1"],
    );
    assert_eq!(
        args,
        [
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:MaxDirectMemorySize=32m",
            "-Dio.grpc.netty.shaded.io.netty.maxDirectMemory=0",
            "-XX:ReservedCodeCacheSize=48m",
            "-XX:MaxMetaspaceSize=160m",
            "-Xms128m",
            "-Xmx128m",
            "-Xms128m",
            "-Xmx128m",
            "-Dx=1",
            "-Dy=2",
            "-cp",
            "/opt/proxy/lib/*",
            "Main",
            "--port",
            "1",
        ]
    );
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn a_flag_that_was_given_replaces_the_launchers_own() {
    let opts = "-XX:-ExitOnOutOfMemoryError -XX:MaxDirectMemorySize=64m";
    let (args, _) = args(&wishes(None, opts, Some(512)), &[]);
    for (flag, count) in [("ExitOnOutOfMemoryError", 1), ("MaxDirectMemorySize", 1)] {
        assert_eq!(args.iter().filter(|arg| arg.contains(flag)).count(), count, "{args:?}");
    }
}

#[test]
fn a_heap_beyond_the_limit_is_refused_with_the_largest_that_fits() {
    let wishes = wishes(Some("2g"), "-Xms2g -Xmx2g", Some(512));
    let problems = jvm(Policy::Warn).command_line(&wishes, &[]).unwrap_err();
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(
        problem.to_string(),
        "HeapExceedsLimit: CLOUDSTATE_SIDECAR_JVM_MEMORY is \"2g\", expected a heap that fits into the \
         container's limit of 512m (heap 2048 + direct 32 + code 48 + metaspace 112 + threads 25 + collector 21 \
         + base 24 + launcher 8 = 2318 MiB of 512); the largest heap that fits is 240m: set sidecarJvmMemory \
         to it, or raise the sidecar's memory limit"
    );
}

#[test]
fn a_tight_heap_is_a_matter_of_policy() {
    let wishes = wishes(Some("256m"), "-Xms256m -Xmx256m", Some(300));
    let line = jvm(Policy::Warn).command_line(&wishes, &[]).unwrap();
    assert!(line.warnings[0].starts_with("MemoryBudgetTight: CLOUDSTATE_SIDECAR_JVM_MEMORY"));
    assert_eq!(kinds(Policy::Strict, &wishes), [Kind::MemoryBudgetTight]);
    let over = Wishes { limit: Some(128 * MIB), ..wishes };
    assert!(jvm(Policy::Off).command_line(&over, &[]).is_ok());
}

#[test]
fn a_heap_that_nobody_chose_is_lowered_rather_than_refused() {
    let (args, warnings) = args(&wishes(None, "-Xms256m -Xmx256m", Some(400)), &[]);
    assert!(args.contains(&"-Xmx144m".to_owned()), "{args:?}");
    assert!(!args.contains(&"-Xmx256m".to_owned()));
    assert!(warnings[0].contains("is lowered to 144m"), "{warnings:?}");
}

#[test]
fn without_a_limit_there_is_a_warning_or_a_refusal() {
    let wishes = wishes(Some("256m"), "", None);
    let line = jvm(Policy::Warn).command_line(&wishes, &[]).unwrap();
    assert!(line.warnings[0].starts_with("no memory limit is known"));
    assert_eq!(kinds(Policy::Strict, &wishes), [Kind::NoMemoryLimit]);
}

#[test]
fn contradictions_are_told() {
    let (_, warnings) = args(&wishes(None, "-Xmx256m -Xmx512m", Some(1_024)), &[]);
    assert!(
        warnings[0].starts_with("DuplicateHeapFlag: JAVA_OPTS sets it to 256m and then to 512m")
    );
    assert_eq!(
        kinds(Policy::Warn, &wishes(None, "-Xms512m -Xmx256m", Some(1_024))),
        [Kind::InitialHeapExceedsMax]
    );
    let two = wishes(None, "-Xmx256Mi -Dx=\"a", Some(512));
    assert_eq!(kinds(Policy::Warn, &two), [Kind::UnbalancedQuote]);
    assert_eq!(
        kinds(Policy::Warn, &wishes(None, "-Xmx256Mi -Xms1.5g", Some(512))),
        [Kind::InvalidJvmSize, Kind::InvalidJvmSize]
    );
}

#[test]
fn a_secret_is_named_and_never_shown() {
    let wishes = wishes(None, "-Dstore.password=hunter2", Some(512));
    let line = jvm(Policy::Warn).command_line(&wishes, &[]).unwrap();
    assert!(line.warnings[0].contains("-Dstore.password=***"), "{:?}", line.warnings);
    assert!(!line.warnings[0].contains("hunter2"));
    assert_eq!(kinds(Policy::Strict, &wishes), [Kind::SecretInArgv]);
}

#[test]
fn too_many_arguments_are_refused() {
    let long = format!("-Dx={}", "y".repeat(ARGV_MAX));
    assert_eq!(kinds(Policy::Warn, &wishes(None, &long, Some(512))), [Kind::ArgvTooLong]);
}
