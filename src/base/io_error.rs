//! I/O errors as people read them.

use std::io;

/// What the system says, without the number that Rust appends: it goes into the middle of a line.
#[must_use]
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_a_system_error_is_left_out() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(describe(&refused), "connection refused");
        assert_eq!(describe(&io::Error::other("too long")), "too long");
    }
}
