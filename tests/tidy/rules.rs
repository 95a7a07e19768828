//! The rules, one function each: a file in, findings out.

use crate::paths::{NamedPath, paths};
use crate::source::{Source, Token, closing, matches};
use crate::table::{
    DEPENDENCIES, EMPTY_NAMES, Exception, FILE_LINE_COUNT_MAX, FUNCTION_LINE_COUNT_MAX,
    IMPURE_PATHS, IMPURE_WORDS, LEVELS, LINE_COLUMN_COUNT_MAX, PURE_LEVEL_MAX, TRACING,
    UNSAFE_FILES,
};

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) rule: &'static str,
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {} [{}]", self.path, self.line, self.what, self.rule)
    }
}

/// All findings of a file.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let named = paths(source);
    [
        levels(source, &named),
        purity(source, &named),
        dependencies(source, &named),
        unsafe_code(source),
        file_length(source),
        function_length(source),
        line_length(source),
        module_head(source),
        no_todo(source),
        no_ignored_test(source),
        file_name(source),
    ]
    .concat()
}

/// Takes the excused findings out, and adds one for each exception that excuses nothing.
pub(crate) fn excuse(findings: Vec<Finding>, exceptions: &[Exception]) -> Vec<Finding> {
    let excuses = |exception: &Exception, finding: &Finding| {
        exception.rule == finding.rule
            && exception.path == finding.path
            && finding.what.contains(exception.what)
    };
    let idle = exceptions
        .iter()
        .filter(|exception| !findings.iter().any(|finding| excuses(exception, finding)));
    let idle: Vec<Finding> = idle
        .map(|exception| Finding {
            rule: "exception",
            path: exception.path.to_owned(),
            line: 0,
            what: format!(
                "excused from {} because {:?}, which is no longer needed: remove it from \
                 tests/tidy/table.rs",
                exception.rule, exception.reason
            ),
        })
        .collect();
    let mut left = findings;
    left.retain(|finding| !exceptions.iter().any(|exception| excuses(exception, finding)));
    left.extend(idle);
    left
}

fn finding(rule: &'static str, source: &Source, line: usize, what: impl Into<String>) -> Finding {
    Finding { rule, path: source.path.clone(), line, what: what.into() }
}

/// The room of a file below `src/`; none for the crate's root, which only lists the rooms.
fn room(source: &Source) -> Option<&str> {
    let path = source.in_src()?;
    match path.split_once('/') {
        Some((room, _)) => Some(room),
        None => Some(path.trim_end_matches(".rs")).filter(|name| *name != "lib"),
    }
}

fn level(room: &str) -> Option<u8> {
    LEVELS.iter().find(|(name, _)| *name == room).map(|(_, level)| *level)
}

/// A room names only rooms of strictly lower levels, tests included: what a test needs from above
/// belongs into tests/.
fn levels(source: &Source, named: &[NamedPath]) -> Vec<Finding> {
    const RULE: &str = "levels";
    let Some(own) = room(source) else {
        return Vec::new();
    };
    let Some(own_level) = level(own) else {
        return vec![finding(RULE, source, 1, format!("the room {own} has no level"))];
    };
    let mut findings = Vec::new();
    for path in named {
        let Some(other) = path.in_crate().and_then(|path| path.first().cloned()) else {
            continue;
        };
        if other == "*" {
            findings.push(finding(RULE, source, path.line, "names the whole house"));
        } else if other != own && level(&other).is_some_and(|other| other >= own_level) {
            let what = format!("{own} (level {own_level}) names {other}, which is not below it");
            findings.push(finding(RULE, source, path.line, what));
        }
    }
    findings
}

/// Pure rooms have no async, no I/O, no clock and no unseeded randomness.
fn purity(source: &Source, named: &[NamedPath]) -> Vec<Finding> {
    const RULE: &str = "purity";
    if room(source).and_then(level).is_none_or(|level| level > PURE_LEVEL_MAX) {
        return Vec::new();
    }
    let words = source.tokens.iter().filter(|token| IMPURE_WORDS.contains(&token.text.as_str()));
    let words = words.map(|token| finding(RULE, source, token.line, token.text.clone()));
    let impure = |path: &&NamedPath| IMPURE_PATHS.iter().any(|words| path.contains(words));
    let paths = named.iter().filter(impure);
    words
        .chain(paths.map(|path| finding(RULE, source, path.line, path.segments.join("::"))))
        .collect()
}

