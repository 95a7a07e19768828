//! What a configuration accepts, what it refuses, who wins, and what is said.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;

use super::error::Origin;
use super::*;

fn sources(flags: &[(Setting, &str)], environment: &[(&str, &str)]) -> Sources {
    Sources {
        flags: flags.iter().map(|(setting, text)| (*setting, (*text).to_owned())).collect(),
        config_file: None,
        environment: environment
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect(),
    }
}

fn with_file(text: &str) -> (Sources, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    (Sources { config_file: Some(file.path().to_owned()), ..Sources::default() }, file)
}

/// The lines that a configuration is refused with; the file's name is replaced by `FILE`.
fn refusals(sources: &Sources) -> Vec<String> {
    let errors = Config::load(sources).expect_err("the configuration is faulty");
    let path = sources.config_file.as_ref().map(|path| path.display().to_string());
    let shown = |error: &ConfigError| match &path {
        Some(path) => error.to_string().replace(path, "FILE"),
        None => error.to_string(),
    };
    errors.iter().map(shown).collect()
}

#[test]
fn defaults_are_a_sound_configuration() {
    let config = Config::load(&Sources::default()).unwrap().config;
    assert_eq!(config.listen.to_string(), "127.0.0.1:5678");
    assert_eq!(config.data_dir, PathBuf::from("./p2pmap-data"));
    assert_eq!(config.durability, Durability::Sync);
    assert_eq!(config.idle, IdleMode::Park);
    assert_eq!(config.spin_for, Duration::from_micros(50));
    assert_eq!(config.cores, placement::available());
    assert_eq!(config.partitions, None);
    assert_eq!(config.segment_size_bytes, 64 << 20);
    assert_eq!(config.log_size_bytes_max, 64 << 30);
    assert_eq!(config.checkpoint_interval_size_bytes, 64 << 20);
    assert_eq!(config.writes_in_flight, 2);
    assert_eq!(config.memory_max, MemoryMax::Percent(75));
    assert!(!config.must_exist && !config.allow_cow);
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let (mut sources, _file) = with_file("idle = \"spin\"\ncluster = \"f\"\nnode-id = \"f\"\n");
    sources.environment = vec![
        ("P2PMAP_CLUSTER".into(), "e".into()),
        ("P2PMAP_NODE_ID".into(), "e".into()),
        ("PATH".into(), "/bin".into()),
    ];
    sources.flags.insert(Setting::NodeId, "a".to_owned());
    let Loaded { config, typed } = Config::load(&sources).unwrap();
    assert_eq!(config.idle, IdleMode::Spin);
    assert_eq!(config.cluster, "e");
    assert_eq!(config.node_id, "a");
    let origin = |setting| typed.value(setting).unwrap().origin.clone();
    assert!(matches!(origin(Setting::Idle), Origin::File(_, 1)));
    assert_eq!(origin(Setting::Cluster), Origin::Environment(Setting::Cluster));
    assert_eq!(origin(Setting::NodeId), Origin::Flag(Setting::NodeId));
    assert_eq!(origin(Setting::Listen), Origin::Default);
}

#[test]
fn file_named_by_the_environment_is_read_unless_a_flag_names_another() {
    let (from_environment, _file) = with_file("cluster = \"environment\"\n");
    let path = from_environment.config_file.unwrap();
    let environment = vec![(OsString::from("P2PMAP_CONFIG"), path.into_os_string())];
    let sources = Sources { environment: environment.clone(), ..Sources::default() };
    assert_eq!(Config::load(&sources).unwrap().config.cluster, "environment");

    let (mut sources, _file) = with_file("cluster = \"flag\"\n");
    sources.environment = environment;
    assert_eq!(Config::load(&sources).unwrap().config.cluster, "flag");
}

