//! The house's guarantee: what `src/lib.rs` draws is true. Rooms stand on levels and name only what
//! is below them, the lower ones are pure, `unsafe` and dependencies have their places, and files,
//! functions and lines stay short. Reads the source tree; needs nothing but the standard library.

#[path = "tidy/lock_file.rs"]
mod lock_file;
#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use lock_file::{bans, intruders};
use rules::{Finding, check, excuse};
use source::Source;
use table::{DEPENDENCIES, EXCEPTIONS, Exception, LEVELS, TRACING};

/// The project's root. The variable is read when the test runs, so that a built test can be turned
/// on another tree.
fn root() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn rust_files(root: &Path) -> Vec<Source> {
    let mut pending: Vec<PathBuf> = ["src", "tests", "benches", "examples"]
        .iter()
        .map(|folder| root.join(folder))
        .filter(|folder| folder.is_dir())
        .chain([root.join("build.rs")])
        .collect();
    let mut files = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("the source tree can be listed");
            pending.extend(entries.map(|entry| entry.expect("an entry can be read").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file can be read");
            let path = path.strip_prefix(root).expect("it was found below the root");
            files.push(Source::new(path.to_str().expect("paths are plain"), &text));
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn listed(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("\n  {finding}")).collect()
}

#[test]
fn source_tree_is_tidy() {
    let files = rust_files(&root());
    assert!(files.len() > 20, "the source tree was not found");
    let findings = excuse(files.iter().flat_map(check).collect(), EXCEPTIONS);
    assert!(findings.is_empty(), "{} findings:{}", findings.len(), listed(&findings));
}

#[test]
fn each_room_and_each_dependency_is_in_its_table() {
    let rooms: BTreeSet<String> = rust_files(&root())
        .iter()
        .filter_map(|file| Some(file.in_src()?.split_once('/')?.0.to_owned()))
        .collect();
    let known: BTreeSet<String> = LEVELS.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(rooms.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());

    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is there");
    let declared: BTreeSet<String> = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| Some(line.split_once('=')?.0.trim().replace('-', "_")))
        .collect();
    let placed: BTreeSet<String> =
        DEPENDENCIES.iter().chain([&TRACING]).map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(declared, placed, "declared in Cargo.toml, and placed in tests/tidy/table.rs");
}

#[test]
fn banned_crates_come_in_only_through_those_who_are_excused() {
    let read = |name| fs::read_to_string(root().join(name)).expect("the file is there");
    let bans = bans(&read(".cargo/deny.toml"));
    assert!(bans.len() > 10, "the bans were not found");
    assert_eq!(intruders(&read("Cargo.lock"), &bans), Vec::<String>::new());
}

#[test]
fn banned_crate_is_found_with_who_brings_it_in() {
    let bans = bans(
        "deny = [\n    { crate = \"old\", wrappers = [\"host\", \"guest\"], reason = \"r\" },\n    \
         { crate = \"worse\", reason = \"r\" },\n]\n",
    );
    let package = |name: &str, dependencies: &str| {
        format!("[[package]]\nname = \"{name}\"\ndependencies = [\n{dependencies}]\n\n")
    };
    let excused = package("host", " \"old 1.0.0\",\n \"fine\",\n") + &package("old", "");
    assert_eq!(intruders(&excused, &bans), Vec::<String>::new());
    let other = excused + &package("other", " \"old\",\n \"worse\",\n");
    assert_eq!(intruders(&other, &bans), ["old, by other", "worse, by other"]);
}

/// The rules that a made-up file breaks, with what is said of it.
fn broken(path: &str, text: &str) -> Vec<(&'static str, String)> {
    let text = format!("//! A module.\n{text}\n");
    check(&Source::new(path, &text)).into_iter().map(|found| (found.rule, found.what)).collect()
}

fn breaks(rule: &str, path: &str, text: &str) {
    let found = broken(path, text);
    assert!(found.iter().any(|(name, _)| *name == rule), "{rule} missed {text:?}: {found:?}");
}

fn keeps(path: &str, text: &str) {
    assert_eq!(broken(path, text), [], "{text:?}");
}

#[test]
fn room_that_names_one_beside_or_above_it_is_found() {
    for text in [
        "use crate::storage::wal::Wal;",
        "use crate::{base::ids, wire::{frame, request::Request}};",
        "fn f() -> crate::shard::Shard { loop {} }",
        "use super::super::nopaxos::quorum;",
        "#[cfg(test)]\nmod tests {\n    use super::super::super::runtime::clock;\n}",
        "fn f() { let x = $crate::wire::frame(); }",
        "pub use crate::runtime;",
        "use crate::*;",
        "use p2pmap::shard::Shard;",
    ] {
        breaks("levels", "src/map/table.rs", text);
    }
    breaks("levels", "src/map/a.rs", "fn f() -> impl X + use<'a> { || crate::wire::f() }");
    breaks("levels", "src/map/table/tests.rs", "use crate::wire::frame;");
    breaks("levels", "src/map/mod.rs", "use super::wire::frame;");
    breaks("levels", "src/client/mod.rs", "use crate::node::config::Config;");
    breaks("levels", "src/attic/mod.rs", "");
}

#[test]
fn room_that_names_what_is_below_it_is_fine() {
    keeps("src/map/table.rs", "use crate::base::ids::Index;\nuse crate::proto::{atomix, p2pmap};");
    keeps("src/map/table.rs", "use super::{arena, super::map::digest};\nuse self::tests::x;");
    keeps("src/map/mod.rs", "#[cfg(test)]\nmod tests {\n    use super::*;\n}");
    keeps("src/map/mod.rs", "mod a { mod b { use super::super::arena; } }\nuse super::base::ids;");
    keeps(
        "src/map/mod.rs",
        "// use crate::wire;\n/* crate::wire::x */ const A: &str = \"crate::wire\";",
    );
    keeps("src/map/mod.rs", "fn f<'a>(x: &'a u8) -> impl Fn() + use<'a> { || crate::base::f() }");
    keeps("src/main.rs", "fn main() { p2pmap::cli::run() }");
    keeps("src/lib.rs", "pub mod base;\npub mod cli;");
    keeps("tests/anything.rs", "use p2pmap::cli;");
}

#[test]
fn async_io_clock_and_chance_in_a_pure_room_are_found() {
    for text in [
        "async fn f() {}",
        "fn f() { let x = async move { 1 }; }",
        "fn f() { x.await }",
        "use std::fs;",
        "use std::{collections::BTreeMap, net::TcpStream};",
        "fn f() { std::thread::yield_now() }",
        "fn f() { Instant::now() }",
        "fn f() { std::time::Instant::now() }",
        "use std::time::SystemTime;",
        "type Map = HashMap<u8, u8, RandomState>;",
    ] {
        breaks("purity", "src/shard/mod.rs", text);
    }
    keeps("src/shard/mod.rs", "/// Never `async`, no std::fs.\nfn f(now: Instant) { thread() }");
    keeps("src/runtime/listener.rs", "use std::net::TcpListener;\nasync fn f() {}");
}

#[test]
fn dependency_out_of_its_place_is_found() {
    breaks("dependencies", "src/node/mod.rs", "use clap::Parser;");
    breaks("dependencies", "src/storage/wal.rs", "use rustix::fs::open;");
    breaks("dependencies", "src/shard/mod.rs", "fn f() { tracing::info!(\"x\") }");
    breaks("dependencies", "src/cli/put.rs", "use memmap2::Mmap;");
    breaks("dependencies", "src/map/table.rs", "fn f() { ::glommio::spawn_local(x) }");
    keeps("src/cli/inspect.rs", "use memmap2::Mmap;\nuse clap::Args;");
    keeps("src/map/table.rs", "use bytes::Bytes;\nfn f(http: u8) -> u8 { http }");
    keeps("tests/interop.rs", "use tonic::Request;\nuse clap::Parser;");
}

#[test]
fn unsafe_outside_of_its_files_is_found() {
    let code = "fn f() { unsafe { g() } }";
    breaks("unsafe", "src/runtime/connection.rs", code);
    breaks("unsafe", "src/map/arena.rs", "unsafe impl Send for X {}");
    breaks("unsafe", "tests/zero_alloc.rs", code);
    keeps("src/runtime/uring.rs", code);
    keeps("src/map/arena.rs", "#![deny(unsafe_code)]\n// unsafe\nconst X: &str = \"unsafe\";");
}

#[test]
fn long_files_functions_and_lines_are_found() {
    let lines = |count: usize| "const X: u8 = 0;\n".repeat(count);
    breaks("file-length", "src/map/table.rs", &lines(601));
    keeps("src/map/table.rs", &lines(590));
    let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}", lines(590), lines(300));
    keeps("src/map/table.rs", &tests);
    keeps("src/map/table/tests.rs", &lines(900));

    let function = |count: usize| format!("fn f(a: [u8; 4])\n{{\n{}}}", "    g();\n".repeat(count));
    breaks("function-length", "src/map/table.rs", &function(68));
    keeps("src/map/table.rs", &function(67));
    breaks("function-length", "tests/anything.rs", &function(68));
    let nested = format!("impl X {{\n    async fn f() {{\n{}}}\n}}", "{ g() }\n".repeat(70));
    breaks("function-length", "src/runtime/echo.rs", &nested);
    keeps("src/map/table.rs", &format!("trait T {{\n    fn f();\n{}}}", lines(80)));

    breaks("line-length", "src/map/table.rs", &format!("// {}", "x".repeat(98)));
    keeps("src/map/table.rs", &format!("// {}", "ü".repeat(97)));
    keeps("src/map/table.rs", &format!("// https://{}", "x".repeat(98)));
}

