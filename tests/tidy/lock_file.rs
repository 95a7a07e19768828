//! Whether a banned crate is among the locked dependencies, without the tool that says more.

/// A crate that is banned, and the crates that may bring it in all the same.
#[derive(Debug)]
pub(crate) struct Ban {
    name: String,
    wrappers: Vec<String>,
}

/// The bans of `.cargo/deny.toml`: one a line.
pub(crate) fn bans(deny: &str) -> Vec<Ban> {
    let entries = deny.lines().skip_while(|line| *line != "deny = [").skip(1);
    let entries = entries.take_while(|line| *line != "]");
    let ban = |line: &str| {
        let mut quoted = line.split("reason =").next()?.split('"').skip(1).step_by(2);
        let name = quoted.next()?.to_owned();
        Some(Ban { name, wrappers: quoted.map(str::to_owned).collect() })
    };
    entries.filter(|line| !line.trim_start().starts_with('#')).filter_map(ban).collect()
}

/// Each use of a banned crate by one that isn't excused.
pub(crate) fn intruders(lock: &str, bans: &[Ban]) -> Vec<String> {
    let mut found = Vec::new();
    let mut package = "";
    for line in lock.lines() {
        if let Some(name) = line.strip_prefix("name = ") {
            package = name.trim_matches('"');
        }
        let Some(dependency) = line.strip_prefix(" \"") else {
            continue;
        };
        let name = dependency.split([' ', '"']).next().unwrap_or(dependency);
        let banned = |ban: &&Ban| ban.name == name && !ban.wrappers.iter().any(|by| by == package);
        if bans.iter().any(|ban| banned(&ban)) {
            found.push(format!("{name}, by {package}"));
        }
    }
    found
}