/// A dependency is named in its places only; files of tests make their inputs with what they like.
fn dependencies(source: &Source, named: &[NamedPath]) -> Vec<Finding> {
    let Some(own) = source.in_src().filter(|_| !source.is_test_file()) else {
        return Vec::new();
    };
    let is_at = |place: &&str| {
        if place.is_empty() || place.ends_with('/') {
            own.starts_with(*place)
        } else {
            own == *place
        }
    };
    let misplaced = named.iter().filter_map(|path| {
        let first = path.segments.first()?;
        let (name, places) =
            DEPENDENCIES.iter().chain([&TRACING]).find(|(name, _)| name == first)?;
        let what = format!("{name} is named outside of {}", places.join(", "));
        // A word alone is a variable's name more often than a crate's.
        let is_crate = path.segments.len() > 1;
        (is_crate && !places.iter().any(is_at))
            .then(|| finding("dependencies", source, path.line, what))
    });
    misplaced.collect()
}

/// `unsafe` has its files.
fn unsafe_code(source: &Source) -> Vec<Finding> {
    if UNSAFE_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let found = source.tokens.iter().filter(|token| token.is("unsafe"));
    found
        .map(|token| finding("unsafe", source, token.line, "unsafe outside of its files"))
        .collect()
}

fn file_length(source: &Source) -> Vec<Finding> {
    if source.is_test_file() {
        return Vec::new();
    }
    let count = source.text.lines().count() - source.test_line_count();
    if count <= FILE_LINE_COUNT_MAX {
        return Vec::new();
    }
    vec![finding("file-length", source, 1, format!("{count} lines without tests"))]
}

fn function_length(source: &Source) -> Vec<Finding> {
    let tokens = &source.tokens;
    let starts = (0..tokens.len())
        .filter(|at| tokens[*at].is("fn") && tokens.get(at + 1).is_some_and(Token::is_word));
    let long = starts.filter_map(|at| {
        let body = body(tokens, at)?;
        let count = tokens[closing(tokens, body)?].line - tokens[at].line + 1;
        let what = || format!("fn {} has {count} lines", tokens[at + 1].text);
        (count > FUNCTION_LINE_COUNT_MAX)
            .then(|| finding("function-length", source, tokens[at].line, what()))
    });
    long.collect()
}

/// The brace that opens a function's body; none if it is only declared.
fn body(tokens: &[Token], function: usize) -> Option<usize> {
    let mut at = function;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => return Some(at),
            ";" => return None,
            "(" | "[" => at = closing(tokens, at)?,
            _ => {}
        }
        at += 1;
    }
    None
}

/// A link can't be broken.
fn line_length(source: &Source) -> Vec<Finding> {
    let is_long = |line: &str| {
        line.chars().count() > LINE_COLUMN_COUNT_MAX
            && !line.contains("https://")
            && !line.contains("http://")
    };
    let long = source.text.lines().enumerate().filter(|(_, line)| is_long(line));
    let what = |line: &str| format!("{} columns", line.chars().count());
    long.map(|(at, line)| finding("line-length", source, at + 1, what(line))).collect()
}

/// Each module says first what it is; `tests` says it by its name.
fn module_head(source: &Source) -> Vec<Finding> {
    if source.path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let first = source.text.lines().find(|line| !line.trim().is_empty());
    if first.is_some_and(|line| line.starts_with("//!") && line.len() > "//! ".len()) {
        return Vec::new();
    }
    vec![finding("module-head", source, 1, "the module doesn't begin with `//!`")]
}

/// What isn't done is an issue, not a comment. Literals may say what they like.
fn no_todo(source: &Source) -> Vec<Finding> {
    const RULE: &str = "no-todo";
    let mut findings = Vec::new();
    for (at, line) in source.prose.lines().enumerate() {
        for word in ["TODO", "FIXME"] {
            if line.contains(word) {
                findings.push(finding(RULE, source, at + 1, word));
            }
        }
    }
    for pair in source.tokens.windows(2) {
        let is_macro = pair[1].is("!") && (pair[0].is("todo") || pair[0].is("unimplemented"));
        if is_macro {
            findings.push(finding(RULE, source, pair[0].line, format!("{}!", pair[0].text)));
        }
    }
    findings
}

/// A test that doesn't run proves nothing.
fn no_ignored_test(source: &Source) -> Vec<Finding> {
    let tokens = &source.tokens;
    let starts = (0..tokens.len()).filter(|at| matches(&tokens[*at..], &["#", "[", "ignore"]));
    starts.map(|at| finding("no-ignored-test", source, tokens[at].line, "#[ignore]")).collect()
}

/// File names are nouns in snake case that say what is inside.
fn file_name(source: &Source) -> Vec<Finding> {
    const RULE: &str = "file-name";
    let mut findings = Vec::new();
    for part in source.path.trim_end_matches(".rs").split('/') {
        let is_snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !part.chars().all(is_snake) {
            findings.push(finding(RULE, source, 1, format!("{part} is not in snake case")));
        }
        if let Some(empty) = part.split('_').find(|word| EMPTY_NAMES.contains(word)) {
            findings.push(finding(RULE, source, 1, format!("{empty} says nothing")));
        }
    }
    findings
}
