//! The small files that say whose data directory this is, how often it was opened and which
//! generation of it lives. Each holds its content twice, in copies of a block, each with its
//! checksum: a torn or rotten copy is outlived by the other.
//!
//! ```text
//! 0  crc32    u32  over bytes 4..4096
//! 4  magic    8 bytes, one per file
//! 12 version  u16
//! 14 length   u16
//! 16 content, zeros to the end
//! ```

use std::fmt;

use crate::base::cast::u16_from;
use crate::base::checksum::{crc32, digest128};
use crate::base::cluster::Cluster;
use crate::base::ids::BootEpoch;
use crate::base::limits::{BLOCK_SIZE_BYTES, MEMBER_NAME_SIZE_BYTES_MAX};

/// The version of all formats of a data directory; another one is refused.
pub const DATA_FORMAT_VERSION: u16 = 3;
/// The size of each of these files: two copies.
pub const FILE_SIZE_BYTES: usize = 2 * BLOCK_SIZE_BYTES;

const CONTENT_OFFSET: usize = 16;

// Two names, a UUID, a key and numbers fit a copy.
const _: () = assert!(CONTENT_OFFSET + 2 * MEMBER_NAME_SIZE_BYTES_MAX + 96 < BLOCK_SIZE_BYTES);

/// Whose data directory it is. Written once, when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: String,
    /// The member.
    pub member: String,
    /// The members of the cluster.
    pub members: Members,
    /// Of this data directory, drawn when it was made.
    pub uuid: [u8; 16],
    /// How many partitions the cluster has.
    pub partition_count: u32,
    /// The key of the tables' hash: secret, so that no client can aim at one place of a table.
    pub hash_key: [u8; 16],
}

/// The members of a cluster, as a data directory remembers them: who they are can't be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Members {
    /// How many there are.
    pub count: u8,
    /// How many of them hold each partition.
    pub replication_factor: u8,
    /// The digest of their names.
    pub digest: [u8; 16],
}

impl Members {
    /// Those of a cluster.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let mut names = Vec::new();
        for node in cluster.nodes() {
            let name = cluster.name(node);
            names.extend_from_slice(&u16_from(name.len()).to_le_bytes());
            names.extend_from_slice(name.as_bytes());
        }
        let few = |count| u8::try_from(count).expect("a cluster has few nodes");
        Self {
            count: few(cluster.count()),
            replication_factor: few(cluster.replication_factor()),
            digest: digest128(&names).to_le_bytes(),
        }
    }
}

/// How often the data directory was opened to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The last boot.
    pub boot_epoch: BootEpoch,
}

/// Which generation of the logs lives, and how it is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// The generation: its folder's name.
    pub generation: u64,
    /// How many shards it has.
    pub shard_count: u16,
    /// How long each of its segments is.
    pub segment_size_bytes: u64,
}

/// Why such a file can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityError {
    /// Neither copy is whole, or the file isn't what its name says.
    Damaged,
    /// The copies are whole but differ.
    Torn,
    /// Another release wrote it.
    Version(u16),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("neither of its two copies is whole"),
            Self::Torn => f.write_str("its two copies differ"),
            Self::Version(version) => {
                write!(f, "it has version {version}; this release knows {DATA_FORMAT_VERSION}")
            }
        }
    }
}

impl std::error::Error for IdentityError {}

/// What begins every checksum of a generation's logs, so that a segment of another data directory,
/// or of an older generation of this one, isn't taken for one's own.
#[must_use]
pub fn log_salt(uuid: &[u8; 16], generation: u64) -> u32 {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(uuid);
    bytes[16..].copy_from_slice(&generation.to_le_bytes());
    crc32(&bytes)
}

impl Identity {
    const MAGIC: [u8; 8] = *b"P2PMAPID";

    /// The file's bytes.
    ///
    /// # Panics
    /// If a name is longer than the limit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for name in [&self.cluster, &self.member] {
            assert!(name.len() <= MEMBER_NAME_SIZE_BYTES_MAX, "names are checked before");
            content.extend_from_slice(&u16_from(name.len()).to_le_bytes());
            content.extend_from_slice(name.as_bytes());
        }
        content.extend_from_slice(&[self.members.count, self.members.replication_factor]);
        content.extend_from_slice(&self.members.digest);
        content.extend_from_slice(&self.uuid);
        content.extend_from_slice(&self.partition_count.to_le_bytes());
        content.extend_from_slice(&self.hash_key);
        twice(Self::MAGIC, &content)
    }

    /// Reads what [`Identity::encode`] wrote.
    ///
    /// # Errors
    /// If it isn't that.
    pub fn decode(file: &[u8]) -> Result<Self, IdentityError> {
        one_of_two(file, Self::MAGIC, Self::of)
    }

    fn of(content: &[u8]) -> Option<Self> {
        let mut reader = Reader(content);
        let identity = Self {
            cluster: reader.name()?,
            member: reader.name()?,
            members: reader.members()?,
            uuid: reader.array()?,
            partition_count: u32::from_le_bytes(reader.array()?),
            hash_key: reader.array()?,
        };
        reader.0.is_empty().then_some(identity)
    }
}

