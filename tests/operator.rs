//! What an operator is given: `check-host`, `completions`, and the files to deploy, which must
//! agree with what the node does.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use p2pmap::base::limits::SHUTDOWN_NS_MAX;
use p2pmap::base::time::NS_PER_S;
use p2pmap::node::host::finding::Subject;
use p2pmap::runtime::fatal::FatalReason;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_p2pmap");

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.env_remove("P2PMAP_CORES").env_remove("P2PMAP_DATA_DIR");
    command.args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("it is text")
}

fn deployed(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy");
    std::fs::read_to_string(folder.join(name)).expect("the file is there")
}

/// The values of a key of the service, in order; a value may go on in further lines of the key.
fn service_values(key: &str) -> Vec<String> {
    let service = deployed("p2pmap.service");
    let lines = service.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(str::to_owned).collect()
}

#[test]
fn this_host_is_checked_in_every_subject_and_the_exit_code_says_whether_it_has_problems() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("not/there/yet");
    let data_dir = data_dir.to_str().unwrap();
    let human = run(&["check-host", "--data-dir", data_dir]);
    let code = human.status.code().expect("it exits by itself");
    assert!(matches!(code, 0 | 1), "{code}");
    assert!(human.stderr.is_empty());
    for subject in Subject::ALL {
        assert!(text(&human).lines().any(|line| line == subject.word()), "{}", text(&human));
    }

    let json = run(&["check-host", "--data-dir", data_dir, "--json"]);
    let object: Value = serde_json::from_slice(&json.stdout).expect("one object");
    let findings = object["findings"].as_array().expect("findings");
    let problems = findings.iter().filter(|finding| finding["verdict"] == "problem");
    let has_problems = problems.count() > 0;
    assert_eq!(object["has_problems"], has_problems);
    assert_eq!(json.status.code(), Some(i32::from(has_problems)));
    for finding in findings {
        let verdict = finding["verdict"].as_str().expect("a word");
        assert!(["ok", "not-visible", "advice", "problem"].contains(&verdict), "{finding}");
        let mended = finding["mend"].is_string();
        assert_eq!(mended, matches!(verdict, "advice" | "problem"), "{finding}");
    }
    assert!(!folder.path().join("not").exists(), "nothing was made");
}

#[test]
fn cores_that_are_none_are_refused_as_usage() {
    let refused = run(&["check-host", "--cores", "x"]);
    assert_eq!(refused.status.code(), Some(2));
    // One that this machine doesn't have is a finding, not a failure.
    let absent = run(&["check-host", "--cores", "1023", "--json"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent).contains("not on 1023"), "{}", text(&absent));
}

#[test]
fn completions_are_sound_bash_and_know_every_command() {
    let bash = run(&["completions", "bash"]);
    assert!(bash.status.success());
    let mut child =
        Command::new("bash").args(["-n"]).stdin(Stdio::piped()).spawn().expect("bash runs");
    child.stdin.take().expect("a pipe").write_all(&bash.stdout).unwrap();
    assert!(child.wait().unwrap().success(), "bash -n finds fault with it");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success(), "{shell}");
        for command in ["serve", "check-host", "inspect", "--data-dir"] {
            let wanted = if shell == "fish" { command.trim_start_matches('-') } else { command };
            assert!(text(&script).contains(wanted), "{shell} doesn't know {wanted}");
        }
    }
    assert_eq!(run(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn service_is_restarted_after_what_a_restart_can_mend_and_after_nothing_else() {
    let prevented = service_values("RestartPreventExitStatus").join(" ");
    let prevented: BTreeSet<u8> =
        prevented.split(' ').map(|code| code.parse().expect("a code")).collect();
    let mended_by_people =
        [FatalReason::Environment, FatalReason::DataDirectory, FatalReason::LogWrite];
    let expected = mended_by_people.map(FatalReason::exit_code);
    // 2: the command line or the configuration.
    assert_eq!(prevented, expected.into_iter().chain([2]).collect());
    assert_eq!(service_values("Restart"), ["on-failure"]);
}

#[test]
fn service_waits_for_a_shutdown_and_never_makes_an_empty_node_of_a_missing_mount() {
    let stop_seconds: u64 = service_values("TimeoutStopSec")[0].parse().expect("seconds");
    assert!(stop_seconds > SHUTDOWN_NS_MAX / NS_PER_S);
    let command = &service_values("ExecStart")[0];
    assert!(command.contains(" --must-exist"), "{command}");
    // The same command line, as far as it can be read without starting anything.
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    let config = tempfile::NamedTempFile::new().unwrap();
    let config = config.path().to_str().unwrap();
    let arguments = arguments.into_iter().map(|argument| match argument {
        "/etc/p2pmap/p2pmap.toml" => config,
        other => other,
    });
    let arguments: Vec<&str> = arguments.chain(["--print-config"]).collect();
    let printed = run(&arguments);
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    assert!(text(&printed).contains("must-exist = true"), "{}", text(&printed));
}

#[test]
fn service_is_one_that_systemd_understands() {
    for line in deployed("p2pmap.service").lines() {
        let is_sound = line.is_empty()
            || line.starts_with('#')
            || (line.starts_with('[') && line.ends_with(']'))
            || line.split_once('=').is_some_and(|(key, _)| {
                !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric())
            });
        assert!(is_sound, "{line:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("p2pmap.service");
    std::fs::write(&copy, deployed("p2pmap.service").replace("/usr/local/bin/p2pmap", BINARY))
        .unwrap();
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").arg(&copy).output() else {
        return; // There is no systemd here.
    };
    // It also looks at all other services of the machine.
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    let ours: Vec<&str> = complaints.lines().filter(|line| line.contains("p2pmap")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn seccomp_profile_is_one_that_container_runtimes_read_and_lets_io_uring_in() {
    let profile: Value = serde_json::from_str(&deployed("seccomp.json")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut allowed = BTreeSet::new();
    for rule in profile["syscalls"].as_array().expect("rules") {
        let action = rule["action"].as_str().expect("an action");
        assert!(matches!(action, "SCMP_ACT_ALLOW" | "SCMP_ACT_ERRNO"), "{action}");
        for name in rule["names"].as_array().expect("names") {
            let name = name.as_str().expect("a name");
            let sound =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(name.bytes().all(sound), "{name}");
            assert!(allowed.insert(name), "{name} is named twice");
        }
    }
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed.contains(name), "{name}");
    }
    for name in ["mount", "ptrace", "bpf", "unshare", "setns", "init_module", "keyctl"] {
        assert!(!allowed.contains(name), "{name} is nothing that a node needs");
    }
}
