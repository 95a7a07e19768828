//! The names of segments' files within their shard's folder. Headers decide what a file is; its
//! name is where to look.

use crate::base::ids::SegmentId;

/// The suffix of a file that is being prepared: it is renamed when it is whole.
pub const PREPARING_SUFFIX: &str = ".new";

/// The name of a segment's file.
#[must_use]
pub fn segment_file_name(segment: SegmentId) -> String {
    format!("{:012}.log", segment.0)
}

/// The segment that a file name stands for; `None`: it is no segment's.
#[must_use]
pub fn segment_of_file_name(name: &str) -> Option<SegmentId> {
    let segment = SegmentId(name.strip_suffix(".log")?.parse().ok()?);
    (segment_file_name(segment) == name).then_some(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_stand_for_segments_and_nothing_else_does() {
        let name = segment_file_name(SegmentId(17));
        assert_eq!(name, "000000000017.log");
        assert_eq!(segment_of_file_name(&name), Some(SegmentId(17)));
        for other in ["17.log", "000000000017.log.new", "000000000017.ckpt", "", "+00000000017.log"]
        {
            assert_eq!(segment_of_file_name(other), None, "{other}");
        }
    }
}