impl Boot {
    const MAGIC: [u8; 8] = *b"P2PMAPBT";

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        twice(Self::MAGIC, &self.boot_epoch.0.to_le_bytes())
    }

    /// Reads what [`Boot::encode`] wrote. One copy is written after the other: the later counts.
    ///
    /// # Errors
    /// If it isn't that.
    pub fn decode(file: &[u8]) -> Result<Self, IdentityError> {
        let content = |content: &[u8]| {
            let boot_epoch = u64::from_le_bytes(content.try_into().ok()?);
            Some(Self { boot_epoch: BootEpoch(boot_epoch) })
        };
        let [first, second] = copies(file, Self::MAGIC, content)?;
        match (first, second) {
            (Ok(first), Ok(second)) => {
                Ok(Self { boot_epoch: first.boot_epoch.max(second.boot_epoch) })
            }
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(error), Err(_)) => Err(error),
        }
    }
}

impl Current {
    const MAGIC: [u8; 8] = *b"P2PMAPCU";

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut content = Vec::new();
        content.extend_from_slice(&self.generation.to_le_bytes());
        content.extend_from_slice(&self.shard_count.to_le_bytes());
        content.extend_from_slice(&self.segment_size_bytes.to_le_bytes());
        twice(Self::MAGIC, &content)
    }

    /// Reads what [`Current::encode`] wrote.
    ///
    /// # Errors
    /// If it isn't that.
    pub fn decode(file: &[u8]) -> Result<Self, IdentityError> {
        one_of_two(file, Self::MAGIC, |content| {
            let mut reader = Reader(content);
            let current = Self {
                generation: u64::from_le_bytes(reader.array()?),
                shard_count: u16::from_le_bytes(reader.array()?),
                segment_size_bytes: u64::from_le_bytes(reader.array()?),
            };
            reader.0.is_empty().then_some(current)
        })
    }
}

fn twice(magic: [u8; 8], content: &[u8]) -> Vec<u8> {
    let mut copy = vec![0; BLOCK_SIZE_BYTES];
    copy[4..12].copy_from_slice(&magic);
    copy[12..14].copy_from_slice(&DATA_FORMAT_VERSION.to_le_bytes());
    copy[14..16].copy_from_slice(&u16_from(content.len()).to_le_bytes());
    copy[CONTENT_OFFSET..][..content.len()].copy_from_slice(content);
    let crc = crc32(&copy[4..]);
    copy[..4].copy_from_slice(&crc.to_le_bytes());
    copy.repeat(2)
}

type Copies<T> = [Result<T, IdentityError>; 2];

fn copies<T>(
    file: &[u8],
    magic: [u8; 8],
    of: impl Fn(&[u8]) -> Option<T>,
) -> Result<Copies<T>, IdentityError> {
    if file.len() != FILE_SIZE_BYTES {
        return Err(IdentityError::Damaged);
    }
    let (first, second) = file.split_at(BLOCK_SIZE_BYTES);
    Ok([one_copy(first, magic, &of), one_copy(second, magic, &of)])
}