#[test]
fn each_setting_is_read_from_the_file() {
    let (sources, _file) = with_file(
        "listen = \"[::1]:0\"\nmetrics-listen = \"127.0.0.1:0\"\n\
         data-dir = \"/d\"\nmust-exist = true\ncores = [3]\n\
         durability = \"sync\"\nidle = \"spin\"\nspin-for = \"1ms\"\npartitions = 128\n\
         cluster = \"c\"\nnode-id = \"n\"\nmembers = [\"m=127.0.0.1:8\", \"n=[::1]:7\"]\n\
         replication-factor = 2\nsequencer = \"offset:1\"\nsecret-file = \"/s\"\n\
         insecure-peers = true\npeer-protocol = \"grpc\"\n\
         replace = true\nmax-value = \"1KiB\"\nmemory-max = \"1GiB\"\n\
         segment-size = \"8MiB\"\nlog-max = \"128MiB\"\ncheckpoint-interval = \"2MiB\"\n\
         writes-in-flight = 4\nallow-cow = true\nlog-format = \"json\"\n\
         log-level = \"trace\"\n",
    );
    let expected = Config {
        listen: "[::1]:0".parse().unwrap(),
        metrics_listen: Some("127.0.0.1:0".parse().unwrap()),
        data_dir: "/d".into(),
        must_exist: true,
        cores: Cores::parse("3").unwrap(),
        durability: Durability::Sync,
        idle: IdleMode::Spin,
        spin_for: Duration::from_millis(1),
        partitions: Some(128),
        cluster: "c".to_owned(),
        node_id: "n".to_owned(),
        members: Members::parse("n=[::1]:7,m=127.0.0.1:8").unwrap(),
        replication_factor: 2,
        sequencer_offset: 1,
        secret_file: Some("/s".into()),
        insecure_peers: true,
        peer_protocol: PeerProtocol::Grpc,
        replace: true,
        value_size_bytes_max: 1_024,
        memory_max: MemoryMax::Bytes(1 << 30),
        segment_size_bytes: 8 << 20,
        log_size_bytes_max: 128 << 20,
        checkpoint_interval_size_bytes: 2 << 20,
        scrub_interval: Duration::from_secs(24 * 60 * 60),
        writes_in_flight: 4,
        allow_cow: true,
        log_format: LogFormat::Json,
        log_level: LogLevel::Trace,
    };
    assert_eq!(Config::load(&sources).unwrap().config, expected);
}

#[test]
fn printed_configuration_reads_back_as_the_same() {
    let given = [
        (Setting::DataDir, "/tmp/a \"quoted\"\\ directory"),
        (Setting::Partitions, "256"),
        (Setting::MustExist, "true"),
        (Setting::MaxValue, "7KiB"),
    ];
    let Loaded { config, typed } = Config::load(&sources(&given, &[])).unwrap();
    let (reread, _file) = with_file(&typed.to_toml());
    assert_eq!(Config::load(&reread).unwrap().config, config);
}

#[test]
fn printed_configuration_says_where_each_value_came_from() {
    let given = sources(&[(Setting::Idle, "spin")], &[("P2PMAP_MAX_VALUE", "2KiB")]);
    let toml = Config::load(&given).unwrap().typed.to_toml();
    let lines: Vec<&str> = toml.lines().collect();
    assert_eq!(lines[0], "listen = \"127.0.0.1:5678\"  # default");
    assert!(lines.contains(&"idle = \"spin\"  # flag --idle"));
    assert!(lines.contains(&"max-value = \"2KiB\"  # environment P2PMAP_MAX_VALUE"));
    assert!(
        lines.contains(
            &"# partitions = …  # default: what the data directory has, or 64 if it is new"
        )
    );
    assert_eq!(lines.len(), Setting::ALL.len());
}

#[test]
fn each_value_out_of_range_is_refused_by_name_value_source_and_range() {
    let faulty = [
        (Setting::Listen, "localhost"),
        (Setting::MetricsListen, "on"),
        (Setting::DataDir, ""),
        (Setting::MustExist, "yes"),
        (Setting::Cores, "x"),
        (Setting::Durability, "fsync"),
        (Setting::Idle, "sleep"),
        (Setting::SpinFor, "11ms"),
        (Setting::Partitions, "16385"),
        (Setting::Cluster, "a b"),
        (Setting::NodeId, ""),
        (Setting::Members, "a"),
        (Setting::ReplicationFactor, "0"),
        (Setting::Sequencer, "follower"),
        (Setting::SecretFile, ""),
        (Setting::InsecurePeers, "no"),
        (Setting::PeerProtocol, "http"),
        (Setting::Replace, "yes"),
        (Setting::MaxValue, "3MiB"),
        (Setting::MemoryMax, "15MiB"),
        (Setting::SegmentSize, "1MiB"),
        (Setting::LogMax, "17TiB"),
        (Setting::CheckpointInterval, "1KiB"),
        (Setting::ScrubInterval, "999ms"),
        (Setting::WritesInFlight, "5"),
        (Setting::AllowCow, "1"),
        (Setting::LogFormat, "xml"),
        (Setting::LogLevel, "loud"),
    ];
    assert_eq!(faulty.len(), Setting::ALL.len());
    let lines = refusals(&sources(&faulty, &[]));
    assert_eq!(lines.len(), faulty.len(), "{lines:#?}");
    for ((setting, text), line) in faulty.iter().zip(&lines) {
        let name = setting.name();
        let expected = setting.allowed();
        assert_eq!(*line, format!("{name} = {text:?} (flag --{name}): expected {expected}"));
    }
}