#[test]
fn module_without_its_head_is_found() {
    let found = |text| check(&Source::new("src/map/table.rs", text));
    for text in ["", "use std::fmt;\n", "// A comment.\n", "/// An item.\n", "//!\n", "//! \n"] {
        assert_eq!(found(text).len(), 1, "{text:?}");
        assert_eq!(found(text)[0].rule, "module-head");
    }
    assert_eq!(found("\n//! What it is.\n"), []);
    assert_eq!(check(&Source::new("src/map/table/tests.rs", "use super::*;\n")), []);
}

#[test]
fn unfinished_code_and_ignored_tests_are_found() {
    for text in
        ["// TODO: later", "/* FIXME */", "fn f() { todo!() }", "fn f() { unimplemented!() }"]
    {
        breaks("no-todo", "src/map/table.rs", text);
        breaks("no-todo", "tests/anything.rs", text);
    }
    keeps("src/map/table.rs", "const X: &str = \"TODO\";\nfn todo() {}");
    breaks("no-ignored-test", "tests/anything.rs", "#[test]\n#[ignore]\nfn f() {}");
    breaks("no-ignored-test", "src/map/table.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}");
}

#[test]
fn file_names_that_say_nothing_are_found() {
    for name in ["utils", "map_helpers", "session_manager", "request_handler", "impls", "WireFrame"]
    {
        breaks("file-name", &format!("src/map/{name}.rs"), "");
    }
    keeps("src/map/implicit_handling.rs", "");
}

