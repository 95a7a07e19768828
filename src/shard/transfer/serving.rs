//! A member gives its checkpoint away.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::base::cast::{u32_from, u64_from};
use crate::base::ids::PartitionId;
use crate::base::limits::{
    CHECKPOINT_CHUNK_SIZE_BYTES, CHECKPOINT_TRANSFER_COUNT_MAX, CHECKPOINT_TRANSFER_NS_MAX,
};
use crate::base::time::Monotonic;
use crate::nopaxos::message::CheckpointPart;
use crate::storage::checkpoint::{
    CheckpointBlocks, CheckpointHead, CheckpointId, CheckpointRead, PAYLOAD_SIZE_BYTES,
    checked_chunk,
};

/// A part that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartAsk {
    /// What the asker calls it.
    pub(crate) token: u64,
    /// Of which checkpoint.
    pub(crate) id: CheckpointId,
    /// Bytes of its file.
    pub(crate) file_size_bytes: u64,
    /// Which part.
    pub(crate) number: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartAnswer {
    /// What was asked for.
    pub(crate) ask: PartAsk,
    /// The part; `None`: the checkpoint isn't here, or has no such part.
    pub(crate) part: Option<CheckpointPart>,
    /// The checkpoint isn't what was written.
    pub(crate) is_damaged: bool,
}

/// The checkpoints of a shard that are given away.
#[derive(Debug)]
pub(crate) struct CheckpointServer {
    salt: u32,
    waiting: VecDeque<PartAsk>,
    reading: Option<CheckpointRead>,
    answers: VecDeque<PartAnswer>,
    serving: Vec<Serving>,
    /// Those that a later one has replaced and that are being read still, since when.
    held: Vec<(CheckpointId, Monotonic)>,
}

/// A checkpoint that is being given away.
#[derive(Debug)]
struct Serving {
    id: CheckpointId,
    file_size_bytes: u64,
    read_at: Monotonic,
    /// The last chunk's payload ends the whole here, with this digest.
    end: Option<(u64, u128)>,
    /// The digest of the state.
    state: Option<[u8; 16]>,
}