#[test]
fn values_at_the_edge_of_their_range_are_accepted_and_those_beyond_refused() {
    // Of one core, for what depends on their number.
    let one_core = [("P2PMAP_CORES", "0")];
    let sound = |setting, text: &str| Config::load(&sources(&[(setting, text)], &one_core)).is_ok();
    assert!(sound(Setting::Partitions, "1") && sound(Setting::Partitions, "16384"));
    assert!(!sound(Setting::Partitions, "0") && !sound(Setting::Partitions, "+64"));
    assert!(sound(Setting::WritesInFlight, "1") && !sound(Setting::WritesInFlight, "0"));
    assert!(sound(Setting::SpinFor, "0us") && sound(Setting::SpinFor, "10ms"));
    assert!(!sound(Setting::SpinFor, "50"));
    assert!(sound(Setting::ScrubInterval, "0s") && sound(Setting::ScrubInterval, "1s"));
    assert!(sound(Setting::SegmentSize, "256MiB") && !sound(Setting::SegmentSize, "257MiB"));
    assert!(!sound(Setting::SegmentSize, "8389632B"), "not in whole MiB");
    assert!(sound(Setting::MaxValue, "1984KiB") && !sound(Setting::MaxValue, "1985KiB"));
    assert!(!sound(Setting::MaxValue, "0B"));
    assert!(sound(Setting::LogMax, "256MiB") && !sound(Setting::LogMax, "255MiB"));
    assert!(sound(Setting::MemoryMax, "16MiB") && sound(Setting::MemoryMax, "100%"));
    assert!(!sound(Setting::MemoryMax, "16TiB1B") && !sound(Setting::MemoryMax, "0%"));
}

#[test]
fn several_cores_are_listed_or_all_there_are() {
    let cores = |text| {
        let loaded = Config::load(&sources(&[], &[("P2PMAP_CORES", text)]));
        loaded.map(|loaded| loaded.config.cores).map_err(|_| ())
    };
    assert_eq!(cores("0,2-3"), Ok(Cores::parse("0,2-3").unwrap()));
    assert_eq!(cores("all"), Ok(placement::available()));
    assert_eq!(cores("all,1"), Err(()));
}

#[test]
fn fewer_partitions_than_cores_are_refused() {
    let lines = refusals(&sources(&[], &[("P2PMAP_CORES", "0,2-3"), ("P2PMAP_PARTITIONS", "2")]));
    let start = "partitions = \"2\" (environment P2PMAP_PARTITIONS): fewer than cores (0,2-3); ";
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with(start), "{}", lines[0]);
}

#[test]
fn memory_too_small_for_the_cores_is_refused() {
    let (typed, _) = Typed::gather(&sources(&[(Setting::MemoryMax, "47MiB")], &[]));
    let mut check = Check { typed: &typed, errors: Vec::new() };
    let cores = Cores::parse("0-2").unwrap();
    check.memory_suffices_for(MemoryMax::Bytes(48 << 20), &cores);
    check.memory_suffices_for(MemoryMax::Percent(1), &cores);
    assert!(check.errors.is_empty());
    check.memory_suffices_for(MemoryMax::Bytes(47 << 20), &cores);
    let line = check.errors[0].to_string();
    let start =
        "memory-max = \"47MiB\" (flag --memory-max): too little for 3 cores (48MiB); expected ";
    assert!(line.starts_with(start), "{line}");
}