#[test]
fn literals_and_comments_are_told_from_code() {
    let hidden = [
        r##"const A: &str = r#"unsafe " unsafe"#;"##,
        r#"const A: &[u8] = b"\" unsafe";"#,
        r#"const A: &str = "\\"; const B: &str = "unsafe";"#,
        r#"const A: char = '"'; const B: &str = "unsafe";"#,
        r"const A: char = '\''; // unsafe",
        r#"const A: u8 = b'"'; const B: &str = "unsafe";"#,
        "/* /* */ unsafe */",
        "const A: &str = \"a\n// b\nunsafe\";",
    ];
    for text in hidden {
        keeps("src/map/table.rs", text);
    }
    let seen = [
        "fn f<'a>(x: &'a str) { unsafe { g(x) } }",
        "const A: char = 'x'; unsafe impl X {}",
        "const A: &str = \"\\\\\"; unsafe impl X {}",
        "/* */ unsafe impl X {} /* */",
        "fn r#fn(br: u8) { unsafe { f(br) } }",
    ];
    for text in seen {
        breaks("unsafe", "src/map/table.rs", text);
    }
}

#[test]
fn exception_excuses_its_finding_and_is_found_when_it_excuses_none() {
    let findings = check(&Source::new("src/map/utils.rs", "//! A.\nuse crate::wire::frame;\n"));
    assert_eq!(findings.len(), 2, "{}", listed(&findings));
    let exception = |rule, what| Exception { rule, path: "src/map/utils.rs", what, reason: "r" };
    let needed = [exception("levels", "names wire"), exception("file-name", "")];
    assert_eq!(excuse(findings.clone(), &needed), []);

    let idle = [needed[0], needed[1], exception("levels", "names shard")];
    let left = excuse(findings.clone(), &idle);
    assert_eq!((left.len(), left[0].rule), (1, "exception"), "{}", listed(&left));

    let elsewhere = [Exception { path: "src/map/table.rs", ..needed[0] }];
    assert_eq!(excuse(findings, &elsewhere).len(), 3);
}
