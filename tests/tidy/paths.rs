//! The paths that a file names (`a::b::c`, groups in `use` taken apart), and what they mean seen
//! from the module in which they stand.

use crate::source::{Source, Token, matches};

/// A path as written, and the module in which it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
    module: Vec<String>,
}

impl NamedPath {
    /// The path from the crate's root, if it is one within the crate.
    pub(crate) fn in_crate(&self) -> Option<Vec<String>> {
        let first = self.segments.first()?.as_str();
        match first {
            "crate" | "p2pmap" => Some(self.segments[1..].to_vec()),
            "self" => Some([&self.module, &self.segments[1..]].concat()),
            "super" => {
                let ups = self.segments.iter().take_while(|segment| *segment == "super").count();
                let base = self.module.get(..self.module.len().checked_sub(ups)?)?;
                Some([base, &self.segments[ups..]].concat())
            }
            _ => None,
        }
    }

    /// Whether these segments stand in the path, one after the other.
    pub(crate) fn contains(&self, words: &[&str]) -> bool {
        self.segments.windows(words.len()).any(|window| window == words)
    }
}

/// All paths of a file below `src/`, those of inline modules too.
pub(crate) fn paths(source: &Source) -> Vec<NamedPath> {
    let tokens = &source.tokens;
    let mut walk = Walk { module: module_of(source), inline: Vec::new(), depth: 0, found: vec![] };
    let mut at = 0;
    while at < tokens.len() {
        at = walk.step(tokens, at);
    }
    walk.found
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are the module `a::b`.
fn module_of(source: &Source) -> Vec<String> {
    let path = source.in_src().unwrap_or(&source.path).trim_end_matches(".rs");
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

struct Walk {
    module: Vec<String>,
    /// The depth of braces outside of each inline module that is open.
    inline: Vec<usize>,
    depth: usize,
    found: Vec<NamedPath>,
}

impl Walk {
    fn step(&mut self, tokens: &[Token], at: usize) -> usize {
        let token = &tokens[at];
        match token.text.as_str() {
            "mod" if tokens.get(at + 2).is_some_and(|token| token.is("{")) => {
                self.module.push(tokens[at + 1].text.clone());
                self.inline.push(self.depth);
                self.depth += 1;
                at + 3
            }
            "{" => {
                self.depth += 1;
                at + 1
            }
            "}" => {
                self.depth = self.depth.saturating_sub(1);
                if self.inline.last() == Some(&self.depth) {
                    self.inline.pop();
                    self.module.pop();
                }
                at + 1
            }
            // `use<'a>` in a type is another thing.
            "use" if !tokens.get(at + 1).is_some_and(|token| token.is("<")) => {
                self.tree(tokens, at + 1, &[])
            }
            _ if token.is_word() => self.path(tokens, at),
            _ => at + 1,
        }
    }

    /// A path outside of `use`.
    fn path(&mut self, tokens: &[Token], at: usize) -> usize {
        let mut segments = vec![tokens[at].text.clone()];
        let mut end = at + 1;
        while matches(&tokens[end..], &[":", ":"])
            && tokens.get(end + 2).is_some_and(Token::is_word)
        {
            segments.push(tokens[end + 2].text.clone());
            end += 3;
        }
        self.add(tokens[at].line, segments);
        end
    }

    /// A tree of `use`: one path, or a path and a group of trees. Returns where it ends.
    fn tree(&mut self, tokens: &[Token], mut at: usize, outer: &[String]) -> usize {
        let mut segments = outer.to_vec();
        let line = tokens.get(at).map_or(0, |token| token.line);
        while let Some(token) = tokens.get(at) {
            match token.text.as_str() {
                ":" => at += 1,
                "{" => {
                    at += 1;
                    while tokens.get(at).is_some_and(|token| !token.is("}") && !token.is(";")) {
                        at = self.tree(tokens, at, &segments);
                        at += usize::from(tokens.get(at).is_some_and(|token| token.is(",")));
                    }
                    return at + usize::from(at < tokens.len());
                }
                // What it is called here is of no interest.
                "as" => at += 2,
                "," | "}" | ";" => break,
                _ => {
                    segments.push(token.text.clone());
                    at += 1;
                }
            }
        }
        self.add(line, segments);
        at
    }

    fn add(&mut self, line: usize, segments: Vec<String>) {
        self.found.push(NamedPath { line, segments, module: self.module.clone() });
    }
}
