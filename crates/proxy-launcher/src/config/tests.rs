use std::os::unix::ffi::OsStringExt;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

const NO_FILE: fn(&Path, usize) -> io::Result<Vec<u8>> = |_, _| Err(io::ErrorKind::NotFound.into());
const NATIVE: Surroundings =
    Surroundings { memory_limit: None, exists: |path| !path.starts_with("/etc"), read: NO_FILE };

fn load(environment: Vec<(OsString, OsString)>) -> Result<Loaded, Refused> {
    super::load(environment, &Above::default(), &[], &NATIVE)
}

#[track_caller]
fn loaded(pairs: &[(&str, &str)]) -> Loaded {
    load(environment(pairs)).unwrap()
}

#[track_caller]
fn refused(pairs: &[(&str, &str)]) -> Vec<String> {
    load(environment(pairs)).unwrap_err().problems().iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_set_gives_the_defaults() {
    let Loaded { config, warnings, .. } = loaded(&[]);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.ports.traffic.get(), 8013);
    assert_eq!(config.ports.user_function.get(), 8080);
    assert_eq!(config.ports.management.get(), 8558);
    assert_eq!(config.ports.admin.get(), 8559);
    assert_eq!(config.admin_bind.to_string(), "0.0.0.0");
    assert_eq!(config.command.to_str(), Some("/proxy"));
    assert_eq!(config.supervise.backoff_initial, Duration::from_millis(500));
    assert_eq!(config.supervise.budget_window, Duration::from_mins(10));
    assert_eq!(config.drain.grace, Duration::from_secs(30));
    assert_eq!(config.drain.pre_delay, Duration::from_secs(5));
    assert_eq!(config.termination_path.unwrap().to_str(), Some("/dev/termination-log"));
}

#[test]
fn a_proxy_runs_where_its_kind_does_unless_it_is_said() {
    let folder = |exists: fn(&Path) -> bool, pairs: &[(&str, &str)]| {
        let around = Surroundings { memory_limit: None, exists, read: NO_FILE };
        let loaded = super::load(environment(pairs), &Above::default(), &[], &around).unwrap();
        loaded.proxy.folder.display().to_string()
    };
    let jvm = ("CLOUDSTATE_LAUNCHER_KIND", "jvm");
    let none = |path: &Path| !path.starts_with("/opt") && !path.starts_with("/etc");
    assert_eq!(folder(NATIVE.exists, &[]), "/");
    assert_eq!(folder(NATIVE.exists, &[jvm]), "/opt/docker");
    assert_eq!(folder(none, &[jvm]), "/");
    assert_eq!(folder(none, &[jvm, ("CLOUDSTATE_LAUNCHER_WORKDIR", "/srv")]), "/srv");
}

#[test]
fn every_problem_is_reported_at_once_with_name_value_and_way_out() {
    assert_eq!(
        refused(&[
            ("HTTP_PORT", "0"),
            ("METRICS_PORT", ""),
            ("CLOUDSTATE_STORE", "redis"),
            ("CLOUDSTATE_LAUNCHER_BACKOFF_MAX", "250"),
        ]),
        [
            "UnknownVariant: CLOUDSTATE_STORE is \"redis\", expected one of none, in-memory, sqlite, postgres, cassandra; set it so, or \
             leave it out",
            "PortOutOfRange: HTTP_PORT is \"0\", expected a port from 1 to 65535; set it so, or leave it out \
             for the default 8013",
            "EmptyValue: METRICS_PORT is \"\", expected a value that is not empty; set it so, or leave it out \
             for the default 9090",
            "InvalidDuration: CLOUDSTATE_LAUNCHER_BACKOFF_MAX is \"250\", expected a whole number with one \
             unit of ms, s, m or h, at most 24h, such as 500ms; set it so, or leave it out for the default 30s",
        ]
    );
}