#[test]
fn log_too_small_for_its_segments_is_refused() {
    let (sources, _file) = with_file("segment-size = \"128MiB\"\nlog-max = \"511MiB\"\n");
    for (cores, told) in [("3", "4 segments (512MiB)"), ("2-3", "8 segments (1GiB) of 2 cores")] {
        let sources =
            Sources { flags: [(Setting::Cores, cores.to_owned())].into(), ..sources.clone() };
        let lines = refusals(&sources);
        assert_eq!(lines.len(), 1);
        let start = format!("log-max = \"511MiB\" (file FILE:2): too small for {told}; expected ");
        assert!(lines[0].starts_with(&start), "{}", lines[0]);
    }
}

#[test]
fn log_of_a_member_needs_more_segments_than_that_of_a_node_alone() {
    let loads = |members: &str, log: &str| {
        let text = format!(
            "cores = \"0\"\nsegment-size = \"8MiB\"\nlog-max = \"{log}\"\n\
             node-id = \"a\"\n{members}"
        );
        Config::load(&with_file(&text).0).is_ok()
    };
    let members = "members = \"a=127.0.0.1:1,b=127.0.0.1:2,c=127.0.0.1:3\"\n";
    assert!(loads("", "32MiB") && !loads("", "31MiB"));
    assert!(loads(members, "128MiB") && !loads(members, "127MiB"));
}

#[test]
fn unknown_key_is_refused_with_the_nearest_known_one() {
    let (sources, _file) = with_file("\ndata_dir = \"x\"\nreplicas = 3\nlisten = \"bad\"\n");
    assert_eq!(
        refusals(&sources),
        [
            "file FILE:2: there is no setting \"data_dir\"; did you mean \"data-dir\"?",
            "file FILE:3: there is no setting \"replicas\"; `p2pmap serve --help` lists them",
            "listen = \"bad\" (file FILE:4): expected an IP address and a port, \
             e.g. 127.0.0.1:5678 or [::]:5678",
        ]
    );
}

#[test]
fn file_value_of_the_wrong_type_is_refused() {
    let faulty = "must-exist = \"true\"\npartitions = 1.5\nlisten = 5678\ncores = [true]\n\
                  cluster = { name = \"c\" }\nwrites-in-flight = 0x2\n";
    let (sources, _file) = with_file(faulty);
    let mut lines = refusals(&sources);
    lines.sort();
    assert_eq!(lines.len(), 6, "{lines:#?}");
    assert!(lines[0].starts_with("cluster (file FILE:5) is a TOML table: expected 1 to 128"));
    assert!(lines[3].starts_with("must-exist (file FILE:1) is a TOML string: expected true"));
    assert!(lines[4].starts_with("partitions (file FILE:2) is a TOML float: expected a whole"));
}

#[test]
fn file_that_is_no_toml_or_absent_is_one_line() {
    let (sources, _file) = with_file("idle = \"spin\"\nlisten = \n");
    let lines = refusals(&sources);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with("file FILE:2: not TOML: ") && !lines[0].contains('\n'));

    let (sources, _file) = with_file("idle = \"spin\"\nidle = \"park\"\n");
    assert!(refusals(&sources)[0].starts_with("file FILE:2: not TOML: duplicate key"));

    let absent = Sources { config_file: Some("/no/such/file".into()), ..Sources::default() };
    assert_eq!(
        refusals(&absent),
        ["can't read the configuration file FILE: no such file or directory"]
    );
}

#[test]
fn file_of_unbounded_size_is_not_read_to_its_end() {
    let sources = Sources { config_file: Some("/dev/zero".into()), ..Sources::default() };
    assert_eq!(
        refusals(&sources),
        ["can't read the configuration file FILE: it is longer than a configuration can be"]
    );
}

#[test]
fn mistyped_variable_is_warned_about_and_a_foreign_one_is_not() {
    let given = [
        ("P2PMAP_DATADIR", "/d"),
        ("P2PMAP_SERVICE_HOST", "10.0.0.1"),
        ("P2PMAP_NODE", "h:1"),
        ("P2PMAP_TIMEOUT", "1s"),
        ("P2PMAP", "x"),
    ];
    let typed = Config::load(&sources(&[], &given)).unwrap().typed;
    assert_eq!(
        typed.warnings(),
        ["environment P2PMAP_DATADIR is no setting and is ignored; did you mean P2PMAP_DATA_DIR?"]
    );
}