impl CheckpointServer {
    /// Nothing is given away yet. `salt`: that of the checkpoints' files.
    #[must_use]
    pub(crate) const fn new(salt: u32) -> Self {
        Self {
            salt,
            waiting: VecDeque::new(),
            reading: None,
            answers: VecDeque::new(),
            serving: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Bytes of the file of a checkpoint that is being given away, though a later one may have
    /// replaced it.
    #[must_use]
    pub(crate) fn file_size_bytes(&self, id: CheckpointId) -> Option<u64> {
        let serving = self.serving.iter().find(|serving| serving.id == id)?;
        Some(serving.file_size_bytes)
    }

    /// Takes a request for a part.
    ///
    /// # Errors
    /// If too many wait: it is given back.
    pub(crate) fn ask(&mut self, now: Monotonic, ask: PartAsk) -> Result<(), PartAsk> {
        if self.waiting.len() + self.answers.len() >= CHECKPOINT_TRANSFER_COUNT_MAX {
            return Err(ask);
        }
        match self.serving.iter_mut().find(|serving| serving.id == ask.id) {
            Some(serving) => serving.read_at = now,
            None => {
                if self.serving.len() >= CHECKPOINT_TRANSFER_COUNT_MAX {
                    let oldest = self.serving.iter().map(|serving| serving.read_at).min();
                    self.serving.retain(|serving| Some(serving.read_at) != oldest);
                }
                let (end, state) = (None, None);
                let PartAsk { id, file_size_bytes, .. } = ask;
                self.serving.push(Serving { id, file_size_bytes, read_at: now, end, state });
            }
        }
        self.waiting.push_back(ask);
        Ok(())
    }

    /// What the host is to read next, if anything is.
    pub(crate) fn wants(&mut self) -> Option<CheckpointRead> {
        if self.reading.is_some() {
            return None;
        }
        let ask = self.waiting.front()?;
        let id = ask.id;
        let last = ask.file_size_bytes.saturating_sub(1) / u64_from(CHECKPOINT_CHUNK_SIZE_BYTES);
        let Some(serving) = self.serving.iter().find(|serving| serving.id == id) else {
            self.refuse();
            return self.wants();
        };
        // How long the whole is, the state's digest, then what is wanted.
        let chunk = match (serving.end, serving.state) {
            (None, _) => last,
            (Some(_), None) => 0,
            (Some(_), Some(_)) => ask.number,
        };
        let Some(chunk) = u32::try_from(chunk).ok().filter(|_| ask.number <= last) else {
            self.refuse();
            return self.wants();
        };
        self.reading = Some(CheckpointRead { id, chunk });
        self.reading
    }

    /// A chunk was read. Says whose checkpoint is damaged, if one is.
    ///
    /// # Panics
    /// If it wasn't asked for.
    pub(crate) fn on_read(&mut self, found: &CheckpointBlocks) -> Option<PartitionId> {
        assert_eq!(self.reading.take(), Some(found.read), "one chunk is read at a time");
        let CheckpointRead { id, chunk: number } = found.read;
        let Some(blocks) = &found.blocks else {
            self.drop_all(id, false);
            return None;
        };
        let Ok(chunk) = checked_chunk(self.salt, id, number, blocks) else {
            self.drop_all(id, true);
            return Some(id.partition);
        };
        let serving = self.serving.iter_mut().find(|serving| serving.id == id)?;
        if chunk.is_last {
            let size_bytes = u64::from(number) * u64_from(PAYLOAD_SIZE_BYTES);
            serving.end = Some((size_bytes + u64_from(chunk.payload.len()), chunk.digest));
        }
        if number == 0
            && let Some((head, _)) = CheckpointHead::decode(id, chunk.payload)
        {
            serving.state = Some(head.digest);
        }
        let Some((size_bytes, bytes)) = serving.end else {
            // The file is shorter or longer than it was said to be.
            self.drop_all(id, true);
            return Some(id.partition);
        };
        if let Some(state) = serving.state
            && let Some(ask) = self.waiting.pop_front_if(|ask| is_for(ask, id, number))
        {
            let mut digest = [0; 32];
            digest[..16].copy_from_slice(&bytes.to_le_bytes());
            digest[16..].copy_from_slice(&state);
            let part = CheckpointPart {
                index: id.index,
                size_bytes,
                number: ask.number,
                chunk_size_bytes: u32_from(PAYLOAD_SIZE_BYTES),
                digest,
                data: Bytes::copy_from_slice(chunk.payload),
            };
            self.answers.push_back(PartAnswer { ask, part: Some(part), is_damaged: false });
        }
        None
    }

    /// The next answer.
    pub(crate) fn next_answer(&mut self) -> Option<PartAnswer> {
        self.answers.pop_front()
    }

    /// A later checkpoint has replaced one. Whether its file can be removed now: while a peer reads
    /// it, it is kept for a while, and [`CheckpointServer::released`] says when that is over.
    pub(crate) fn on_superseded(&mut self, now: Monotonic, id: CheckpointId) -> bool {
        let is_recent = |read_at| now.since_ns(read_at) < CHECKPOINT_TRANSFER_NS_MAX;
        let is_read = |serving: &Serving| serving.id == id && is_recent(serving.read_at);
        let holds =
            self.held.len() < CHECKPOINT_TRANSFER_COUNT_MAX && self.serving.iter().any(is_read);
        if holds {
            self.held.push((id, now));
        } else {
            self.drop_all(id, false);
        }
        !holds
    }

    /// The next file that was kept for a peer and can be removed now.
    pub(crate) fn released(&mut self, now: Monotonic) -> Option<CheckpointId> {
        let is_over = |since| now.since_ns(since) >= CHECKPOINT_TRANSFER_NS_MAX;
        // What is being read this moment is removed the next time.
        let reading = self.reading.map(|read| read.id);
        let place = self.held.iter().position(|&(id, at)| is_over(at) && reading != Some(id))?;
        let (id, _) = self.held.remove(place);
        self.drop_all(id, false);
        Some(id)
    }

    /// Nobody gets anything of a checkpoint any more.
    fn drop_all(&mut self, id: CheckpointId, is_damaged: bool) {
        self.serving.retain(|serving| serving.id != id);
        let (gone, waiting) = self.waiting.drain(..).partition(|ask: &PartAsk| ask.id == id);
        self.waiting = waiting;
        let gone: VecDeque<PartAsk> = gone;
        let refused = gone.into_iter().map(|ask| PartAnswer { ask, part: None, is_damaged });
        self.answers.extend(refused);
    }

    /// There is no such part.
    fn refuse(&mut self) {
        if let Some(ask) = self.waiting.pop_front() {
            self.answers.push_back(PartAnswer { ask, part: None, is_damaged: false });
        }
    }
}

fn is_for(ask: &PartAsk, id: CheckpointId, number: u32) -> bool {
    ask.id == id && ask.number == u64::from(number)
}