#[test]
fn a_port_is_given_once() {
    assert_eq!(
        refused(&[("HTTP_PORT", "8080")]),
        [
            "PortConflict: HTTP_PORT and USER_FUNCTION_PORT is \"8080\", expected two different ports; give one \
          of them another port"
        ]
    );
    assert_eq!(refused(&[("CLOUDSTATE_LAUNCHER_ADMIN_PORT", "8558")]).len(), 1);
    // A port that could not be read is no second problem.
    assert_eq!(refused(&[("HTTP_PORT", "x"), ("METRICS_PORT", "8013")]).len(), 1);
}

#[test]
fn a_user_function_elsewhere_shares_no_ports() {
    let loaded = loaded(&[("USER_FUNCTION_HOST", "10.0.0.7"), ("USER_FUNCTION_PORT", "8013")]);
    assert!(loaded.warnings[0].starts_with("USER_FUNCTION_HOST is \"10.0.0.7\""));
}

#[test]
fn port_stands_in_for_user_function_port() {
    let fallback = loaded(&[("PORT", "9000")]);
    assert_eq!(fallback.config.ports.user_function.get(), 9000);
    assert_eq!(fallback.proxy.environment[&OsString::from("USER_FUNCTION_PORT")], "9000");

    let both = loaded(&[("PORT", "9000"), ("USER_FUNCTION_PORT", "9001")]);
    assert_eq!(both.config.ports.user_function.get(), 9001);
    assert_eq!(
        both.warnings,
        ["USER_FUNCTION_PORT is 9001 and PORT is 9000: USER_FUNCTION_PORT is used"]
    );
}

#[test]
fn service_links_are_dropped_for_launcher_and_proxy() {
    let loaded = loaded(&[("METRICS_PORT", "tcp://10.0.0.1:5432"), ("PORT", "udp://10.0.0.1:53")]);
    assert_eq!(loaded.config.ports.metrics.get(), 9090);
    assert_eq!(loaded.config.ports.user_function.get(), 8080);
    assert_eq!(loaded.warnings.len(), 2);
    assert!(
        loaded.warnings[1]
            .starts_with("ServiceLinkCollision: METRICS_PORT is \"tcp://10.0.0.1:5432\"")
    );
    assert!(!loaded.proxy.environment.contains_key(&OsString::from("METRICS_PORT")));
}

#[test]
fn the_proxy_gets_everything_but_our_settings_and_flags_for_a_jvm() {
    let mut pairs = environment(&[
        ("HTTP_PORT", "8013"),
        ("POSTGRES_PASSWORD", "007"),
        ("JAVA_OPTS", "-Xmx256m"),
        ("CLOUDSTATE_SIDECAR_JVM_MEMORY", "256m"),
        ("_JAVA_OPTIONS", "-Xmx1g"),
        ("CLOUDSTATE_LAUNCHER_BUDGET", "1"),
        ("CLOUDSTATE_LAUNCHER_BUGDET", "1"),
    ]);
    let odd = OsString::from_vec(vec![b'a', 0xff]);
    pairs.push((odd.clone(), odd.clone()));
    let loaded = load(pairs).unwrap();

    let names: Vec<_> = loaded.proxy.environment.keys().filter_map(|name| name.to_str()).collect();
    assert_eq!(
        names,
        [
            "CLOUDSTATE_PROXY_GRACEFUL_TERMINATION_TIMEOUT",
            "CLOUDSTATE_SIDECAR_JVM_MEMORY",
            "HTTP_PORT",
            "POSTGRES_PASSWORD",
            "TERMINATION_GRACE_PERIOD_SECONDS",
            "USER_FUNCTION_PORT"
        ]
    );
    assert_eq!(loaded.proxy.environment[&odd], odd);
    assert_eq!(loaded.proxy.environment[&OsString::from("POSTGRES_PASSWORD")], "007");
    assert_eq!(loaded.proxy.environment[&OsString::from("TERMINATION_GRACE_PERIOD_SECONDS")], "30");
    assert!(loaded.warnings[0].starts_with("OverridingJavaOptions: _JAVA_OPTIONS"));
    assert!(loaded.warnings[1].starts_with("CLOUDSTATE_LAUNCHER_BUGDET is not a known setting"));
}

