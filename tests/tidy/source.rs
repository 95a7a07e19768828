//! A Rust file as the rules see it: its text, its code without comments and literals, its tokens.
//!
//! This is no parser: it knows comments, literals, words and brackets. That is enough for rules
//! about names and lengths, has no dependency, and takes milliseconds for the whole tree.

/// A file of the project.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its path from the project's root, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// With literals blanked: code and comments.
    pub(crate) prose: String,
    /// What is left of it without comments and literals.
    pub(crate) tokens: Vec<Token>,
}

/// A word or a punctuation mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The word, or one character.
    pub(crate) text: String,
    /// Its line, from 1.
    pub(crate) line: usize,
}

impl Token {
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    }
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, prose) = blank(text);
        Self { path: path.to_owned(), text: text.to_owned(), prose, tokens: tokens(&code) }
    }

    /// The path below `src/`, if it is there.
    pub(crate) fn in_src(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }

    /// Whether the whole file is tests.
    pub(crate) fn is_test_file(&self) -> bool {
        self.in_src().is_none_or(|path| path.ends_with("/tests.rs") || path.contains("/tests/"))
    }

    /// The lines of inline test modules, from `#[cfg(test)]` to the closing brace.
    pub(crate) fn test_line_count(&self) -> usize {
        let tokens = &self.tokens;
        let starts = (0..tokens.len()).filter(|at| matches(&tokens[*at..], &CFG_TEST));
        let lines = starts.filter_map(|at| {
            let item = at + CFG_TEST.len();
            let is_inline = tokens.get(item)?.is("mod") && tokens.get(item + 2)?.is("{");
            let end = is_inline.then(|| closing(tokens, item + 2))??;
            Some(tokens[end].line - tokens[at].line + 1)
        });
        lines.sum()
    }
}

const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// Whether `tokens` begins with these words.
pub(crate) fn matches(tokens: &[Token], words: &[&str]) -> bool {
    tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, word)| token.is(word))
}

/// Where the bracket that opens at `open` is closed.
pub(crate) fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut in_word = false;
        for character in line.chars() {
            let is_word = character.is_alphanumeric() || character == '_';
            match tokens.last_mut().filter(|_| in_word && is_word) {
                Some(word) => word.text.push(character),
                None if character.is_whitespace() => {}
                None => tokens.push(Token { text: character.to_string(), line: number + 1 }),
            }
            in_word = is_word;
        }
    }
    tokens
}

/// The text with comments and literals blanked, and with literals alone blanked. Lines stay where
/// they are.
fn blank(text: &str) -> (String, String) {
    let characters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut prose = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let rest = &characters[at..];
        let in_word = at > 0 && is_word(characters[at - 1]);
        let (length, is_comment) = match rest {
            ['/', '/', ..] => (line_comment(rest), true),
            ['/', '*', ..] => (block_comment(rest), true),
            _ => (literal(rest, in_word), false),
        };
        for character in &rest[..length.max(1)] {
            let blanked = if *character == '\n' { '\n' } else { ' ' };
            code.push(if length > 0 { blanked } else { *character });
            prose.push(if length > 0 && !is_comment { blanked } else { *character });
        }
        at += length.max(1);
    }
    (code, prose)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn line_comment(rest: &[char]) -> usize {
    rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
}

/// Block comments nest.
fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => {
                depth += 1;
                at += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of the literal that `rest` begins with; 0 if it begins with none.
fn literal(rest: &[char], in_word: bool) -> usize {
    match rest {
        ['"', ..] => quoted(rest, 1, '"'),
        ['\'', '\\', ..] => quoted(rest, 1, '\''),
        ['\'', _, '\'', ..] => 3,
        ['b' | 'c' | 'r', ..] if !in_word => prefixed(rest),
        _ => 0,
    }
}

/// Strings with a prefix: `b"…"`, `c"…"`, `r"…"`, `br#"…"#`, and `b'…'`.
fn prefixed(rest: &[char]) -> usize {
    let prefix = rest.iter().take_while(|c| matches!(c, 'b' | 'c' | 'r')).count();
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let is_raw = rest[..prefix].contains(&'r');
    match rest.get(prefix + hashes) {
        Some('"') if is_raw => raw(rest, prefix + hashes + 1, hashes),
        Some('"') if hashes == 0 => quoted(rest, prefix + 1, '"'),
        Some('\'') if hashes == 0 && prefix == 1 && rest[0] == 'b' => {
            quoted(rest, prefix + 1, '\'')
        }
        _ => 0,
    }
}

fn quoted(rest: &[char], start: usize, quote: char) -> usize {
    let mut at = start;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw(rest: &[char], start: usize, hashes: usize) -> usize {
    let ends = |at: &usize| {
        rest[*at] == '"'
            && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (start..rest.len()).find(ends).map_or(rest.len(), |at| at + 1 + hashes)
}