#[test]
fn variable_that_is_no_unicode_is_refused() {
    let mut sources = sources(&[], &[]);
    sources.environment.push(("P2PMAP_CLUSTER".into(), OsString::from_vec(vec![0xff])));
    assert_eq!(refusals(&sources), ["environment P2PMAP_CLUSTER: the value isn't UTF-8"]);
}

#[test]
fn metrics_are_off_or_have_a_port_of_their_own() {
    let listen = |given: &[(Setting, &str)]| Config::load(&sources(given, &[])).unwrap().config;
    assert_eq!(listen(&[]).metrics_listen, None);
    assert_eq!(listen(&[(Setting::MetricsListen, "off")]).metrics_listen, None);
    let any_port = "127.0.0.1:0";
    let both = listen(&[(Setting::MetricsListen, any_port), (Setting::Listen, any_port)]);
    assert_eq!(both.metrics_listen, Some(both.listen));
    let lines = refusals(&sources(&[(Setting::MetricsListen, "127.0.0.1:5678")], &[]));
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("clients connect there"), "{lines:?}");
}

const THREE: &str = "a=127.0.0.1:1,b=127.0.0.1:2,c=127.0.0.1:3";

#[test]
fn node_of_a_cluster_listens_where_the_others_look_for_it() {
    let flags = [(Setting::Members, THREE), (Setting::NodeId, "b")];
    let config = Config::load(&sources(&flags, &[])).unwrap().config;
    assert_eq!(config.listen.to_string(), "127.0.0.1:2");
    assert_eq!((config.replication_factor, config.sequencer_offset), (3, 0));
    assert!(config.warnings().is_empty());
    let flags = [flags[0], flags[1], (Setting::Listen, "0.0.0.0:9")];
    let config = Config::load(&sources(&flags, &[])).unwrap().config;
    assert_eq!(config.listen.to_string(), "0.0.0.0:9");
}

#[test]
fn cluster_that_contradicts_itself_is_refused_in_one_line() {
    let refusal = |flags: &[(Setting, &str)]| {
        let lines = refusals(&sources(flags, &[]));
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines[0].clone()
    };
    let members = (Setting::Members, THREE);
    let missing = refusal(&[members, (Setting::NodeId, "d")]);
    assert!(missing.contains("node-id = \"d\""), "{missing}");
    assert!(missing.contains("not among the members (a, b, c)"), "{missing}");
    let twice = refusal(&[(Setting::Members, "a=127.0.0.1:1,a=127.0.0.1:2")]);
    assert!(twice.contains("a is listed twice"), "{twice}");
    let me = (Setting::NodeId, "a");
    let factor = refusal(&[members, me, (Setting::ReplicationFactor, "5")]);
    assert!(factor.contains("more than there are members (3)"), "{factor}");
    let few = refusal(&[members, me, (Setting::ReplicationFactor, "2")]);
    assert!(few.contains("each of the 3 members holds every partition so far"), "{few}");
    let alone = refusal(&[(Setting::ReplicationFactor, "3")]);
    assert!(alone.contains("more than there are members (1)"), "{alone}");
    let sequencer = refusal(&[members, me, (Setting::Sequencer, "offset:3")]);
    assert!(sequencer.contains("each partition has 3 members"), "{sequencer}");
    for text in ["offset:0", "offset:9", "offset:", "offset:+1", "follower"] {
        let line = refusal(&[members, me, (Setting::Sequencer, text)]);
        assert!(line.contains("expected leader, or offset:1 to offset:8"), "{line}");
    }
}

#[test]
fn members_on_other_machines_prove_themselves_unless_told_otherwise() {
    let remote = [(Setting::Members, "a=127.0.0.1:1,b=10.0.0.1:1"), (Setting::NodeId, "a")];
    let lines = refusals(&sources(&remote, &[]));
    assert!(lines[0].contains("b is on another machine") && lines.len() == 1, "{lines:#?}");
    for more in [(Setting::SecretFile, "/s"), (Setting::InsecurePeers, "true")] {
        assert!(Config::load(&sources(&[remote[0], remote[1], more], &[])).is_ok());
    }
}

#[test]
fn even_number_of_members_is_warned_of() {
    let flags = [(Setting::Members, "a=127.0.0.1:1,b=127.0.0.1:2"), (Setting::NodeId, "a")];
    let config = Config::load(&sources(&flags, &[])).unwrap().config;
    let warnings = config.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("an odd number is better"));
}