#[test]
fn a_known_variable_must_be_text() {
    let odd = OsString::from_vec(vec![b'8', 0xff]);
    let problems = load(vec![("HTTP_PORT".into(), odd)]).unwrap_err().problems();
    assert_eq!(problems[0].kind, Kind::NotUtf8);
}

#[test]
fn delays_that_contradict_each_other_are_refused_when_somebody_chose_them() {
    let grace = "TERMINATION_GRACE_PERIOD_SECONDS";
    let pre_delay = "CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY";
    assert_eq!(loaded(&[(grace, "6")]).config.drain.pre_delay, Duration::from_secs(3));
    assert_eq!(loaded(&[(grace, "3")]).config.drain.pre_delay, Duration::ZERO);
    assert!(refused(&[(grace, "6"), (pre_delay, "4s")])[0].starts_with("RangeConflict: "));
    let backoff = refused(&[("CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL", "40s")]);
    assert!(backoff[0].contains("at most CLOUDSTATE_LAUNCHER_BACKOFF_MAX, which is 30s"));
}

#[test]
fn the_proxy_is_told_how_long_calls_may_finish_unless_somebody_else_told_it() {
    let name = "CLOUDSTATE_PROXY_GRACEFUL_TERMINATION_TIMEOUT";
    let grace = "TERMINATION_GRACE_PERIOD_SECONDS";
    let told = |pairs: &[(&str, &str)]| {
        loaded(pairs).proxy.environment[&OsString::from(name)].clone().into_string().unwrap()
    };
    assert_eq!(told(&[]), "17250ms");
    assert_eq!(told(&[(grace, "90")]), "62250ms");
    assert_eq!(told(&[(grace, "2")]), "1000ms");
    assert_eq!(told(&[(name, "3s")]), "3s");
}

#[test]
fn a_pod_with_an_ipv6_address_listens_on_both_kinds() {
    assert_eq!(loaded(&[("POD_IP", "fd00::7")]).config.admin_bind.to_string(), "::");
}

#[test]
fn last_words_can_be_turned_off() {
    assert_eq!(termination_path(environment(&[("CLOUDSTATE_TERMINATION_PATH", "")])), None);
}

#[track_caller]
fn beside(pairs: &[(&str, &str)], args: &[&str], surroundings: &Surroundings) -> Loaded {
    let args: Vec<_> = args.iter().map(OsString::from).collect();
    super::load(environment(pairs), &Above::default(), &args, surroundings).unwrap()
}

const JARS: Surroundings = Surroundings {
    memory_limit: Some(Some(512 << 20)),
    exists: |path| path.starts_with("/opt/proxy/lib"),
    read: NO_FILE,
};

#[test]
fn an_image_with_jars_runs_them_on_a_jvm() {
    let loaded = beside(
        &[("JAVA_OPTS", "-Xms128m -Xmx128m"), ("CLOUDSTATE_SIDECAR_JVM_MEMORY", "128m")],
        &[],
        &JARS,
    );
    assert_eq!(loaded.proxy.program.to_str(), Some("/usr/bin/java"));
    assert!(loaded.proxy.args.contains(&"-Xmx128m".into()));
    assert!(!loaded.proxy.environment.contains_key(&OsString::from(env::JAVA_OPTS)));
    assert!(!loaded.proxy.environment.contains_key(&OsString::from(env::SIDECAR_JVM_MEMORY)));
    assert_eq!(loaded.config.user_function.on_return, OnReturn::RestartProxy);
    assert_eq!(loaded.budget.unwrap().limit, Some(512 << 20));
}