fn one_copy<T>(
    copy: &[u8],
    magic: [u8; 8],
    of: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, IdentityError> {
    let mut reader = Reader(copy);
    let crc = reader.array().map(u32::from_le_bytes);
    if crc != Some(crc32(reader.0)) || reader.array() != Some(magic) {
        return Err(IdentityError::Damaged);
    }
    match reader.array().map(u16::from_le_bytes) {
        Some(DATA_FORMAT_VERSION) => {}
        Some(version) => return Err(IdentityError::Version(version)),
        None => return Err(IdentityError::Damaged),
    }
    let length = reader.array().map(u16::from_le_bytes).unwrap_or_default();
    let content = reader.0.get(..length.into());
    content.and_then(of).ok_or(IdentityError::Damaged)
}

/// For files that are written whole before they get their name: the copies never differ.
fn one_of_two<T: PartialEq>(
    file: &[u8],
    magic: [u8; 8],
    of: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, IdentityError> {
    let [first, second] = copies(file, magic, of)?;
    match (first, second) {
        (Ok(first), Ok(second)) if first != second => Err(IdentityError::Torn),
        (Ok(one), _) | (Err(_), Ok(one)) => Ok(one),
        (Err(error), Err(_)) => Err(error),
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const SIZE: usize>(&mut self) -> Option<[u8; SIZE]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn members(&mut self) -> Option<Members> {
        let [count, replication_factor] = self.array()?;
        Some(Members { count, replication_factor, digest: self.array()? })
    }

    fn name(&mut self) -> Option<String> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        if length > MEMBER_NAME_SIZE_BYTES_MAX {
            return None;
        }
        let (name, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(name.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: "c".into(),
            member: "né".into(),
            members: Members { count: 5, replication_factor: 3, digest: [4; 16] },
            uuid: [7; 16],
            partition_count: 64,
            hash_key: [9; 16],
        }
    }

    #[test]
    fn files_survive_the_loss_of_either_copy_but_not_of_both() {
        let file = identity().encode();
        for copy in 0..2 {
            for position in 0..BLOCK_SIZE_BYTES {
                let mut torn = file.clone();
                torn[copy * BLOCK_SIZE_BYTES + position] ^= 4;
                assert_eq!(Identity::decode(&torn), Ok(identity()), "byte {position}");
            }
        }
        let mut both = file;
        both[9] ^= 1;
        both[BLOCK_SIZE_BYTES + 900] ^= 1;
        assert_eq!(Identity::decode(&both), Err(IdentityError::Damaged));
    }

    #[test]
    fn members_are_told_apart_by_their_names_and_counts() {
        let of = |names: &[&str], factor| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let me = names[0].clone();
            Members::of(&Cluster::new(names, &me, factor))
        };
        let members = of(&["a", "b", "c"], 3);
        assert_eq!(members, of(&["a", "b", "c"], 3));
        for other in [of(&["a", "b"], 2), of(&["a", "b", "d"], 3), of(&["a", "bc", "d"], 3)] {
            assert_ne!(members.digest, other.digest);
        }
        assert_ne!(of(&["ab", "c"], 1).digest, of(&["a", "bc"], 1).digest);
        assert_ne!(members, of(&["a", "b", "c"], 1));
    }

    #[test]
    fn cut_files_and_files_of_another_name_are_refused() {
        let file = identity().encode();
        for length in [0, 1, BLOCK_SIZE_BYTES, FILE_SIZE_BYTES - 1] {
            assert_eq!(Identity::decode(&file[..length]), Err(IdentityError::Damaged));
        }
        assert_eq!(Boot::decode(&file), Err(IdentityError::Damaged));
        assert_eq!(Current::decode(&file), Err(IdentityError::Damaged));
    }

    #[test]
    fn later_format_is_named() {
        let mut file = identity().encode();
        for copy in file.chunks_mut(BLOCK_SIZE_BYTES) {
            copy[12] = 9;
            let crc = crc32(&copy[4..]);
            copy[..4].copy_from_slice(&crc.to_le_bytes());
        }
        assert_eq!(Identity::decode(&file), Err(IdentityError::Version(9)));
    }

    #[test]
    fn higher_boot_epoch_counts_when_only_one_copy_was_raised() {
        let boot = |epoch| Boot { boot_epoch: BootEpoch(epoch) };
        let mut file = boot(4).encode();
        file[..BLOCK_SIZE_BYTES].copy_from_slice(&boot(5).encode()[..BLOCK_SIZE_BYTES]);
        assert_eq!(Boot::decode(&file), Ok(boot(5)));
        file[77] ^= 1;
        assert_eq!(Boot::decode(&file), Ok(boot(4)));
    }

    #[test]
    fn copies_of_an_identity_that_differ_are_refused() {
        let mut file = identity().encode();
        let other = Identity { partition_count: 65, ..identity() }.encode();
        file[..BLOCK_SIZE_BYTES].copy_from_slice(&other[..BLOCK_SIZE_BYTES]);
        assert_eq!(Identity::decode(&file), Err(IdentityError::Torn));
    }

    #[test]
    fn current_says_what_it_was_given_and_salts_differ_by_generation() {
        let current = Current { generation: 3, shard_count: 2, segment_size_bytes: 1 << 26 };
        assert_eq!(Current::decode(&current.encode()), Ok(current));
        assert_ne!(log_salt(&[7; 16], 1), log_salt(&[7; 16], 2));
        assert_ne!(log_salt(&[7; 16], 1), log_salt(&[8; 16], 1));
    }
}