#[test]
fn a_kind_that_is_named_needs_no_guess() {
    let jvm = beside(&[("CLOUDSTATE_LAUNCHER_KIND", "jvm"), ("JAVA_HOME", "/jre")], &[], &NATIVE);
    assert_eq!(jvm.proxy.program.to_str(), Some("/jre/bin/java"));
    let native = beside(&[("CLOUDSTATE_LAUNCHER_KIND", "native")], &[], &JARS);
    assert_eq!(native.proxy.program.to_str(), Some("/proxy"));
}

#[test]
fn the_kernels_limit_counts_before_the_announced_one() {
    let announced = [("CLOUDSTATE_LAUNCHER_KIND", "jvm"), ("MEMORY_LIMIT", "1073741824")];
    let limit = |memory_limit| {
        let around = Surroundings { memory_limit, ..NATIVE };
        beside(&announced, &[], &around).budget.unwrap().limit
    };
    assert_eq!(limit(None), Some(1 << 30));
    assert_eq!(limit(Some(Some(512 << 20))), Some(512 << 20));
    assert_eq!(limit(Some(None)), None, "the kernel says that there is none");
}

#[test]
fn problems_of_heap_and_settings_are_told_together() {
    let pairs = [("HTTP_PORT", "0"), ("JAVA_OPTS", "-Xmx2g"), ("CLOUDSTATE_LAUNCHER_UF_WAIT", "x")];
    let problems =
        super::load(environment(&pairs), &Above::default(), &[], &JARS).unwrap_err().problems();
    let kinds: Vec<_> = problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [Kind::PortOutOfRange, Kind::HeapExceedsLimit, Kind::UnknownVariant]);
}

#[test]
fn flags_for_a_jvm_choose_a_native_proxys_store_and_nothing_else() {
    let loaded = beside(&[], &["-Dconfig.resource=in-memory.conf", "-Xmx1g", "x"], &NATIVE);
    assert_eq!(loaded.proxy.args, ["x"]);
    assert_eq!(loaded.proxy.environment[&OsString::from("CLOUDSTATE_STORE")], "in-memory");
    assert_eq!(loaded.warnings.len(), 1);
    let args = [OsString::from("-Dconfig.resource=no-store.conf")];
    let store = environment(&[("CLOUDSTATE_STORE", "postgres")]);
    let problems = super::load(store, &Above::default(), &args, &NATIVE).unwrap_err().problems();
    assert_eq!(problems[0].kind, Kind::ConflictingKeys);
}

const FILE: &str = "/etc/cloudstate/launcher.toml";

/// What comes of a file at the default place, an environment and `--set`.
fn layered(
    file: &'static str,
    pairs: &[(&str, &str)],
    set: &[(&str, &str)],
) -> Result<Loaded, Refused> {
    thread_local!(static TEXT: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") });
    TEXT.set(file);
    let surroundings = Surroundings {
        memory_limit: None,
        exists: |path| path == Path::new(FILE),
        read: |path, _| {
            assert_eq!(path, Path::new(FILE));
            Ok(TEXT.get().as_bytes().to_vec())
        },
    };
    let set = set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    super::load(environment(pairs), &Above { file: None, set }, &[], &surroundings)
}

#[test]
fn a_number_of_another_radix_is_no_plain_number() {
    let refused = layered("[supervise]\nbudget = 0x10\n", &[], &[]).unwrap_err().problems();
    assert_eq!((refused[0].kind, refused[0].value.as_str()), (Kind::InvalidInteger, "0x10"));
}

#[test]
fn some_of_the_grace_period_is_left_for_burying_what_was_killed() {
    let refused = refused(&[("CLOUDSTATE_LAUNCHER_DRAIN_KILL_MARGIN", "499ms")]);
    assert!(refused[0].contains("at least 500ms"), "{refused:?}");
}

#[test]
fn the_stronger_layer_wins_and_every_value_knows_where_it_comes_from() {
    let file = "[drain]\npre_delay = '1s'\nkill_margin = '3s'\n[admin]\nport = 8_000\n[supervise]\nbudget = 7\n";
    let pairs =
        [("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "2s"), ("CLOUDSTATE_LAUNCHER_BUDGET", "8")];
    let loaded = layered(file, &pairs, &[("supervise.budget", "9")]).unwrap();
    assert_eq!(loaded.config.drain.pre_delay, Duration::from_secs(2));
    assert_eq!(loaded.config.drain.kill_margin, Duration::from_secs(3));
    assert_eq!(loaded.config.supervise.budget, 9);
    let shown = |key: &str| {
        let setting = loaded.settings.iter().find(|setting| setting.key == key).unwrap();
        format!("{} from {}", setting.value.as_deref().unwrap_or("-"), setting.source)
    };
    assert_eq!(shown("drain.pre_delay"), "2s from environment");
    assert_eq!(shown("drain.kill_margin"), format!("3s from file {FILE}"));
    assert_eq!(shown("supervise.budget"), "9 from --set");
    assert_eq!(shown("supervise.backoff_max"), "30s from default");
    assert_eq!(shown("admin.port"), format!("8000 from file {FILE}"));
    assert_eq!(shown("POD_NAME"), "- from default");
    assert!(table(&loaded.settings).contains("\ndrain.pre_delay "));
    assert_eq!(json(&loaded.settings)["supervise.budget"]["value"], "9");
}

#[test]
fn a_problem_names_the_place_where_the_value_stands() {
    let file = "[drain]\npre_delay = 5\n[supervise]\nbackoff_max = '20ms'\nbackoff_initial='1s'";
    let refused = layered(file, &[], &[("user_function.wait", "soon")]).unwrap_err();
    let places: Vec<_> = refused.problems().into_iter().map(|problem| problem.variable).collect();
    let expected = [
        format!("drain.pre_delay in {FILE}"),
        format!("supervise.backoff_initial in {FILE}"),
        "--set user_function.wait".to_owned(),
    ];
    assert_eq!(places, expected);
    let json = refused.json();
    assert_eq!(json[0]["key"], "drain.pre_delay");
    assert_eq!(json[0]["source"], format!("file {FILE}"));
    assert_eq!(json[0]["kind"], "InvalidDuration");
}

#[test]
fn a_secret_from_a_file_reaches_the_proxy_and_shows_nowhere() {
    let surroundings = Surroundings { read: |_, _| Ok(b" s3cret \n\n".to_vec()), ..NATIVE };
    let pairs = environment(&[("POSTGRES_PASSWORD_FILE", "/run/secret")]);
    let loaded = super::load(pairs, &Above::default(), &[], &surroundings).unwrap();
    let environment = &loaded.proxy.environment;
    assert_eq!(environment[&OsString::from("POSTGRES_PASSWORD")], " s3cret \n");
    assert!(!environment.contains_key(&OsString::from("POSTGRES_PASSWORD_FILE")));
    let shown = json(&loaded.settings).to_string() + &table(&loaded.settings);
    assert!(shown.contains("***") && shown.contains("file /run/secret"), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_native_proxy_checks_its_store_by_itself() {
    loaded(&[("POSTGRES_SSL", "true"), ("CASSANDRA_USERNAME", "me")]);
}

#[test]
fn jars_get_as_properties_what_they_do_not_read_from_variables() {
    let pairs = [
        ("CLOUDSTATE_LAUNCHER_KIND", "jvm"),
        ("REQUEST_RATE_WINDOW", "6s"),
        ("CASSANDRA_PORT", "9043"),
    ];
    let loaded = loaded(&pairs);
    for property in [
        "-Dcloudstate.proxy.autoscaler.request-rate.window=6s",
        "-Dcassandra-journal.port=9043",
        "-Dcassandra-snapshot-store.port=9043",
        "-Dcassandra-read-journal.port=9043",
    ] {
        assert!(loaded.proxy.args.contains(&property.into()), "{property}");
    }
    assert!(!loaded.proxy.environment.contains_key(&OsString::from("REQUEST_RATE_WINDOW")));
}
